/**
 * Under a system-call trace: what stands for a leaf's message on disk was synced before its PUBACK was written, call by call
 * (promise G1 through a power cut).
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { startDevHub } from "../../src/devhub/devhub.ts";
import { freePort, gatewayEnvironment, spawnGateway } from "../support/gateway-process.ts";
import { NumberedLeaf } from "../support/numbered-leaf.ts";
import {
  type Call,
  canTrace,
  isTraceComplete,
  logOf,
  packetsOf,
  readTrace,
  tracer,
  writersOf,
} from "../support/trace.ts";

/** More than LevelDB keeps in one log. */
const MESSAGES = 60;
const WAIT = { timeout: 100_000, interval: 100 };

describe.skipIf(!canTrace())("each PUBACK follows a sync of what it stands for", () => {
  test.each([
    { durability: "power-safe", hub: "there" },
    { durability: "power-safe", hub: "away" },
    { durability: "first-safe", hub: "away" },
  ])("$durability, edgeHub $hub", async ({ durability, hub: state }) => {
    const folder = mkdtempSync(join(tmpdir(), "gateway-trace-"));
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
    await using hub = await startDevHub({ mqttPort: 0, servicePort: 0, metricsPort: 0, probePort: 0 });
    const port = await freePort();
    const environment = gatewayEnvironment(hub, port, join(folder, "state"), { GATEWAY_DURABILITY: durability });
    const file = join(folder, "trace");
    await using gateway = spawnGateway(environment, tracer(file));
    await gateway.started;
    await using leaf = await NumberedLeaf.connect("traced", port, 30_000);
    if (state === "away") await hub.killEdge("keep");
    // Some alone, some together.
    while (leaf.sent < MESSAGES) await Promise.all(Array.from({ length: 1 + (leaf.sent % 6) }, () => leaf.send()));
    expect(await gateway.kill("SIGTERM")).toEqual({ code: 0, signal: null });
    await vi.waitFor(() => expect(isTraceComplete(file)).toBe(true), WAIT);
    const calls = readTrace(file).filter(({ result }) => result >= 0);
    expect(unsafe(calls, `:${port}->`, join(folder, "state", "store"))).toEqual({
      acknowledged: leaf.sent,
      unsafe: [],
    });
  });
});

/**
 * How many messages were acknowledged, and those of them that were not on disk between their PUBLISH and their PUBACK: written to one
 * of the store's logs, that log synced, and the folder synced since the log is in it.
 */
function unsafe(calls: readonly Call[], here: string, store: string): { acknowledged: number; unsafe: unknown[] } {
  const ofLeaf = calls.filter(({ target }) => target.startsWith("TCP:") && target.includes(here));
  const heard = packetsOf(ofLeaf.filter(({ name }) => /^(?:read|recv)/.test(name)));
  const said = packetsOf(ofLeaf.filter(({ name }) => /^(?:write|send)/.test(name)));
  const syncs = calls.filter(({ name }) => name.endsWith("sync"));
  const logs = Map.groupBy(
    calls.filter(({ name, target }) => name.includes("write") && target.startsWith(store) && target.endsWith(".log")),
    ({ target }) => target,
  );
  const traced = [...logs].map(([path, writes]) => ({ path, begin: writes[0]?.begin ?? 0, log: logOf(writes) }));
  const found: unknown[] = [];
  let acknowledged = 0;
  for (const { packet: puback, call: answer } of said) {
    if (puback.cmd !== "puback") continue;
    acknowledged += 1;
    const isSynced = (target: string, since: number): boolean =>
      syncs.some((sync) => sync.target === target && sync.begin > since && sync.end < answer.begin);
    const publish = heard.findLast(
      ({ packet, call }) =>
        packet.cmd === "publish" && packet.messageId === puback.messageId && call.end < answer.begin,
    );
    const payload = Buffer.from(publish?.packet.cmd === "publish" ? publish.packet.payload : "?");
    const readAt = publish?.call.end ?? Number.POSITIVE_INFINITY;
    const isSafe = traced.some(
      ({ path, begin, log }) =>
        isSynced(store, begin) &&
        writersOf(log, payload).some((write) => write.begin > readAt && isSynced(path, write.end)),
    );
    if (!isSafe) found.push({ payload: payload.toString().slice(0, 30), readAt, answeredAt: answer.begin });
  }
  expect(traced.length, "the store has begun a new log meanwhile").toBeGreaterThan(1);
  return { acknowledged, unsafe: found };
}
