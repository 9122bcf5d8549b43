/** Reported properties against what edgeHub does with them between its 204 and the cloud [iothub-mqtt.md 12.2]. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Json, JsonObject } from "../../src/core/message.ts";
import { bytesOf, faultOf } from "../../src/devhub/cloud-limits.ts";
import { refusalOf } from "../../src/devhub/edge-hub-validator.ts";
import { moduleView } from "../../src/translate/pnp.ts";
import { anyJson, keys, objects } from "../support/arbitraries.ts";
import { RecordingLog } from "../support/recording-log.ts";
import { connectedWorld, RelayWorld } from "../support/relay-world.ts";

function withoutEmpty(section: JsonObject): JsonObject {
  const entries = Object.entries(section).map(([key, value]) =>
    typeof value === "object" && value !== null && !Array.isArray(value)
      ? ([key, withoutEmpty(value as JsonObject)] as const)
      : ([key, value] as const),
  );
  return Object.fromEntries(entries.filter(([, value]) => JSON.stringify(value) !== "{}"));
}

function without(section: JsonObject, key: string): JsonObject {
  return Object.fromEntries(Object.entries(section).filter(([name]) => name !== key));
}

describe("G2 reported: what edgeHub has not sent yet", () => {
  test.each([
    ["a null", null],
    ["a plain value", 5],
    ["an array", [1]],
  ])("an object that replaces %s keeps nothing of the object that was there before", async (_, between) => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.report({ a: { old1: 1, deep: { old2: 2, stays: 3 } } });
    await world.pass(30_000);
    await leaf.report({ a: between });
    await world.pass(1_000);
    await leaf.report({ a: { b: 1, deep: { stays: 4 } } });
    await world.pass(12_000);
    expect(world.hub.reported["leaf1"]).toEqual({ __t: "c", a: { b: 1, deep: { stays: 4 } } });
  });

  test("a leaf that is removed and comes back in the same moment keeps nothing of before", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.report({ a: 1, thermostat1: { __t: "c", old: 1 } });
    await world.pass(30_000);
    await leaf.report({ a: null, thermostat1: null });
    await world.pass(1_000);
    await leaf.report({ b: 2, thermostat1: { __t: "c", now: 1 } });
    await world.pass(12_000);
    expect(world.hub.reported).toMatchObject({ leaf1: { __t: "c", b: 2 }, leaf1__thermostat1: { __t: "c", now: 1 } });
    expect(world.hub.reported["leaf1"]).not.toHaveProperty("a");
    expect(world.hub.reported["leaf1__thermostat1"]).not.toHaveProperty("old");
  });

  test("what an edgeHub that was made anew has lost is found though the leaf reports all the time", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.report({ x: 1 });
    await world.pass(1_000);
    world.hub.losePending();
    world.hub.link("down");
    world.hub.link("up");
    for (let n = 0; n < 30; n += 1) {
      await leaf.report({ n });
      await world.pass(2_000);
    }
    expect(world.hub.reported["leaf1"]).toMatchObject({ x: 1 });
  });

  test("a value that the cloud shows late, in outage after outage, is never given up", async () => {
    const log = new RecordingLog();
    await using world = await connectedWorld({ log });
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    for (let outage = 1; outage <= 8; outage += 1) {
      await leaf.report({ x: outage });
      await world.pass(5_000);
      world.hub.losePending();
      world.hub.link("down");
      world.hub.link("up");
      await world.pass(60_000);
    }
    expect(world.hub.reported["leaf1"]).toMatchObject({ x: 8 });
    expect(log.events()).not.toContain(
      "a reported property does not stay at the hub, it is not sent again until it changes",
    );
  });

  test("a value that never stays is given up after a few sends, said once, and tried again when it changes", async () => {
    const log = new RecordingLog();
    await using world = await connectedWorld({ log });
    const leaf = world.leaves.leaf("leaf1");
    world.hub.keeps = (reported) => ({ ...reported, leaf1: { __t: "c", x: "another" } });
    await leaf.connect({ subscribe: true });
    await leaf.report({ x: 1 });
    await world.pass(20_000_000);
    const said = "a reported property does not stay at the hub, it is not sent again until it changes";
    expect(log.events().filter((event) => event === said)).toHaveLength(1);
    const sends = () => world.hub.patches.filter((patch) => Object.hasOwn(patch, "leaf1")).length;
    const before = sends();
    expect(before).toBeLessThan(10);
    world.hub.keeps = (reported) => reported;
    await leaf.report({ x: 2 });
    await world.pass(20_000);
    expect(sends()).toBe(before + 1);
    expect(world.hub.reported["leaf1"]).toMatchObject({ x: 2 });
  });

  test("a value that the hub spells in a way of its own stays there, is sent no more, and again only where it has gone", async () => {
    const log = new RecordingLog();
    await using world = await connectedWorld({ log });
    world.hub.keeps = (reported) =>
      JSON.parse(JSON.stringify(reported).replaceAll('"odd"', '"ODD"')) as typeof reported;
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.report({ x: "odd", y: 1 });
    const own = (): unknown => world.hub.reported["leaf1"];
    await world.pass(20_000_000);
    expect(own()).toEqual({ __t: "c", x: "ODD", y: 1 });
    expect(log.events().filter((event) => event.startsWith("the hub spells a reported property"))).toHaveLength(1);
    const sends = world.hub.patches.length;
    await leaf.report({ y: 2 });
    await world.pass(20_000_000);
    expect(world.hub.patches).toHaveLength(sends + 1);
    expect(own()).toEqual({ __t: "c", x: "ODD", y: 2 });
    expect(await world.hub.command("gateway*getLeaf", { leafId: "leaf1" })).toMatchObject({
      payload: { owed: {}, quarantined: { "leaf1/x": "the hub keeps it in another spelling" } },
    });
    world.hub.recreate();
    world.hub.link("up");
    await world.pass(60_000);
    expect(own()).toEqual({ __t: "c", x: "ODD", y: 2 });
    await leaf.report({ x: "even" });
    await world.pass(60_000);
    expect(own()).toEqual({ __t: "c", x: "even", y: 2 });
  });

  test("an empty object that the cloud drops is sent once and is no fault", async () => {
    const log = new RecordingLog();
    await using world = await connectedWorld({ log });
    world.hub.keeps = withoutEmpty;
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.report({ a: {}, b: { c: {} }, d: 1 });
    await world.pass(20_000_000);
    expect(world.hub.patches.filter((patch) => Object.hasOwn(patch, "leaf1"))).toHaveLength(1);
    expect(log.events()).not.toContain(
      "a reported property does not stay at the hub, it is not sent again until it changes",
    );
  });
});

describe("G2 reported: the module twin's 32 KB", () => {
  const LIMIT = 32_768;
  const text = (bytes: number) => "x".repeat(bytes);

  /** Leaves report until one is refused; 8 KB each at the most. */
  async function fill(world: RelayWorld): Promise<readonly (number | undefined)[]> {
    const statuses: (number | undefined)[] = [];
    for (let n = 0; n < 60; n += 1) {
      const leaf = world.leaves.leaf(`filler${n % 10}`);
      if (n < 10) await leaf.connect({ subscribe: true });
      statuses.push(await leaf.report({ [`p${n}`]: text(1_000) }));
    }
    await world.pass(30_000);
    return statuses;
  }

  test("holds with what the gateway reports of itself", async () => {
    await using world = await connectedWorld();
    world.relay?.report({ a: text(4_000), b: { value: text(4_000), ac: 200, av: 1 } });
    expect(await fill(world)).toContain(403);
    expect(world.hub.reported).toHaveProperty("gateway");
    expect(world.hub.reported).toHaveProperty("filler9");
    expect(bytesOf(world.hub.reported)).toBeLessThanOrEqual(LIMIT);
  });

  test("holds with components whose leaf has not come since the disk was lost, and takes them over when it does", async () => {
    await using world = new RelayWorld();
    world.hub.reported = {
      sleeper: { __t: "c", a: text(4_000), b: text(4_000) },
      sleeper__x: { __t: "c", c: text(4_000) },
    };
    await world.start();
    world.hub.link("up");
    await world.pass(30_000);
    expect(await fill(world)).toContain(403);
    expect(bytesOf(world.hub.reported)).toBeLessThanOrEqual(LIMIT);
    const sleeper = world.leaves.leaf("sleeper");
    await sleeper.connect({ subscribe: true });
    expect(await sleeper.report({ a: null, b: null })).toBe(204);
    await world.pass(30_000);
    expect(await world.leaves.leaf("filler0").report({ more: text(4_000) })).toBe(204);
    await world.pass(30_000);
    expect(bytesOf(world.hub.reported)).toBeLessThanOrEqual(LIMIT);
  });

  test("is not left by what counts as nothing: control characters cannot fill disk, memory or a patch", async () => {
    const log = new RecordingLog();
    await using world = await connectedWorld({ log });
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    const statuses: (number | undefined)[] = [];
    for (let n = 0; n < 30; n += 1) statuses.push(await leaf.report({ [`c${n}`]: "\u0001".repeat(4_000) }));
    expect(statuses[0]).toBe(204);
    expect(statuses.at(-1)).toBe(403);
    expect(
      await leaf.report({ numbers: Array.from({ length: 1_000 }, (_, n) => -1.234567890123456e-300 * (n + 1)) }),
    ).toBe(403);
    expect(await leaf.report({ c0: null })).toBe(204);
    await world.pass(30_000);
    expect(Object.keys(world.hub.reported["leaf1"] ?? {})).not.toContain("c0");
    expect(log.lines.filter(({ level }) => level === "error")).toEqual([]);
    for (const patch of world.hub.patches) expect(JSON.stringify(patch).length).toBeLessThanOrEqual(32_768);
  });

  test("a change of the gateway's own properties while they are being pushed is pushed too", async () => {
    await using world = await connectedWorld();
    world.relay?.report({ a: 1 });
    world.hub.slow = true;
    await world.pass(6_000);
    world.relay?.report({ a: 2 });
    world.hub.slow = false;
    world.hub.release();
    await world.pass(20_000);
    expect(world.hub.reported["gateway"]).toMatchObject({ a: 2 });
  });
});

const names = fc.oneof(
  { weight: 4, arbitrary: keys },
  {
    weight: 1,
    arbitrary: fc.constantFrom("part", "a.b", "$a", "a b", "a#b", "\ufeff", "a\u00a0", "", "x".repeat(1_025), "__t"),
  },
  { weight: 1, arbitrary: fc.string({ unit: "binary", maxLength: 4 }) },
);
/** What leaves may send, up to a little deeper than the hub allows, and beyond its numbers and texts. */
const { value } = fc.letrec<{ value: Json }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 11, depthSize: 1.5, depthIdentifier: "level" },
    fc.oneof(anyJson, fc.constantFrom(2 ** 52, -(2 ** 52), 1e20, 1e21, -0, "é".repeat(2_049), "\u0007".repeat(4_096))),
    objects(tie("value"), names, 3),
    fc.array(tie("value"), { maxLength: 2, depthIdentifier: "level" }),
  ),
}));
const patch = fc
  .record({
    root: objects(value, names),
    part: fc.option(objects(value, names), { nil: undefined }),
    deep: fc.option(fc.integer({ min: 7, max: 12 }), { nil: undefined }),
  })
  .map(({ root, part, deep }): JsonObject => {
    let nested: Json = 1;
    for (let level = 0; level < (deep ?? 0); level += 1) nested = level % 3 === 2 ? [nested] : { d: nested };
    const inside = { ...part, ...(deep === undefined ? {} : { nested }), __t: "c" };
    return part === undefined ? { ...root, ...(deep === undefined ? {} : { nested }) } : { ...root, part: inside };
  });

describe("G2 reported: a patch answered 204", () => {
  test("is refused neither by edgeHub nor by the cloud, and arrives", async () => {
    const seen = { taken: 0, refused: 0 };
    await fc.assert(
      fc.asyncProperty(fc.array(patch, { minLength: 1, maxLength: 4 }), async (patches) => {
        const log = new RecordingLog();
        await using world = await connectedWorld({ log });
        world.hub.twinRefuses = (sent) => refusalOf(sent) ?? faultOf("reported", sent)?.message;
        const leaf = world.leaves.leaf("leaf1");
        await leaf.connect({ subscribe: true });
        for (const each of patches) {
          const status = await leaf.report(JSON.parse(JSON.stringify(each)) as JsonObject);
          expect([204, 400, 403]).toContain(status);
          seen[status === 204 ? "taken" : "refused"] += 1;
        }
        await world.pass(60_000);
        expect(log.lines.filter(({ level }) => level === "error")).toEqual([]);
        const [known] = world.relay?.leaves() ?? [];
        if (known !== undefined)
          expect(without(world.hub.reported, "gateway")).toEqual(moduleView(known.record, leaf.reported));
      }),
      { numRuns: 200 },
    );
    expect(seen.taken).toBeGreaterThan(30);
    expect(seen.refused).toBeGreaterThan(30);
  });
});

describe("G5 isolation", () => {
  test("a patch that edgeHub answers 500 for ever holds up no other leaf, and goes once it is taken", async () => {
    await using world = await connectedWorld();
    const leaves = [1, 2, 3, 4].map((n) => world.leaves.leaf(`leaf${n}`));
    for (const leaf of leaves) await leaf.connect({ subscribe: true });
    world.hub.twinFails = (patch) => JSON.stringify(patch).includes("poison");
    for (const [n, leaf] of leaves.entries()) await leaf.report({ a: n === 1 ? "poison" : n });
    world.relay?.report({ own: 1 });
    await world.pass(30_000);
    expect(world.hub.reported).toMatchObject({
      leaf1: { a: 0 },
      leaf3: { a: 2 },
      leaf4: { a: 3 },
      gateway: { own: 1 },
    });
    await leaves[0]?.report({ a: 10 });
    await world.pass(20_000);
    expect(world.hub.reported).toMatchObject({ leaf1: { a: 10 } });
    expect(world.hub.reported).not.toHaveProperty("leaf2");
    world.hub.twinFails = () => false;
    await world.pass(20_000);
    expect(world.hub.reported).toMatchObject({ leaf2: { a: "poison" } });
  });
});

describe("G8 quiet recovery", () => {
  test("the gateway ends in time though edgeHub does not answer a push", async () => {
    const world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    world.hub.slow = "patches";
    await leaf.report({ a: 1 });
    await world.pass(6_000);
    const beforeMs = world.clock.steady();
    await world[Symbol.asyncDispose]();
    expect(world.clock.steady() - beforeMs).toBeLessThan(8_000);
  });
});

describe("G7 bounded", () => {
  test("what power-safe keeps after edgeHub took it stays within quota and time to live while edgeHub cannot send it on", async () => {
    await using world = new RelayWorld({
      settings: { durability: "power-safe", maxBytes: 200_000, timeToLiveSecs: 600 },
    });
    await world.start();
    world.hub.link("up");
    world.wan.handler?.backlog(0, world.clock.steady());
    await world.pass(1_000);
    world.wan.handler?.backlog(1_000, world.clock.steady());
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    const retained = async (): Promise<number> => {
      let count = 0;
      for await (const _ of world.store.retained()) count += 1;
      return count;
    };
    for (let n = 0; n < 500; n += 1) {
      const sent = leaf.telemetry({ n, text: "x".repeat(1_000) });
      await world.pass(500);
      expect(await sent).toEqual({ kind: "done" });
    }
    await world.pass(30_000);
    expect(await retained()).toBeGreaterThan(50);
    expect(await retained()).toBeLessThan(200);
    await world.pass(700_000);
    expect(await retained()).toBe(0);
  });
});
