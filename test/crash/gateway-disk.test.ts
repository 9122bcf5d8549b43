/** The whole gateway on a disk in trouble: what was acknowledged is there, leaves keep the rest, and it goes on without a hand (G1, G8). */
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { type DevHub, startDevHub } from "../../src/devhub/devhub.ts";
import { freePort, type GatewayProcess, gatewayEnvironment, spawnGateway } from "../support/gateway-process.ts";
import { NumberedLeaf } from "../support/numbered-leaf.ts";
import { canMakeReadOnly, canMount, SmallDisk } from "../support/small-disk.ts";

const V1 = new URL("../fixtures/store/v1/", import.meta.url).pathname;
const WAIT = { timeout: 90_000, interval: 100 };
const ROOMY = {
  GATEWAY_MAX_SIZE_BYTES: "8000000000",
  GATEWAY_MAX_BYTES_PER_SEC_PER_LEAF: "1000000000",
  GATEWAY_MAX_MESSAGES_PER_SEC_PER_LEAF: "100000",
};

let hub: DevHub;
/** By leaf the numbers that reached the cloud, in the order of arrival. */
const arrived = new Map<string, number[]>();
/** The bodies of what is stored in the fixtures, as they arrive: `payload 4`. */
const fromFixtures: string[] = [];

beforeAll(async () => {
  hub = await startDevHub({ mqttPort: 0, servicePort: 0, metricsPort: 0, probePort: 0, restartDrainIntervalMs: 100 });
  hub.cloud.onEvent((event) => {
    const leafId = event.kind === "message" ? event.message.properties["leafId"] : undefined;
    if (event.kind !== "message" || leafId === undefined) return;
    const text = Buffer.from(event.message.body).toString();
    if (text.startsWith("payload")) {
      fromFixtures.push(text);
      return;
    }
    const { number } = JSON.parse(text) as { readonly number: number };
    arrived.set(leafId, [...(arrived.get(leafId) ?? []), number]);
  });
});
afterAll(() => hub[Symbol.asyncDispose]());

/** Nothing that the leaf saw acknowledged is missing, and its order is kept. */
async function expectAllOf(leaf: NumberedLeaf): Promise<void> {
  await vi.waitFor(() => {
    const there = new Set(arrived.get(leaf.id));
    expect(leaf.acknowledged.filter((number) => !there.has(number))).toEqual([]);
  }, WAIT);
  const firstCopies = [...new Set(arrived.get(leaf.id))];
  expect(firstCopies).toEqual(firstCopies.toSorted((a, b) => a - b));
}

async function saysSoon(gateway: GatewayProcess, words: string): Promise<void> {
  await vi.waitFor(() => expect(gateway.output).toContain(words), WAIT);
}

function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "gateway-disk-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

describe.skipIf(!canMount)("a full disk", () => {
  test("withholds what it cannot store, survives a kill, and empties itself when edgeHub is back", async () => {
    using disk = SmallDisk.memory(96);
    if (disk === undefined) throw new Error("the disk cannot be mounted any more");
    const port = await freePort();
    const environment = gatewayEnvironment(hub, port, join(disk.path, "state"), ROOMY);
    await using first = spawnGateway(environment);
    await first.started;
    await using leaf = await NumberedLeaf.connect("full", port, 50_000);
    await leaf.send();
    await hub.killEdge("keep");
    onTestFinished(() => hub.startEdge());
    const load = new AbortController();
    const work = leaf.sendUntil(load.signal, 8, 0);
    await saysSoon(first, "the disk is full");
    // Nothing is promised any more; what the leaf has sent comes again.
    await saysSoon(first, "neither the hub nor the disk has taken it in time");
    await first.kill("SIGKILL");
    await using second = spawnGateway(environment);
    await second.started;
    const acknowledged = leaf.acknowledged.length;
    expect(acknowledged).toBeGreaterThan(100);
    await hub.startEdge();
    await vi.waitFor(() => expect(leaf.acknowledged.length).toBeGreaterThan(acknowledged + 200), WAIT);
    load.abort();
    await work;
    await expectAllOf(leaf);
    expect(second.output).not.toContain("is damaged");
    expect(await second.kill("SIGTERM")).toEqual({ code: 0, signal: null });
  });

  test("is survived when others fill it: telemetry goes on with edgeHub there, twins wait, all by itself afterwards", async () => {
    using disk = SmallDisk.memory(96);
    if (disk === undefined) throw new Error("the disk cannot be mounted any more");
    const port = await freePort();
    await using gateway = spawnGateway(gatewayEnvironment(hub, port, join(disk.path, "state"), ROOMY));
    await gateway.started;
    await using leaf = await NumberedLeaf.connect("others", port);
    expect(await leaf.report({ before: 1 })).toMatchObject({ status: 204 });
    // Twice: the reserve is given up for the first small writes, and taken by the others as well.
    let filler = disk.fill();
    await vi.waitFor(async () => {
      filler = disk.fill();
      expect((await leaf.report({ during: Math.random() }))?.status).toBe(500);
    }, WAIT);
    for (let n = 0; n < 50; n += 1) await leaf.send();
    rmSync(filler);
    await vi.waitFor(async () => expect((await leaf.report({ after: 1 }))?.status).toBe(204), WAIT);
    await expectAllOf(leaf);
    expect(await gateway.kill("SIGTERM")).toEqual({ code: 0, signal: null });
  });
});

describe.skipIf(!canMakeReadOnly)("a disk that becomes read-only", () => {
  test("stops nothing that needs no writing, and loses nothing that was acknowledged", async () => {
    using disk = SmallDisk.device(96);
    if (disk === undefined) throw new Error("the disk cannot be mounted any more");
    const port = await freePort();
    const environment = gatewayEnvironment(hub, port, join(disk.path, "state"), ROOMY);
    await using first = spawnGateway(environment);
    await first.started;
    await using leaf = await NumberedLeaf.connect("read-only", port);
    // A twin that was never read could not be stored now, and what is not known is not told.
    await vi.waitFor(async () => expect((await leaf.get())?.status).toBe(200), WAIT);
    await hub.killEdge("keep");
    onTestFinished(() => hub.startEdge());
    for (let n = 0; n < 20; n += 1) await leaf.send();
    disk.fail();
    const unsafe = Promise.all(Array.from({ length: 5 }, () => leaf.send()));
    await saysSoon(first, "neither the hub nor the disk has taken it in time");
    expect(leaf.acknowledged).toHaveLength(20);
    // What is stored is readable and goes up; what is not is sent again by the leaf, and edgeHub is its safe place.
    await hub.startEdge();
    await unsafe;
    expect((await leaf.get())?.status).toBe(200);
    expect((await leaf.report({ a: 1 }))?.status).toBe(500);
    await expectAllOf(leaf);
    await first.kill("SIGKILL");
    disk.mend();
    await using second = spawnGateway(environment);
    await second.started;
    await vi.waitFor(async () => expect((await leaf.report({ a: 2 }))?.status).toBe(204), WAIT);
    expect(await second.kill("SIGTERM")).toEqual({ code: 0, signal: null });
  });

  test.each([true, false])("is said at the start (the folder is there: %s)", async (isThere) => {
    using disk = SmallDisk.device(64);
    if (disk === undefined) throw new Error("the disk cannot be mounted any more");
    const folder = join(disk.path, "state");
    if (isThere) mkdirSync(folder);
    disk.fail();
    await using gateway = spawnGateway(gatewayEnvironment(hub, await freePort(), folder));
    expect(await gateway.ended).toEqual({ code: 1, signal: null });
    expect(gateway.output).toMatch(/STORE_FAILED: .*state.*read-only/i);
  });
});

describe("a damaged database", () => {
  test.each([
    { damage: "truncated", says: "gateway started", seqs: [1, 3, 4, 5, 6, 7, 8] },
    { damage: "bad-checksum", says: "a stored entry is damaged", seqs: [1, 4, 6, 7, 8] },
  ])("$damage: the gateway says it, and sends what is readable", async ({ damage, says, seqs }) => {
    const folder = temporaryFolder();
    cpSync(join(V1, damage), join(folder, "store"), { recursive: true });
    fromFixtures.length = 0;
    // The entries of the fixtures are as old as 1970; the first is retained, and this is another boot of the machine.
    const environment = gatewayEnvironment(hub, await freePort(), folder, { GATEWAY_TIME_TO_LIVE_SECS: "9000000000" });
    await using gateway = spawnGateway(environment);
    await gateway.started;
    await saysSoon(gateway, says);
    await vi.waitFor(() => expect(fromFixtures).toEqual(seqs.map((seq) => `payload ${seq}`)), WAIT);
    expect(await gateway.kill("SIGTERM")).toEqual({ code: 0, signal: null });
  });

  test("what cannot be opened is set aside, and the gateway goes on with what is readable", async () => {
    const folder = temporaryFolder();
    cpSync(join(V1, "truncated"), join(folder, "store"), { recursive: true });
    rmSync(join(folder, "store", "CURRENT"));
    fromFixtures.length = 0;
    const environment = gatewayEnvironment(hub, await freePort(), folder, { GATEWAY_TIME_TO_LIVE_SECS: "9000000000" });
    await using gateway = spawnGateway(environment);
    await gateway.started;
    await saysSoon(gateway, "the damaged database was set aside");
    await vi.waitFor(() => expect(fromFixtures).toContain("payload 8"), WAIT);
    expect(readdirSync(folder).filter((name) => name.startsWith("store.damaged-"))).toHaveLength(1);
    expect(await gateway.kill("SIGTERM")).toEqual({ code: 0, signal: null });
  });

  test("one of a newer gateway is refused and left alone", async () => {
    const folder = temporaryFolder();
    cpSync(join(V1, "future-version"), join(folder, "store"), { recursive: true });
    await using gateway = spawnGateway(gatewayEnvironment(hub, await freePort(), folder));
    expect(await gateway.ended).toEqual({ code: 1, signal: null });
    expect(gateway.output).toContain("STATE_FORMAT");
    expect(readdirSync(folder)).toEqual(["store"]);
  });
});
