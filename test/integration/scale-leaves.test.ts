/** A hundred leaves at once, in calm and while the upstream comes and goes: everything reaches the right one, nothing is lost. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { componentName } from "../../src/core/component-name.ts";
import { isJsonObject } from "../../src/core/merge-patch.ts";
import type { JsonObject, LeafId } from "../../src/core/message.ts";
import { sha256Hex } from "../../src/sha256-hex.ts";
import { BusyLeaf } from "./busy-leaf.ts";
import { World } from "./raw-world.ts";

const TIMEOUT_MS = 240_000;
const CONVERGENCE_MS = 90_000;
/** Three spellings each that would collide if illegal characters were only replaced. */
const IDS = Array.from({ length: 34 }, (_, at) => [`s${at}`, `s-${at}`, `s.${at}`])
  .flat()
  .slice(0, 100);

let world: World;
let leaves: readonly BusyLeaf[];
const rejections: unknown[] = [];
const onRejection = (reason: unknown): void => void rejections.push(reason);

beforeAll(async () => {
  process.on("unhandledRejection", onRejection);
  // The hub's long times, divided by 30 or so.
  const times = { resumeAfterRefusedMs: 1_300, wakingReadMs: 160, offlineNoticeMs: 1_000 };
  world = await World.start({ hub: times, config: { wanProbeSecs: 1 } });
  const { plain = 0 } = world.gateway.broker.ports;
  leaves = await Promise.all(IDS.map((id) => BusyLeaf.connect(id, plain)));
}, TIMEOUT_MS);

afterAll(async () => {
  for (const leaf of leaves) leaf.leave();
  await world[Symbol.asyncDispose]();
  process.off("unhandledRejection", onRejection);
  expect(rejections).toEqual([]);
});

test("every leaf has a component of its own, as the name function says", () => {
  const listed = world.gateway.relay.component.leafList();
  const components = new Map(listed.map((leaf) => [leaf["leafId"], leaf["component"]]));
  expect(components).toEqual(new Map(IDS.map((id) => [id, nameOf(id)])));
  expect(new Set(components.values()).size).toBe(IDS.length);
});

test(
  "sending, reporting, reading, being commanded and told at once, each hears its own",
  async () => {
    world.setDesired(desiredForAll(1));
    await Promise.all(
      leaves.map((leaf) =>
        Promise.all([
          repeat(20, () => leaf.sendTelemetry()),
          repeat(5, () => leaf.report()),
          repeat(5, () => leaf.read()),
          repeat(3, (call) => commanded(leaf, `calm-${call}`)),
        ]),
      ),
    );
    for (const leaf of leaves) expect([...leaf.ran.values()]).toEqual([1, 1, 1]);
    await converged(1);
    expect(await world.metric("leaf_connections")).toBe(100);
  },
  TIMEOUT_MS,
);

test(
  "while the upstream is cut, killed and restored they stay connected, are answered from the cache, and all converges",
  async () => {
    await underLoad(async () => {
      for (let cut = 0; cut < 3; cut += 1) {
        world.hub.cutConnections();
        await world.linked();
      }
      await world.hub.killEdge("keep");
      // The cloud changes its mind while nobody can be told, and leaves read, and are acknowledged.
      world.setDesired(desiredForAll(2));
      await Promise.all(leaves.map((leaf) => readsItsOwn(leaf, 1)));
      await acknowledgedMore(3);
      await world.hub.startEdge();
      await world.linked();
      await Promise.all(leaves.map((leaf) => commanded(leaf, "after")));
    });
    await converged(2);
    expect(await world.metric("leaf_connections")).toBe(100);
    expect(await world.metric("defects_total")).toBe(0);
  },
  TIMEOUT_MS,
);

test(
  "while the WAN behind edgeHub is away they notice nothing, and what the cloud changed meanwhile comes when it is back",
  async () => {
    await underLoad(async () => {
      world.hub.wan.cut("refused");
      world.setDesired(desiredForAll(3));
      await acknowledgedMore(3);
      await Promise.all(leaves.map((leaf) => readsItsOwn(leaf, 2)));
      world.hub.wan.restore();
      await acknowledgedMore(3);
    });
    await converged(3);
    expect(await world.metric("leaf_connections")).toBe(100);
    expect(await world.metric("defects_total")).toBe(0);
  },
  TIMEOUT_MS,
);

/** All leaves send and report while `disturb` goes on; resolves when every answer is in. */
async function underLoad(disturb: () => Promise<void>): Promise<void> {
  let isOver = false;
  const whileItLasts = async (step: () => Promise<unknown>): Promise<void> => {
    while (!isOver) await step();
  };
  const traffic = leaves.flatMap((leaf) => [
    whileItLasts(async () => {
      await leaf.sendTelemetry();
      await pause();
    }),
    whileItLasts(async () => {
      expect((await leaf.report()).status).toBe(204);
      await pause(4);
    }),
  ]);
  try {
    await disturb();
  } finally {
    isOver = true;
    await Promise.all(traffic);
  }
}

async function acknowledgedMore(messages: number): Promise<void> {
  const before = leaves.map(({ acknowledged }) => acknowledged.length);
  await world.until("acknowledgements", () =>
    leaves.every((leaf, at) => leaf.acknowledged.length >= (before[at] ?? 0) + messages),
  );
}

/** Both sides hold the same: the hub all telemetry and the last reports, each leaf its last desired values. */
async function converged(level: number): Promise<void> {
  await world.until("all telemetry", () => missing().length === 0, CONVERGENCE_MS);
  await world.until("all reported", () => leaves.every((leaf) => hasLastReport(leaf)), CONVERGENCE_MS);
  await world.until(
    "all desired",
    () => leaves.every((leaf) => leaf.patches.at(-1)?.["level"] === level),
    CONVERGENCE_MS,
  );
  await Promise.all(leaves.map((leaf) => readsItsOwn(leaf, level)));
  for (const leaf of leaves) {
    expect(leaf.surprises).toEqual([]);
    expect(arrivals().get(leaf.id)).toEqual(ascending(leaf.acknowledged.length));
    for (const patch of leaf.patches) expect(patch["to"]).toBe(leaf.id);
    const versions = leaf.patches.map((patch) => Number(patch["$version"]));
    expect(versions).toEqual(versions.toSorted((a, b) => a - b));
  }
}

/** For each leaf the numbers of its telemetry as they came, repeated ones once. */
function arrivals(): Map<string, number[]> {
  const seen = new Map<string, Set<number>>(IDS.map((id) => [id, new Set()]));
  for (const { body, properties } of world.messages) {
    if (properties["leafId"] === undefined) continue;
    const { from, number } = JSON.parse(Buffer.from(body).toString()) as { from: string; number: number };
    // Whose message it is, says the gateway; it must be the one who wrote it.
    expect(properties["leafId"]).toBe(from);
    seen.get(from)?.add(number);
  }
  return new Map([...seen].map(([id, numbers]) => [id, [...numbers]]));
}

function missing(): readonly string[] {
  const arrived = arrivals();
  return leaves.filter((leaf) => (arrived.get(leaf.id)?.length ?? 0) < leaf.acknowledged.length).map(({ id }) => id);
}

function hasLastReport(leaf: BusyLeaf): boolean {
  const component = world.reported(nameOf(leaf.id));
  if (!isJsonObject(component)) return false;
  expect(component["from"]).toBe(leaf.id);
  return component["number"] === leaf.lastReported;
}

async function readsItsOwn(leaf: BusyLeaf, level: number): Promise<void> {
  const { body, status } = await leaf.read();
  expect(status).toBe(200);
  const { desired, reported } = JSON.parse(body) as { desired: JsonObject; reported: JsonObject };
  expect(reported).toMatchObject({ from: leaf.id });
  expect(desired).toMatchObject({ to: leaf.id, level });
}

async function commanded(leaf: BusyLeaf, call: string): Promise<void> {
  const asked = { to: leaf.id, call };
  const answer = await world.command(`${nameOf(leaf.id)}*echo`, asked);
  expect(answer).toMatchObject({ status: 200, payload: { from: leaf.id, asked } });
}

function desiredForAll(level: number): JsonObject {
  return Object.fromEntries(IDS.map((id) => [nameOf(id), { to: id, level }]));
}

/** Ids of tests are legal ones. */
function nameOf(id: string): string {
  return componentName(id as LeafId, sha256Hex);
}

async function repeat(times: number, step: (at: number) => Promise<unknown>): Promise<void> {
  for (let at = 0; at < times; at += 1) await step(at);
}

function ascending(length: number): number[] {
  return Array.from({ length }, (_, at) => at);
}

/** Keeps the load at what two cores can carry. */
function pause(parts = 1): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 50 * parts));
}
