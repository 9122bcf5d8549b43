/** The development hub and, in front of it, either the gateway or the floor: what a leaf load is sent to. */
import { join } from "node:path";
import { z } from "zod";
import { during, type Process, startProcess } from "./processes.ts";
import type { HubAddress } from "./upstream.ts";

const Announcement = z.object({
  environment: z.record(z.string(), z.string()),
  moduleConnectionString: z.string(),
  caFile: z.string(),
  mqttPort: z.number(),
  metricsUrl: z.string(),
  probeAddress: z.object({ host: z.string(), port: z.number() }),
});
type Announced = z.output<typeof Announcement>;

export interface Hub extends AsyncDisposable {
  readonly announced: Announced;
  readonly process: Process;
  /** Messages that the hub has passed to the cloud, which is where a back end hears them. */
  events(): Promise<number>;
}

export interface Front extends AsyncDisposable {
  readonly process: Process;
  readonly port: number;
  readonly tlsPort: number;
}

export async function startHub(folder: string, settings: Readonly<Record<string, number>> = {}): Promise<Hub> {
  const ports = ["MQTT", "SERVICE", "METRICS", "PROBE"].map((name) => [`DEVHUB_${name}_PORT`, "0"]);
  const child = startProcess("src/devhub/main.ts", [], {
    BENCH_ROLE: "HUB",
    DEVHUB_STATE: folder,
    DEVHUB_SETTINGS: JSON.stringify(settings),
    ...Object.fromEntries(ports),
  });
  const announced = Announcement.parse(JSON.parse(await child.line(/^\{.*"ready":true/)));
  return {
    announced,
    process: child,
    events: async () => sumOf(await (await fetch(announced.metricsUrl)).text(), "edgehub_messages_sent_total"),
    [Symbol.asyncDispose]: () => child[Symbol.asyncDispose](),
  };
}

/** `settings` by their names in the environment. The rate limits for one leaf are lifted: they would be all that is measured. */
export async function startGateway(
  hub: Hub,
  folder: string,
  settings: Readonly<Record<string, string>> = {},
): Promise<Front> {
  const { environment, metricsUrl, probeAddress } = hub.announced;
  const child = startProcess("src/main.ts", [], {
    BENCH_ROLE: "GATEWAY",
    ...environment,
    GATEWAY_STATE: folder,
    GATEWAY_AUTH_MODE: "development",
    GATEWAY_TLS_BIND: "127.0.0.1",
    GATEWAY_TLS_PORT: "0",
    GATEWAY_PLAIN_ENABLED: "true",
    GATEWAY_PLAIN_PORT: "0",
    GATEWAY_OPS_ENABLED: "false",
    GATEWAY_EDGE_HUB_METRICS_URL: metricsUrl,
    GATEWAY_WAN_PROBE_ADDRESS: `${probeAddress.host}:${probeAddress.port}`,
    GATEWAY_MAX_MESSAGES_PER_SEC_PER_LEAF: "1000000",
    GATEWAY_MAX_BYTES_PER_SEC_PER_LEAF: "1000000000",
    ...settings,
  });
  const started = z
    .object({ plain: z.number(), tls: z.number() })
    .parse(JSON.parse(await child.line(/"gateway started"/, START_WITHIN_MS)));
  return frontOf(child, started.plain, started.tls);
}

/** A large queue takes its time to be read. */
const START_WITHIN_MS = 60_000;

export async function startFloor(hub: Hub, upstream: "bare" | "sdk" = "bare"): Promise<Front> {
  const child = startProcess(join("bench", "floor.ts"), [addressOf(hub), upstream], { BENCH_ROLE: "FLOOR" });
  const started = z.object({ plain: z.number() }).parse(JSON.parse(await child.line(/"plain"/)));
  return frontOf(child, started.plain, 0);
}

/** Messages each second that the unmodified ModuleClient alone brings to the hub. */
export function sendBare(
  hub: Hub,
  messages: number,
  bytes: number,
  properties: Readonly<Record<string, string>> = {},
): Promise<number> {
  const given = [addressOf(hub), String(messages), String(bytes), JSON.stringify(properties)];
  return during(startProcess(join("bench", "sender.ts"), given), async (child) => {
    const said = await child.line(/"perSec"/, 60_000 + messages);
    return z.object({ perSec: z.number() }).parse(JSON.parse(said)).perSec;
  });
}

function addressOf({ announced }: Hub): string {
  const { moduleConnectionString: connectionString, caFile, mqttPort: port } = announced;
  const address: HubAddress = { connectionString, caFile, port };
  return JSON.stringify(address);
}

function frontOf(child: Process, port: number, tlsPort: number): Front {
  return { process: child, port, tlsPort, [Symbol.asyncDispose]: () => child[Symbol.asyncDispose]() };
}

function sumOf(metrics: string, name: string): number {
  let sum = 0;
  for (const line of metrics.split("\n")) if (line.startsWith(`${name}{`)) sum += Number(line.split("} ")[1]);
  return sum;
}
