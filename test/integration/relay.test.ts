import { describe, expect, test } from "vitest";
import { leafIdOf } from "../support/arbitraries.ts";
import { connectedWorld, RelayWorld } from "../support/relay-world.ts";

describe("G1 telemetry", () => {
  test("a message that the hub takes promptly is acknowledged without a write", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: false, modelId: "dtmi:com:example:Thermostat;1" });
    const { store } = world;
    const before = store.commits;
    expect(await leaf.telemetry({ temperature: 21 })).toEqual({ kind: "done" });
    expect(store.commits).toBe(before);
    const message = world.hub.telemetry.at(-1);
    expect(message?.system["sub"]).toBe("leaf1");
    expect(message?.properties).toMatchObject({ leafId: "leaf1", leafModelId: "dtmi:com:example:Thermostat;1" });
  });

  test("the time at which a message arrived goes with it, unless the clock is not set", async () => {
    let isSet = true;
    await using world = await connectedWorld({ clockIsSet: () => isSet });
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: false });
    const stamped = async (): Promise<string | undefined> => {
      await leaf.telemetry({ temperature: 21 });
      return world.hub.telemetry.at(-1)?.properties["iothub-creation-time-utc"];
    };
    expect(await stamped()).toBe(new Date(world.clock.now()).toISOString());
    isSet = false;
    expect(await stamped()).toBeUndefined();
  });

  test("messages that arrive while the link is down are on disk before they are acknowledged, and go up in order later", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: false });
    world.hub.link("down");
    const sent = [];
    for (let n = 0; n < 200; n += 1) sent.push(leaf.telemetry({ n }));
    await world.pass(500);
    expect(await Promise.all(sent)).toEqual(sent.map(() => ({ kind: "done" })));
    expect(world.store.usage().entries).toBe(200);
    world.hub.link("up");
    await world.pass(3_000);
    const order = world.hub.telemetry
      .filter((m) => m.system["sub"] === "leaf1")
      .map((m) => JSON.parse(new TextDecoder().decode(m.payload)).n);
    expect(order).toEqual(Array.from({ length: 200 }, (_, n) => n));
    expect(world.store.usage().entries).toBe(0);
  });
});

describe("G2 reported", () => {
  test("a report is answered while the hub is away and converges when it is back", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    world.hub.link("down");
    expect(await leaf.report({ a: 1, thermostat1: { __t: "c", b: 2 } })).toBe(204);
    expect(await leaf.report({ a: null, c: 3 })).toBe(204);
    world.hub.link("up");
    await world.pass(30_000);
    expect(world.hub.reported).toMatchObject({ leaf1: { __t: "c", c: 3 }, leaf1__thermostat1: { __t: "c", b: 2 } });
    expect(world.hub.reported["leaf1"]).not.toHaveProperty("a");
  });

  test("a property that the hub refuses for good is quarantined and the others go on", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    world.hub.twinRefuses = (patch) => (JSON.stringify(patch).includes("poison") ? "no" : undefined);
    expect(await leaf.report({ good: 1, bad: "poison", also: 2 })).toBe(204);
    await world.pass(10_000);
    expect(world.hub.reported["leaf1"]).toEqual({ __t: "c", good: 1, also: 2 });
    expect(await leaf.report({ bad: "fine" })).toBe(204);
    await world.pass(10_000);
    expect(world.hub.reported["leaf1"]).toMatchObject({ bad: "fine" });
  });
});

describe("G4 versions", () => {
  test("an acknowledgement of a version that the hub has never issued goes up as a value of the leaf's own", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    const { version } = world.hub;
    await leaf.report({
      mode: { value: 1, ac: 200, av: version },
      target: { value: 2, ac: 200, av: version + 1 },
      thermostat1: { __t: "c", target: { value: 3, ac: 200, av: version + 99 } },
    });
    // Pushed, and not read since.
    const { reads } = world.hub;
    await world.pass(6_000);
    expect(world.hub.reads).toBe(reads);
    expect(Object.assign({}, ...world.hub.patches)).toMatchObject({
      leaf1: { mode: { value: 1, ac: 200, av: version }, target: { value: 2, ac: 203, av: 0 } },
      leaf1__thermostat1: { target: { value: 3, ac: 203, av: 0 } },
    });
  });
});

describe("the module twin's room", () => {
  test("is said to be scarce from 80 % on, in the log and in the gateway's own property, and enough again later", async () => {
    const warnings: string[] = [];
    const log = {
      debug: () => undefined,
      info: () => undefined,
      warn: (_fields: object, event: string) => void warnings.push(event),
      error: () => undefined,
    };
    await using world = new RelayWorld({ settings: { maxTwinBytesPerLeaf: 32_768 }, log });
    await world.start();
    world.hub.link("up");
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    const large = Object.fromEntries(Array.from({ length: 7 }, (_, at) => [`p${at}`, "x".repeat(4_000)]));
    await leaf.report(large);
    await world.pass(60_000);
    expect(warnings).toContain("the module twin is nearly full");
    expect(world.hub.reported["gateway"]).toMatchObject({ twinRoom: "scarce" });
    await leaf.report(Object.fromEntries(Object.keys(large).map((key) => [key, null])));
    await world.pass(60_000);
    expect(world.hub.reported["gateway"]).toMatchObject({ twinRoom: "enough" });
  });

  test("components of leaves that were not seen yet, and the gateway's own, count too", async () => {
    await using world = new RelayWorld({ settings: { maxTwinBytesPerLeaf: 32_768 } });
    const filling = Object.fromEntries(Array.from({ length: 5 }, (_, at) => [`p${at}`, "x".repeat(4_000)]));
    world.hub.reported = { absent: { __t: "c", ...filling } };
    await world.start();
    world.hub.link("up");
    await world.pass(100);
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    expect(await leaf.report({ a: "y".repeat(4_000), b: "y".repeat(4_000) })).toBe(204);
    expect(await leaf.report({ c: "y".repeat(4_000) })).toBe(403);
    await world.leaves.leaf("absent").connect({ subscribe: true });
    expect(await leaf.report({ c: "y".repeat(4_000) })).toBe(403);
  });
});

describe("G3 desired", () => {
  test("a desired change reaches the leaf, and one made while it was away reaches it when it comes back", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.read();
    world.hub.desire({ leaf1: { __t: "c", target: 20 } });
    await world.pass(10);
    expect(leaf.desired).toEqual({ target: 20 });
    await leaf.disconnect();
    world.hub.desire({ leaf1: { target: 21 } });
    world.hub.desire({ leaf1: { target: null, other: 1 } });
    await world.pass(10);
    await leaf.connect({ subscribe: false });
    await world.pass(10);
    expect(leaf.desired).toEqual({ other: 1 });
  });

  test("a change whose notification was lost is found at the next read, with the version of that read", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.read();
    world.hub.desire({ leaf1: { target: 20 } });
    await world.pass(10);
    world.hub.deaf = true;
    world.hub.desire({ leaf1: { target: 30 } });
    world.hub.desire({ leaf1: { target: 20 } });
    world.hub.deaf = false;
    await world.pass(2_000_000);
    expect(leaf.desired).toEqual({ target: 20 });
    expect(leaf.desiredVersion).toBe(world.hub.version);
  });

  test("a GET before the first synchronisation waits for it, and is answered 503 when it does not come", async () => {
    const world = new RelayWorld();
    await world.start();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    expect(await leaf.read()).toBeUndefined();
    world.hub.desire({ leaf1: { target: 1 } });
    world.hub.link("up");
    await world.pass(100);
    expect(leaf.answers.get("g1")?.status).toBe(200);
    await world[Symbol.asyncDispose]();

    const lonely = new RelayWorld();
    await lonely.start();
    const other = lonely.leaves.leaf("leaf2");
    await other.connect({ subscribe: true });
    await other.read();
    await lonely.pass(51_000);
    expect(other.answers.get("g1")?.status).toBe(503);
    await lonely[Symbol.asyncDispose]();
  });

  test("GETs that nobody waits for any more cost no timer, however often a leaf asks and goes", async () => {
    await using world = new RelayWorld();
    await world.start();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    const before = world.clock.sleeping;
    for (let round = 0; round < 20; round += 1) {
      for (let at = 0; at < 50; at += 1) await leaf.read();
      expect(world.clock.sleeping).toBeLessThanOrEqual(before + 20);
      await leaf.disconnect();
      await leaf.connect({ subscribe: false });
    }
    expect(world.clock.sleeping).toBeLessThanOrEqual(before + 4);
  });
});

describe("G6 commands", () => {
  test("a command reaches the leaf by its component and its answer comes back", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    leaf.answerCommands = (name, payload) => ({ status: 200, payload: { name, payload } });
    await leaf.connect({ subscribe: true });
    expect(await world.hub.command("leaf1__thermostat1*getMaxMinReport", "x")).toEqual({
      status: 200,
      payload: { name: "thermostat1*getMaxMinReport", payload: "x" },
    });
    expect(await world.hub.command("leaf1*reboot", null)).toMatchObject({ status: 200, payload: { name: "reboot" } });
    expect(await world.hub.command("nobody*reboot", null)).toMatchObject({ status: 404 });
  });

  test("a leaf that is away is 404 and one that does not answer is 504", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    const late = world.hub.command("leaf1*reboot", null);
    await world.pass(26_000);
    expect(await late).toMatchObject({ status: 504 });
    await leaf.disconnect();
    expect(await world.hub.command("leaf1*reboot", null)).toMatchObject({ status: 404 });
  });
});

describe("the WAN returns", () => {
  test("a read that edgeHub answered from its store is asked again until the cloud answers", async () => {
    await using world = await connectedWorld();
    await world.pass(30_000);
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.read();
    world.wan.handler?.wan("away");
    world.hub.deaf = true;
    world.hub.desire({ leaf1: { target: 9 } });
    world.hub.deaf = false;
    // The store still has the twin from before the outage.
    const [desired, version] = [world.hub.desired, world.hub.version];
    Object.assign(world.hub, { desired: {}, version: version - 1 });
    world.wan.fromStore = 2;
    world.wan.handler?.wan("online");
    await world.pass(100);
    expect(leaf.desired).toEqual({});
    Object.assign(world.hub, { desired, version });
    await world.pass(3_000);
    expect(leaf.desired).toEqual({ target: 9 });
  });
});

describe("sessions", () => {
  test("a leaf whose record the disk does not take is told to try again (3), and is let in when it does", async () => {
    await using world = await connectedWorld();
    const connect = {
      leafId: leafIdOf("leaf1"),
      modelId: undefined,
      dialect: "iothub",
      clean: false,
      remoteAddress: "",
    };
    for (const misfortune of ["fail", "fail-written", "none"] as const) {
      world.misfortune = () => misfortune;
      expect(await world.leaves.handler?.admit(connect)).toMatchObject(
        misfortune === "none" ? { kind: "accepted" } : { kind: "refused", code: 3 },
      );
    }
  });

  test("a clean session leaves no subscription behind for a later one that is kept", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true, clean: true });
    await leaf.disconnect();
    await leaf.connect({ subscribe: false });
    world.hub.desire({ leaf1: { target: 5 } });
    await world.pass(100);
    expect(leaf.desired).toEqual({});
    expect(await world.hub.command("leaf1*reboot", null)).toMatchObject({ status: 404 });
  });

  test("a clean session ends the one that was kept before it [MQTT-3.1.2-6]", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    for (const clean of [true, false]) {
      await leaf.disconnect();
      await leaf.connect({ subscribe: false, clean });
      world.hub.desire({ leaf1: { target: clean ? 5 : 6 } });
      await world.pass(100);
      expect(leaf.desired).toEqual({});
      expect(await world.hub.command("leaf1*reboot", null)).toMatchObject({ status: 404 });
    }
  });
});

describe("G8 quiet recovery", () => {
  test("a killed gateway serves a leaf that never subscribes again", async () => {
    const world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.report({ a: 1 });
    world.kill();
    await world.start();
    await leaf.connect({ subscribe: false });
    world.hub.link("up");
    await world.pass(10_000);
    world.hub.desire({ leaf1: { target: 5 } });
    await world.pass(100);
    expect(leaf.desired).toEqual({ target: 5 });
    expect(world.hub.reported).toMatchObject({ leaf1: { __t: "c", a: 1 } });
    await world[Symbol.asyncDispose]();
  });

  test("a leaf first seen after a lost disk and a start without edgeHub still has what it had told the cloud", async () => {
    const world = new RelayWorld();
    world.hub.reported = { leaf1: { __t: "c", serial: "x" }, leaf1__thermostat1: { __t: "c", max: 30 } };
    await world.start();
    world.hub.link("up");
    await world.pass(100);
    world.hub.link("down");
    world.kill();
    await world.start();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    expect(await leaf.report({ now: 1 })).toBe(204);
    expect(await leaf.read()).toMatchObject({
      body: { reported: { serial: "x", now: 1, thermostat1: { __t: "c", max: 30 } } },
    });
    world.hub.link("up");
    await world.pass(30_000);
    const { gateway: _own, ...ofLeaves } = world.hub.reported;
    expect(ofLeaves).toEqual({
      leaf1: { __t: "c", serial: "x", now: 1 },
      leaf1__thermostat1: { __t: "c", max: 30 },
    });
    await world[Symbol.asyncDispose]();
  });

  test("a first record that could not be stored costs the leaf nothing that it had told the cloud", async () => {
    await using world = new RelayWorld();
    world.hub.reported = { leaf1: { __t: "c", serial: "x" } };
    await world.start();
    world.hub.link("up");
    await world.pass(100);
    const leaf = world.leaves.leaf("leaf1");
    world.misfortune = () => "fail";
    expect(await leaf.connect({ subscribe: true })).toBe(false);
    world.misfortune = () => "none";
    expect(await leaf.connect({ subscribe: true })).toBe(true);
    await world.pass(30_000);
    expect(world.hub.reported["leaf1"]).toEqual({ __t: "c", serial: "x" });
  });

  test("after the module twin was made anew old acknowledgements go up as 203 with version 0", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.read();
    for (let n = 0; n < 5; n += 1) world.hub.desire({ leaf1: { target: n } });
    await world.pass(10);
    await leaf.report({ target: { value: 4, ac: 200, av: leaf.desiredVersion } });
    await world.pass(10_000);
    world.hub.recreate();
    world.hub.desire({ leaf1: { target: 7 } });
    world.hub.link("up");
    await world.pass(30_000);
    expect(world.hub.reported["leaf1"]).toMatchObject({ target: { value: 4, ac: 203, av: 0 } });
    expect(world.leaves.drops).toContain("leaf1");
  });
});
