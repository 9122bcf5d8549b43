/** How SDKs of other languages speak, and what becomes of MQTT's own flags: QoS, retain, dup, wills, unacknowledged messages. */
import { setTimeout as sleep } from "node:timers/promises";
import { connectAsync } from "mqtt";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { isJsonObject } from "../../src/core/merge-patch.ts";
import type { Json, JsonObject } from "../../src/core/message.ts";
import { events, userName } from "../support/leaf-client.ts";
import { DESIRED, report, TWIN_GET, twinReply, World } from "./raw-world.ts";

let world: World;
beforeAll(async () => {
  world = await World.start();
});
afterAll(() => world[Symbol.asyncDispose]());

async function arrived(leafId: string, count = 1) {
  await world.until(`${count} messages of ${leafId}`, () => world.messagesOf(leafId).length >= count);
  return world.messagesOf(leafId).map(({ body, properties, system }) => ({
    text: Buffer.from(body).toString(),
    properties,
    system,
  }));
}

describe("QoS", () => {
  test("0 arrives without a PUBACK, 1 with one", async () => {
    const leaf = await world.leaf("qos");
    leaf.publish(events("qos"), "zero", { qos: 0 });
    leaf.publish(events("qos"), "one", { qos: 1, messageId: 5 });
    expect(await leaf.pubacks(1)).toEqual([5]);
    expect((await arrived("qos", 2)).map(({ text }) => text)).toEqual(["zero", "one"]);
    await leaf.ping();
    expect(leaf.packets).toEqual([]);
    leaf.cut();
  });

  test("2 closes the connection without an answer, and the message goes nowhere", async () => {
    const leaf = await world.leaf("qos-two");
    leaf.publish(events("qos-two"), "two", { qos: 2, messageId: 5 });
    await leaf.closed;
    expect(leaf.packets).toEqual([]);
    const other = await world.leaf("after-qos-two");
    other.publish(events("after-qos-two"), "after");
    await arrived("after-qos-two");
    expect(world.messagesOf("qos-two")).toEqual([]);
    other.cut();
  });
});

describe("telemetry", () => {
  test("with retain and dup says so in its properties, and is retained nowhere", async () => {
    const leaf = await world.leaf("flags");
    leaf.publish(events("flags"), "a", { retain: true });
    leaf.publish(events("flags"), "b", { dup: true });
    leaf.publish(events("flags"), "c", { dup: true, retain: true });
    await leaf.pubacks(3);
    const [a, b, c] = (await arrived("flags", 3)).map(({ properties }) => properties);
    expect(a).toMatchObject({ "mqtt-retain": "true" });
    expect(a).not.toHaveProperty("mqtt-dup");
    expect(b).toMatchObject({ "mqtt-dup": "true" });
    expect(c).toMatchObject({ "mqtt-retain": "true", "mqtt-dup": "true" });
    leaf.cut();
  });

  test("of a will arrives when the connection breaks, as IoT Hub marks it, and not after DISCONNECT", async () => {
    const will = (payload: string) => ({
      topic: `${events("mortal")}reason=unknown`,
      payload: Buffer.from(payload),
      qos: 1 as const,
      retain: false,
    });
    await (await world.leaf("mortal", { will: will("left") })).disconnect();
    (await world.leaf("mortal", { will: will("died") })).cut();
    const [message, ...more] = await arrived("mortal");
    expect(more).toEqual([]);
    expect(message?.text).toBe("died");
    expect(message?.properties).toMatchObject({ "iothub-MessageType": "Will", reason: "unknown", leafId: "mortal" });
  });

  test("of a will for another leaf's topic goes nowhere", async () => {
    const will = { topic: events("qos"), payload: Buffer.from("forged"), qos: 1 as const, retain: false };
    const before = world.messagesOf("qos").length;
    const leaf = world.socket();
    await leaf.connect("forger", { will });
    leaf.cut();
    const refused = 'leaf_refused_total{reason="will-topic"}';
    await world.until("its refusal", async () => (await world.metric(refused)) > 0);
    const other = await world.leaf("after-forger");
    other.publish(events("after-forger"), "after");
    await arrived("after-forger");
    expect(world.messagesOf("forger")).toEqual([]);
    expect(world.messagesOf("qos")).toHaveLength(before);
    other.cut();
  });

  test("keeps its bag: plus, blanks, equals, UTF-8, and cannot say whose it is", async () => {
    const leaf = await world.leaf("bags");
    const bag = "%24.sub=thermostat1&%24.ct=application%2Fjson&%24.ce=utf-8&a%2Bb=1%2B1&c=d%3De%20f&%C3%A4=%E2%82%AC";
    leaf.publish(`${events("bags")}${bag}&leafId=bystander&LeafID=x&%24.mid=m-1/`, "{}");
    const [message] = await arrived("bags");
    expect(message?.properties).toMatchObject({ "a+b": "1+1", c: "d=e f", ä: "€", leafId: "bags" });
    expect(message?.properties).not.toHaveProperty("LeafID");
    expect(message?.system).toMatchObject({
      sub: "bags__thermostat1",
      ct: "application/json",
      ce: "utf-8",
      mid: "m-1",
    });
    leaf.cut();
  });

  test("without a message id gets one of its own, twice the same body two", async () => {
    const leaf = await world.leaf("ids");
    leaf.publish(events("ids"), "same");
    leaf.publish(events("ids"), "same");
    const ids = (await arrived("ids", 2)).map(({ system }) => system["mid"]);
    expect(new Set(ids).size).toBe(2);
    leaf.cut();
  });
});

describe("a twin GET is answered", () => {
  test.each([
    ["with a blank and QoS 1, as Python asks", "b7a1cbcf-47ed-4e09-9d3d-b2ff4e5d0dbd", " ", 1],
    ["with an empty body and QoS 0, as .NET asks", "0f8fad5b-d9cb-469f-a165-70867728950e", "", 0],
    ["with a decimal $rid, as C asks", "3", "", 0],
  ] as const)("%s", async (_what, rid, body, qos) => {
    const leafId = `get-${rid.length}`;
    const leaf = await world.leaf(leafId);
    leaf.publish(`${TWIN_GET}${rid}`, body, { qos, messageId: 9 });
    if (qos === 1) expect(await leaf.pubacks(1)).toEqual([9]);
    const reply = await twinReply(leaf);
    expect(reply.topic).toBe(`$iothub/twin/res/200/?$rid=${rid}`);
    // A new leaf's, and complete all the same: an empty body crashes .NET and hangs Python.
    expect(reply.body).toEqual({ desired: { $version: expect.any(Number) }, reported: { $version: 1 } });
    leaf.cut();
  });

  test("after the first synchronisation only, when it comes before it", async () => {
    await using late = await World.start({ edgeUp: false });
    const leaf = await late.leaf("earlybird");
    leaf.publish(`${TWIN_GET}1`, " ", { qos: 1, messageId: 4 });
    expect(await leaf.pubacks(1)).toEqual([4]);
    // Its telemetry does not wait behind the GET.
    leaf.publish(events("earlybird"), "hello", { messageId: 5 });
    expect(await leaf.pubacks(1)).toEqual([5]);
    await leaf.ping();
    expect(leaf.packets).toEqual([]);

    late.setDesired({ earlybird: { level: 7 } });
    await late.hub.startEdge();
    const reply = await twinReply(leaf);
    expect(reply.topic).toBe("$iothub/twin/res/200/?$rid=1");
    expect(reply.body["desired"]).toMatchObject({ level: 7, $version: expect.any(Number) });
    await late.until("the telemetry", () => late.messagesOf("earlybird").length === 1);
    leaf.cut();
  });
});

test("leaves that connect for the first time while their desired properties change have them", async () => {
  const levels = Array.from({ length: 60 }, (_, level) => level);
  await Promise.all(
    levels.map(async (level) => {
      // Spread over the time that the change takes to come down and to be written.
      await sleep(level * 20);
      world.setDesired({ [`newcomer${level}`]: { level } });
      await sleep((level % 12) * 0.5);
      const leaf = await world.leaf(`newcomer${level}`);
      const hasIt = async (): Promise<boolean> => {
        leaf.publish(`${TWIN_GET}1`, "", { qos: 0 });
        const { body } = await twinReply(leaf);
        return isJsonObject(body["desired"]) && body["desired"]["level"] === level;
      };
      // Before the next read of the whole twin would mend it.
      await world.until(`level ${level}`, hasIt, 10_000);
      leaf.cut();
    }),
  );
});

describe("the Python guide", () => {
  test("takes the first key of a desired patch as the component, and reports what it got back without the marker", async () => {
    const leaf = await world.leaf("python");
    await leaf.subscribe(DESIRED);
    expect((await report(leaf, { thermostat1: { __t: "c", serial: "x" } })).status).toBe(204);
    world.setDesired({ python__thermostat1: { targetTemperature: 21.5 } });

    const { payload } = await leaf.next("publish");
    const patch = JSON.parse(payload.toString()) as JsonObject;
    const answer = guideAnswer(patch);
    expect(Object.keys(patch)).toEqual(["thermostat1", "$version"]);
    expect(answer).toEqual({
      thermostat1: { targetTemperature: { ac: 200, ad: "ok", av: patch["$version"], value: 21.5 } },
    });
    expect((await report(leaf, answer)).status).toBe(204);
    await world.until("the acknowledgement", () => {
      const component = world.reported("python__thermostat1");
      return isJsonObject(component) && isJsonObject(component["targetTemperature"]);
    });
    expect(world.reported("python__thermostat1")).toEqual({
      __t: "c",
      serial: "x",
      targetTemperature: { ac: 200, ad: "ok", av: patch["$version"], value: 21.5 },
    });
    expect(world.reported("python")).toBeUndefined();
    leaf.cut();
  });

  test("of a leaf without components finds the property first and $version last", async () => {
    const leaf = await world.leaf("pythonplain");
    await leaf.subscribe(DESIRED);
    world.setDesired({ pythonplain: { targetTemperature: 20 } });
    const { payload } = await leaf.next("publish");
    expect(Object.keys(JSON.parse(payload.toString()) as JsonObject)).toEqual(["targetTemperature", "$version"]);
    leaf.cut();
  });
});

/** `create_reported_properties_from_desired` of the guide's sample, as it stands there. */
function guideAnswer(patch: JsonObject): JsonObject {
  const { $version: version = null } = patch;
  const [componentName = ""] = Object.keys(patch);
  const values = isJsonObject(patch[componentName]) ? patch[componentName] : {};
  const answers = Object.entries(values)
    .filter(([name]) => name !== "__t")
    .map(([name, value]): [string, Json] => [name, { ac: 200, ad: "ok", av: version, value }]);
  return { [componentName]: Object.fromEntries(answers) };
}

test("mqtt.js, as anybody would use it, does telemetry, twin and commands over TCP", async () => {
  const { plain = 0 } = world.gateway.broker.ports;
  const client = await connectAsync(`mqtt://127.0.0.1:${plain}`, {
    clientId: "mqttjs",
    username: userName("mqttjs"),
    reconnectPeriod: 0,
  });
  const heard: { topic: string; text: string }[] = [];
  client.on("message", (topic, payload) => {
    heard.push({ topic, text: payload.toString() });
    const rid = /^\$iothub\/methods\/POST\/echo\/\?\$rid=(.+)$/.exec(topic)?.[1];
    if (rid !== undefined) client.publish(`$iothub/methods/res/200/?$rid=${rid}`, payload);
  });
  const granted = await client.subscribeAsync(["$iothub/twin/res/#", "$iothub/methods/POST/#"], { qos: 2 });
  expect(granted.map(({ qos }) => qos)).toEqual([1, 1]);
  await client.publishAsync(events("mqttjs"), "hello", { qos: 1 });
  await client.publishAsync(`${TWIN_GET}1`, "", { qos: 0 });
  await world.until("the twin", () => heard.some(({ topic }) => topic === "$iothub/twin/res/200/?$rid=1"));
  expect((await world.command("mqttjs*echo", { a: [1, null, "ä"] })).payload).toEqual({ a: [1, null, "ä"] });
  expect((await arrived("mqttjs"))[0]?.text).toBe("hello");
  await client.endAsync();
});
