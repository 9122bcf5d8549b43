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
import { type Call, canTrace, isTraceComplete, packetsOf, readTrace, tracer } from "../support/trace.ts";

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
    await using leaf = await NumberedLeaf.connect("traced", port);
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

/** How many messages were acknowledged, and those of them that were not written and synced between their PUBLISH and their PUBACK. */
function unsafe(calls: readonly Call[], here: string, store: string): { acknowledged: number; unsafe: unknown[] } {
  const ofLeaf = calls.filter(({ target }) => target.startsWith("TCP:") && target.includes(here));
  const heard = packetsOf(ofLeaf.filter(({ name }) => /^(?:read|recv)/.test(name)));
  const said = packetsOf(ofLeaf.filter(({ name }) => /^(?:write|send)/.test(name)));
  const onDisk = calls.filter(({ target }) => target.startsWith(store));
  const writes = onDisk.filter(({ name }) => name.includes("write"));
  const syncs = onDisk.filter(({ name }) => name.endsWith("sync"));
  const found: unknown[] = [];
  let acknowledged = 0;
  for (const { packet: puback, call: answer } of said) {
    if (puback.cmd !== "puback") continue;
    acknowledged += 1;
    const publish = heard.findLast(
      ({ packet, call }) =>
        packet.cmd === "publish" && packet.messageId === puback.messageId && call.end < answer.begin,
    );
    const payload = publish?.packet.cmd === "publish" ? publish.packet.payload : "";
    const readAt = publish?.call.end ?? Number.POSITIVE_INFINITY;
    const isSafe = writes.some(
      (write) =>
        write.begin > readAt &&
        write.data.includes(payload) &&
        syncs.some((sync) => sync.target === write.target && sync.begin > write.end && sync.end < answer.begin),
    );
    if (!isSafe) found.push({ payload: String(payload), readAt, answeredAt: answer.begin });
  }
  return { acknowledged, unsafe: found };
}
