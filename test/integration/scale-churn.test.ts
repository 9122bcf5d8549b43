/** Leaves that come and go leave nothing behind: no listener, no entry of a map, no timer, no promise that nobody looks at. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { events } from "../support/leaf-client.ts";
import { COMMANDS, DESIRED, TWIN_GET, twinReply, World } from "./raw-world.ts";

const ROUNDS = 20;
const AT_ONCE = 50;
const TIMEOUT_MS = 240_000;

let world: World;
const warnings: string[] = [];
const rejections: string[] = [];
const onWarning = (warning: Error): void => void warnings.push(`${warning.name}: ${warning.message}`);
const onRejection = (reason: unknown): void => void rejections.push(String(reason));

beforeAll(async () => {
  process.on("warning", onWarning);
  process.on("unhandledRejection", onRejection);
  world = await World.start();
});
afterAll(async () => {
  await world[Symbol.asyncDispose]();
  process.off("warning", onWarning);
  process.off("unhandledRejection", onRejection);
});

/** What belongs to no leaf and therefore must not depend on how many there were. */
function held(): Readonly<Record<string, number>> {
  const resources = process.getActiveResourcesInfo();
  const count = (name: string): number => resources.filter((resource) => resource === name).length;
  return {
    ...world.gateway.broker.load,
    sockets: count("TCPSocketWrap"),
    processListeners: process.eventNames().reduce((sum, name) => sum + process.listenerCount(name), 0),
  };
}

/** Connects, subscribes, asks, sends; then leaves with a word or without. */
async function visit(leafId: string, way: number): Promise<void> {
  const leaf = await world.leaf(leafId, { clean: way === 0 });
  await leaf.subscribe(DESIRED, COMMANDS);
  leaf.publish(`${TWIN_GET}1`, "", { qos: 0 });
  expect((await twinReply(leaf)).status).toBe(200);
  leaf.publish(events(leafId), "{}");
  await leaf.pubacks(1);
  if (way === 0) await leaf.disconnect();
  else leaf.cut();
  await leaf.closed;
}

async function quiet(): Promise<void> {
  await world.until("the end of all connections", () => world.gateway.broker.load.connections === 0);
  await world.until("the end of all leaves", () => world.gateway.broker.load.leaves === 0);
}

test(
  "1,000 leaves come and go, and what the gateway holds does not grow",
  async () => {
    const once = async (round: number): Promise<void> => {
      await Promise.all(Array.from({ length: AT_ONCE }, (_, at) => visit(`churn-${round}-${at}`, (round + at) % 2)));
      await quiet();
    };
    await once(0);
    const before = held();
    for (let round = 1; round < ROUNDS; round += 1) await once(round);
    const total = ROUNDS * AT_ONCE;
    const telemetry = (): number => new Set(world.messages.map(({ properties }) => properties["leafId"])).size - 1;
    await world.until("all telemetry", () => telemetry() === total);
    await world.until("what was held at first", () => growth(before, held()).length === 0).catch(() => undefined);
    expect(growth(before, held())).toEqual([]);
    expect(world.gateway.relay.component.leafList()).toHaveLength(total);
    expect(await world.metric("leaves_known")).toBe(total);
    expect(await world.metric("leaves_connected")).toBe(0);
    expect(await world.metric("leaf_connections")).toBe(0);
    expect(await world.metric("defects_total")).toBe(0);
    expect(warnings).toEqual([]);
    expect(rejections).toEqual([]);
  },
  TIMEOUT_MS,
);

test(
  "the same leaves again and again, also refused ones, leave no more behind than once",
  async () => {
    const known = world.gateway.relay.component.leafList().length;
    const once = async (round: number): Promise<void> => {
      await Promise.all(Array.from({ length: AT_ONCE }, (_, at) => visit(`churn-0-${at}`, (round + at) % 2)));
      await Promise.all(Array.from({ length: AT_ONCE }, () => refusedVisit()));
      await quiet();
    };
    await once(0);
    const before = held();
    for (let round = 0; round < 5; round += 1) await once(round);
    await world.until("what was held at first", () => growth(before, held()).length === 0).catch(() => undefined);
    expect(growth(before, held())).toEqual([]);
    expect(world.gateway.relay.component.leafList()).toHaveLength(known);
    expect(warnings).toEqual([]);
    expect(rejections).toEqual([]);
  },
  TIMEOUT_MS,
);

async function refusedVisit(): Promise<void> {
  const leaf = world.socket();
  expect((await leaf.connect("churn/module", { username: "hub/churn/module/?api-version=1" })).code).toBe(5);
  await leaf.closed;
}

function growth(before: Readonly<Record<string, number>>, now: Readonly<Record<string, number>>): readonly string[] {
  return Object.entries(now)
    .filter(([name, count]) => count > (before[name] ?? 0))
    .map(([name, count]) => `${name}: ${before[name]} -> ${count}`);
}
