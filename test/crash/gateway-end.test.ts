/** How the gateway's process ends, and what it says when it cannot start. */
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, onTestFinished, test, vi } from "vitest";
import { type DevHub, startDevHub } from "../../src/devhub/devhub.ts";
import { freePort, gatewayEnvironment, spawnGateway } from "../support/gateway-process.ts";
import { NumberedLeaf } from "../support/numbered-leaf.ts";

let hub: DevHub;
let folder: string;
let port: number;

beforeAll(async () => {
  hub = await startDevHub({ mqttPort: 0, servicePort: 0, metricsPort: 0, probePort: 0 });
});
afterAll(() => hub[Symbol.asyncDispose]());

beforeEach(async () => {
  const made = mkdtempSync(join(tmpdir(), "gateway-end-"));
  onTestFinished(() => rmSync(made, { recursive: true, force: true }));
  folder = made;
  port = await freePort();
});

test("SIGTERM under load ends with exit code 0 and loses nothing that was acknowledged", async () => {
  const arrived = new Set<number>();
  const unlisten = hub.cloud.onEvent((event) => {
    if (event.kind !== "message" || event.message.properties["leafId"] !== "ends") return;
    arrived.add((JSON.parse(Buffer.from(event.message.body).toString()) as { number: number }).number);
  });
  const environment = gatewayEnvironment(hub, port, folder);
  await using first = spawnGateway(environment);
  await first.started;
  await using leaf = await NumberedLeaf.connect("ends", port);
  const load = new AbortController();
  const work = leaf.sendUntil(load.signal, 8, 1);
  await vi.waitFor(() => expect(leaf.acknowledged.length).toBeGreaterThan(100), { timeout: 30_000 });
  // Code 1 would say that the 8 s were not enough.
  expect(await first.kill("SIGTERM")).toEqual({ code: 0, signal: null });
  await using second = spawnGateway(environment);
  await second.started;
  load.abort();
  await work;
  await vi.waitFor(() => expect(leaf.acknowledged.filter((number) => !arrived.has(number))).toEqual([]), {
    timeout: 30_000,
  });
  expect(await second.kill("SIGTERM")).toEqual({ code: 0, signal: null });
  unlisten();
});

test("SIGTERM while the gateway waits for its certificate ends it at once", async () => {
  // A workload API that accepts and never answers: TLS listeners cannot be made.
  const socket = join(folder, "silent.sock");
  let heard = 0;
  const silent = createServer((connection) => {
    heard += 1;
    connection.on("error", () => undefined).resume();
  }).listen(socket);
  onTestFinished(() => void silent.close());
  await using gateway = spawnGateway(
    gatewayEnvironment(hub, port, folder, {
      IOTEDGE_WORKLOADURI: `unix://${socket}`,
      GATEWAY_TLS_ENABLED: "true",
      GATEWAY_TLS_PORT: "0",
    }),
  );
  await vi.waitFor(() => expect(heard).toBeGreaterThan(0), { timeout: 30_000 });
  expect(gateway.output).not.toContain("gateway started");
  expect(await gateway.kill("SIGTERM")).toEqual({ code: 0, signal: null });
});

test("a second gateway on the same folder is refused and says what to do", async () => {
  await using first = spawnGateway(gatewayEnvironment(hub, port, folder));
  await first.started;
  await using second = spawnGateway(gatewayEnvironment(hub, await freePort(), folder));
  expect(await second.ended).toEqual({ code: 1, signal: null });
  expect(second.output).toMatch(/STATE_LOCKED: another gateway uses the state folder .*GATEWAY_STATE/);
  expect(await first.kill("SIGTERM")).toEqual({ code: 0, signal: null });
});

test("a taken port names the setting to change", async () => {
  await using first = spawnGateway(gatewayEnvironment(hub, port, folder));
  await first.started;
  await using second = spawnGateway(gatewayEnvironment(hub, port, join(folder, "second")));
  expect(await second.ended).toEqual({ code: 1, signal: null });
  expect(second.output).toMatch(/PORT_TAKEN: .*plainPort/);
});

test.each(["hangs", "is away"])(
  "SIGTERM with 100 leaves at work while edgeHub %s ends in order and loses nothing",
  async (state) => {
    const arrived = new Map<string, Set<number>>();
    const unlisten = hub.cloud.onEvent((event) => {
      if (event.kind !== "message") return;
      const leafId = event.message.properties["leafId"] ?? "";
      const { number } = JSON.parse(Buffer.from(event.message.body).toString()) as { number?: number };
      if (number !== undefined) arrived.set(leafId, (arrived.get(leafId) ?? new Set()).add(number));
    });
    onTestFinished(unlisten);
    onTestFinished(async () => {
      hub.behaviour.silent = false;
      await hub.startEdge();
    });
    const environment = gatewayEnvironment(hub, port, folder);
    await using first = spawnGateway(environment);
    await first.started;
    const prefix = state.replace(" ", "-");
    const leaves = await Promise.all(
      Array.from({ length: 100 }, (_, at) => NumberedLeaf.connect(`${prefix}-${at}`, port)),
    );
    try {
      await Promise.all(leaves.map((leaf) => leaf.send()));
      if (state === "hangs") hub.behaviour.silent = true;
      else await hub.killEdge("keep");
      const load = new AbortController();
      const work = leaves.map((leaf) => leaf.sendUntil(load.signal, 2, 50));
      await vi.waitFor(() => expect(Math.min(...leaves.map(({ sent }) => sent))).toBeGreaterThan(3), {
        timeout: 60_000,
      });
      // Code 1 would say that the 8 s were not enough.
      expect(await first.kill("SIGTERM")).toEqual({ code: 0, signal: null });
      hub.behaviour.silent = false;
      await hub.startEdge();
      await using second = spawnGateway(environment);
      await second.started;
      load.abort();
      await Promise.all(work);
      const lost = (): unknown[] =>
        leaves.flatMap((leaf) => leaf.acknowledged.filter((number) => arrived.get(leaf.id)?.has(number) !== true));
      await vi.waitFor(() => expect(lost()).toEqual([]), { timeout: 60_000 });
      expect(await second.kill("SIGTERM")).toEqual({ code: 0, signal: null });
    } finally {
      for (const leaf of leaves) await leaf[Symbol.asyncDispose]();
    }
  },
);
