/** What a back end can ask the gateway itself: messages set aside, acknowledgements that are due, cloud-to-device messages, removal. */
import { describe, expect, test } from "vitest";
import type { Json, JsonObject } from "../../src/core/message.ts";
import { connectedWorld, RelayWorld } from "../support/relay-world.ts";

async function run(world: RelayWorld, command: string, payload: Json, status = 200): Promise<JsonObject> {
  const answer = await world.hub.command(`gateway*${command}`, payload);
  if (answer === "no answer") throw new Error("no answer");
  expect(answer).toMatchObject({ status });
  return answer.payload as JsonObject;
}

function texts(world: RelayWorld): string[] {
  return world.hub.telemetry
    .filter(({ properties }) => properties["leafId"] !== undefined)
    .map(({ payload }) => new TextDecoder().decode(payload));
}

describe("messages set aside", () => {
  async function worldWithPoison(): Promise<RelayWorld> {
    const world = await connectedWorld();
    world.hub.refusesMessage = ({ payload }) =>
      new TextDecoder().decode(payload).includes("poison") ? "too strange" : undefined;
    for (const id of ["leaf1", "leaf2"]) {
      const leaf = world.leaves.leaf(id);
      await leaf.connect({ subscribe: true });
      for (const body of ["before", `poison of ${id}`, "after"])
        expect(await leaf.telemetry(body)).toEqual({ kind: "done" });
    }
    await world.pass(5_000);
    expect(texts(world)).toEqual(['"before"', '"after"', '"before"', '"after"']);
    return world;
  }

  test("are listed with their reason, of all leaves or of one, and in pieces", async () => {
    await using world = await worldWithPoison();
    const all = await run(world, "listSetAside", null);
    expect(all).toMatchObject({
      total: 2,
      more: false,
      messages: [
        { leafId: "leaf1", reason: "too strange", payload: '"poison of leaf1"', component: "leaf1" },
        { leafId: "leaf2", reason: "too strange", payload: '"poison of leaf2"' },
      ],
    });
    const [first] = all["messages"] as JsonObject[];
    expect((await run(world, "listSetAside", { leafId: "leaf2" }))["messages"]).toHaveLength(1);
    expect((await run(world, "listSetAside", { after: first?.["number"] ?? 0 }))["messages"]).toMatchObject([
      { leafId: "leaf2" },
    ]);
    expect(await run(world, "getDiagnostics", null)).toMatchObject({ setAsideMessages: 2 });
  });

  test("are listed in pieces that an answer to a command may hold, whatever stands in them", async () => {
    await using world = await connectedWorld();
    world.hub.refusesMessage = ({ properties }) => (properties["leafId"] === undefined ? undefined : "too strange");
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: false });
    for (let n = 0; n < 50; n += 1) await leaf.telemetry(`${n} ${"\u20ac".repeat(1_000)}`);
    await world.pass(5_000);
    const numbers: Json[] = [];
    for (let more = true; more; ) {
      const page = await run(world, "listSetAside", { after: numbers.at(-1) ?? 0 });
      expect(Buffer.byteLength(JSON.stringify(page))).toBeLessThan(128 * 1024);
      numbers.push(...(page["messages"] as JsonObject[]).map(({ number = null }) => number));
      more = page["more"] === true;
    }
    expect(new Set(numbers).size).toBe(50);
  });

  test("go up once more when they are retried, with the same message id, and are gone from the list", async () => {
    await using world = await worldWithPoison();
    const [first] = (await run(world, "listSetAside", null))["messages"] as JsonObject[];
    world.hub.refusesMessage = undefined;
    expect(await run(world, "retrySetAside", { number: first?.["number"] ?? 0 })).toEqual({ retried: 1, refused: 0 });
    expect(texts(world).at(-1)).toBe('"poison of leaf1"');
    expect(world.hub.telemetry.at(-1)?.system["mid"]).toBe(first?.["messageId"]);
    expect(await run(world, "listSetAside", null)).toMatchObject({ total: 1 });
    expect(await run(world, "retrySetAside", { all: true })).toEqual({ retried: 1, refused: 0 });
    expect(await run(world, "listSetAside", null)).toMatchObject({ total: 0, messages: [] });
  });

  test("that are refused again are set aside again", async () => {
    await using world = await worldWithPoison();
    expect(await run(world, "retrySetAside", { leafId: "leaf1" })).toEqual({ retried: 1, refused: 0 });
    await world.pass(5_000);
    expect(await run(world, "listSetAside", { leafId: "leaf1" })).toMatchObject({
      total: 2,
      messages: [{ payload: '"poison of leaf1"' }],
    });
  });

  test("are forgotten when they are discarded, and an unclear request does nothing", async () => {
    await using world = await worldWithPoison();
    for (const unclear of [null, {}, { all: false }, { number: 1, all: true }, { leafId: "no/id" }, { number: "1" }]) {
      await run(world, "discardSetAside", unclear, 400);
      await run(world, "retrySetAside", unclear, 400);
    }
    expect(await run(world, "discardSetAside", { leafId: "leaf1" })).toEqual({ discarded: 1 });
    expect(await run(world, "listSetAside", null)).toMatchObject({ total: 1, messages: [{ leafId: "leaf2" }] });
  });

  test("survive a restart, and the oldest give way to the thousand newest", async () => {
    const world = await worldWithPoison();
    world.kill();
    await world.start();
    world.hub.link("up");
    await world.pass(1_000);
    expect(await run(world, "listSetAside", null)).toMatchObject({ total: 2 });
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: false });
    for (let n = 0; n < 1_000; n += 1) {
      await leaf.telemetry(`poison ${n}`);
      if (n % 100 === 0) await world.pass(10);
    }
    await world.pass(5_000);
    expect(world.disk.setAside.size).toBe(1_000);
    const page = await run(world, "listSetAside", null);
    expect(page).toMatchObject({ total: 1_000, more: true });
    expect((page["messages"] as Json[])[0]).toMatchObject({ payload: '"poison 0"' });
    await world[Symbol.asyncDispose]();
  });
});

describe("acknowledgements that are due", () => {
  async function due(world: RelayWorld): Promise<Json> {
    return (await run(world, "getLeaf", { leafId: "leaf1" }))["unacknowledged"] ?? null;
  }

  test("go from pending over delivered and 202 to done, with the time of each step", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.disconnect();
    const startedMs = world.clock.now();
    world.hub.desire({ leaf1: { target: 20 } });
    await world.pass(60_000);
    expect(await due(world)).toEqual([
      { path: "target", state: "pending", version: 2, since: new Date(startedMs).toISOString() },
    ]);
    const cameMs = world.clock.now();
    await leaf.connect({ subscribe: false });
    await world.pass(10);
    expect(leaf.desired).toEqual({ target: 20 });
    expect(await due(world)).toEqual([
      { path: "target", state: "delivered", version: 2, since: new Date(cameMs).toISOString() },
    ]);
    await leaf.report({ target: { value: 20, ac: 202, av: 2 } });
    expect(await due(world)).toMatchObject([{ path: "target", state: "in-progress" }]);
    await leaf.report({ target: { value: 20, ac: 200, av: 2 } });
    expect(await due(world)).toEqual([]);
  });

  test("a superseded one goes up and does not count; a leaf that comes back hears only the latest", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    world.hub.desire({ leaf1: { target: 20 } });
    await world.pass(10);
    await leaf.disconnect();
    for (const target of [21, 22, 23]) world.hub.desire({ leaf1: { target } });
    await world.pass(10);
    const before = leaf.versions.length;
    await leaf.connect({ subscribe: false });
    await leaf.report({ target: { value: 20, ac: 200, av: 2 } });
    await world.pass(20_000);
    expect(leaf.versions.slice(before)).toEqual([5]);
    expect(leaf.desired).toEqual({ target: 23 });
    expect(world.hub.reported["leaf1"]).toMatchObject({ target: { value: 20, ac: 200, av: 2 } });
    expect(await due(world)).toMatchObject([{ path: "target", state: "delivered", version: 5 }]);
    await leaf.report({ target: { value: 23, ac: 200, av: 5 } });
    expect(await due(world)).toEqual([]);
  });
});

describe("cloud-to-device messages for a sleeping leaf", () => {
  async function sleepingWorld(): Promise<RelayWorld> {
    const world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.disconnect();
    return world;
  }

  test("wait on disk, fifty at most, through a restart, and come in order", async () => {
    const world = await sleepingWorld();
    for (let n = 0; n < 50; n += 1)
      expect(await run(world, "sendCloudToDevice", { leafId: "leaf1", payload: `${n}` })).toMatchObject({
        queued: n + 1,
      });
    await run(world, "sendCloudToDevice", { leafId: "leaf1", payload: "one too many" }, 429);
    world.kill();
    await world.start();
    world.hub.link("up");
    await world.pass(1_000);
    expect(await run(world, "getLeaf", { leafId: "leaf1" })).toMatchObject({ cloudToDeviceQueued: 50 });
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: false });
    await world.pass(1_000);
    expect(leaf.cloudToDevice).toEqual(Array.from({ length: 50 }, (_, n) => `${n}`));
    expect(world.disk.cloudToDevice.size).toBe(0);
    await world[Symbol.asyncDispose]();
  });

  test("are dropped when their time is over, and only those", async () => {
    await using world = await sleepingWorld();
    await run(world, "sendCloudToDevice", { leafId: "leaf1", payload: "short", ttlSecs: 60 });
    await run(world, "sendCloudToDevice", { leafId: "leaf1", payload: "long", ttlSecs: 3_600 });
    await world.pass(120_000);
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: false });
    await world.pass(10);
    expect(leaf.cloudToDevice).toEqual(["long"]);
  });

  test("are called queued only when the disk has them", async () => {
    await using world = await sleepingWorld();
    world.misfortune = () => "fail";
    await run(world, "sendCloudToDevice", { leafId: "leaf1", payload: "refused" }, 500);
    world.misfortune = () => "none";
    expect(await run(world, "sendCloudToDevice", { leafId: "leaf1", payload: "taken" })).toMatchObject({ queued: 1 });
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: false });
    await world.pass(1_000);
    expect(leaf.cloudToDevice).toEqual(["taken"]);
  });

  test("go on though the disk fails to note a delivery", async () => {
    await using world = await sleepingWorld();
    for (const payload of ["a", "b", "c"]) await run(world, "sendCloudToDevice", { leafId: "leaf1", payload });
    const leaf = world.leaves.leaf("leaf1");
    let left = 1;
    world.misfortune = () => (left-- > 0 ? "fail" : "none");
    await leaf.connect({ subscribe: false });
    await world.pass(1_000);
    expect(leaf.cloudToDevice).toEqual(["a", "b", "c"]);
  });
});

describe("the list of leaves", () => {
  test("comes in pieces that an answer can hold, in order, and complete", async () => {
    await using world = new RelayWorld({ settings: { maxLeaves: 2_000 } });
    await world.start();
    world.hub.link("up");
    await world.pass(1_000);
    const ids = Array.from({ length: 1_000 }, (_, n) => `leaf-with-a-long-name-${String(n).padStart(4, "0")}`);
    for (const id of ids) await world.leaves.leaf(id).connect({ subscribe: false });
    const listed: unknown[] = [];
    let pieces = 0;
    for (let after = ""; ; pieces += 1) {
      const answer = (await run(world, "listLeaves", { after })) as unknown as { readonly leafId: string }[];
      expect(JSON.stringify(answer).length).toBeLessThan(128 * 1024);
      if (answer.length === 0) break;
      listed.push(...answer.map(({ leafId }) => leafId));
      after = answer.at(-1)?.leafId ?? "";
    }
    expect(listed).toEqual(ids);
    expect(pieces).toBeGreaterThan(1);
    await run(world, "listLeaves", { after: 7 }, 400);
  });
});

describe("removal of a leaf", () => {
  test("nulls its part, forgets its queue, delivers nothing before somebody confirms, and then all of it", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    world.hub.desire({ leaf1: { target: 1, mode: "a" } });
    await leaf.report({ a: 1, part: { __t: "c", b: 2 } });
    await world.pass(30_000);
    expect(world.hub.reported).toMatchObject({ leaf1: { a: 1 }, leaf1__part: { b: 2 } });
    await leaf.disconnect();
    await run(world, "sendCloudToDevice", { leafId: "leaf1", payload: "late" });
    expect(await run(world, "removeLeaf", { leafId: "leaf1" })).toMatchObject({ removed: true });
    await world.pass(30_000);
    expect(Object.keys(world.hub.reported)).not.toContain("leaf1");
    expect(Object.keys(world.hub.reported)).not.toContain("leaf1__part");

    // A device of that id, which never subscribes or reads again.
    await leaf.connect({ subscribe: false });
    world.hub.desire({ leaf1: { target: 2, mode: null } });
    expect(await leaf.report({ early: true })).toBe(204);
    await world.pass(30_000);
    expect(leaf.desired).toEqual({ target: 1, mode: "a" });
    expect(leaf.cloudToDevice).toEqual([]);
    expect(Object.keys(world.hub.reported)).not.toContain("leaf1");
    expect(await world.hub.command("leaf1*reboot", null)).toMatchObject({ status: 404 });
    await run(world, "sendCloudToDevice", { leafId: "leaf1", payload: "no" }, 404);
    expect(await run(world, "getLeaf", { leafId: "leaf1" })).toMatchObject({ removed: true, desired: {} });

    expect(await run(world, "confirmLeaf", { leafId: "leaf1" })).toMatchObject({ removed: false });
    await leaf.connect({ subscribe: false });
    await world.pass(30_000);
    expect(leaf.desired).toEqual({ target: 2 });
    expect(world.hub.reported["leaf1"]).toEqual({ __t: "c", early: true });
  });

  test("a confirmation of a leaf that was not removed changes nothing", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.report({ a: 1 });
    await world.pass(30_000);
    const patches = world.hub.patches.length;
    await run(world, "confirmLeaf", { leafId: "leaf1" });
    await world.pass(30_000);
    expect(leaf.connected).toBe(true);
    expect(world.hub.patches.length).toBe(patches);
  });
});
