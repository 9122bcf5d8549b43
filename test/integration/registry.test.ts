/** G5: names: a leaf has the same component for ever, whatever is lost, and no two leaves ever share one. */
import { rmSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { componentName } from "../../src/core/component-name.ts";
import { isJsonObject } from "../../src/core/merge-patch.ts";
import type { Json } from "../../src/core/message.ts";
import { parseLeafId } from "../../src/core/message.ts";
import { sha256Hex } from "../../src/sha256-hex.ts";
import { events, type RawLeaf, userName } from "../support/leaf-client.ts";
import { COMMANDS, report, TWIN_GET, twinReply, World } from "./raw-world.ts";

function nameOf(text: string): string {
  const id = parseLeafId(text);
  if (id === undefined) throw new Error(`${text} is no leaf id`);
  return componentName(id, sha256Hex);
}

async function readTwin(leaf: RawLeaf): Promise<Json | undefined> {
  leaf.publish(`${TWIN_GET}read`, "");
  await leaf.pubacks(1);
  const { body } = await twinReply(leaf);
  return body["reported"];
}

async function code(world: World, leafId: string): Promise<number> {
  const leaf = world.socket();
  const { code: answer } = await leaf.connect(leafId);
  leaf.cut();
  return answer;
}

test("a lost disk: each leaf gets its components and what it had told the cloud back under the same names", async () => {
  await using world = await World.start();
  const ids = ["plain", "with-dash", "Sub.leaf", "UPPER", "upper", "l", "a".repeat(128)];
  const wanted = new Map<string, Json>();
  for (const id of ids) {
    const leaf = await world.leaf(id);
    const patch = { who: id.slice(0, 20), thermostat1: { __t: "c", temp: 1 }, odd__name: { __t: "c", b: 2 } };
    expect((await report(leaf, patch)).status).toBe(204);
    wanted.set(id, patch);
    leaf.cut();
  }
  await world.until("all reports at the cloud", () =>
    ids.every(
      (id) => world.reported(nameOf(id)) !== undefined && world.reported(`${nameOf(id)}__thermostat1`) !== undefined,
    ),
  );
  const before = JSON.stringify(world.hub.cloud.twin({ deviceId: "edge1", moduleId: "gw" })?.reported);
  await world.stopGateway();
  rmSync(world.folder, { recursive: true });
  await world.startGateway();
  await world.linked();
  // In another order than the first time: names must not depend on who comes first.
  for (const id of ids.toReversed()) {
    const leaf = await world.leaf(id);
    // A component whose name had to be changed is not told from the cloud until the leaf names it again.
    expect(await readTwin(leaf)).toMatchObject({ who: id.slice(0, 20), thermostat1: { __t: "c", temp: 1 } });
    const patch = wanted.get(id) ?? null;
    expect((await report(leaf, patch)).status).toBe(204);
    leaf.publish(`${events(id)}%24.sub=thermostat1`, id, { messageId: 3 });
    await leaf.pubacks(1);
    leaf.cut();
  }
  await world.until("all telemetry", () => ids.every((id) => world.messagesOf(id).length === 1));
  for (const id of ids) expect(world.messagesOf(id)[0]?.system["sub"]).toBe(`${nameOf(id)}__thermostat1`);
  const after = JSON.stringify(world.hub.cloud.twin({ deviceId: "edge1", moduleId: "gw" })?.reported);
  const withoutGateway = (text: string) => {
    const parsed = JSON.parse(text) as Record<string, Json>;
    return Object.fromEntries(Object.entries(parsed).filter(([name]) => name !== "gateway"));
  };
  expect(withoutGateway(after)).toEqual(withoutGateway(before));
});

describe("ids", () => {
  let world: World;
  beforeAll(async () => {
    world = await World.start({ config: { aliases: { boiler: "heating" }, maxComponentsPerLeaf: 2 } });
  });
  afterAll(() => world[Symbol.asyncDispose]());

  test.each([
    ["whose names would be the same", "a-b", nameOf("a-b")],
    ["the other way round", nameOf("c-d"), "c-d"],
    ["of which one is the other's alias", "boiler", "heating"],
  ])("%s: the second is refused with a reason, and let in at no cost to the first", async (_what, first, second) => {
    const leaf = await world.leaf(first);
    expect((await report(leaf, { mine: first })).status).toBe(204);
    expect(await code(world, second)).toBe(3);
    expect(world.logLines.some((line) => line.includes(second) && line.includes("belongs to another leaf"))).toBe(true);
    expect(await readTwin(leaf)).toMatchObject({ mine: first });
    leaf.cut();
  });

  test("that differ in case only are two leaves", async () => {
    const [upper, lower] = [await world.leaf("Case1"), await world.leaf("case1")];
    expect((await report(upper, { i: "upper" })).status).toBe(204);
    expect((await report(lower, { i: "lower" })).status).toBe(204);
    await world.until("both", () => world.reported("Case1") !== undefined && world.reported("case1") !== undefined);
    expect([world.reported("Case1"), world.reported("case1")]).toEqual([
      { __t: "c", i: "upper" },
      { __t: "c", i: "lower" },
    ]);
    upper.cut();
    lower.cut();
  });

  test.each([
    ["a Cyrillic а", "leаf-1"],
    ["a full-width letter", "ｌeaf-1"],
    ["a zero-width space", "leaf\u200b-1"],
    ["a combining mark", "leáf-1"],
    ["a blank", "leaf 1"],
    ["a slash", "leaf/1"],
    ["129 characters", "a".repeat(129)],
  ])("with %s are refused: they only look like one", async (_what, id) => {
    const leaf = world.socket();
    const { code: answer } = await leaf.connect(id, { username: userName(id) });
    expect([3, 5]).toContain(answer);
    await leaf.closed;
    const { payload } = await world.command("gateway*listLeaves");
    const known = Array.isArray(payload) ? payload.filter((entry) => isJsonObject(entry)) : [];
    expect(known.some((entry) => entry["leafId"] === id)).toBe(false);
  });

  test.each("-:.+%_#*?!(),=@;$'".split(""))("with %s work, as far as MQTT allows", async (letter) => {
    const id = `id${letter}9`;
    const component = nameOf(id);
    const leaf = await world.leaf(id);
    expect(await leaf.subscribe(COMMANDS)).toEqual([1]);
    expect((await report(leaf, { letter })).status).toBe(204);
    expect(await readTwin(leaf)).toMatchObject({ letter });
    await world.until("the report", () => world.reported(component) !== undefined);
    const answer = world.command(`${component}*run`);
    const { topic } = await leaf.next("publish");
    leaf.publish(`$iothub/methods/res/200/?$rid=${/\$rid=(.+)$/.exec(topic)?.[1]}`, "1", { qos: 0 });
    expect(await answer).toMatchObject({ status: 200 });
    // `+` and `#` are legal in an id and illegal in a topic: no such device can say or hear anything that has its id in the topic.
    if (letter === "+" || letter === "#") {
      const body = Buffer.from(events(id));
      leaf.sendBytes(Buffer.concat([Buffer.from([0x30, body.length + 2, 0, body.length]), body]));
      await leaf.closed;
      expect(world.messagesOf(id)).toEqual([]);
      return;
    }
    expect(await leaf.subscribe(`devices/${id}/messages/devicebound/#`)).toEqual([1]);
    leaf.publish(events(id), "x", { messageId: 8 });
    await leaf.pubacks(1);
    await world.until("the telemetry", () => world.messagesOf(id).length === 1);
    expect(world.messagesOf(id)[0]?.system["sub"]).toBe(component);
    leaf.cut();
  });

  test("have so many components and no more: a report of one more is refused whole, and those that are there go on", async () => {
    const leaf = await world.leaf("many-parts");
    const part = (value: number) => ({ __t: "c", value });
    expect((await report(leaf, { one: part(1), two: part(2) })).status).toBe(204);
    expect((await report(leaf, { one: part(9), three: part(3) })).status).toBe(400);
    expect((await report(leaf, { two: part(4), plain: 5 })).status).toBe(204);
    expect(await readTwin(leaf)).toMatchObject({ one: part(1), two: part(4), plain: 5 });
    leaf.cut();
  });
});

test("as many leaves as there may be: one more is told 3, those that are known come back, and a removed one makes room", async () => {
  await using world = await World.start({ config: { maxLeaves: 2 } });
  expect([await code(world, "one"), await code(world, "two"), await code(world, "three")]).toEqual([0, 0, 3]);
  expect(world.logLines.some((line) => line.includes('"leafId":"three"') && line.includes("as many leaves"))).toBe(
    true,
  );
  expect([await code(world, "two"), await code(world, "one")]).toEqual([0, 0]);
  expect((await world.command("gateway*removeLeaf", { leafId: "one" })).status).toBe(200);
});
