/** What a leaf's session owes it: desired changes until it has heard them, an answer to each GET, versions that count its changes. */
import { describe, expect, test } from "vitest";
import { jsonBytes } from "../../src/core/merge-patch.ts";
import type { JsonObject } from "../../src/core/message.ts";
import type { Misfortune } from "../support/faulty-store.ts";
import { RecordingLog } from "../support/recording-log.ts";
import { connectedWorld, RelayWorld } from "../support/relay-world.ts";

const DESIRED = "$iothub/twin/PATCH/properties/desired/#";
const ANSWERS = "$iothub/twin/res/#";

/** What is noted of a leaf as missed, as it is on disk too. */
function missedOf(world: RelayWorld, leafId: string): JsonObject {
  const leaf = [...(world.relay?.leaves() ?? [])].find(({ id }) => id === leafId);
  return { ...leaf?.record.missed };
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

test("a leaf that only listens and pings hears a change once, not again at each reconnect", async () => {
  await using world = await connectedWorld();
  const leaf = world.leaves.leaf("leaf1");
  await leaf.connect({ subscribe: true });
  world.hub.desire({ leaf1: { target: 20 } });
  await world.pass(10);
  await leaf.ping();
  await leaf.disconnect();
  const heard = leaf.versions.length;
  await leaf.connect({ subscribe: false });
  await world.pass(10);
  expect(leaf.versions).toHaveLength(heard);
});

describe("a back end that writes and removes ever new names", () => {
  test.each(["that is away", "that never listens"])("does not fill the record of a leaf %s", async (which) => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: which === "that is away" });
    world.hub.desire({ leaf1: { kept: 1, old: 1 } });
    await world.pass(10);
    if (which === "that is away") await leaf.disconnect();
    world.hub.desire({ leaf1: { old: null } });
    for (let n = 0; n < 500; n += 1) {
      const name = `${"x".repeat(900)}${n}`;
      world.hub.desire({ leaf1: { [name]: n, nested: { [name]: n } } });
      await world.pass(10);
      world.hub.desire({ leaf1: { [name]: null, nested: { [name]: null } } });
      await world.pass(10);
    }
    expect(jsonBytes(missedOf(world, "leaf1"))).toBeLessThan(100_000);
    if (which === "that is away") await leaf.connect({ subscribe: false });
    else await leaf.subscribe(ANSWERS, DESIRED);
    await world.pass(10);
    expect(leaf.desired).toEqual({ kept: 1, nested: {} });
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

test("a leaf's reported $version starts at 1 and grows with its first change, so that a precondition can tell", async () => {
  await using world = await connectedWorld();
  const leaf = world.leaves.leaf("leaf1");
  await leaf.connect({ subscribe: true });
  expect((await leaf.read())?.body?.["reported"]).toEqual({ $version: 1 });
  const patch = async (rid: string, version: number): Promise<number | undefined> => {
    await leaf.publish(`$iothub/twin/PATCH/properties/reported/?$rid=${rid}&$version=${version}`, { a: rid });
    return leaf.answers.get(rid)?.status;
  };
  expect(await patch("first", 1)).toBe(204);
  expect(await patch("stale", 1)).toBe(412);
  expect(await patch("second", 2)).toBe(204);
  expect((await leaf.read())?.body?.["reported"]).toEqual({ a: "second", $version: 3 });
});

describe("telemetry of components", () => {
  const subs = (world: RelayWorld) => world.hub.telemetry.slice(-3).map(({ system }) => system["sub"]);

  test("beyond those that are remembered goes up under their names all the same", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    for (let n = 0; n < 10; n += 1) await leaf.telemetry({ n }, `%24.sub=pump${n}`);
    for (const name of ["pump10", "pump11", "1x"])
      expect(await leaf.telemetry({}, `%24.sub=${name}`)).toEqual({ kind: "done" });
    expect(subs(world)).toEqual(["leaf1__pump10", "leaf1__pump11", expect.stringMatching(/^leaf1__l1x_[0-9a-f]{8}$/)]);
    // Not remembered, since nothing may grow without end: its properties would be refused.
    expect(await leaf.report({ pump10: { __t: "c", a: 1 } })).toBe(400);
  });

  test("that cannot be remembered because the disk is full goes up all the same, and is learned later", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    world.misfortune = () => "fail";
    for (const name of ["a", "b", "a"]) expect(await leaf.telemetry({}, `%24.sub=${name}`)).toEqual({ kind: "done" });
    expect(subs(world)).toEqual(["leaf1__a", "leaf1__b", "leaf1__a"]);
    world.misfortune = () => "none";
    await leaf.telemetry({}, "%24.sub=a");
    expect(await leaf.report({ a: { x: 1 } })).toBe(204);
    await world.pass(10_000);
    const { gateway: _own, ...ofLeaves } = world.hub.reported;
    expect(ofLeaves).toEqual({ leaf1__a: { __t: "c", x: 1 } });
  });
});

describe("cloud-to-device messages", () => {
  test("that have outlived their time make room for new ones", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.disconnect();
    const send = (payload: string) =>
      world.hub.command("gateway*sendCloudToDevice", { leafId: "leaf1", payload, ttlSecs: 60 });
    for (let n = 0; n < 50; n += 1) expect(await send(`old ${n}`)).toMatchObject({ status: 200 });
    expect(await send("one too many")).toMatchObject({ status: 429 });
    await world.pass(61_000);
    expect(await send("new")).toMatchObject({ status: 200 });
    await leaf.connect({ subscribe: false });
    await world.pass(10);
    expect(leaf.cloudToDevice).toEqual(["new"]);
  });

  test("that come while a leaf is leaving are no tries that it has failed", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    // The end of the connection waits behind two reports; the messages are stored before the second one.
    const plan: Misfortune[] = [100, ...Array.from({ length: 12 }, () => "none" as const), 100];
    world.misfortune = () => plan.shift() ?? "none";
    for (const a of [1, 2]) leaf.report({ a }).catch(() => undefined);
    await world.pass(0);
    const gone = leaf.disconnect();
    const texts = Array.from({ length: 12 }, (_, n) => `message ${n}`);
    const answers = texts.map((payload) =>
      world.hub.command("gateway*sendCloudToDevice", { leafId: "leaf1", payload }),
    );
    await world.pass(1_000);
    await gone;
    for (const answer of answers) expect(await answer).toMatchObject({ status: 200 });
    await leaf.connect({ subscribe: false });
    await world.pass(100);
    expect(leaf.cloudToDevice).toEqual(texts);
  });

  test("that could not be stored are not delivered, and cost no other one its place", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.disconnect();
    const send = (payload: string) => world.hub.command("gateway*sendCloudToDevice", { leafId: "leaf1", payload });
    expect(await send("first")).toMatchObject({ status: 200 });
    // What was delivered is taken off the disk slowly, and something slow comes before the next message is refused by it.
    const plan: Misfortune[] = [50, 100, "fail", "none"];
    world.misfortune = () => plan.shift() ?? "none";
    await leaf.connect({ subscribe: false });
    await world.pass(10);
    const reported = leaf.report({ a: 1 });
    await world.pass(0);
    const answers = [send("refused"), send("last")];
    await world.pass(1_000);
    expect(await reported).toBe(204);
    expect(await Promise.all(answers)).toMatchObject([{ status: 500 }, { status: 200 }]);
    expect(leaf.cloudToDevice).toEqual(["first", "last"]);
  });
});

describe("a session that a lost disk took with it, of an SDK that never subscribes again", () => {
  /** A leaf that has told the hub something, and a gateway that has lost its disk since. */
  async function afterLostDisk(clean = false) {
    const world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    leaf.answerCommands = (name) => ({ status: 200, payload: name });
    await leaf.connect({ subscribe: true, clean });
    await leaf.report({ a: 1 });
    await world.pass(10_000);
    world.kill();
    world.loseDisk();
    world.hub.desire({ leaf1: { target: 20 } });
    await world.start();
    return { world, leaf };
  }

  async function works(world: RelayWorld, leaf: ReturnType<RelayWorld["leaves"]["leaf"]>): Promise<void> {
    await world.pass(100);
    expect(leaf.desired).toEqual({ target: 20 });
    world.hub.desire({ leaf1: { target: 21 } });
    await world.pass(100);
    expect(leaf.desired).toEqual({ target: 21 });
    expect(await world.hub.command("leaf1*reboot", null)).toMatchObject({ status: 200 });
    const message = { leafId: "leaf1", payload: "after the loss" };
    expect(await world.hub.command("gateway*sendCloudToDevice", message)).toMatchObject({ status: 200 });
    await world.pass(100);
    expect(leaf.cloudToDevice).toEqual(["after the loss"]);
  }

  test("is taken up when it connects after the gateway has read the module twin", async () => {
    const { leaf, world } = await afterLostDisk();
    world.hub.link("up");
    await world.pass(100);
    await leaf.connect({ subscribe: false });
    await works(world, leaf);
    await world[Symbol.asyncDispose]();
  });

  test("is taken up when it connects before, though it subscribes to something, by a reconnect", async () => {
    const { leaf, world } = await afterLostDisk();
    await leaf.connect({ subscribe: false });
    await leaf.subscribe("$iothub/methods/POST/#");
    world.hub.link("up");
    await world.pass(100);
    expect(world.leaves.drops).toEqual(["leaf1"]);
    await leaf.connect({ subscribe: false });
    await works(world, leaf);
    await world[Symbol.asyncDispose]();
  });

  test("is kept when the old connection's SUBSCRIBE waits behind the read that has given it back", async () => {
    const { leaf, world } = await afterLostDisk();
    await leaf.connect({ subscribe: false });
    world.misfortune = () => 100;
    world.hub.link("up");
    await world.pass(50);
    const subscribed = leaf.subscribe("$iothub/methods/POST/#");
    await world.pass(1_000);
    await subscribed;
    world.misfortune = () => "none";
    expect(world.leaves.drops).toEqual(["leaf1"]);
    await leaf.connect({ subscribe: false });
    await works(world, leaf);
    await world[Symbol.asyncDispose]();
  });

  test("is kept when it was given back between CONNACK and a SUBSCRIBE to something", async () => {
    const { leaf, world } = await afterLostDisk();
    world.misfortune = () => 100;
    const connected = leaf.connect({ subscribe: false });
    world.hub.link("up");
    await world.pass(1_000);
    await connected;
    world.misfortune = () => "none";
    expect(world.leaves.drops).toEqual([]);
    await leaf.subscribe("$iothub/methods/POST/#");
    await works(world, leaf);
    await world[Symbol.asyncDispose]();
  });

  test("is not made up for a program that starts and subscribes itself", async () => {
    const { leaf, world } = await afterLostDisk();
    await leaf.connect({ subscribe: true });
    world.hub.link("up");
    await world.pass(100);
    expect(world.leaves.drops).toEqual([]);
    await works(world, leaf);
    await world[Symbol.asyncDispose]();
  });

  test("is not made up for a clean session", async () => {
    const { leaf, world } = await afterLostDisk(true);
    await leaf.connect({ subscribe: false, clean: true });
    world.hub.link("up");
    await world.pass(100);
    expect(world.leaves.drops).toEqual([]);
    expect(leaf.desired).toEqual({});
    expect(await world.hub.command("leaf1*reboot", null)).toMatchObject({ status: 404 });
    await world[Symbol.asyncDispose]();
  });
});

test("Python's storm of acknowledgements of what it has acknowledged costs neither the disk nor the hub anything", async () => {
  await using world = await connectedWorld();
  const leaf = world.leaves.leaf("leaf1");
  await leaf.connect({ subscribe: true });
  world.hub.desire({ leaf1: { target: 20 }, leaf1__pump: { speed: 3 } });
  await world.pass(10);
  const acknowledgement = (value: number) => ({ value, ac: 200, av: leaf.desiredVersion, ad: "done" });
  const answers = { target: acknowledgement(20), pump: { __t: "c", speed: acknowledgement(3) } };
  expect(await leaf.report(answers)).toBe(204);
  await world.pass(20_000);
  const before = { commits: world.store.commits, patches: world.hub.patches.length };
  for (let n = 0; n < 100; n += 1) expect(await leaf.report(answers)).toBe(204);
  await world.pass(20_000);
  expect({ commits: world.store.commits, patches: world.hub.patches.length }).toEqual(before);
});

test("an alias names a leaf that is new; a known one keeps its component, and the log says so", async () => {
  const log = new RecordingLog();
  const world = new RelayWorld({ log });
  world.aliases = { "plc.1": "press" };
  await world.start();
  world.hub.link("up");
  await world.pass(100);
  const [named, known] = [world.leaves.leaf("plc.1"), world.leaves.leaf("leaf1")];
  for (const leaf of [named, known]) await leaf.connect({ subscribe: true });
  for (const leaf of [named, known]) await leaf.report({ a: 1 });
  await world.pass(10_000);
  world.kill();
  world.aliases = { "plc.1": "press", leaf1: "pump" };
  await world.start();
  world.hub.link("up");
  for (const leaf of [named, known]) await leaf.connect({ subscribe: false });
  for (const leaf of [named, known]) await leaf.report({ a: 2 });
  await world.pass(20_000);
  const { gateway: _own, ...ofLeaves } = world.hub.reported;
  expect(ofLeaves).toEqual({ press: { __t: "c", a: 2 }, leaf1: { __t: "c", a: 2 } });
  const late = log.lines.filter(({ event }) => event.includes("alias"));
  expect(late.map(({ fields }) => fields["leafId"])).toEqual(["leaf1"]);
  await world[Symbol.asyncDispose]();
});
