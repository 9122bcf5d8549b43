/**
 * Leaves of all SDKs while cables are pulled, edgeHub and the gateway are killed again and again, and the back end goes on: when it is
 * over nothing that was promised is missing, and both ends agree.
 */
import { setTimeout as delay } from "node:timers/promises";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { isJsonObject } from "../../src/core/merge-patch.ts";
import type { Json, JsonObject } from "../../src/core/message.ts";
import { SdkLeaf } from "../support/sdk-leaf.ts";
import { SDK_WIRES } from "../support/sdk-wire.ts";
import { componentOf, SdkWorld, WAIT } from "../support/sdk-world.ts";

const STEPS = process.env["CI"] === "1" ? 600 : 120;
const SEED = Number(process.env["SEED"] ?? Date.now() % 1_000_000);

/** As often as they stand here. */
const KINDS = [
  "cut",
  "cut",
  "cut",
  "desire",
  "desire",
  "desire",
  "message",
  "message",
  "message",
  "command",
  "command",
  "report",
  "report",
  "kill the gateway",
  "kill edgeHub",
] as const;
type Kind = (typeof KINDS)[number];

/** One leaf's program, which comes back by itself and publishes all the time, and what it may expect to be kept. */
class Life {
  readonly leaf: SdkLeaf;
  readonly acknowledged: string[] = [];
  readonly queued: string[] = [];
  readonly answered: string[] = [];
  isQuiet = false;
  /** How long it stays away. */
  away: Promise<void> = Promise.resolve();
  #count = 0;

  constructor(leaf: SdkLeaf) {
    this.leaf = leaf;
  }

  async live(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.away;
      if (this.leaf.isLost) await this.leaf.comeBack();
      else if (!this.isQuiet) await this.#publish();
      await delay(20);
    }
  }

  async #publish(): Promise<void> {
    const body = `message ${(this.#count += 1)}`;
    await this.leaf.telemetry("thermostat1", body);
    if (this.leaf.unacknowledged === 0) this.acknowledged.push(body);
  }
}

let world: SdkWorld;
let lives: readonly Life[];

beforeAll(async () => {
  world = await SdkWorld.start();
  // With a clean session nothing is kept, and who is away misses what the storm brings.
  const wires = SDK_WIRES.filter(({ clean }) => !clean);
  lives = wires.map((wire) => new Life(new SdkLeaf(wire, world.leafOptions)));
  for (const { leaf } of lives) await leaf.start();
});

afterAll(async () => {
  for (const { leaf } of lives) leaf.cut();
  await world[Symbol.asyncDispose]();
});

async function take(life: Life, kind: Kind, n: number): Promise<void> {
  const { answered, leaf, queued } = life;
  const component = componentOf(leaf.wire);
  switch (kind) {
    case "cut":
      life.away = delay((n % 10) * 250);
      return leaf.cut();
    case "desire":
      // Few are written twice: what is missed is not made up for by the next.
      return world.desire({ [component]: { [`p${n % 7}`]: n }, [`${component}__thermostat1`]: { [`q${n % 5}`]: n } });
    case "message": {
      const answer = await world.command("gateway*sendCloudToDevice", { leafId: leaf.id, payload: `text ${n}` });
      if (isOk(answer)) queued.push(`text ${n}`);
      return;
    }
    case "command":
      if (isOk(await world.command(`${component}__thermostat1*echo`, n))) answered.push(String(n));
      return;
    case "report":
      // A lost answer is no promise.
      await leaf.report({ n }).catch(() => undefined);
      return;
    case "kill the gateway":
      await world.killGateway();
      return world.startGateway();
    case "kill edgeHub":
      await world.hub.killEdge("keep");
      await delay(200);
      return world.hub.startEdge();
  }
}

function isOk(answer: unknown): boolean {
  return typeof answer === "object" && answer !== null && "status" in answer && answer.status === 200;
}

async function storm(): Promise<void> {
  const step = fc.record({
    leaf: fc.nat({ max: lives.length - 1 }),
    kind: fc.constantFrom(...KINDS),
    pauseMs: fc.nat({ max: 60 }),
  });
  const [steps = []] = fc.sample(fc.array(step, { minLength: STEPS, maxLength: STEPS }), { numRuns: 1, seed: SEED });
  const underWay: Promise<void>[] = [];
  // One kill at a time; all else goes on meanwhile.
  let kills = Promise.resolve();
  for (const [n, { kind, leaf, pauseMs }] of steps.entries()) {
    const life = lives[leaf];
    if (life === undefined) continue;
    if (kind.startsWith("kill")) kills = kills.then(() => take(life, kind, n));
    else underWay.push(take(life, kind, n));
    await delay(pauseMs);
  }
  await Promise.all([...underWay, kills]);
}

function asObject(section: Json | undefined): JsonObject {
  return section !== undefined && isJsonObject(section) ? section : {};
}

/** A component's properties with what their acknowledgements say. */
function acknowledgedValues(section: Json): JsonObject {
  const values = Object.entries(asObject(section)).map(([name, each]): [string, Json] => [
    name,
    asObject(each)["value"] ?? each,
  ]);
  return Object.fromEntries(values);
}

function settled({ acknowledged, answered, leaf, queued }: Life): void {
  const { name } = leaf.wire;
  const component = componentOf(leaf.wire);
  const part = `${component}__thermostat1`;
  const root = asObject(world.section("desired", component));
  const thermostat1 = { __t: "c", ...asObject(world.section("desired", part)) };
  expect({ thermostat1: { __t: "c" }, ...leaf.desired }, name).toEqual({ ...root, thermostat1 });
  expect(acknowledgedValues(world.section("reported", component)), name).toMatchObject(root);
  if (Object.keys(thermostat1).length > 1)
    expect(acknowledgedValues(world.section("reported", part)), name).toMatchObject(thermostat1);
  expect(
    leaf.cloudToDevice.map(({ body }) => body),
    name,
  ).toEqual(expect.arrayContaining(queued));
  const arrived = world.messagesOf(leaf.wire).map(({ body }) => String(JSON.parse(Buffer.from(body).toString())));
  expect(arrived, name).toEqual(expect.arrayContaining(acknowledged));
  const runs = leaf.commands.filter((command) => command.name.endsWith("echo")).map(({ body }) => body);
  expect(runs, name).toEqual([...new Set(runs)]);
  expect(runs, name).toEqual(expect.arrayContaining(answered));
  expect(leaf.complaints, name).toEqual([]);
}

test(`G1 G2 G3 G6 G8 a storm of ${STEPS} steps (SEED=${SEED}) loses nothing that was promised to anybody`, async () => {
  const over = new AbortController();
  const living = lives.map((life) => life.live(over.signal));
  await storm();
  for (const life of lives) life.isQuiet = true;
  await vi.waitFor(() => {
    for (const life of lives) settled(life);
  }, WAIT);
  over.abort();
  await Promise.all(living);
  for (const life of lives) expect(life.acknowledged.length, life.leaf.wire.name).toBeGreaterThan(0);
}, 600_000);
