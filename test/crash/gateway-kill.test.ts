/**
 * The real gateway and the real development hub, each killed at random moments under load: what the gateway acknowledged is there
 * afterwards, in order, and leaves that never subscribe again are still served (promises G1 to G4).
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { describe, expect, test, vi } from "vitest";
import { freePort, type GatewayProcess, gatewayEnvironment, spawnGateway } from "../support/gateway-process.ts";
import { HubJournal } from "../support/hub-journal.ts";
import { HubProcess } from "../support/hub-process.ts";
import { NumberedLeaf } from "../support/numbered-leaf.ts";
import { seeded } from "../support/store-history.ts";

const ROUNDS = Number(process.env["CRASH_ROUNDS"] ?? (process.env["CI"] === "1" ? 100 : 10));
/** Side by side, since a process that starts keeps one processor busy and a life under load waits most of its time. */
const WORLDS = process.env["CI"] === "1" ? 4 : 2;
const SEED = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
const LEAVES = ["kill0", "kill1", "kill2", "kill3"];
/** A round's longest life of a gateway after its start is twice this. */
const LIFE_MS = 750;
/** Messages of a leaf that was at work all the time; on a slow machine the load goes on after the last kill until they are there. */
const AT_WORK = 30;
const WAIT = { timeout: 180_000, interval: 100 };
const DURABILITIES = ["first-safe", "power-safe"] as const;

describe.concurrent(`${ROUNDS} kills under load (SEED=${SEED})`, () => {
  const worlds = Array.from({ length: WORLDS }, (_, at) => ({
    world: at,
    rounds: Math.floor((ROUNDS + at) / WORLDS),
    durability: DURABILITIES[at % 2] ?? "first-safe",
  }));

  test.for(worlds)(
    "world $world: $rounds kills in $durability lose nothing that was acknowledged",
    { timeout: 900_000 },
    async ({ world, rounds, durability }, { expect: check }) => {
      await using crash = await World.create(seeded(SEED + world), durability);
      for (let round = 0; round < rounds; round += 1) await crash.oneRound();
      const lastTarget = await crash.rest();
      for (const leaf of crash.leaves) {
        await checkArrived(leaf, crash.journal, check);
        await checkTwin(crash.hub, leaf, lastTarget, check);
        const answer = await crash.hub.invoke(`${leaf.id}*echo`, { to: leaf.id });
        check(answer).toMatchObject({ status: 200, payload: { to: leaf.id } });
      }
    },
  );
});

async function checkArrived(leaf: NumberedLeaf, journal: HubJournal, check: typeof expect): Promise<void> {
  await vi.waitFor(() => {
    const there = new Set(journal.of(leaf.id));
    const lost = leaf.acknowledged.filter((number) => !there.has(number));
    check(lost, `lost messages of ${leaf.id}`).toEqual([]);
  }, WAIT);
  const firstCopies = [...new Set(journal.of(leaf.id))];
  check(firstCopies, `order of ${leaf.id}`).toEqual(firstCopies.toSorted((a, b) => a - b));
  // The test means something only when the leaf was at work.
  check(leaf.acknowledged.length).toBeGreaterThan(AT_WORK);
  check(leaf.accepted.size).toBeGreaterThan(0);
}

async function checkTwin(hub: HubProcess, leaf: NumberedLeaf, lastTarget: number, check: typeof expect): Promise<void> {
  await vi.waitFor(async () => {
    const reported = (await hub.reported())?.[leaf.id] as Readonly<Record<string, unknown>> | undefined;
    for (const [key, number] of leaf.accepted)
      check(reported?.[key], `${leaf.id}.${key}`).toBeGreaterThanOrEqual(number);
    check(leaf.targets.at(-1), `the last desired change at ${leaf.id}`).toBe(lastTarget);
  }, WAIT);
  check(new Set(leaf.statuses)).toEqual(new Set([204]));
  check(leaf.versions, `versions at ${leaf.id}`).toEqual(leaf.versions.toSorted((a, b) => a - b));
}

/** A hub, a gateway that dies and lives again, and leaves that outlive both. */
class World implements AsyncDisposable {
  readonly hub: HubProcess;
  readonly journal: HubJournal;
  readonly leaves: NumberedLeaf[] = [];
  readonly #folder: string;
  readonly #random: () => number;
  readonly #load = new AbortController();
  #environment: Readonly<Record<string, string>> = {};
  #gateway: GatewayProcess | undefined;
  #work: Promise<unknown> = Promise.resolve();
  #target = 0;

  private constructor(folder: string, hub: HubProcess, random: () => number) {
    this.#folder = folder;
    this.hub = hub;
    this.journal = new HubJournal(hub.journal);
    this.#random = random;
  }

  static async create(random: () => number, durability: string): Promise<World> {
    const folder = mkdtempSync(join(tmpdir(), "gateway-kill-"));
    const hub = await HubProcess.start(join(folder, "hub"), { reportedSyncMs: 100, restartDrainIntervalMs: 500 });
    const world = new World(folder, hub, random);
    const port = await freePort();
    world.#environment = gatewayEnvironment(hub, port, join(folder, "gateway"), { GATEWAY_DURABILITY: durability });
    world.#gateway = spawnGateway(world.#environment);
    await world.#gateway.started;
    for (const id of LEAVES) world.leaves.push(await NumberedLeaf.connect(id, port));
    const { signal } = world.#load;
    world.#work = Promise.all([
      world.journal.follow(signal),
      world.#desireUntil(signal),
      ...world.leaves.flatMap((leaf) => [leaf.sendUntil(signal, 3, 20), leaf.reportUntil(signal, 50)]),
    ]);
    return world;
  }

  /** A life under load, in a third of the rounds with the link cut and in a third with the hub killed, ended by SIGKILL. */
  async oneRound(): Promise<void> {
    const random = this.#random;
    const trouble = random();
    await delay(random() * LIFE_MS);
    if (trouble < 1 / 3) await this.hub.control("cut");
    else if (trouble < 2 / 3) await this.hub.kill();
    await delay(random() * LIFE_MS);
    expect(await this.#gateway?.kill("SIGKILL")).toMatchObject({ signal: "SIGKILL" });
    this.#gateway = spawnGateway(this.#environment);
    // Now and then the gateway has to start without the hub, and now and then it dies before it has started.
    if (random() < 0.8) await this.#gateway.started;
    else await delay(random() * LIFE_MS);
    await this.hub.start();
  }

  /** Ends the load; returns the last desired value. */
  async rest(): Promise<number> {
    await this.#gateway?.started;
    await vi.waitFor(() => {
      for (const { acknowledged } of this.leaves) expect(acknowledged.length).toBeGreaterThan(AT_WORK);
    }, WAIT);
    this.#load.abort();
    await this.#work;
    await vi.waitFor(async () => expect(await this.#desire()).toBe(true), WAIT);
    return this.#target;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#load.abort();
    for (const leaf of this.leaves) await leaf[Symbol.asyncDispose]();
    await this.#gateway?.[Symbol.asyncDispose]();
    await this.hub[Symbol.asyncDispose]();
    this.journal[Symbol.dispose]();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  async #desireUntil(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#desire();
      await delay(150);
    }
  }

  #desire(): Promise<boolean> {
    this.#target += 1;
    const target = this.#target;
    return this.hub.desire(Object.fromEntries(LEAVES.map((id) => [id, { __t: "c", target }])));
  }
}
