/**
 * G5: who may publish and subscribe to what, generated: every topic of the dialect, in the name of the leaf itself, of another one and of
 * what looks like either, through the whole gateway. A leaf that listens to all it may must hear nothing of it.
 */
import { createHash } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { JsonObject } from "../../src/core/message.ts";
import { events, type RawLeaf } from "../support/leaf-client.ts";
import { COMMANDS, DESIRED, report, TWIN_GET, World } from "./raw-world.ts";

const VICTIM = "victim-1";
/** As `leaf name` says. */
const COMPONENT = `victim_1_${createHash("sha256").update(VICTIM).digest("hex").slice(0, 8)}`;

/** Names to stand in a topic, for the leaf that publishes or subscribes. */
const NAMES: Readonly<Record<string, (own: string) => string>> = {
  own: (own) => own,
  "another's": () => VICTIM,
  "another's in other case": () => VICTIM.toUpperCase(),
  "another's, percent-encoded": () => VICTIM.replace("-", "%2D"),
  "an empty": () => "",
  "own and more": (own) => `${own}2`,
  "own and less": (own) => own.slice(0, -1),
  "own and another's": (own) => `${own}/${VICTIM}`,
};

/** Topics with a device's name in them. */
const NAMED: Readonly<Record<string, (name: string) => string>> = {
  telemetry: events,
  "telemetry without a slash": (name) => `devices/${name}/messages/events`,
  "telemetry with properties": (name) => `${events(name)}%24.sub=thermostat1&a=1`,
  "telemetry with a question mark": (name) => `${events(name)}?a=1`,
  "telemetry of a module": (name) => `devices/${name}/modules/m/messages/events/`,
  "a message to the device": (name) => `devices/${name}/messages/devicebound/%24.to=x`,
  "a message to a module's input": (name) => `devices/${name}/modules/m/inputs/in/a=1`,
  "a device without more": (name) => `devices/${name}`,
};
const MAY_PUBLISH_NAMED = new Set([
  "telemetry",
  "telemetry without a slash",
  "telemetry with properties",
  "telemetry with a question mark",
]);

/** Topics that say nothing of whose they are: the connection does. */
const UNNAMED: Readonly<Record<string, string>> = {
  "a twin GET": `${TWIN_GET}1`,
  "a reported patch": "$iothub/twin/PATCH/properties/reported/?$rid=1",
  "a command's answer": "$iothub/methods/res/200/?$rid=1",
  "a twin answer": "$iothub/twin/res/200/?$rid=1",
  "a desired patch": "$iothub/twin/PATCH/properties/desired/?$version=9",
  "a command": "$iothub/methods/POST/run/?$rid=1",
  "a provisioning request": "$dps/registrations/PUT/iotdps-register/?$rid=1",
  "a provisioning answer": "$dps/registrations/res/200/?$rid=1",
  "a topic of the broker": "$SYS/broker/clients",
  "a topic of nobody": "hello",
  "the root of the twin": "$iothub/twin",
};
const MAY_PUBLISH = new Set(["a twin GET", "a reported patch", "a command's answer"]);

const NAMED_FILTERS: Readonly<Record<string, (name: string) => string>> = {
  "messages to the device": (name) => `devices/${name}/messages/devicebound/#`,
  "messages to the device without a wildcard": (name) => `devices/${name}/messages/devicebound/`,
  "all of a device": (name) => `devices/${name}/#`,
  "a device's telemetry": (name) => `devices/${name}/messages/events/#`,
  "a module's inputs": (name) => `devices/${name}/modules/m/inputs/#`,
  "all of a module": (name) => `devices/${name}/modules/m/#`,
  "any level of a device": (name) => `devices/${name}/+/devicebound/#`,
};
const UNNAMED_FILTERS: Readonly<Record<string, string>> = {
  "twin answers": "$iothub/twin/res/#",
  commands: COMMANDS,
  "desired patches": DESIRED,
  "all of the hub": "$iothub/#",
  "all of twins": "$iothub/twin/#",
  "reported patches": "$iothub/twin/PATCH/properties/reported/#",
  "commands' answers": "$iothub/methods/res/#",
  "all devices' messages": "devices/+/messages/devicebound/#",
  "all devices": "devices/#",
  everything: "#",
  "everything one level deep": "+",
  "everything below anything": "+/#",
  "the broker": "$SYS/#",
  "a shared subscription": `$share/group/devices/${VICTIM}/messages/devicebound/#`,
  provisioning: "$dps/registrations/res/#",
};
const MAY_SUBSCRIBE = new Set(["twin answers", "commands", "desired patches"]);

let world: World;
let victim: RawLeaf;
let number = 0;

beforeAll(async () => {
  world = await World.start();
  victim = await world.leaf(VICTIM);
  expect((await report(victim, { mine: true })).status).toBe(204);
  const all = [DESIRED, COMMANDS, "$iothub/twin/res/#", `devices/${VICTIM}/messages/devicebound/#`];
  expect(await victim.subscribe(...all)).toEqual([1, 1, 1, 1]);
});

afterAll(() => world[Symbol.asyncDispose]());

/** A leaf of its own each time: a closed connection makes the next one of that leaf wait. */
async function somebody(): Promise<{ readonly own: string; readonly leaf: RawLeaf }> {
  number += 1;
  const own = `leaf-x${number}y`;
  return { own, leaf: await world.leaf(own) };
}

async function publishing(topicOf: (own: string) => string, mayPublish: boolean): Promise<void> {
  const { leaf, own } = await somebody();
  leaf.publish(topicOf(own), '{"evil":true}', { messageId: 9 });
  if (!mayPublish) {
    await leaf.closed;
    expect(leaf.packets).toEqual([]);
    return;
  }
  expect(await leaf.pubacks(1)).toEqual([9]);
  await leaf.ping();
  expect(leaf.isClosed).toBe(false);
  leaf.cut();
}

async function subscribing(filterOf: (own: string) => string, maySubscribe: boolean): Promise<void> {
  const { leaf, own } = await somebody();
  const granted = await leaf.subscribe(filterOf(own)).catch(() => "closed");
  // What is no filter at all closes the connection.
  expect(maySubscribe ? [[1]] : [[128], "closed"]).toContainEqual(granted);
  leaf.cut();
}

describe("publishing", () => {
  const cells = Object.entries(NAMED).flatMap(([topic, format]) =>
    Object.entries(NAMES).map(([whose, nameOf]) => ({
      topic,
      whose,
      topicOf: (own: string) => format(nameOf(own)),
      may: whose === "own" && MAY_PUBLISH_NAMED.has(topic),
    })),
  );
  test.each(cells)("$topic in $whose name: $may", ({ may, topicOf }) => publishing(topicOf, may));

  const unnamed = Object.entries(UNNAMED).map(([topic, text]) => ({ topic, text, may: MAY_PUBLISH.has(topic) }));
  test.each(unnamed)("$topic: $may", ({ may, text }) => publishing(() => text, may));
});

describe("subscribing to", () => {
  const cells = Object.entries(NAMED_FILTERS).flatMap(([filter, format]) =>
    Object.entries(NAMES).map(([whose, nameOf]) => ({
      filter,
      whose,
      filterOf: (own: string) => format(nameOf(own)),
      may: whose === "own" && filter === "messages to the device",
    })),
  );
  test.each(cells)("$filter in $whose name: $may", ({ filterOf, may }) => subscribing(filterOf, may));

  const unnamed = Object.entries(UNNAMED_FILTERS).map(([filter, text]) => ({
    filter,
    text,
    may: MAY_SUBSCRIBE.has(filter),
  }));
  test.each(unnamed)("$filter: $may", ({ may, text }) => subscribing(() => text, may));
});

test("of all that the victim has heard nothing, and the hub has nothing in its name", async () => {
  await victim.ping();
  expect(victim.packets).toEqual([]);
  victim.publish(events(VICTIM), "mine", { messageId: 4 });
  await victim.pubacks(1);
  await world.until("the victim's own message", () => world.messagesOf(VICTIM).length > 0);
  expect(world.messagesOf(VICTIM).map(({ body }) => Buffer.from(body).toString())).toEqual(["mine"]);
  expect(world.reported(COMPONENT)).toEqual({ __t: "c", mine: true });
});

test("what the cloud says to one leaf is heard by nobody else, whatever others subscribe to", async () => {
  const filters = [...Object.values(NAMED_FILTERS).map((format) => format(VICTIM)), ...Object.values(UNNAMED_FILTERS)];
  const { leaf: spy } = await somebody();
  await spy.subscribe(...filters.slice(0, 19));
  world.setDesired({ [COMPONENT]: { secret: 1 } });
  expect((await victim.next("publish")).payload.toString()).toContain("secret");
  const answer = world.command(`${COMPONENT}*run`, { secret: 2 });
  const { topic } = await victim.next("publish");
  const rid = /\$rid=(.+)$/.exec(topic)?.[1];
  // The spy answers first, with the very same request id.
  spy.publish(`$iothub/methods/res/200/?$rid=${rid}`, '"spy"', { qos: 0 });
  await spy.ping();
  victim.publish(`$iothub/methods/res/200/?$rid=${rid}`, '"victim"', { qos: 0 });
  expect(await answer).toMatchObject({ status: 200, payload: "victim" });
  const letter: JsonObject = { leafId: VICTIM, payload: "secret 3" };
  expect((await world.command("gateway*sendCloudToDevice", letter)).status).toBe(200);
  expect((await victim.next("publish")).payload.toString()).toContain("secret 3");
  await spy.ping();
  expect(spy.packets).toEqual([]);
});
