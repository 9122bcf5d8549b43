/**
 * Outages behind edgeHub, of which nobody tells the gateway: what was desired meanwhile reaches the leaf right after the end, by each
 * source that can show it alone; telemetry arrives in order (promises G1, G3). No case but the last has a short period of reads.
 */
import { setTimeout as delay } from "node:timers/promises";
import { expect, test, vi } from "vitest";
import { freePort } from "../support/gateway-process.ts";
import { type GatewaySettings, OutageWorld, WATCHDOG } from "../support/outage-world.ts";

interface Source {
  readonly name: string;
  readonly settings: () => Promise<GatewaySettings>;
  /** Only with traffic do edgeHub's metrics show anything. */
  readonly traffic: readonly boolean[];
  /** How long the outage lasts, in the hub's own milliseconds: what shows in metrics needs two looks at them. */
  readonly lastsMs: number;
}

const blocked = async (): Promise<string> => `127.0.0.1:${await freePort()}`;

const SOURCES: readonly Source[] = [
  { name: "metrics and probe", settings: async () => ({}), traffic: [true, false], lastsMs: 15_000 },
  {
    name: "the probe alone",
    settings: async () => ({ GATEWAY_EDGE_HUB_METRICS_URL: "" }),
    traffic: [true, false],
    lastsMs: 15_000,
  },
  {
    name: "metrics alone",
    settings: async () => ({ GATEWAY_WAN_PROBE_ADDRESS: await blocked() }),
    traffic: [true],
    lastsMs: 20_000,
  },
  {
    name: "no source but the periodic read",
    settings: async () => ({
      GATEWAY_WAN_PROBE_ADDRESS: await blocked(),
      GATEWAY_EDGE_HUB_METRICS_URL: "",
      GATEWAY_TWIN_READ_INTERVAL_SECS: "30",
    }),
    traffic: [true, false],
    lastsMs: 15_000,
  },
];
const CASES = SOURCES.flatMap((source) =>
  (["silent", "refused"] as const).flatMap((mode) =>
    source.traffic.map((traffic) => ({
      ...source,
      mode,
      traffic,
      title: traffic ? "with traffic" : "without traffic",
    })),
  ),
);

test.concurrent.each(CASES)(
  "a change of a short $mode outage $title reaches the leaf afterwards: $name",
  { timeout: 240_000 },
  async ({ lastsMs, mode, settings, traffic }) => {
    await using world = await OutageWorld.start({ settings: await settings() });
    const { hub } = world;
    await world.synchronised();
    const leaf = await world.leaf("short");
    world.desire("short", "before");
    await world.heard(leaf, "before");
    await world.settled();
    const load = new AbortController();
    const work = traffic ? leaf.sendUntil(load.signal, 2, 50) : Promise.resolve();
    hub.wan.cut(mode);
    world.desire("short", "during");
    // The length of the outage itself: a condition cannot stand for it.
    await delay(lastsMs / world.factor);
    expect(leaf.targets).not.toContain("during");
    hub.wan.restore();
    await world.heard(leaf, "during");
    load.abort();
    await work;
  },
);

test.concurrent("without any of them it is lost until the next link, so that each case above shows something", {
  timeout: 240_000,
}, async () => {
  await using world = await OutageWorld.start({
    settings: { GATEWAY_WAN_PROBE_ADDRESS: await blocked(), GATEWAY_EDGE_HUB_METRICS_URL: "" },
  });
  const { hub } = world;
  await world.synchronised();
  const leaf = await world.leaf("short");
  world.desire("short", "before");
  await world.heard(leaf, "before");
  await world.settled();
  hub.wan.cut("silent");
  world.desire("short", "during");
  await delay(15_000 / world.factor);
  hub.wan.restore();
  await delay(45_000 / world.factor);
  expect(leaf.targets).not.toContain("during");
  hub.cutConnections();
  await world.heard(leaf, "during");
});

test.concurrent("telemetry of an outage all arrives, in order", { timeout: 240_000 }, async () => {
  await using world = await OutageWorld.start();
  const { hub } = world;
  await world.synchronised();
  const leaf = await world.leaf("orderly");
  const load = new AbortController();
  const work = leaf.sendUntil(load.signal, 3, 5);
  for (const mode of ["silent", "refused"] as const) {
    hub.wan.cut(mode);
    const before = leaf.acknowledged.length;
    await vi.waitFor(() => expect(leaf.acknowledged.length).toBeGreaterThan(before + 100), WATCHDOG);
    hub.wan.restore();
    const reached = world.numbersOf("orderly").length;
    await vi.waitFor(() => expect(world.numbersOf("orderly").length).toBeGreaterThan(reached + 50), WATCHDOG);
  }
  load.abort();
  await work;
  await vi.waitFor(() => expect(new Set(world.numbersOf("orderly")).size).toBe(leaf.sent), WATCHDOG);
  const firstCopies = [...new Set(world.numbersOf("orderly"))];
  expect(firstCopies).toEqual(firstCopies.toSorted((a, b) => a - b));
});
