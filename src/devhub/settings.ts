/**
 * Every number of the development hub on one page. The defaults are what the real edgeHub and IoT Hub do
 * [iothub-mqtt.md]; tests divide the long ones.
 */

import { z } from "zod";

/** `edgehub`: the module's neighbour on the box, with a cloud behind it. `iothub`: the strict cloud itself. */
export type Personality = "edgehub" | "iothub";

export interface DevHubSettings {
  readonly personality: Personality;
  /** The Edge device and the module that exist from the start. */
  readonly deviceId: string;
  readonly moduleId: string;
  /** Goes into SAS audiences and user names; nothing listens under this name. */
  readonly iotHubHostName: string;
  /** The name that modules dial and that edgeHub's certificate carries, without a port. */
  readonly gatewayHostName: string;
  /** All listeners bind here; `0.0.0.0` in a container. */
  readonly bind: string;
  /** Ports: 0 takes a free one. */
  readonly mqttPort: number;
  readonly servicePort: number;
  readonly metricsPort: number;
  /** Stands for port 443 of the hub's host: what a gateway probes to learn whether the WAN is there. */
  readonly probePort: number;
  /** A TCP port of the workload API beside its socket; undefined: the socket only. */
  readonly workloadPort: number | undefined;
  /** The workload API's socket; undefined: in the state folder. */
  readonly workloadSocket: string | undefined;
  /** A port for MQTT without TLS, for tests with a wire tap; undefined: none. */
  readonly plainMqttPort: number | undefined;
  /** Where state survives a restart; undefined: in memory, with the socket in a temporary folder. */
  readonly stateFolder: string | undefined;

  /** edgeHub's routes, e.g. `FROM /messages/modules/gw/outputs/telemetry INTO $upstream`. */
  readonly routes: readonly string[];
  readonly timeToLiveSecs: number;
  /** Messages per round trip and identity [edgeHub MaxUpstreamBatchSize]. */
  readonly maxUpstreamBatchSize: number;
  readonly cloudRoundTripMs: number;
  /** After a restart a stored backlog goes out at 100 messages per interval, until the first new message from any client. */
  readonly restartDrainIntervalMs: number;

  /** CONNECT must arrive within [edgeHub ConnectArrivalTimeout]. */
  readonly connectArrivalTimeoutMs: number;
  /** Upper end of 1.5 x keep-alive, and its value when a client asks for none [edgeHub MaxKeepAliveTimeout]. */
  readonly maxKeepAliveMs: number;
  /** A module's input message is sent again when it is not acknowledged within [edgeHub MessageAckTimeoutSecs]. */
  readonly messageAckTimeoutMs: number;
  readonly clockSkewMs: number;
  /** Connected clients whose token has run out are dropped at the next of these rounds [EH ConnectionReauthenticator]. */
  readonly reauthenticationIntervalMs: number;

  /** A module's first desired subscription is granted at once; the cloud, which is told of it, sends changes only so much later. */
  readonly subscriptionDelayMs: number;
  /** Reported patches go to the cloud at most this often [edgeHub ReportedPropertiesSyncFrequencySecs]. */
  readonly reportedSyncMs: number;
  /** A twin read while the line is cut takes this long before the store answers. */
  readonly readInOutageMs: number;
  /** After an outage shorter than this, measured from the last read, edgeHub does not compare twins [MinTwinSyncPeriodSecs]. */
  readonly minTwinSyncPeriodMs: number;
  /** How long after the line is back edgeHub notices by itself. */
  readonly resumeAfterSilentMs: number;
  readonly resumeAfterRefusedMs: number;
  /** What the first read after a `refused` cut with traffic takes; it wakes edgeHub. After a `silent` one it takes readInOutageMs. */
  readonly wakingReadMs: number;
  /** An operation that hangs this long in a cut makes edgeHub count itself offline. */
  readonly offlineNoticeMs: number;

  /** Life of certificates from the workload API [Edge daemon: 30 days]. */
  readonly serverCertificateLifeMs: number;
}

const DAY_MS = 24 * 3_600_000;

export const DEFAULT_SETTINGS: DevHubSettings = {
  personality: "edgehub",
  deviceId: "edge1",
  moduleId: "gw",
  iotHubHostName: "devhub.azure-devices.net",
  gatewayHostName: "localhost",
  bind: "127.0.0.1",
  mqttPort: 18883,
  servicePort: 18443,
  metricsPort: 19600,
  probePort: 18444,
  workloadPort: undefined,
  workloadSocket: undefined,
  plainMqttPort: undefined,
  stateFolder: undefined,
  routes: ["FROM /messages/* INTO $upstream"],
  timeToLiveSecs: 7200,
  maxUpstreamBatchSize: 10,
  cloudRoundTripMs: 0,
  restartDrainIntervalMs: 10_000,
  connectArrivalTimeoutMs: 60_000,
  maxKeepAliveMs: 600_000,
  messageAckTimeoutMs: 30_000,
  clockSkewMs: 300_000,
  reauthenticationIntervalMs: 300_000,
  subscriptionDelayMs: 25,
  reportedSyncMs: 5_000,
  readInOutageMs: 20_000,
  minTwinSyncPeriodMs: 120_000,
  resumeAfterSilentMs: 23_000,
  resumeAfterRefusedMs: 40_000,
  wakingReadMs: 4_900,
  offlineNoticeMs: 30_000,
  serverCertificateLifeMs: 30 * DAY_MS,
};

export type ParsedSettings =
  | { readonly kind: "valid"; readonly settings: Partial<DevHubSettings> }
  | { readonly kind: "invalid"; readonly problems: readonly string[] };

const Text = z.string().min(1).optional();
const Port = z.coerce.number().int().min(0).max(65_535).optional();
/** The numbers among the settings, by name: limits and times. */
const Numbers = z.partialRecord(z.enum(numericSettings()), z.number().nonnegative());

const Environment = z.object({
  DEVHUB_STATE: z.string().default("./.devhub"),
  DEVHUB_PERSONALITY: z.enum(["edgehub", "iothub"]).optional(),
  DEVHUB_DEVICE_ID: Text,
  DEVHUB_MODULE_ID: Text,
  DEVHUB_IOTHUB_HOSTNAME: Text,
  DEVHUB_GATEWAY_HOSTNAME: Text,
  DEVHUB_BIND: Text,
  DEVHUB_WORKLOAD_SOCKET: Text,
  DEVHUB_MQTT_PORT: Port,
  DEVHUB_PLAIN_MQTT_PORT: Port,
  DEVHUB_SERVICE_PORT: Port,
  DEVHUB_METRICS_PORT: Port,
  DEVHUB_PROBE_PORT: Port,
  DEVHUB_WORKLOAD_PORT: Port,
  DEVHUB_ROUTES: z.string().transform(nonEmptyLines).optional(),
  DEVHUB_SETTINGS: z.string().transform(parseJson).pipe(Numbers).optional(),
});

/** Settings from `DEVHUB_*`; every problem is named with its variable, not only the first. */
export function parseEnvironment(environment: Readonly<Record<string, string | undefined>>): ParsedSettings {
  // An empty variable is an unset one, as compose files write it.
  const set = Object.fromEntries(Object.entries(environment).filter(([, value]) => value !== ""));
  const parsed = Environment.safeParse(set);
  if (!parsed.success) {
    return { kind: "invalid", problems: parsed.error.issues.map((i) => `${i.path.join(".")}: ${i.message}`) };
  }
  const { data } = parsed;
  const named = {
    stateFolder: data.DEVHUB_STATE,
    personality: data.DEVHUB_PERSONALITY,
    deviceId: data.DEVHUB_DEVICE_ID,
    moduleId: data.DEVHUB_MODULE_ID,
    iotHubHostName: data.DEVHUB_IOTHUB_HOSTNAME,
    gatewayHostName: data.DEVHUB_GATEWAY_HOSTNAME,
    bind: data.DEVHUB_BIND,
    workloadSocket: data.DEVHUB_WORKLOAD_SOCKET,
    mqttPort: data.DEVHUB_MQTT_PORT,
    plainMqttPort: data.DEVHUB_PLAIN_MQTT_PORT,
    servicePort: data.DEVHUB_SERVICE_PORT,
    metricsPort: data.DEVHUB_METRICS_PORT,
    probePort: data.DEVHUB_PROBE_PORT,
    workloadPort: data.DEVHUB_WORKLOAD_PORT,
    routes: data.DEVHUB_ROUTES,
  };
  const given = Object.fromEntries(Object.entries(named).filter(([, value]) => value !== undefined));
  return { kind: "valid", settings: { ...given, ...data.DEVHUB_SETTINGS } };
}

/** What to do about a port that could not be bound, with the name of its variable; undefined for any other error. */
export function sayTakenPort(error: unknown, given: Partial<DevHubSettings>): string | undefined {
  if (!(error instanceof Error) || !("code" in error) || error.code !== "EADDRINUSE" || !("port" in error))
    return undefined;
  const settings = { ...DEFAULT_SETTINGS, ...given };
  const [, variable = "its variable"] = PORT_VARIABLES.find(([key]) => settings[key] === error.port) ?? [];
  return `Port ${String(error.port)} is taken by another program, perhaps by a development hub that runs already. End that one, or choose another port with ${variable}.`;
}

const PORT_VARIABLES = [
  ["mqttPort", "DEVHUB_MQTT_PORT"],
  ["plainMqttPort", "DEVHUB_PLAIN_MQTT_PORT"],
  ["servicePort", "DEVHUB_SERVICE_PORT"],
  ["metricsPort", "DEVHUB_METRICS_PORT"],
  ["probePort", "DEVHUB_PROBE_PORT"],
  ["workloadPort", "DEVHUB_WORKLOAD_PORT"],
] as const;

function numericSettings(): string[] {
  return Object.entries(DEFAULT_SETTINGS)
    .filter(([, value]) => typeof value === "number")
    .map(([key]) => key);
}

function nonEmptyLines(text: string): string[] {
  return text.split("\n").filter((line) => line.trim() !== "");
}

function parseJson(text: string, context: z.RefinementCtx): unknown {
  try {
    return JSON.parse(text);
  } catch {
    context.addIssue({ code: "custom", message: "not JSON" });
    return z.NEVER;
  }
}
