/**
 * The one schema of the configuration. Pure: layers are handed in as values and merged, later wins:
 * defaults < config file < environment < the module twin's desired properties of the component `gateway`.
 * Defaults stand only here. Every key is flat, so that it is a PnP property of the gateway's own component under the same name.
 */
import { z } from "zod";
import { isLeafComponentName } from "./core/component-name.ts";

const port = z.number().int().min(0).max(65_535);
const positive = z.number().int().positive();
const notNegative = z.number().int().min(0);

/** Empty: there is none. */
const httpUrl = z
  .string()
  .refine(
    (text) => text === "" || /^https?:$/.test(URL.canParse(text) ? new URL(text).protocol : ""),
    "is no http URL",
  );
const hostAndPort = z.string().regex(/^(?:[^\s:/]+:\d{1,5})?$/, "is not host:port");

/** Where a key may change without a restart it is `live`; the others take effect at the next start. */
const KEYS = {
  // leaves
  tlsEnabled: { schema: z.boolean(), value: true, live: false },
  tlsPort: { schema: port, value: 8883, live: false },
  tlsBind: { schema: z.string(), value: "0.0.0.0", live: false },
  webSocketEnabled: { schema: z.boolean(), value: false, live: false },
  webSocketPort: { schema: port, value: 443, live: false },
  webSocketBind: { schema: z.string(), value: "0.0.0.0", live: false },
  tlsCertFile: { schema: z.string(), value: "", live: false },
  tlsKeyFile: { schema: z.string(), value: "", live: false },
  serverNames: { schema: z.array(z.string().min(1)), value: [], live: false },
  plainEnabled: { schema: z.boolean(), value: false, live: false },
  plainPort: { schema: port, value: 1883, live: false },
  plainBind: { schema: z.string(), value: "127.0.0.1", live: false },
  authMode: { schema: z.enum(["enforce", "development"]), value: "enforce", live: false },
  leafKeysFile: { schema: z.string(), value: "", live: false },
  groupKeyFile: { schema: z.string(), value: "", live: false },
  leafCaFile: { schema: z.string(), value: "", live: false },
  leafThumbprintsFile: { schema: z.string(), value: "", live: false },
  deniedLeaves: { schema: z.array(z.string()), value: [], live: true },
  hubHostNames: { schema: z.array(z.string().min(1)), value: [], live: false },
  // naming
  modelId: { schema: z.string().startsWith("dtmi:").max(128), value: "dtmi:iotedgePnpGateway:Gateway;1", live: false },
  aliases: {
    schema: z
      .record(
        z.string(),
        z
          .string()
          .refine(
            isLeafComponentName,
            "is no name for a leaf: letters, digits and single `_`, at most 40; not `gateway`",
          ),
      )
      .refine(
        (aliases) => new Set(Object.values(aliases)).size === Object.keys(aliases).length,
        "two leaves have one alias",
      ),
    value: {},
    live: false,
  },
  // models
  modelsFolder: { schema: z.string(), value: "", live: false },
  modelCheck: { schema: z.enum(["off", "warn", "enforce"]), value: "warn", live: true },
  // limits
  maxLeaves: { schema: positive, value: 1_000, live: true },
  maxComponentsPerLeaf: { schema: positive, value: 20, live: true },
  maxTwinBytesPerLeaf: { schema: positive, value: 8_192, live: true },
  maxConnections: { schema: positive, value: 2_000, live: false },
  maxConnectionsPerAddress: { schema: positive, value: 2_000, live: false },
  maxSubscriptionsPerLeaf: { schema: positive, value: 20, live: false },
  maxHeldPerLeaf: { schema: positive, value: 32, live: false },
  maxMessagesPerSecPerLeaf: { schema: positive, value: 200, live: false },
  maxBytesPerSecPerLeaf: { schema: positive, value: 2_097_152, live: false },
  maxMessageBytes: { schema: positive.max(262_144), value: 262_144, live: false },
  maxTopicBytes: { schema: positive.max(65_535), value: 65_535, live: false },
  maxTopicLevels: { schema: positive, value: 32, live: false },
  maxDeliveriesPerLeaf: { schema: positive, value: 128, live: false },
  maxUnreadBytesPerLeaf: { schema: positive, value: 1_048_576, live: false },
  connectTimeoutMs: { schema: positive, value: 30_000, live: false },
  tlsHandshakeTimeoutMs: { schema: positive, value: 20_000, live: false },
  // telemetry
  durability: { schema: z.enum(["first-safe", "power-safe"]), value: "first-safe", live: false },
  spillAfterMs: { schema: positive, value: 200, live: true },
  commitIntervalMs: { schema: notNegative, value: 100, live: true },
  timeToLiveSecs: { schema: positive, value: 7_200, live: true },
  maxSizeBytes: { schema: positive, value: 268_435_456, live: true },
  overflow: { schema: z.enum(["reject", "drop-oldest"]), value: "reject", live: true },
  retainAfterAckSecs: { schema: notNegative, value: 60, live: true },
  // twins
  reportedIntervalMs: { schema: notNegative, value: 5_000, live: true },
  twinReadIntervalSecs: { schema: positive, value: 900, live: true },
  edgeHubMetricsUrl: { schema: httpUrl, value: "http://edgeHub:9600/metrics", live: false },
  wanProbeAddress: { schema: hostAndPort, value: "", live: false },
  wanProbeSecs: { schema: positive, value: 10, live: false },
  // commands
  leafConnectTimeoutSecs: { schema: notNegative.max(300), value: 0, live: true },
  commandTimeoutSecs: { schema: positive.max(300), value: 25, live: true },
  maxPendingCommandsPerLeaf: { schema: positive, value: 16, live: true },
  // operations
  opsEnabled: { schema: z.boolean(), value: true, live: false },
  opsPort: { schema: port, value: 9601, live: false },
  opsBind: { schema: z.string(), value: "127.0.0.1", live: false },
  logLevel: { schema: z.enum(["debug", "info", "warn", "error"]), value: "info", live: true },
  logFormat: { schema: z.enum(["json", "iotedge"]), value: "json", live: false },
} as const satisfies Record<string, { schema: z.ZodType; value: unknown; live: boolean }>;

type Keys = typeof KEYS;
export type ConfigKey = keyof Keys;
export type Config = { readonly [K in ConfigKey]: z.output<Keys[K]["schema"]> };

interface ConfigProblem {
  /** The key or the environment variable, as the user wrote it. */
  readonly key: string;
  readonly problem: string;
}

export type ConfigResult =
  | { readonly kind: "ok"; readonly config: Config }
  | { readonly kind: "invalid"; readonly problems: readonly ConfigProblem[] };

export const CONFIG_KEYS = Object.keys(KEYS) as readonly ConfigKey[];

export function isConfigKey(key: string): key is ConfigKey {
  return Object.hasOwn(KEYS, key);
}

export function isLive(key: ConfigKey): boolean {
  return KEYS[key].live;
}

/** `spillAfterMs` is `GATEWAY_SPILL_AFTER_MS` in the environment. */
export function environmentName(key: ConfigKey): string {
  return `GATEWAY_${key.replaceAll(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`;
}

/** Variables that are no keys: where the file and the state are. */
const OTHER_VARIABLES = new Set(["GATEWAY_CONFIG", "GATEWAY_STATE"]);

/** All problems of one key's value; none when it is fine. */
export function problemsOf(key: ConfigKey, value: unknown): readonly string[] {
  const parsed = KEYS[key].schema.safeParse(value);
  return parsed.success ? [] : parsed.error.issues.map((issue) => [...issue.path, issue.message].join(": "));
}

/** Merges file and environment over the defaults; every problem is listed with the name the user knows. */
export function mergeConfig(
  file: Readonly<Record<string, unknown>>,
  environment: Readonly<Record<string, string | undefined>>,
): ConfigResult {
  const problems: ConfigProblem[] = [];
  const values: Record<string, unknown> = {};
  for (const key of CONFIG_KEYS) values[key] = KEYS[key].value;
  const set = (key: ConfigKey, value: unknown, name: string): void => {
    const found = problemsOf(key, value);
    for (const problem of found) problems.push({ key: name, problem });
    if (found.length === 0) values[key] = value;
  };
  for (const [key, value] of Object.entries(file)) {
    if (isConfigKey(key)) set(key, value, key);
    else problems.push({ key, problem: "there is no such key" });
  }
  const keyOf = new Map(CONFIG_KEYS.map((key) => [environmentName(key), key]));
  for (const [name, text] of Object.entries(environment)) {
    if (!name.startsWith("GATEWAY_") || OTHER_VARIABLES.has(name) || text === undefined) continue;
    const key = keyOf.get(name);
    if (key === undefined) problems.push({ key: name, problem: "there is no such key" });
    else set(key, fromText(key, text), name);
  }
  // Every value passed its own schema just above.
  return problems.length > 0 ? { kind: "invalid", problems } : { kind: "ok", config: values as Config };
}

/** A value of the environment: strings as they are, lists by commas or as JSON, all else as JSON. */
function fromText(key: ConfigKey, text: string): unknown {
  const { schema, value } = KEYS[key];
  if (schema.safeParse(text).success) return text;
  const json = parseJson(text);
  // A single id of digits is JSON too.
  if (Array.isArray(value) && !Array.isArray(json))
    return text === "" ? [] : text.split(",").map((part) => part.trim());
  return json === undefined ? text : json;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The configuration with one live key changed by the twin; the value must have passed {@link problemsOf}. */
export function withValue(config: Config, key: ConfigKey, value: unknown): Config {
  return { ...config, [key]: value };
}
