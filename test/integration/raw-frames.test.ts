/** What SDKs never send: each is answered with a status or with a closed connection, as at IoT Hub, and costs no other leaf anything. */
import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { events, type RawLeaf } from "../support/leaf-client.ts";
import { report, TWIN_GET, TWIN_REPORT, twinReply, World } from "./raw-world.ts";

let world: World;
/** Connected through everything that the others do. */
let bystander: RawLeaf;
beforeAll(async () => {
  world = await World.start();
  bystander = await world.leaf("bystander");
});
afterAll(async () => {
  bystander.publish(events("bystander"), "still here");
  await bystander.pubacks(1);
  bystander.cut();
  await world[Symbol.asyncDispose]();
});

describe("topics", () => {
  test.each([
    ["no topic of leaves", "hello"],
    ["telemetry of another device", events("bystander")],
    ["telemetry of a module", "devices/topics/modules/m/messages/events/"],
    ["a C2D topic", "devices/topics/messages/devicebound/"],
    ["a desired patch", "$iothub/twin/PATCH/properties/desired/?$version=9"],
    ["a twin answer", "$iothub/twin/res/200/?$rid=1"],
    ["a command", "$iothub/methods/POST/reboot/?$rid=1"],
    ["an unknown $iothub topic", "$iothub/hello"],
    ["a topic of the broker itself", "$SYS/broker/version"],
    ["a topic of many levels", "a/".repeat(500)],
    ["a twin GET without $rid", "$iothub/twin/GET/"],
    ["a twin GET with an empty $rid", "$iothub/twin/GET/?$rid="],
    ["a twin GET with two $rid", "$iothub/twin/GET/?$rid=1&$rid=2"],
    ["a PATCH without $rid", "$iothub/twin/PATCH/properties/reported/"],
    ["a PATCH with a misspelt $rid", "$iothub/twin/PATCH/properties/reported/?rid=1"],
  ])("closes the connection after %s, without a PUBACK", async (what, topic) => {
    const leafId = `topics-${what.replaceAll(/\W/g, "-")}`;
    const leaf = await world.leaf(leafId);
    leaf.publish(topic, "{}");
    await leaf.closed;
    expect(leaf.packets).toEqual([]);
  });

  test("closes the connection after a topic with a wildcard", async () => {
    const leaf = await world.leaf("wildcard-topic");
    // By hand: no library writes such a topic.
    const topic = Buffer.from("devices/+/messages/events/");
    leaf.sendBytes(Buffer.concat([Buffer.from([0x30, topic.length + 2, 0, topic.length]), topic]));
    await leaf.closed;
  });

  test("nothing of all that reaches the hub", async () => {
    bystander.publish(events("bystander"), "after them");
    await bystander.pubacks(1);
    await world.until("the bystander's message", () => world.messagesOf("bystander").length > 0);
    const ofLeaves = world.messages.filter(({ properties }) => properties["leafId"] !== undefined);
    expect(ofLeaves.map(({ body }) => Buffer.from(body).toString())).toEqual(["after them"]);
  });

  test("a command's answer without $rid is ignored: the connection stays", async () => {
    const leaf = await world.leaf("bad-answer");
    leaf.publish("$iothub/methods/res/200/", "{}", { qos: 0 });
    leaf.publish("$iothub/methods/res/abc/?$rid=1", "{}", { qos: 0 });
    leaf.publish("$iothub/methods/res/200/?$rid=nobody-asked", "{}", { qos: 0 });
    await leaf.ping();
    leaf.cut();
  });
});

describe("subscriptions", () => {
  test("to another leaf's topics are refused one by one, and the leaf's own beside them granted", async () => {
    const leaf = await world.leaf("curious");
    const granted = await leaf.subscribe(
      "devices/bystander/messages/devicebound/#",
      "devices/curious/messages/devicebound/#",
      ["$iothub/twin/res/#", 0],
      ["$iothub/methods/POST/#", 2],
      "devices/+/messages/devicebound/#",
      "#",
    );
    expect(granted.slice(0, 4)).toEqual([128, 1, 0, 1]);
    expect(granted.slice(4)).toEqual([128, 128]);
    leaf.cut();
  });
});

describe("a reported patch", () => {
  const text = (body: string) => Buffer.from(body);
  test.each([
    ["that is no JSON", text("{")],
    ["that is no UTF-8", Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d])],
    ["that is empty", text("")],
    ["that is a text", text('"on"')],
    ["that is an array", text("[1]")],
    ["that is null", text("null")],
    ["with $version in its body", text('{"a":1,"$version":3}')],
    ["with a dot in a key", text('{"a.b":1}')],
    ["with a $ in a key", text('{"$a":1}')],
    ["with a blank in a key", text('{"a b":1}')],
    ["with a key of more than 1 KB", text(`{"${"k".repeat(1025)}":1}`)],
    ["with a text of more than 4 KB", text(`{"a":"${"x".repeat(4097)}"}`)],
    ["with an integer beyond 2^52", text('{"a":4503599627370496}')],
    ["with null inside an array", text('{"a":[1,null]}')],
    ["that is too deep for a component", text(`${'{"a":'.repeat(11)}1${"}".repeat(11)}`)],
    ["that is deep enough to hurt", text("[".repeat(100_000))],
  ])("%s is answered 400 with a JSON body, and the next one 204", async (what, body) => {
    const leafId = `patch-${what.replaceAll(/\W/g, "-").slice(0, 60)}`;
    const leaf = await world.leaf(leafId);
    const refused = await report(leaf, body, "first");
    expect(refused.topic).toBe("$iothub/twin/res/400/?$rid=first");
    expect(refused.body).toEqual({
      errorCode: expect.any(Number),
      message: expect.stringMatching(/\w/),
      trackingId: expect.stringMatching(/\w/),
      timestampUtc: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/),
    });
    expect((await report(leaf, { fine: true }, "second")).topic).toMatch(
      /^\$iothub\/twin\/res\/204\/\?\$rid=second&\$version=\d+$/,
    );
    leaf.cut();
  });

  test("at the limits is taken: depth, key and text", async () => {
    const leaf = await world.leaf("limits");
    const deep = `${'{"a":'.repeat(9)}1${"}".repeat(9)}`;
    expect((await report(leaf, text(deep))).status).toBe(204);
    expect((await report(leaf, { ["k".repeat(1024)]: null, text: "x".repeat(4096) })).status).toBe(204);
    expect((await report(leaf, { text: null, integer: 4_503_599_627_370_495, fraction: 1e300 })).status).toBe(204);
    leaf.cut();
  });

  test("for another version is answered 412, for the current one 204", async () => {
    const leaf = await world.leaf("versions");
    const first = await report(leaf, { a: 1 });
    const version = Number(/&\$version=(\d+)$/.exec(first.topic)?.[1]);
    expect((await report(leaf, { a: 2 }, `2&$version=${version + 1}`)).topic).toBe("$iothub/twin/res/412/?$rid=2");
    expect((await report(leaf, { a: 2 }, "3&$version=x")).status).toBe(400);
    const second = await report(leaf, { a: 2 }, `4&$version=${version}`);
    expect(second.topic).toBe(`$iothub/twin/res/204/?$rid=4&$version=${version + 1}`);
    leaf.publish(`${TWIN_GET}5`, "");
    const { body } = await twinReply(leaf);
    expect(body["reported"]).toEqual({ a: 2, $version: version + 1 });
    leaf.cut();
  });

  test("that grows the section over its size is answered 403, and one that shrinks it passes", async () => {
    const leaf = await world.leaf("hungry");
    expect((await report(leaf, { a: "x".repeat(4000), b: "x".repeat(4000) })).status).toBe(204);
    const refused = await report(leaf, { c: "x".repeat(4000) });
    expect(refused.status).toBe(403);
    expect(refused.body).toMatchObject({ errorCode: expect.any(Number), message: expect.stringMatching(/bytes/) });
    expect((await report(leaf, { a: "x".repeat(3999) })).status).toBe(204);
    expect((await report(leaf, { a: null })).status).toBe(204);
    expect((await report(leaf, { c: "x".repeat(4000) })).status).toBe(204);
    expect((await report(leaf, { b: null, c: null })).status).toBe(204);
    leaf.cut();
  });
});

describe("sizes", () => {
  test("a packet over 256 KB closes the connection", async () => {
    const leaf = await world.leaf("oversized");
    leaf.send({
      cmd: "publish",
      topic: events("oversized"),
      payload: randomBytes(262_144),
      qos: 1,
      messageId: 1,
      dup: false,
      retain: false,
    });
    await leaf.closed;
    expect(leaf.packets).toEqual([]);
    expect(world.messagesOf("oversized")).toEqual([]);
    expect(await world.metric('leaf_refused_total{reason="packet-too-large"}')).toBeGreaterThan(0);
  });

  test("a message that only translation makes too large closes the connection, and a smaller one arrives whole", async () => {
    const leaf = await world.leaf("translated");
    const message = (size: number) =>
      randomBytes(size)
        .toString("latin1")
        .slice(0, size)
        .replaceAll(/[^ -~]/g, "x");
    leaf.publish(events("translated"), message(262_144 - 60));
    await leaf.closed;
    expect(leaf.packets).toEqual([]);
    expect(await world.metric('frames_refused_total{reason="telemetry"}')).toBeGreaterThan(0);

    const small = await world.leaf("translated-less");
    const body = message(250 * 1024);
    small.publish(events("translated-less"), body);
    await small.pubacks(1);
    await world.until("the message", () => world.messagesOf("translated-less").length === 1);
    expect(Buffer.from(world.messagesOf("translated-less")[0]?.body ?? []).toString() === body).toBe(true);
    small.cut();
  });
});

test("$rid is copied byte for byte, however strange", async () => {
  const leaf = await world.leaf("rids");
  for (const rid of [
    "0",
    "3735928559",
    "a-B_c.d~e",
    "%24rid",
    "%C3%A4 %2B",
    "ä€𝄞",
    "x".repeat(1000),
    "{1}",
    "=",
    "a=b",
  ]) {
    leaf.publish(`${TWIN_GET}${rid}`, " ");
    expect((await twinReply(leaf)).topic).toBe(`$iothub/twin/res/200/?$rid=${rid}`);
    leaf.publish(`${TWIN_REPORT}${rid}`, '{"a":1}', { qos: 0 });
    expect((await twinReply(leaf)).topic).toMatch(/^\$iothub\/twin\/res\/204\/\?/);
  }
  leaf.cut();
});

test("__proto__, constructor and toString are ordinary names, up to the module twin and back", async () => {
  const leaf = await world.leaf("prototypes");
  const patch = '{"__proto__":{"polluted":true},"constructor":{"prototype":1},"toString":"x","hasOwnProperty":2}';
  expect((await report(leaf, Buffer.from(patch))).status).toBe(204);
  const names = ["__proto__", "constructor", "toString", "hasOwnProperty"];
  await world.until("the module twin", () => world.reported("prototypes") !== undefined);
  const component = world.reported("prototypes") ?? {};
  expect(Object.keys(component)).toEqual(expect.arrayContaining(names));
  expect(JSON.parse(JSON.stringify(component))).toEqual(JSON.parse(`{"__t":"c",${patch.slice(1)}`));
  leaf.publish(`${TWIN_GET}9`, "");
  const { text } = await twinReply(leaf);
  expect(text).toContain('"__proto__":{"polluted":true}');
  expect(Object.hasOwn(Object.prototype, "polluted")).toBe(false);
  leaf.cut();
});
