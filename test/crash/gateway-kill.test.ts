/**
 * The real gateway killed at random moments under load: what it acknowledged is there afterwards, in order, and leaves that never
 * subscribe again are still served (promises G1 to G4).
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { expect, test, vi } from "vitest";
import type { JsonObject } from "../../src/core/message.ts";
import { type DevHub, startDevHub } from "../../src/devhub/devhub.ts";
import { freePort, type GatewayProcess, gatewayEnvironment, spawnGateway } from "../support/gateway-process.ts";
import { NumberedLeaf } from "../support/numbered-leaf.ts";
import { seeded } from "../support/store-history.ts";

const ROUNDS = Number(process.env["CRASH_ROUNDS"] ?? (process.env["CI"] === "1" ? 10 : 3));
const SEED = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
const LEAVES = ["kill0", "kill1", "kill2", "kill3"];
/** A round's longest life of a gateway after its start. */
const LIFE_MS = 1_500;
const MODULE = { deviceId: "edge1", moduleId: "gw" };
const WAIT = { timeout: 60_000, interval: 50 };
const FREE_PORTS = { mqttPort: 0, servicePort: 0, metricsPort: 0, probePort: 0 };

test(`${ROUNDS} kills under load lose nothing that was acknowledged (SEED=${SEED})`, { timeout: 240_000 }, async () => {
  const random = seeded(SEED);
  const folder = mkdtempSync(join(tmpdir(), "gateway-kill-"));
  await using hub = await startDevHub({ ...FREE_PORTS, reportedSyncMs: 100, restartDrainIntervalMs: 500 });
  const arrived = listen(hub);
  const port = await freePort();
  const environment = gatewayEnvironment(hub, port, folder);
  await using stack = new Stack();
  const load = new AbortController();
  let gateway = stack.use(spawnGateway(environment));
  try {
    await gateway.started;
    const leaves = await Promise.all(LEAVES.map((id) => NumberedLeaf.connect(id, port)));
    for (const leaf of leaves) stack.use(leaf);
    const work = leaves.flatMap((leaf) => [leaf.sendUntil(load.signal, 3, 10), leaf.reportUntil(load.signal, 50)]);
    const desired = desireUntil(hub, load.signal);
    for (let round = 0; round < ROUNDS; round += 1) gateway = await oneRound(hub, gateway, stack, environment, random);
    load.abort();
    const lastTarget = await desired;
    await Promise.all(work);
    await checkArrived(leaves, arrived);
    await checkTwins(hub, leaves, lastTarget);
    await checkCommands(hub, leaves);
  } finally {
    load.abort();
    rmSync(folder, { recursive: true, force: true });
  }
});

/** A life under load, in two of three rounds with the hub gone for a part of it, ended by SIGKILL; returns the next gateway. */
async function oneRound(
  hub: DevHub,
  gateway: GatewayProcess,
  stack: Stack,
  environment: Readonly<Record<string, string>>,
  random: () => number,
): Promise<GatewayProcess> {
  const cut = random();
  await delay(random() * LIFE_MS);
  if (cut < 1 / 3) hub.cutConnections();
  else if (cut < 2 / 3) await hub.killEdge("keep");
  await delay(random() * LIFE_MS);
  expect(await gateway.kill("SIGKILL")).toMatchObject({ signal: "SIGKILL" });
  const next = stack.use(spawnGateway(environment));
  // Now and then the gateway has to start without the hub.
  await Promise.all([next.started, delay(random() * LIFE_MS)]);
  if (cut >= 1 / 3 && cut < 2 / 3) await hub.startEdge();
  return next;
}

/** By leaf the numbers that reached the cloud, in the order of arrival. */
function listen(hub: DevHub): Map<string, number[]> {
  const arrived = new Map(LEAVES.map((id): [string, number[]] => [id, []]));
  hub.cloud.onEvent((event) => {
    if (event.kind !== "message") return;
    const { body, properties } = event.message;
    const numbers = arrived.get(properties["leafId"] ?? "");
    if (numbers === undefined) return;
    const { number } = JSON.parse(Buffer.from(body).toString()) as { readonly number: number };
    numbers.push(number);
  });
  return arrived;
}

/** Changes every leaf's `target` until the signal ends it; returns the last one. */
async function desireUntil(hub: DevHub, signal: AbortSignal): Promise<number> {
  let target = 0;
  while (!signal.aborted) {
    target += 1;
    hub.cloud.patchDesired(MODULE, Object.fromEntries(LEAVES.map((id) => [id, { __t: "c", target }])));
    await delay(150);
  }
  return target;
}

async function checkArrived(leaves: readonly NumberedLeaf[], arrived: Map<string, number[]>): Promise<void> {
  for (const leaf of leaves) {
    const numbers = arrived.get(leaf.id) ?? [];
    await vi.waitFor(() => {
      const there = new Set(numbers);
      const lost = leaf.acknowledged.filter((number) => !there.has(number));
      expect(lost, `lost messages of ${leaf.id}`).toEqual([]);
    }, WAIT);
    const firstCopies = [...new Set(numbers)];
    expect(firstCopies, `order of ${leaf.id}`).toEqual(firstCopies.toSorted((a, b) => a - b));
    // The test means something only when the leaf was at work.
    expect(leaf.acknowledged.length).toBeGreaterThan(ROUNDS * 10);
  }
}

async function checkTwins(hub: DevHub, leaves: readonly NumberedLeaf[], lastTarget: number): Promise<void> {
  for (const leaf of leaves) {
    await vi.waitFor(() => {
      const reported = hub.cloud.twin(MODULE)?.reported[leaf.id] as JsonObject | undefined;
      for (const [key, number] of leaf.accepted)
        expect(reported?.[key], `${leaf.id}.${key}`).toBeGreaterThanOrEqual(number);
      expect(leaf.targets.at(-1), `the last desired change at ${leaf.id}`).toBe(lastTarget);
    }, WAIT);
    expect(leaf.accepted.size).toBeGreaterThan(0);
    expect(new Set(leaf.statuses)).toEqual(new Set([204]));
    expect(leaf.versions, `versions at ${leaf.id}`).toEqual(leaf.versions.toSorted((a, b) => a - b));
  }
}

async function checkCommands(hub: DevHub, leaves: readonly NumberedLeaf[]): Promise<void> {
  for (const { id } of leaves) {
    const outcome = await hub.cloud.invoke({ id: MODULE, name: `${id}*echo`, payload: { to: id } });
    expect(outcome).toMatchObject({ kind: "answer", status: 200, payload: { to: id } });
  }
}

class Stack implements AsyncDisposable {
  readonly #held: AsyncDisposable[] = [];

  use<T extends AsyncDisposable>(resource: T): T {
    this.#held.push(resource);
    return resource;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const resource of this.#held.toReversed()) await resource[Symbol.asyncDispose]();
  }
}
