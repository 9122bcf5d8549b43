/**
 * Whatever a leaf says that is not taken: it is answered with a status or its connection is closed, one counter rises by one, and one
 * line of the log names the leaf and says why. Nothing of it reaches the hub.
 */
import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { events, type RawLeaf } from "../support/leaf-client.ts";
import { COMMANDS, report, TWIN_GET, TWIN_REPORT, twinReply, World } from "./raw-world.ts";

let world: World;
beforeAll(async () => {
  world = await World.start({
    config: { logLevel: "info", commandTimeoutSecs: 1, maxPendingCommandsPerLeaf: 1, maxComponentsPerLeaf: 2 },
  });
});
afterAll(async () => {
  await world[Symbol.asyncDispose]();
});

interface LogLine {
  readonly event: string;
  readonly level: string;
  readonly leafId?: string;
  readonly command?: string;
  readonly reason?: string;
  readonly detail?: string;
}

function logged(event: string): readonly LogLine[] {
  return world.logLines.map((line) => JSON.parse(line) as LogLine).filter((line) => line.event === event);
}

/** Does `refused` and expects one more of `counter` and one line of the leaf's that says `why`. */
async function countedAndSaid(
  { counter, event, leafId, why }: { counter: string; event: string; leafId: string; why: RegExp },
  refused: () => Promise<void>,
): Promise<void> {
  const before = await world.metric(counter);
  await refused();
  await world.until(`the log line of ${leafId}`, () => logged(event).some((line) => line.leafId === leafId));
  expect(await world.metric(counter)).toBe(before + 1);
  const lines = logged(event).filter((line) => line.leafId === leafId);
  expect(lines).toHaveLength(1);
  expect(`${lines[0]?.reason} ${lines[0]?.detail}`).toMatch(why);
  expect(world.messagesOf(leafId)).toEqual([]);
}

const nameOf = (what: string): string => `refused-${what.replaceAll(/\W/g, "-").slice(0, 60)}`;
const FRAME = "a leaf's frame was refused";
const PATCH = "a reported patch was refused";
const NO_TOPIC = /no topic that leaves publish to/;

describe("a frame that nothing can be answered to", () => {
  test.each([
    ["no topic of leaves", "hello", NO_TOPIC],
    ["an unknown $iothub topic", "$iothub/hello", NO_TOPIC],
    ["a twin GET with a longer topic", "$iothub/twin/GET2/?$rid=1", NO_TOPIC],
    ["a desired patch", "$iothub/twin/PATCH/properties/desired/?$version=9", NO_TOPIC],
    ["a twin answer", "$iothub/twin/res/200/?$rid=1", NO_TOPIC],
    ["a command", "$iothub/methods/POST/reboot/?$rid=1", NO_TOPIC],
    ["telemetry of another device", events("somebody"), /another device/],
    ["telemetry of a module", (leafId: string) => `devices/${leafId}/modules/m/messages/events/`, NO_TOPIC],
    ["a cloud-to-device topic", (leafId: string) => `devices/${leafId}/messages/devicebound/`, NO_TOPIC],
    ["a twin GET without $rid", "$iothub/twin/GET/", /without one \$rid/],
    ["a twin GET with an empty $rid", "$iothub/twin/GET/?$rid=", /without one \$rid/],
    ["a twin GET with two $rid", "$iothub/twin/GET/?$rid=1&$rid=2", /without one \$rid/],
    ["a twin GET with an endless $rid", `$iothub/twin/GET/?$rid=${"x".repeat(1025)}`, /without one \$rid/],
    ["a PATCH without $rid", "$iothub/twin/PATCH/properties/reported/", /without one \$rid/],
    ["a PATCH with a misspelt $rid", "$iothub/twin/PATCH/properties/reported/?rid=1", /without one \$rid/],
  ])("%s closes the connection", async (what, topic, why) => {
    const leafId = nameOf(what);
    const leaf = await world.leaf(leafId);
    await countedAndSaid({ counter: 'frames_refused_total{reason="close"}', event: FRAME, leafId, why }, async () => {
      leaf.publish(typeof topic === "string" ? topic : topic(leafId), "{}");
      await leaf.closed;
      expect(leaf.packets).toEqual([]);
    });
  });

  test.each([
    ["telemetry that grows too large", (leafId: string) => events(leafId), 262_000, /edgeHub takes/],
    ["telemetry with endless properties", (leafId: string) => `${events(leafId)}a=${"%".repeat(22_000)}`, 1, /topic/],
  ])("%s closes the connection", async (what, topic, size, why) => {
    const leafId = nameOf(what);
    const leaf = await world.leaf(leafId);
    const counter = 'frames_refused_total{reason="telemetry"}';
    await countedAndSaid({ counter, event: FRAME, leafId, why }, async () => {
      leaf.publish(topic(leafId), randomBytes(size / 2).toString("hex"));
      await leaf.closed;
      expect(leaf.packets).toEqual([]);
    });
  });
});

describe("a reported patch of no legal form", () => {
  test.each([
    ["that is no JSON", Buffer.from("{"), "1", /JSON/],
    ["that is no UTF-8", Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]), "1", /UTF-8/],
    ["that is empty", Buffer.from(""), "1", /JSON/],
    ["that is no object", Buffer.from("[1]"), "1", /not a JSON object/],
    ["with $version in its body", Buffer.from('{"a":1,"$version":3}'), "1", /\$version/],
    ["for a version that is no number", Buffer.from("{}"), "1&$version=x", /\$version/],
  ])("%s is answered 400", async (what, body, parameters, why) => {
    const leafId = nameOf(what);
    const leaf = await world.leaf(leafId);
    const counter = 'frames_refused_total{reason="twin-invalid"}';
    await countedAndSaid({ counter, event: FRAME, leafId, why }, async () => {
      expect((await report(leaf, body, parameters)).status).toBe(400);
    });
    leaf.cut();
  });
});

describe("a reported patch against the hub's rules or the gateway's", () => {
  const deep = (levels: number) => Buffer.from(`${'{"a":'.repeat(levels)}1${"}".repeat(levels)}`);
  test.each([
    ["a dot in a key", 400, { "a.b": 1 }, "1", /a\.b/],
    ["an endless key", 400, { ["k".repeat(1025)]: 1 }, "1", /bytes|key/],
    ["an endless text", 400, { a: "x".repeat(4097) }, "1", /bytes/],
    ["an integer beyond 2^52", 400, { a: 4_503_599_627_370_496 }, "1", /integer|number/],
    ["a null in an array", 400, { a: [1, null] }, "1", /null/],
    ["a level too many", 400, deep(11), "1", /level|deep/],
    [
      "a component too many",
      400,
      Object.fromEntries(["a", "b", "c"].map((name) => [name, { __t: "c", x: 1 }])),
      "1",
      /more than 2 components/,
    ],
    ["another version than the leaf thinks", 412, { a: 1 }, "1&$version=77", /version is 1, not 77/],
    [
      "more than one leaf may hold",
      403,
      Object.fromEntries(Array.from("abc", (key) => [key, "x".repeat(4000)])),
      "1",
      /bytes/,
    ],
  ])("%s is answered with its status", async (what, status, body, parameters, why) => {
    const leafId = nameOf(what);
    const leaf = await world.leaf(leafId);
    const counter = `reported_refused_total{status="${status}"}`;
    await countedAndSaid({ counter, event: PATCH, leafId, why }, async () => {
      expect((await report(leaf, body, parameters)).status).toBe(status);
    });
    expect(world.reported(leafId)).toBeUndefined();
    leaf.cut();
  });
});

describe("an answer to a command", () => {
  /** A leaf that listens to commands, and a call that waits for it. */
  async function called(leafId: string): Promise<{ leaf: RawLeaf; rid: string; answer: ReturnType<World["command"]> }> {
    const leaf = await world.leaf(leafId);
    await leaf.subscribe(COMMANDS);
    const answer = world.command(`${leafId}*run`);
    const { topic } = await leaf.next("publish");
    return { leaf, rid: topic.slice(topic.indexOf("$rid=") + "$rid=".length), answer };
  }

  test.each([
    ["whose status is no number", "OK", "{}", /status is not an integer/],
    ["that is no JSON", "200", "done", /JSON/],
    ["that is too large", "200", JSON.stringify("x".repeat(131_072)), /bytes/],
  ])("%s gives the caller 500 and the reason", async (what, status, body, why) => {
    const leafId = nameOf(what).replaceAll("-", "_");
    const { answer, leaf, rid } = await called(leafId);
    const counter = 'frames_refused_total{reason="command-answer"}';
    await countedAndSaid({ counter, event: FRAME, leafId, why }, async () => {
      leaf.publish(`$iothub/methods/res/${status}/?$rid=${rid}`, body, { qos: 0 });
      expect(await answer).toMatchObject({ status: 500, payload: { message: expect.stringMatching(why) } });
    });
    leaf.cut();
  });

  test("without $rid is dropped", async () => {
    const leaf = await world.leaf("answers_nothing");
    const counter = 'frames_refused_total{reason="ignored"}';
    await countedAndSaid({ counter, event: FRAME, leafId: "answers_nothing", why: /\$rid/ }, async () => {
      leaf.publish("$iothub/methods/res/200/", "{}");
      await leaf.pubacks(1);
    });
    leaf.cut();
  });

  test.each([
    ["that nobody has asked for", "answers_unasked", (_rid: string) => "nobody-asked"],
    ["to a call of another leaf", "answers_for_another", (rid: string) => rid],
  ])("%s is dropped, and the call goes on waiting", async (_what, leafId, ridOf) => {
    const { answer, leaf: asked, rid } = await called(`${leafId}_asked`);
    const leaf = await world.leaf(leafId);
    const event = "a command's answer was dropped: nobody waits for it";
    await countedAndSaid({ counter: "command_answers_ignored_total", event, leafId, why: /./ }, async () => {
      leaf.publish(`$iothub/methods/res/200/?$rid=${ridOf(rid)}`, "{}");
      await leaf.pubacks(1);
    });
    asked.publish(`$iothub/methods/res/201/?$rid=${rid}`, "");
    expect(await answer).toMatchObject({ status: 201, payload: null });
    leaf.cut();
    asked.cut();
  });
});

describe("a command that does not reach its leaf", () => {
  const EVENT = "a command was not run by its leaf";

  async function refused(status: number, name: string, why: RegExp): Promise<void> {
    const before = await world.metric(`commands_total{status="${status}"}`);
    expect(await world.command(name)).toMatchObject({ status, payload: { message: expect.stringMatching(why) } });
    expect(await world.metric(`commands_total{status="${status}"}`)).toBe(before + 1);
  }

  test("is answered 404, 429 or 504, counted, and the first of its kind said with the reason", async () => {
    const leaf = await world.leaf("deaf");
    await refused(404, "nobody*run", /no leaf has the component nobody/);
    await refused(404, "nobody__engine*run", /no leaf has the component nobody__engine/);
    await refused(404, "deaf*run", /has not subscribed to commands/);
    await leaf.subscribe(COMMANDS);
    const silent = refused(504, "deaf*run", /has not answered within 1 s/);
    await leaf.next("publish");
    await refused(429, "deaf*run", /1 commands wait/);
    await silent;
    leaf.cut();
    await world.until("the leaf to be gone", async () => (await world.metric("leaves_connected")) === 0);
    await refused(404, "deaf*run", /is not connected/);
    const [line] = logged(EVENT);
    expect(line).toMatchObject({ command: expect.stringContaining("*run"), reason: expect.stringMatching(/\w/) });
  });
});

describe("what reaches the gateway itself", () => {
  test.each([
    ["that it does not have", "explode", {}, 404],
    ["without the leaf that it needs", "getLeaf", {}, 400],
    ["about a leaf that there is not", "getLeaf", { leafId: "nobody" }, 404],
  ])("a command %s is refused, counted and said", async (_what, name, payload, status) => {
    const before = await world.metric(`commands_total{status="${status}"}`);
    expect(await world.command(`gateway*${name}`, payload)).toMatchObject({ status });
    expect(await world.metric(`commands_total{status="${status}"}`)).toBe(before + 1);
    expect(logged("a command to the gateway was refused")[0]).toMatchObject({ status: 404 });
  });

  test.each([
    ["for a leaf that there is not", "c2d", "nobody", 1, /no leaf that there is/],
    ["at an input that there is not", "other", "sleeper", 1, /names no input/],
    ["that is larger than cloud-to-device messages may be", "c2d", "sleeper", 65_537, /c2d was refused/],
  ])("a module's message %s is dropped, counted and said", async (_what, input, leafId, bytes, event) => {
    await (await world.leaf("sleeper")).disconnect();
    const before = await world.metric("inputs_refused_total");
    const sent = world.hub.sendInput("gw", input, { body: "x".repeat(bytes), properties: { leafId } });
    await world.until("the refusal", async () => (await world.metric("inputs_refused_total")) > before);
    expect(await world.metric("inputs_refused_total")).toBe(before + 1);
    expect(await sent).toBe("acknowledged");
    expect(world.logLines.some((line) => event.test(line) && line.includes(leafId))).toBe(true);
  });
});

test("a twin answer is not asked for in vain after all that: a good leaf is served", async () => {
  const leaf = await world.leaf("good");
  leaf.publish(`${TWIN_GET}1`, "");
  expect((await twinReply(leaf)).status).toBe(200);
  leaf.publish(`${TWIN_REPORT}2`, '{"a":1}', { qos: 0 });
  expect((await twinReply(leaf)).status).toBe(204);
  await leaf.disconnect();
});
