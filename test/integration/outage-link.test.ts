/**
 * The link between gateway and edgeHub cut at TCP level under load. Nothing that was acknowledged is lost, the order of each leaf
 * holds, and everything converges after the end (promises G1 to G4).
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { expect, test, vi } from "vitest";
import { mergeConfig } from "../../src/config.ts";
import type { JsonObject } from "../../src/core/message.ts";
import { type DevHub, startDevHub } from "../../src/devhub/devhub.ts";
import { type Gateway, startGateway } from "../../src/gateway.ts";
import { gatewayEnvironment } from "../support/gateway-process.ts";
import { NumberedLeaf } from "../support/numbered-leaf.ts";
import { startTcpProxy, type TcpProxy } from "../support/tcp-proxy.ts";

const MODULE = { deviceId: "edge1", moduleId: "gw" };
const LEAVES = ["link0", "link1"];
/** Several times what the slowest cut needs: pings every 4 s, back-off to 3 s, connect limit 10 s. */
const WATCHDOG = { timeout: 60_000, interval: 50 };

interface World {
  readonly hub: DevHub;
  readonly proxy: TcpProxy;
  readonly gateway: Gateway;
  readonly leaves: readonly NumberedLeaf[];
  /** By leaf the numbers that reached the cloud, in the order of arrival. */
  readonly arrived: ReadonlyMap<string, number[]>;
}

/** Each cut resolves when the link is bad for good and has been for a while; `end` repairs it. */
const CUTS: Readonly<Record<string, (world: World) => Promise<void>>> = {
  reset: async ({ proxy, leaves }) => {
    for (let n = 0; n < 5; n += 1) {
      proxy.reset();
      await acknowledgedMore(leaves, 5);
    }
  },
  refuse: async ({ proxy, leaves }) => {
    proxy.mode = { kind: "refuse" };
    proxy.reset();
    await acknowledgedMore(leaves, 50);
  },
  silence: async (world) => {
    world.proxy.mode = { kind: "silent" };
    await noticed(world);
  },
  "half-open": async (world) => {
    world.proxy.mode = { kind: "half-open" };
    await noticed(world);
  },
  slow: async ({ proxy, leaves }) => {
    proxy.mode = { kind: "slow", delayMs: 300 };
    await acknowledgedMore(leaves, 50);
  },
};

test.concurrent.each(Object.keys(CUTS))(
  "a link with %s converges afterwards, with nothing lost and in order",
  {
    timeout: 180_000,
  },
  async (name) => {
    await withWorld(async (world) => {
      const { hub, leaves, proxy } = world;
      const load = new AbortController();
      const work = leaves.flatMap((leaf) => [leaf.sendUntil(load.signal, 3, 10), leaf.reportUntil(load.signal, 50)]);
      await acknowledgedMore(leaves, 20);
      await CUTS[name]?.(world);
      hub.cloud.patchDesired(MODULE, Object.fromEntries(LEAVES.map((id) => [id, { __t: "c", target: name }])));
      // Leaves are acknowledged from the disk while the link is bad.
      await acknowledgedMore(leaves, 20);
      proxy.mode = { kind: "pass" };
      await acknowledgedMore(leaves, 20);
      load.abort();
      await Promise.all(work);
      await converged(world, name);
    });
  },
);

/** Time is counted in turns of the process: what a busy machine does not let run does not count against a promise. */
const TICK_MS = 100;

async function ticksUntil(isSo: () => boolean): Promise<number> {
  for (let ticks = 0; ; ticks += 1) {
    if (isSo()) return ticks;
    // Far above what is promised, so that the figure can be shown.
    if (ticks > 600) return ticks;
    await delay(TICK_MS);
  }
}

// What half-open has swallowed of a handshake never comes: that attempt ends by its own limit of 10 s.
test.concurrent.each([
  ["silent", 5],
  ["half-open", 15],
] as const)(
  "a link that goes %s is given up within 10 s and used within %i s after its return",
  { timeout: 180_000 },
  async (kind, secs) => {
    await withWorld(async ({ gateway, proxy }) => {
      proxy.mode = { kind };
      expect(await ticksUntil(() => !gateway.relay.linkUp)).toBeLessThanOrEqual(10_000 / TICK_MS);
      // It has dialled again into the silence.
      await delay(2_000);
      proxy.mode = { kind: "pass" };
      expect(await ticksUntil(() => gateway.relay.linkUp)).toBeLessThanOrEqual((secs * 1_000) / TICK_MS);
    });
  },
);

test.concurrent("a refused link is used within 5 s after its return, however long it was away", {
  timeout: 180_000,
}, async () => {
  await withWorld(async ({ gateway, proxy }) => {
    proxy.mode = { kind: "refuse" };
    proxy.reset();
    await vi.waitFor(() => expect(gateway.relay.linkUp).toBe(false), WATCHDOG);
    const dialled = proxy.accepted;
    // Long enough for the back-off to have come to its cap.
    await vi.waitFor(() => expect(proxy.accepted).toBeGreaterThan(dialled + 8), WATCHDOG);
    proxy.mode = { kind: "pass" };
    expect(await ticksUntil(() => gateway.relay.linkUp)).toBeLessThanOrEqual(5_000 / TICK_MS);
  });
});

/** The gateway has given the connection up: it dials again. */
async function noticed({ proxy }: World): Promise<void> {
  const before = proxy.accepted;
  await vi.waitFor(() => expect(proxy.accepted).toBeGreaterThan(before), WATCHDOG);
}

async function acknowledgedMore(leaves: readonly NumberedLeaf[], count: number): Promise<void> {
  const before = leaves.map(({ acknowledged }) => acknowledged.length);
  await vi.waitFor(() => {
    for (const [n, leaf] of leaves.entries())
      expect(leaf.acknowledged.length, leaf.id).toBeGreaterThanOrEqual((before[n] ?? 0) + count);
  }, WATCHDOG);
}

async function converged({ arrived, hub, leaves }: World, target: string): Promise<void> {
  for (const leaf of leaves) {
    const numbers = arrived.get(leaf.id) ?? [];
    await vi.waitFor(() => {
      const there = new Set(numbers);
      expect(
        leaf.acknowledged.filter((number) => !there.has(number)),
        `lost messages of ${leaf.id}`,
      ).toEqual([]);
      const reported = hub.cloud.twin(MODULE)?.reported[leaf.id] as JsonObject | undefined;
      for (const [key, number] of leaf.accepted) expect(reported?.[key], `${leaf.id}.${key}`).toBe(number);
      expect(leaf.targets.at(-1), `desired at ${leaf.id}`).toBe(target);
    }, WATCHDOG);
    const firstCopies = [...new Set(numbers)];
    expect(firstCopies, `order of ${leaf.id}`).toEqual(firstCopies.toSorted((a, b) => a - b));
    expect(new Set(leaf.statuses)).toEqual(new Set([204]));
    const outcome = await hub.cloud.invoke({ id: MODULE, name: `${leaf.id}*echo`, payload: 1 });
    expect(outcome).toEqual({ kind: "answer", status: 200, payload: 1 });
  }
}

async function withWorld(run: (world: World) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "gateway-link-"));
  try {
    await using hub = await startDevHub({
      mqttPort: 0,
      servicePort: 0,
      metricsPort: 0,
      probePort: 0,
      reportedSyncMs: 100,
    });
    await using proxy = await startTcpProxy({ port: hub.mqttPort });
    const environment = gatewayEnvironment(hub, 0, folder, { IOTEDGE_GATEWAYHOSTNAME: `localhost:${proxy.port}` });
    const merged = mergeConfig({}, environment);
    if (merged.kind === "invalid") throw new Error(JSON.stringify(merged.problems));
    const { config } = merged;
    const logDestination = { write: () => undefined };
    const options = { config, environment, stateFolder: folder, bootId: "boot", logDestination };
    await using gateway = await startGateway(options);
    const port = gateway.broker.ports.plain ?? 0;
    const leaves = await Promise.all(LEAVES.map((id) => NumberedLeaf.connect(id, port)));
    const arrived = new Map(LEAVES.map((id): [string, number[]] => [id, []]));
    hub.cloud.onEvent((event) => {
      if (event.kind !== "message") return;
      const numbers = arrived.get(event.message.properties["leafId"] ?? "");
      if (numbers !== undefined) numbers.push(numberOf(event.message.body));
    });
    await vi.waitFor(() => expect(gateway.relay.synchronised).toBe(true), WATCHDOG);
    try {
      await run({ hub, proxy, gateway, leaves, arrived });
    } finally {
      for (const leaf of leaves) await leaf[Symbol.asyncDispose]();
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function numberOf(body: Uint8Array): number {
  const { number } = JSON.parse(Buffer.from(body).toString()) as { readonly number: number };
  return number;
}
