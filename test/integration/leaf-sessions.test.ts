/** What a leaf's session owes it: desired changes until it has heard them, an answer to each GET, versions that count its changes. */
import { describe, expect, test } from "vitest";
import { RelayWorld } from "../support/relay-world.ts";

const DESIRED = "$iothub/twin/PATCH/properties/desired/#";
const ANSWERS = "$iothub/twin/res/#";

async function connectedWorld(): Promise<RelayWorld> {
  const world = new RelayWorld();
  await world.start();
  world.hub.link("up");
  await world.pass(100);
  return world;
}

describe("G3 a desired change that was written to a dead connection comes again", () => {
  test("after telemetry that had arrived before it was written", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.read();
    await leaf.telemetry({ n: 0 });
    leaf.isUnreachable = true;
    // A slow disk: the message arrives while the change is being committed, and waits behind it.
    world.misfortune = () => 100;
    world.hub.desire({ leaf1: { target: 20 } });
    await world.pass(50);
    const sent = leaf.telemetry({ n: 1 });
    await world.pass(1_000);
    expect(await sent).toEqual({ kind: "done" });
    world.misfortune = () => "none";

    await leaf.disconnect();
    leaf.isUnreachable = false;
    await leaf.connect({ subscribe: false });
    await world.pass(10);
    expect(leaf.desired).toEqual({ target: 20 });
  });

  test("after the will that is published because the connection broke", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.read();
    await leaf.telemetry({ n: 0 });
    leaf.isUnreachable = true;
    world.hub.desire({ leaf1: { target: 20 } });
    await world.pass(10);
    await leaf.breakWithWill();

    leaf.isUnreachable = false;
    await leaf.connect({ subscribe: false });
    await world.pass(10);
    expect(leaf.desired).toEqual({ target: 20 });
  });

  test("but not once the leaf has sent something since", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.read();
    world.hub.desire({ leaf1: { target: 20 } });
    await world.pass(10);
    await leaf.telemetry({ n: 1 });
    await leaf.disconnect();
    const heard = leaf.versions.length;
    await leaf.connect({ subscribe: false });
    await world.pass(10);
    expect(leaf.versions).toHaveLength(heard);
  });
});

test("a leaf that subscribes to desired changes after its GET, as C does, hears only what came after the answer", async () => {
  await using world = await connectedWorld();
  const leaf = world.leaves.leaf("leaf1");
  await leaf.connect({ subscribe: false });
  await leaf.disconnect();
  world.hub.desire({ leaf1: { target: 20 } });
  await world.pass(10);
  await leaf.connect({ subscribe: false });
  await leaf.subscribe(ANSWERS);
  await leaf.read();
  const heard = leaf.versions.length;
  await leaf.subscribe(ANSWERS, DESIRED);
  await world.pass(10);
  expect(leaf.versions).toHaveLength(heard);

  const other = world.leaves.leaf("leaf2");
  await other.connect({ subscribe: false });
  await other.subscribe(ANSWERS);
  await other.read();
  world.hub.desire({ leaf2: { target: 21 } });
  await world.pass(10);
  expect(other.desired).toEqual({});
  await other.subscribe(ANSWERS, DESIRED);
  await world.pass(10);
  expect(other.desired).toEqual({ target: 21 });
});

describe("a GET before the first synchronisation", () => {
  test("with the $rid of one from an earlier connection, as C counts them, is held as long as any", async () => {
    await using world = new RelayWorld();
    await world.start();
    const leaf = world.leaves.leaf("leaf1");
    const get = (): Promise<unknown> => leaf.publish("$iothub/twin/GET/?$rid=3", new Uint8Array());
    await leaf.connect({ subscribe: true });
    await get();
    await world.pass(10_000);
    await leaf.disconnect();
    await world.pass(10_000);
    await leaf.connect({ subscribe: true });
    await get();
    await world.pass(45_000);
    expect(leaf.answers.get("3")).toBeUndefined();
    world.hub.link("up");
    await world.pass(100);
    expect(leaf.answers.get("3")?.status).toBe(200);
  });

  test("is answered with every other one of its connection, however many", async () => {
    await using world = new RelayWorld();
    await world.start();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    for (let n = 0; n < 20; n += 1) await leaf.publish(`$iothub/twin/GET/?$rid=${n}`, new Uint8Array());
    world.hub.link("up");
    await world.pass(100);
    const statuses = Array.from({ length: 20 }, (_, n) => leaf.answers.get(String(n))?.status);
    // Sixteen can be held; the oldest are given up, with a word.
    expect(statuses).toEqual([...Array.from({ length: 4 }, () => 503), ...Array.from({ length: 16 }, () => 200)]);
  });
});
