/** Who is let in, as whom, and with what memory: CONNECT in all its spellings, kept and clean sessions, and takeover. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { isJsonObject } from "../../src/core/merge-patch.ts";
import type { JsonObject } from "../../src/core/message.ts";
import { events, type RawLeaf, userName } from "../support/leaf-client.ts";
import { COMMANDS, DESIRED, TWIN_GET, twinReply, World } from "./raw-world.ts";

let world: World;
beforeAll(async () => {
  world = await World.start();
});
afterAll(() => world[Symbol.asyncDispose]());

async function listed(leafId: string): Promise<JsonObject | undefined> {
  const { payload } = await world.command("gateway*listLeaves");
  const leaves = Array.isArray(payload) ? payload.filter((leaf) => isJsonObject(leaf)) : [];
  return leaves.find((leaf) => leaf["leafId"] === leafId);
}

describe("CONNECT", () => {
  test.each([
    ["a module identity", "conn-1/m", "hub.example/conn-1/m/?api-version=2021-04-12", 5],
    ["a module's user name with the device's client id", "conn-2", "hub.example/conn-2/m/?api-version=2021-04-12", 5],
    ["another client id than the user name's", "conn-3", userName("conn-3b"), 5],
    ["a client id that differs in case only", "CONN-4", userName("conn-4"), 5],
    ["no api-version", "conn-5", "hub.example/conn-5/?DeviceClientType=x", 3],
    ["no query at all", "conn-6", "hub.example/conn-6", 3],
    ["a blank user name", "conn-7", " ", 3],
    ["a user name of too many parts", "conn-8", "hub.example/conn-8/a/b/?api-version=2021-04-12", 3],
    ["an id that IoT Hub does not allow", "conn 9", userName("conn 9"), 3],
  ])("with %s is refused", async (_what, clientId, username, code) => {
    const leaf = world.socket();
    expect((await leaf.connect(clientId, { username })).code).toBe(code);
    await leaf.closed;
    expect(await listed(clientId)).toBeUndefined();
  });

  test("without a user name is refused", async () => {
    const leaf = world.socket();
    const withoutName = { cmd: "connect", protocolId: "MQTT", protocolVersion: 4, clean: true } as const;
    leaf.send({ ...withoutName, clientId: "conn-nameless", keepalive: 60 });
    expect((await leaf.next("connack")).returnCode).toBe(3);
    await leaf.closed;
  });

  const MODEL = "dtmi:com:example:Thermostat;1";
  test.each([
    ["raw, as Node sends it", `?api-version=2021-04-12&model-id=${MODEL}&DeviceClientType=node`, MODEL],
    ["encoded, as Python sends it", "?api-version=2020-09-30&model-id=dtmi%3Acom%3Aexample%3AThermostat%3B1", MODEL],
    ["in lower-case hex, as C sends it", "?api-version=1&model-id=dtmi%3acom%3aexample%3aThermostat%3b1&x=y", MODEL],
    ["that is none: the leaf has no model", "?api-version=1&model-id=thermostat", null],
    ["that is absent", "?DeviceClientType=x%3By&api-version=2021-04-12", null],
  ])("with a model id %s", async (_what, query, modelId) => {
    const leafId = `model-${query.length}`;
    const leaf = await world.leaf(leafId, { username: userName(leafId, query) });
    leaf.publish(events(leafId), "{}");
    await leaf.pubacks(1);
    await world.until("the message", () => world.messagesOf(leafId).length === 1);
    expect(world.messagesOf(leafId)[0]?.properties["leafModelId"] ?? null).toBe(modelId);
    expect(await listed(leafId)).toMatchObject({ modelId, connected: true });
    leaf.cut();
  });

  test("with the old C SDK's user name, without a question mark, is let in", async () => {
    const username = "hub.example/old-c/api-version=2016-11-14&DeviceClientType=iothubclient%2F1.1.18";
    await using _ = cutAtEnd(await world.leaf("old-c", { username }));
    expect(await listed("old-c")).toMatchObject({ connected: true });
  });

  test("with the gateway's name as host and any api-version is let in", async () => {
    await using _ = cutAtEnd(await world.leaf("dotnet", { username: "localhost/dotnet/?api-version=9999-01-01&" }));
    expect(await listed("dotnet")).toMatchObject({ connected: true });
  });

  test("twice on one connection closes it", async () => {
    const leaf = await world.leaf("twice");
    leaf.sendConnect("twice");
    await leaf.closed;
  });

  test("must come first", async () => {
    const leaf = world.socket();
    leaf.publish(events("early"), "{}");
    await leaf.closed;
    expect(leaf.packets).toEqual([]);
  });

  test("of MQTT 3.1 and MQTT 5 is answered with code 1", async () => {
    for (const [protocolId, protocolVersion] of [
      ["MQIsdp", 3],
      ["MQTT", 5],
    ] as const) {
      const leaf = world.socket();
      leaf.sendConnect("other-version", { protocolId, protocolVersion });
      await leaf.closed;
      // A version 5 CONNACK could not be written to somebody who may not speak it: the 3.1.1 one says it.
      expect(leaf.packets).toMatchObject([{ cmd: "connack", returnCode: 1 }]);
    }
  });
});

describe("a session", () => {
  test("that is kept hears desired changes and commands again without a SUBSCRIBE", async () => {
    const first = await world.leaf("keeper");
    await first.subscribe(DESIRED, COMMANDS);
    await first.disconnect();

    const second = world.socket();
    expect(await second.connect("keeper")).toEqual({ code: 0, present: true });
    world.setDesired({ keeper: { level: 1 } });
    const notice = await second.next("publish");
    expect(notice.topic).toMatch(/^\$iothub\/twin\/PATCH\/properties\/desired\/\?\$version=\d+$/);
    expect(JSON.parse(notice.payload.toString())).toMatchObject({ level: 1 });
    const answer = world.command("keeper*blink", { times: 2 });
    await answerNext(second, 200, "done");
    expect(await answer).toEqual({ kind: "answer", status: 200, payload: "done" });
    second.cut();
  });

  test("that is kept hears what it missed while it was away, once", async () => {
    const first = await world.leaf("sleeper");
    await first.subscribe(DESIRED);
    await first.disconnect();
    world.setDesired({ sleeper: { level: 1 } });
    world.setDesired({ sleeper: { level: 2, mode: "eco" } });
    await world.until("the cache", async () => JSON.stringify(await cached("sleeper")) === '{"level":2,"mode":"eco"}');

    const second = await world.leaf("sleeper");
    const { payload } = await second.next("publish");
    expect(JSON.parse(payload.toString())).toMatchObject({ level: 2, mode: "eco" });
    await second.ping();
    expect(second.packets).toEqual([]);
    second.cut();
  });

  test("that starts clean forgets the subscriptions of the kept one, also for the time after", async () => {
    const first = await world.leaf("forgetter");
    await first.subscribe(DESIRED, COMMANDS);
    await first.disconnect();

    const clean = world.socket();
    expect(await clean.connect("forgetter", { clean: true })).toEqual({ code: 0, present: false });
    expect((await world.command("forgetter*blink")).status).toBe(404);
    await clean.disconnect();

    const third = world.socket();
    expect(await third.connect("forgetter")).toEqual({ code: 0, present: false });
    world.setDesired({ forgetter: { level: 1 } });
    await world.until("the cache", async () => JSON.stringify(await cached("forgetter")) === '{"level":1}');
    await third.ping();
    expect(third.packets).toEqual([]);
    third.cut();
  });

  test("answers twin requests of a leaf that never subscribed to answers", async () => {
    const leaf = await world.leaf("unsubscribed");
    leaf.publish(`${TWIN_GET}1`, "");
    expect((await twinReply(leaf)).status).toBe(200);
    leaf.cut();
  });

  test("outlives a restart of the gateway", async () => {
    const first = await world.leaf("survivor");
    await first.subscribe(COMMANDS, ["$iothub/twin/res/#", 0]);
    await world.stopGateway();
    await first.closed;
    await world.startGateway();
    await world.linked();
    const second = world.socket();
    expect(await second.connect("survivor")).toEqual({ code: 0, present: true });
    const answer = world.command("survivor*blink");
    await answerNext(second, 201, null);
    expect(await answer).toMatchObject({ status: 201, payload: null });
    second.cut();
  });
});

describe("takeover", () => {
  test("a second connection of one id ends the first, and commands go to the second", async () => {
    const first = await world.leaf("taken");
    await first.subscribe(COMMANDS);
    const second = await world.leaf("taken");
    await first.closed;
    const answer = world.command("taken*blink");
    await answerNext(second, 200, "second");
    expect(await answer).toMatchObject({ payload: "second" });
    expect(await listed("taken")).toMatchObject({ connected: true });
    expect(await world.metric("leaf_takeovers_total")).toBeGreaterThan(0);
    second.cut();
  });

  test("of five CONNECTs of one id at once exactly one connection is left, and it works", async () => {
    const rounds = Array.from({ length: 50 }, async (_, round) => {
      const leafId = `crowd-${round}`;
      const leaves = Array.from({ length: 5 }, () => world.socket());
      for (const leaf of leaves) leaf.sendConnect(leafId);
      await world.until("one connection", () => leaves.filter(({ isClosed }) => !isClosed).length === 1);
      const [last] = leaves.filter(({ isClosed }) => !isClosed);
      expect((await last?.next("connack"))?.returnCode).toBe(0);
      last?.publish(events(leafId), "last");
      await last?.pubacks(1);
      last?.cut();
    });
    await Promise.all(rounds);
  });
});

/** Answers the next command that the leaf hears. */
async function answerNext(leaf: RawLeaf, status: number, payload: string | null): Promise<void> {
  const { topic } = await leaf.next("publish");
  const rid = /^\$iothub\/methods\/POST\/blink\/\?\$rid=(.+)$/.exec(topic)?.[1];
  leaf.publish(`$iothub/methods/res/${status}/?$rid=${rid}`, JSON.stringify(payload), { qos: 0 });
}

async function cached(leafId: string): Promise<unknown> {
  const { payload } = await world.command("gateway*getLeaf", { leafId });
  return isJsonObject(payload) ? payload["desired"] : undefined;
}

function cutAtEnd(leaf: RawLeaf): AsyncDisposable {
  return { [Symbol.asyncDispose]: async () => leaf.cut() };
}
