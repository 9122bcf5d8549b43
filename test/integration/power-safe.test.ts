/** G1 in `power-safe`: an edgeHub that comes up without what it had acknowledged costs nothing, and the disk stays bounded. */
import { describe, expect, test } from "vitest";
import { entryBytes } from "../../src/core/outbox.ts";
import type { RelaySettings } from "../../src/flow/relay.ts";
import { RecordingMetrics } from "../support/recording-metrics.ts";
import { connectedWorld, type RelayWorld } from "../support/relay-world.ts";

async function powerSafeWorld(settings: Partial<RelaySettings> = {}, metrics = new RecordingMetrics()) {
  const world = await connectedWorld({ edge: true, metrics, settings: { durability: "power-safe", ...settings } });
  const leaf = world.leaves.leaf("leaf1");
  await leaf.connect({ subscribe: false });
  return { world, leaf };
}

function arrived(world: RelayWorld): number[] {
  return world.hub.telemetry
    .filter((message) => message.properties["leafId"] === "leaf1")
    .map((message) => JSON.parse(new TextDecoder().decode(message.payload)) as number);
}

function idsOf(world: RelayWorld): ReadonlyMap<number, Set<string | undefined>> {
  const ids = new Map<number, Set<string | undefined>>();
  for (const { payload, properties, system } of world.hub.telemetry) {
    if (properties["leafId"] !== "leaf1") continue;
    const number = JSON.parse(new TextDecoder().decode(payload)) as number;
    ids.set(number, (ids.get(number) ?? new Set()).add(system["mid"]));
  }
  return ids;
}

async function send(world: RelayWorld, from: number, to: number): Promise<void> {
  const leaf = world.leaves.leaf("leaf1");
  const answers = [];
  for (let n = from; n < to; n += 1) answers.push(leaf.telemetry(n));
  await world.pass(1_000);
  expect(await Promise.all(answers)).toEqual(answers.map(() => ({ kind: "done" })));
}

const numbers = (to: number): number[] => Array.from({ length: to }, (_, n) => n);

describe("G1 power-safe", () => {
  test("the empty backlog of another edgeHub says nothing of what the one before took, while that is put back", async () => {
    const { world } = await powerSafeWorld();
    world.hub.wan("cut");
    await send(world, 0, 5);
    world.wan.scrape();
    await world.pass(61_000);
    // On its way while edgeHub is replaced, and the link has not noticed yet: nothing can be put back before.
    world.hub.slow = "messages";
    const late = world.leaves.leaf("leaf1").telemetry(5);
    await world.pass(1_000);
    world.edge?.restart("twins", "lose");
    world.wan.scrape();
    await world.pass(15_000);
    world.wan.scrape();
    await world.pass(15_000);
    world.hub.link("down");
    world.hub.slow = false;
    world.hub.link("up");
    world.hub.wan("up");
    await world.pass(10_000);
    await late;
    expect([...new Set(arrived(world))]).toEqual(numbers(6));
  });

  test("a look at edgeHub's backlog that began before edgeHub took a message says nothing of it", async () => {
    const { world } = await powerSafeWorld();
    world.hub.wan("cut");
    const askedMs = world.clock.steady();
    await send(world, 0, 1);
    world.wan.handler?.backlog(0, askedMs);
    await world.pass(130_000);
    world.hub.link("down");
    world.edge?.restart("twins", "lose");
    world.hub.link("up");
    world.hub.wan("up");
    await world.pass(10_000);
    expect(arrived(world)).toEqual([0]);
  });

  test.each([
    ["told before the link is back", false],
    ["found out when the link is back", true],
  ])("an edgeHub that lost its store gets all of it again, in front of what is newer (%s)", async (_, toldAfter) => {
    const { world } = await powerSafeWorld();
    world.hub.wan("cut");
    // More than memory holds, so that the line has a gap on disk while it is put back.
    await send(world, 0, 120);
    await world.pass(5_000);
    expect(arrived(world)).toEqual([]);
    world.hub.link("down");
    await send(world, 120, 240);
    world.edge?.restart("twins", "lose");
    if (!toldAfter) world.wan.scrape();
    await world.pass(10);
    world.hub.link("up");
    await world.pass(30_000);
    world.hub.wan("up");
    await world.pass(60_000);
    expect(arrived(world)).toEqual(numbers(240));
    expect(world.store.usage().entries).toBe(0);
    await world[Symbol.asyncDispose]();
  });

  test("after another boot of the machine what edgeHub had not sent goes up again with the same message ids", async () => {
    const { world } = await powerSafeWorld();
    await send(world, 0, 30);
    world.kill();
    world.bootId = "boot-2";
    await world.start();
    world.hub.link("up");
    await world.pass(10_000);
    expect(arrived(world)).toEqual([...numbers(30), ...numbers(30)]);
    expect([...idsOf(world).values()].map((ids) => ids.size)).toEqual(numbers(30).map(() => 1));
    await world[Symbol.asyncDispose]();
  });

  test("a resend that the disk is in the way of is tried again", async () => {
    const { world } = await powerSafeWorld();
    world.hub.wan("cut");
    await send(world, 0, 10);
    await world.pass(5_000);
    let isFull = true;
    world.misfortune = () => (isFull ? "fail" : "none");
    world.edge?.restart("twins", "lose");
    world.wan.scrape();
    await world.pass(2_000);
    isFull = false;
    world.hub.wan("up");
    await world.pass(20_000);
    expect(arrived(world)).toEqual(numbers(10));
    await world[Symbol.asyncDispose]();
  });

  test("what edgeHub took is kept while its backlog is not seen empty, and goes when it is", async () => {
    const { world } = await powerSafeWorld();
    world.hub.wan("cut");
    await send(world, 0, 10);
    for (let n = 0; n < 30; n += 1) {
      await world.pass(60_000);
      world.wan.scrape();
    }
    expect(world.disk.retained.size).toBe(10);
    world.hub.wan("up");
    world.wan.scrape();
    await world.pass(20_000);
    expect(world.disk.retained.size).toBe(0);
    await world[Symbol.asyncDispose]();
  });

  test("what is retained never outgrows the quota, and what goes early is counted", async () => {
    const metrics = new RecordingMetrics();
    const { world } = await powerSafeWorld({ maxBytes: 20_000 }, metrics);
    world.hub.wan("cut");
    for (let n = 0; n < 40; n += 1) await send(world, n * 10, n * 10 + 10);
    await world.pass(20_000);
    const bytes = [...world.disk.retained.values()].reduce((sum, { message }) => sum + entryBytes(message), 0);
    expect(bytes).toBeLessThanOrEqual(20_000);
    expect(world.disk.retained.size).toBeGreaterThan(50);
    expect(metrics.total("telemetry_retained_evicted_total")).toBe(400 - world.disk.retained.size);
    // The newest are those that stay.
    expect(Math.min(...world.disk.retained.keys())).toBeGreaterThan(200);
    await world[Symbol.asyncDispose]();
  });
});
