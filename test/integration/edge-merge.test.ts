/**
 * Promise G2 behind an edgeHub that takes everything with 204: pushes that it merges, loses, cannot make, or that the cloud refuses
 * without a word. Where it is not said otherwise no periodic read helps: the gateway has to come by what is wrong itself.
 */
import { describe, expect, test } from "vitest";
import type { JsonObject } from "../../src/core/message.ts";
import { RelayWorld } from "../support/relay-world.ts";

const NEVER_SECS = 100_000_000;
const INTERVAL_SECS = 900;

async function edgeWorld(twinReadIntervalSecs = NEVER_SECS): Promise<RelayWorld> {
  const world = new RelayWorld({ edge: true, settings: { twinReadIntervalSecs } });
  await world.start();
  world.wan.tell("online");
  world.hub.link("up");
  await world.pass(60_000);
  return world;
}

/** Without what the gateway says of itself. */
function ofLeaves({ gateway: _own, ...leaves }: JsonObject): JsonObject {
  return leaves;
}

async function leafDetails(world: RelayWorld, leafId: string): Promise<JsonObject> {
  const answer = await world.hub.command("gateway*getLeaf", { leafId });
  if (answer === "no answer" || answer.status !== 200) throw new Error(JSON.stringify(answer));
  return answer.payload as JsonObject;
}

describe("G2 reported, behind edgeHub", () => {
  test("a null that edgeHub loses under the next object is found, even while the leaf reports something else all the time", async () => {
    await using world = await edgeWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.report({ a: { old: 1 } });
    await world.pass(10_000);
    expect(world.hub.reported).toMatchObject({ leaf1: { a: { old: 1 } } });
    world.hub.wan("cut");
    await leaf.report({ a: null });
    await world.pass(6_000);
    await leaf.report({ a: { young: 2 } });
    await world.pass(6_000);
    world.hub.wan("up");
    for (let n = 0; n < 12; n += 1) {
      await leaf.report({ counter: n });
      await world.pass(5_000);
    }
    expect(world.hub.reported).toMatchObject({ leaf1: { a: { young: 2 } } });
    expect(world.hub.reported["leaf1"]).not.toMatchObject({ a: { old: 1 } });
  });

  test("what edgeHub lost with its store in an outage goes up again right after the end", async () => {
    await using world = await edgeWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    world.hub.wan("cut");
    world.wan.tell("away");
    await leaf.report({ a: 1 });
    await world.pass(6_000);
    world.edge?.restart("twins", "keep");
    world.hub.wan("up");
    world.wan.tell("online");
    await world.pass(40_000);
    expect(world.hub.reported).toMatchObject({ leaf1: { a: 1 } });
  });

  test("a push whose answer was lost just before a comparison is compared once more", async () => {
    await using world = await edgeWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.report({ other: 1 });
    await world.pass(500);
    world.hub.link("down");
    world.hub.link("up");
    await world.pass(18_000);
    await leaf.report({ a: 1 });
    world.hub.mode = "lose-answer";
    // edgeHub has it and pushes it only in a while; the leaf takes it back.
    await world.pass(500);
    expect(world.hub.isUp).toBe(false);
    await leaf.report({ a: null });
    world.hub.link("up");
    await world.pass(60_000);
    expect(ofLeaves(world.hub.reported)).toEqual({ leaf1: { __t: "c", other: 1 } });
  });

  test("after many reads from edgeHub's store the end of an outage is still read until the cloud answers", async () => {
    await using world = await edgeWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.read();
    world.hub.wan("cut");
    for (let n = 0; n < 4; n += 1) {
      world.hub.link("down");
      world.hub.link("up");
      await world.pass(150_000);
    }
    world.wan.tell("away");
    world.hub.desire({ leaf1: { target: 9 } });
    await world.pass(100_000);
    // The first read after the end goes into the dead connection and is answered from the store.
    world.wan.tell("online");
    await world.pass(10);
    world.hub.wan("up");
    expect(leaf.desired).toEqual({});
    await world.pass(30_000);
    expect(leaf.desired).toEqual({ target: 9 });
  });

  test.each([1, 2, 7])(
    "a property that the cloud refuses without a word stands alone in the end, and %i others go on",
    async (others) => {
      await using world = await edgeWorld(INTERVAL_SECS);
      if (world.edge === undefined) throw new Error("the world has no edgeHub");
      world.edge.refuses = (patch) => JSON.stringify(patch).includes("poison");
      const leaf = world.leaves.leaf("leaf1");
      const neighbour = world.leaves.leaf("leaf2");
      await leaf.connect({ subscribe: true });
      await neighbour.connect({ subscribe: true });
      const good = Object.fromEntries(Array.from({ length: others }, (_, n) => [`good${n}`, n]));
      expect(await leaf.report({ bad: "poison", ...good })).toBe(204);
      expect(await neighbour.report({ mine: 1 })).toBe(204);
      await world.pass(60_000);
      expect(ofLeaves(world.hub.reported)).toEqual({});
      await world.pass(2 * INTERVAL_SECS * 1_000);
      expect(ofLeaves(world.hub.reported)).toEqual({ leaf1: { __t: "c", ...good }, leaf2: { __t: "c", mine: 1 } });
      expect(await leafDetails(world, "leaf1")).toMatchObject({
        quarantined: { "leaf1/bad": "the hub takes it and keeps showing another value" },
      });
      expect(await leafDetails(world, "leaf2")).toMatchObject({ quarantined: {}, owed: {} });
      const reads = world.edge.cloudReads;
      await world.pass(10 * INTERVAL_SECS * 1_000);
      expect(world.edge.cloudReads - reads).toBe(10);
      expect(await leaf.report({ bad: "fine" })).toBe(204);
      await world.pass(60_000);
      expect(world.hub.reported).toMatchObject({ leaf1: { ...good, bad: "fine" } });
      expect(await leafDetails(world, "leaf1")).toMatchObject({ quarantined: {} });
    },
  );

  test("a hub that takes no changes at all for a while costs nothing in the end", async () => {
    await using world = await edgeWorld(INTERVAL_SECS);
    if (world.edge === undefined) throw new Error("the world has no edgeHub");
    world.edge.refuses = () => true;
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.report({ a: 1, b: 2, c: 3 });
    await world.pass(4 * INTERVAL_SECS * 1_000);
    expect(ofLeaves(world.hub.reported)).toEqual({});
    world.edge.refuses = undefined;
    await world.pass(25 * 3_600_000);
    expect(ofLeaves(world.hub.reported)).toEqual({ leaf1: { __t: "c", a: 1, b: 2, c: 3 } });
  });

  test("what was held back before a restart is tried again after it", async () => {
    const world = await edgeWorld(INTERVAL_SECS);
    if (world.edge === undefined) throw new Error("the world has no edgeHub");
    world.edge.refuses = (patch) => JSON.stringify(patch).includes("poison");
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.report({ bad: "poison", good: 1, better: 2 });
    for (let n = 0; n < 200; n += 1) {
      await world.pass(10_000);
      if (JSON.stringify(await leafDetails(world, "leaf1")).includes("held back")) break;
    }
    world.kill();
    await world.start();
    world.hub.link("up");
    await world.pass(2 * INTERVAL_SECS * 1_000);
    expect(ofLeaves(world.hub.reported)).toEqual({ leaf1: { __t: "c", good: 1, better: 2 } });
    await world[Symbol.asyncDispose]();
  });
});
