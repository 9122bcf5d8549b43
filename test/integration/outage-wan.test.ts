/**
 * Outages behind edgeHub, of which nobody tells the gateway: what was desired meanwhile reaches the leaf, telemetry arrives in order,
 * and a leaf's reads never wait for the WAN (promises G2, G3, G6). The hub's times are the real ones divided by 30.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { expect, test, vi } from "vitest";
import { mergeConfig } from "../../src/config.ts";
import { type DevHub, startDevHub } from "../../src/devhub/devhub.ts";
import { type Gateway, startGateway } from "../../src/gateway.ts";
import { freePort, gatewayEnvironment } from "../support/gateway-process.ts";
import { NumberedLeaf } from "../support/numbered-leaf.ts";

const MODULE = { deviceId: "edge1", moduleId: "gw" };
const WATCHDOG = { timeout: 45_000, interval: 50 };
const THIRTIETH = {
  readInOutageMs: 700,
  minTwinSyncPeriodMs: 4_000,
  resumeAfterSilentMs: 770,
  resumeAfterRefusedMs: 1_330,
  wakingReadMs: 160,
  offlineNoticeMs: 1_000,
  reportedSyncMs: 100,
};
const PORTS = { mqttPort: 0, servicePort: 0, metricsPort: 0, probePort: 0 };

class World implements AsyncDisposable {
  readonly hub: DevHub;
  readonly #folder = mkdtempSync(join(tmpdir(), "gateway-wan-"));
  #gateway: Gateway | undefined;
  readonly #leaves: NumberedLeaf[] = [];

  constructor(hub: DevHub) {
    this.hub = hub;
  }

  static async start(settings: Readonly<Record<string, string>> = {}): Promise<World> {
    const world = new World(await startDevHub({ ...PORTS, ...THIRTIETH }));
    await world.startGateway(settings);
    await world.synchronised();
    return world;
  }

  async startGateway(settings: Readonly<Record<string, string>> = {}): Promise<void> {
    const environment = gatewayEnvironment(this.hub, 0, this.#folder, { GATEWAY_WAN_PROBE_SECS: "1", ...settings });
    const merged = mergeConfig({}, environment);
    if (merged.kind === "invalid") throw new Error(JSON.stringify(merged.problems));
    const logDestination = { write: () => undefined };
    const start = { config: merged.config, environment, stateFolder: this.#folder, bootId: "boot", logDestination };
    this.#gateway = await startGateway(start);
  }

  async stopGateway(): Promise<void> {
    await this.#gateway?.[Symbol.asyncDispose]();
    this.#gateway = undefined;
  }

  get isSynchronised(): boolean {
    return this.#gateway?.relay.synchronised === true;
  }

  async synchronised(): Promise<void> {
    await vi.waitFor(() => expect(this.isSynchronised).toBe(true), WATCHDOG);
  }

  async leaf(id: string): Promise<NumberedLeaf> {
    const leaf = await NumberedLeaf.connect(id, this.#gateway?.broker.ports.plain ?? 0);
    this.#leaves.push(leaf);
    return leaf;
  }

  desire(id: string, target: string): void {
    this.hub.cloud.patchDesired(MODULE, { [id]: { __t: "c", target } });
  }

  async heard(leaf: NumberedLeaf, target: string): Promise<void> {
    await vi.waitFor(() => expect(leaf.targets.at(-1)).toBe(target), WATCHDOG);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const leaf of this.#leaves) await leaf[Symbol.asyncDispose]();
    await this.stopGateway();
    await this.hub[Symbol.asyncDispose]();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** What the gateway is told, beside the link itself, of the WAN. */
const SOURCES: Readonly<Record<string, () => Promise<Record<string, string>>>> = {
  "metrics and probe": () => Promise.resolve({}),
  "the probe blocked": async () => ({ GATEWAY_WAN_PROBE_ADDRESS: `127.0.0.1:${await freePort()}` }),
  "no source but the periodic read": async () => ({
    GATEWAY_WAN_PROBE_ADDRESS: `127.0.0.1:${await freePort()}`,
    GATEWAY_EDGE_HUB_METRICS_URL: "",
    GATEWAY_TWIN_READ_INTERVAL_SECS: "2",
  }),
};
const CASES = Object.keys(SOURCES).flatMap((source) =>
  (["silent", "refused"] as const).flatMap((mode) => [true, false].map((traffic) => ({ source, mode, traffic }))),
);

test.concurrent.each(CASES)(
  "a change of a short $mode outage reaches the leaf afterwards ($source, traffic: $traffic)",
  async ({ mode, source, traffic }) => {
    // A quiet outage leaves no trace in edgeHub's metrics: with the probe blocked only the periodic read shows the change.
    const quietInterval: Record<string, string> = traffic ? {} : { GATEWAY_TWIN_READ_INTERVAL_SECS: "3" };
    await using world = await World.start({ ...quietInterval, ...(await SOURCES[source]?.()) });
    const { hub } = world;
    const leaf = await world.leaf("short");
    world.desire("short", "before");
    await world.heard(leaf, "before");
    const load = new AbortController();
    const work = traffic ? leaf.sendUntil(load.signal, 2, 20) : Promise.resolve();
    hub.wan.cut(mode);
    world.desire("short", "during");
    // The length of the outage itself: a condition cannot stand for it.
    await delay(2_000);
    expect(leaf.targets).not.toContain("during");
    hub.wan.restore();
    await world.heard(leaf, "during");
    load.abort();
    await work;
  },
);

test.concurrent("telemetry of an outage all arrives, in order", async () => {
  await using world = await World.start();
  const { hub } = world;
  const leaf = await world.leaf("orderly");
  const numbers: number[] = [];
  hub.cloud.onEvent((event) => {
    if (event.kind === "message" && event.message.properties["leafId"] === "orderly")
      numbers.push((JSON.parse(Buffer.from(event.message.body).toString()) as { number: number }).number);
  });
  const load = new AbortController();
  const work = leaf.sendUntil(load.signal, 3, 5);
  for (const mode of ["silent", "refused"] as const) {
    hub.wan.cut(mode);
    const before = leaf.acknowledged.length;
    await vi.waitFor(() => expect(leaf.acknowledged.length).toBeGreaterThan(before + 100), WATCHDOG);
    hub.wan.restore();
    const reached = numbers.length;
    await vi.waitFor(() => expect(numbers.length).toBeGreaterThan(reached + 50), WATCHDOG);
  }
  load.abort();
  await work;
  await vi.waitFor(() => expect(new Set(numbers).size).toBe(leaf.sent), WATCHDOG);
  const firstCopies = [...new Set(numbers)];
  expect(firstCopies).toEqual(firstCopies.toSorted((a, b) => a - b));
});

test.concurrent("a gateway started in an outage answers reads from its disk", async () => {
  await using world = await World.start();
  const first = await world.leaf("kept");
  world.desire("kept", "known");
  await world.heard(first, "known");
  await world.stopGateway();
  world.hub.wan.cut("silent");
  await world.startGateway();
  const again = await world.leaf("kept");
  const reply = await again.get();
  expect(reply?.status).toBe(200);
  expect(JSON.parse(reply?.body ?? "{}")).toMatchObject({ desired: { target: "known" } });
});
