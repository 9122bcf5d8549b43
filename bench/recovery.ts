/** How soon all is well again: desired changes after the return of the link and of the WAN, and leaves that read while there is none. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { mergeConfig } from "../src/config.ts";
import { type DevHub, startDevHub } from "../src/devhub/devhub.ts";
import { type Gateway, startGateway as startInProcess } from "../src/gateway.ts";
import { gatewayEnvironment } from "../test/support/gateway-process.ts";
import { NumberedLeaf } from "../test/support/numbered-leaf.ts";
import { startTcpProxy } from "../test/support/tcp-proxy.ts";
import { startGateway, startHub } from "./hub.ts";
import { percentile } from "./percentile.ts";
import { during } from "./processes.ts";
import type { Section } from "./report.ts";
import { runLoad } from "./throughput.ts";

const MODULE = { deviceId: "edge1", moduleId: "gw" };
const LEAVES = 1_000;
const LINK_ROUNDS = 30;
const WAN_ROUNDS = 10;
const WITHIN_MS = 120_000;

/** GETs from the cache while the hub is dead, each leaf one a second. */
export async function offlineReads(folder: string): Promise<Section> {
  const rows: string[][] = [];
  await during(startHub(join(folder, "hub")), (hub) =>
    during(startGateway(hub, join(folder, "gateway")), async (front) => {
      const load = { window: 1, payloadBytes: 256, warmMs: 2_000, measureMs: 10_000, operation: "get" } as const;
      // Held until the gateway has synchronised.
      await runLoad(front, { ...load, leaves: 1, messages: 1 });
      await hub.process.kill();
      for (const perSec of [100, 1_000, 5_000]) {
        const run = await runLoad(front, { ...load, leaves: LEAVES, perSec });
        rows.push([String(perSec), run.p50Ms.toFixed(1), run.p99Ms.toFixed(1), run.end.rssMb.toFixed(0)]);
      }
    }),
  );
  return {
    title: `Twin GET while the link is down: ${LEAVES} leaves`,
    head: ["GETs/s of all", "p50 ms", "p99 ms", "RSS MB"],
    rows,
    note: "Goal: p99 of 10 ms, at most 50.",
  };
}

/** From the moment that the line is whole to the moment that the leaf has the change that was made meanwhile. */
export async function recovery(folder: string): Promise<Section> {
  const rows: string[][] = [];
  await during(startDevHub({ mqttPort: 0, servicePort: 0, metricsPort: 0, probePort: 0 }), (hub) =>
    during(startTcpProxy({ port: hub.mqttPort }), (proxy) =>
      during(gatewayBehind(hub, proxy.port, folder), (gateway) =>
        during(NumberedLeaf.connect("waiting", gateway.broker.ports.plain ?? 0), async (leaf) => {
          await until(() => gateway.relay.synchronised);
          const link: number[] = [];
          for (let n = 0; n < LINK_ROUNDS; n += 1) {
            proxy.mode = { kind: "refuse" };
            proxy.reset();
            await until(() => !gateway.relay.linkUp);
            desire(hub, `link ${n}`);
            await delay(500 * (n % 10));
            proxy.mode = { kind: "pass" };
            link.push(await heardAfter(leaf, `link ${n}`));
          }
          rows.push(row("the link to edgeHub, refused 0 to 5 s", link));
          const wan: number[] = [];
          for (let n = 0; n < WAN_ROUNDS; n += 1) {
            // Past the read with which the last return compares: in the next outage it would hang.
            await delay(25_000);
            hub.wan.cut("refused");
            desire(hub, `wan ${n}`);
            await delay(15_000);
            hub.wan.restore();
            wan.push(await heardAfter(leaf, `wan ${n}`));
          }
          rows.push(row("the WAN, away 15 s without traffic", wan));
        }),
      ),
    ),
  );
  return {
    title: "Time to desired after the return",
    head: ["of", "rounds", "p50 ms", "max ms"],
    rows,
    note: "Goal: 2,000 ms. The back-off of the link is capped at 3 s; the WAN's return is probed every 2 s while it is away.",
  };
}

async function gatewayBehind(hub: DevHub, port: number, folder: string): Promise<Gateway> {
  mkdirSync(folder, { recursive: true });
  const environment = gatewayEnvironment(hub, 0, folder, { IOTEDGE_GATEWAYHOSTNAME: `localhost:${port}` });
  const merged = mergeConfig({}, environment);
  if (merged.kind === "invalid") throw new Error(JSON.stringify(merged.problems));
  const logDestination = { write: () => undefined };
  return startInProcess({ config: merged.config, environment, stateFolder: folder, bootId: "boot", logDestination });
}

function desire(hub: DevHub, target: string): void {
  hub.cloud.patchDesired(MODULE, { waiting: { __t: "c", target } });
}

async function heardAfter(leaf: NumberedLeaf, target: string): Promise<number> {
  const startMs = performance.now();
  await until(() => leaf.targets.at(-1) === target);
  return performance.now() - startMs;
}

async function until(isSo: () => boolean): Promise<void> {
  for (const endMs = performance.now() + WITHIN_MS; !isSo(); await delay(2))
    if (performance.now() > endMs) throw new Error(`nothing within ${WITHIN_MS} ms`);
}

function row(name: string, tookMs: readonly number[]): string[] {
  const sorted = tookMs.toSorted((a, b) => a - b);
  return [name, String(sorted.length), percentile(sorted, 0.5).toFixed(0), (sorted.at(-1) ?? Number.NaN).toFixed(0)];
}
