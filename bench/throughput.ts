/** Telemetry from leaf to hub: the gateway over TCP and TLS, and the floor, in turns against one hub process. */
import { join } from "node:path";
import { z } from "zod";
import { type Front, type Hub, startFloor, startGateway, startHub } from "./hub.ts";
import type { Load } from "./load.ts";
import { median } from "./percentile.ts";
import { during, startProcess, type Usage } from "./processes.ts";
import type { Section } from "./report.ts";

const Figures = z.object({ acked: z.number(), seconds: z.number(), p50Ms: z.number(), p99Ms: z.number() });

export interface LoadRun extends z.output<typeof Figures> {
  readonly begin: Usage;
  readonly end: Usage;
  /** Everything that was acknowledged, also before and after the measured time. */
  readonly total: number;
}

interface Round {
  readonly perSec: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly cpuMsPerThousand: number;
  readonly rssMb: number;
}

const ROUNDS = Number(process.env["BENCH_ROUNDS"] ?? 3);
/** Warm means compiled: that takes a slow machine some seconds. */
const LOAD = { leaves: 100, window: 4, payloadBytes: 256, warmMs: 5_000, measureMs: 5_000 } as const;

/** One load against one front; processor time and memory are the front's. */
export async function runLoad(
  front: Front,
  load: Omit<Load, "port">,
  at: { begin?(): Promise<void>; end?(): Promise<void> } = {},
): Promise<LoadRun> {
  const port = load.caFile === undefined ? front.port : front.tlsPort;
  const argument: Load = { ...load, port };
  return during(startProcess(join("bench", "load.ts"), [JSON.stringify(argument)]), async (child) => {
    // A leaf that is new to the gateway is written down before it is let in.
    await child.line(/^connected/, 120_000);
    await child.line(/^begin/);
    const begin = front.process.usage();
    await at.begin?.();
    const line = await child.line(/^end /, 300_000);
    const end = front.process.usage();
    await at.end?.();
    const { total } = z.object({ total: z.number() }).parse(JSON.parse(await child.line(/"total"/, 90_000)));
    return { ...Figures.parse(JSON.parse(line.slice("end ".length))), begin, end, total };
  });
}

/** What the hub heard between the two marks; the load's own count would also hold what is still on its way. */
async function round(hub: Hub, front: Front, caFile?: string): Promise<Round> {
  const marks: { events: number; atMs: number }[] = [];
  const mark = async (): Promise<void> => {
    marks.push({ events: await hub.events(), atMs: performance.now() });
  };
  const before = await hub.events();
  const run = await runLoad(
    front,
    { ...LOAD, ...(caFile === undefined ? {} : { caFile }) },
    { begin: mark, end: mark },
  );
  await heard(hub, before + run.total);
  const [first, last] = marks;
  const events = (last?.events ?? 0) - (first?.events ?? 0);
  return {
    perSec: (events / ((last?.atMs ?? 0) - (first?.atMs ?? 0))) * 1000,
    p50Ms: run.p50Ms,
    p99Ms: run.p99Ms,
    cpuMsPerThousand: ((run.end.cpuMs - run.begin.cpuMs) / events) * 1000,
    rssMb: run.end.peakRssMb,
  };
}

/** Every acknowledged message must have become an event; a figure of messages that got lost is none. */
export async function heard(hub: Hub, atLeast: number, withinMs = 60_000): Promise<void> {
  const endMs = performance.now() + withinMs;
  for (;;) {
    const events = await hub.events();
    if (events >= atLeast) return;
    if (performance.now() > endMs) throw new Error(`the hub heard ${events} of ${atLeast} acknowledged messages`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

export function throughput(folder: string): Promise<Section> {
  return during(startHub(join(folder, "hub")), (hub) => alternate(hub, folder));
}

async function alternate(hub: Hub, folder: string): Promise<Section> {
  const rounds: Record<"gateway" | "tls" | "floor" | "sdk", Round[]> = { gateway: [], tls: [], floor: [], sdk: [] };
  for (let n = 0; n < ROUNDS; n += 1) {
    await during(startFloor(hub), async (floor) => {
      rounds.floor.push(await round(hub, floor));
    });
    await during(startFloor(hub, "sdk"), async (floor) => {
      rounds.sdk.push(await round(hub, floor));
    });
    await during(startGateway(hub, join(folder, `gateway${n}`)), async (gateway) => {
      rounds.gateway.push(await round(hub, gateway));
      rounds.tls.push(await round(hub, gateway, hub.announced.caFile));
    });
  }
  const floor = middle(rounds.floor);
  const row = (name: string, { perSec, p50Ms, p99Ms, cpuMsPerThousand, rssMb }: Round): string[] => [
    name,
    perSec.toFixed(0),
    (perSec / floor.perSec).toFixed(2),
    p50Ms.toFixed(1),
    p99Ms.toFixed(1),
    cpuMsPerThousand.toFixed(0),
    (cpuMsPerThousand / floor.cpuMsPerThousand).toFixed(2),
    rssMb.toFixed(0),
  ];
  return {
    title: `Telemetry: ${LOAD.leaves} leaves, ${LOAD.payloadBytes}-byte JSON, QoS 1, window ${LOAD.window}, median of ${ROUNDS}`,
    head: ["", "messages/s", "of floor", "PUBACK p50 ms", "p99 ms", "CPU ms per 1,000", "of floor", "peak RSS MB"],
    rows: [
      row("floor, TCP", floor),
      row("floor with the SDK's ModuleClient, TCP", middle(rounds.sdk)),
      row("gateway, TCP", middle(rounds.gateway)),
      row("gateway, TLS", middle(rounds.tls)),
    ],
    note: "Targets over TCP: at least 0.6 of the floor's messages/s, at most 2.0 times its CPU. The floor speaks TCP to its leaves and TLS to the hub, as the gateway does; the second one shows what the SDK alone costs.",
  };
}

/** Answered from the gateway's cache; a report is answered once it is on disk. */
export function twins(folder: string): Promise<Section> {
  return during(startHub(join(folder, "hub")), (hub) =>
    during(startGateway(hub, join(folder, "gateway")), async (gateway) => {
      const rows: string[][] = [];
      for (const operation of ["get", "patch"] as const) {
        const run = await runLoad(gateway, { ...LOAD, window: 1, operation });
        const cpuMs = ((run.end.cpuMs - run.begin.cpuMs) / run.acked) * 1000;
        const perSec = run.acked / run.seconds;
        const figures = [run.p50Ms.toFixed(1), run.p99Ms.toFixed(1), cpuMs.toFixed(0), run.end.rssMb.toFixed(0)];
        rows.push([operation === "get" ? "GET" : "reported PATCH", perSec.toFixed(0), ...figures]);
      }
      return {
        title: `Twin operations: ${LOAD.leaves} leaves, one request of each at a time`,
        head: ["", "answers/s", "p50 ms", "p99 ms", "CPU ms per 1,000", "RSS MB"],
        rows,
      };
    }),
  );
}

function middle(rounds: readonly Round[]): Round {
  const of = (key: keyof Round): number => median(rounds.map((round) => round[key]));
  return {
    perSec: of("perSec"),
    p50Ms: of("p50Ms"),
    p99Ms: of("p99Ms"),
    cpuMsPerThousand: of("cpuMsPerThousand"),
    rssMb: of("rssMb"),
  };
}
