/**
 * The composition root: makes the adapters from the configuration, wires the relay, starts inner to outer (store, upstream, broker)
 * and stops in reverse. No logic.
 */
import { randomUUID } from "node:crypto";
import { uptime } from "node:os";
import { join } from "node:path";
import type { Config } from "./config.ts";
import { GATEWAY_COMPONENT } from "./core/component-name.ts";
import { GatewayError } from "./core/errors.ts";
import { createBroker, type LeafBroker } from "./downstream/broker.ts";
import { continuedClock } from "./flow/continued-clock.ts";
import type { Clock, Log, Store } from "./flow/ports.ts";
import { Relay } from "./flow/relay.ts";
import { leafLimits } from "./leaf-limits.ts";
import { openLeafAuthenticator, openServerCertificates } from "./leaf-security.ts";
import { LiveConfig, parseLastDesired } from "./live-config.ts";
import { readModels } from "./model-files.ts";
import { systemClock } from "./ops/clock.ts";
import { diskWrittenBytes } from "./ops/disk-writes.ts";
import { type HealthServer, startHealthServer } from "./ops/health.ts";
import { createLog, isLogLevel, limitRepeats } from "./ops/log.ts";
import { createMetrics } from "./ops/metrics.ts";
import { sha256Hex } from "./sha256-hex.ts";
import { openLevelStore } from "./store/level-store.ts";
import { dialects } from "./translate/dialects.ts";
import { edgeCredentials, type ModuleCredentials } from "./upstream/credentials.ts";
import { createModuleUpstream } from "./upstream/module-upstream.ts";
import { createWanWatch } from "./upstream/wan-watch.ts";

const VERSION = "0.1.0";
/** A clock that shows an earlier time than this release was never set. */
const RELEASED_MS = Date.UTC(2026, 10, 1);

export interface GatewayOptions {
  readonly config: Config;
  /** `IOTEDGE_*` or `EdgeHubConnectionString`, as the runtime sets them. */
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly stateFolder: string;
  /** Differs at each boot of the machine; undefined where it cannot be had. */
  readonly bootId: string | undefined;
  readonly clock?: Clock;
  /** Standard output when absent. */
  readonly logDestination?: { write(line: string): void };
}

export interface Gateway extends AsyncDisposable {
  readonly relay: Relay;
  readonly broker: LeafBroker;
  /** In force now, with what is desired of it. */
  config(): Config;
  /** Bound; undefined when it is off. */
  readonly opsPort: number | undefined;
  metricsText(): Promise<string>;
}

/** Resolves when leaves can connect; whether edgeHub is there does not matter. Throws GatewayError with what the user has to change. */
export async function startGateway(options: GatewayOptions): Promise<Gateway> {
  const stack = new Disposals();
  try {
    const gateway = await compose(options, stack);
    return { ...gateway, [Symbol.asyncDispose]: () => stack.disposeAsync() };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}

async function compose(options: GatewayOptions, stack: Disposals): Promise<Omit<Gateway, typeof Symbol.asyncDispose>> {
  const { bootId, clock: machineClock = systemClock, config: base, environment, logDestination, stateFolder } = options;
  const rawLog = createLog({
    level: base.logLevel,
    format: base.logFormat,
    ...(logDestination === undefined ? {} : { destination: logDestination }),
  });
  const log: Log = limitRepeats(rawLog, machineClock);
  const metrics = createMetrics({
    process: true,
    report: (defect) => rawLog.error({ error: String(defect) }, "defect"),
  });
  const credentials = edgeCredentials(environment);
  if (credentials === undefined) {
    throw new GatewayError(
      "CREDENTIALS_MISSING",
      "neither IOTEDGE_* nor EdgeHubConnectionString is set; for a try without Azure: npm start",
    );
  }

  const folder = join(stateFolder, "store");
  const store = stack.use(await openLevelStore({ folder, clock: machineClock, log, metrics }));
  const clock = await continuedClock({ store, clock: machineClock, log, bootId, uptimeMs: () => uptime() * 1000 });
  const clockIsSet = await clockCheck(store, clock);
  // Asked for several times by each message, so made only when the configuration changes.
  let settings = relaySettings(base);
  const live = new LiveConfig({
    base,
    changed: ({ config, problems, report }) => {
      settings = relaySettings(config);
      rawLog.setLevel(config.logLevel);
      judgeAgain();
      for (const problem of problems) {
        metrics.count("config_problems_total");
        log.warn({ problem }, "a desired configuration value was refused");
      }
      relay.report(report);
    },
  });
  const upstream = createModuleUpstream({
    credentials,
    modelId: base.modelId,
    productInfo: `iotedge-pnp-gateway/${VERSION}`,
    clock,
    log,
    metrics,
    random: Math.random,
  });
  const wan = createWanWatch({
    ...wanSources(base, credentials),
    wanProbeSecs: () => live.config.wanProbeSecs,
    clock,
    log,
  });
  const security = { config: base, credentials, clock, log, metrics };
  const certificates = stack.use(await openServerCertificates(security));
  // Called only once leaves can be connected.
  const judgeAgain = (): void =>
    void broker
      .reauthenticate()
      .catch((error: unknown) => log.error({ error: String(error) }, "leaves could not be judged again"));
  const authenticator = stack.use(
    openLeafAuthenticator({ ...security, denied: () => live.config.deniedLeaves, clockIsSet, changed: judgeAgain }),
  );
  const broker = createBroker({
    dialects,
    authenticator,
    limits: leafLimits(base),
    listeners: {
      ...(certificates === undefined
        ? {}
        : { tls: { host: base.tlsBind, port: base.tlsPort, certificates: certificates.source } }),
      ...(certificates === undefined || !base.webSocketEnabled
        ? {}
        : { webSocket: { host: base.webSocketBind, port: base.webSocketPort, certificates: certificates.source } }),
      ...(base.plainEnabled ? { plain: { host: base.plainBind, port: base.plainPort } } : {}),
      log,
    },
    clock,
    metrics,
    log,
  });

  const relay: Relay = new Relay({
    store,
    upstream,
    downstream: broker,
    wan,
    clock,
    metrics,
    log,
    random: Math.random,
    newMessageId: randomUUID,
    naming: { sha256Hex, aliases: base.aliases },
    models: readModels(base.modelsFolder, (problem) =>
      log.warn({ problem }, "a model document is not understood in full"),
    ),
    settings: () => settings,
    clockIsSet,
    version: VERSION,
    bootId,
    setLogLevel: (level) => {
      if (!isLogLevel(level)) return false;
      rawLog.setLevel(level);
      return true;
    },
    onGatewayDesired: (section, version) => live.desired(section, version),
  });
  stack.use(relay);
  relay.report({ version: VERSION });
  const remembered = [await store.meta("last-good-config"), await store.meta("module-desired")] as const;
  live.restore(parseLastDesired(...remembered, GATEWAY_COMPONENT));
  await relay.start();
  const health = base.opsEnabled ? stack.use(await startHealth(base, relay, metrics, log)) : undefined;
  log.info({ ...broker.ports, opsPort: health?.port, component: "gateway", version: VERSION }, "gateway started");
  return {
    relay,
    broker,
    config: () => live.config,
    opsPort: health?.port,
    metricsText: () => metricsText(relay, metrics),
  };
}

/** What was started, to be ended in reverse. (Node 22 has no AsyncDisposableStack.) */
class Disposals {
  readonly #started: AsyncDisposable[] = [];

  use<T extends AsyncDisposable | undefined>(resource: T): T {
    if (resource !== undefined) this.#started.push(resource);
    return resource;
  }

  async disposeAsync(): Promise<void> {
    const failures: unknown[] = [];
    for (const resource of this.#started.splice(0).toReversed()) {
      try {
        await resource[Symbol.asyncDispose]();
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length > 0)
      throw new GatewayError("INVARIANT", `the gateway could not end in order: ${failures.join("; ")}`);
  }
}

/** Of the outbox; what is beyond waits on disk. */
const MEMORY_ENTRIES = 2_000;
const MEMORY_BYTES = 8 * 1024 * 1024;

function relaySettings(config: Config) {
  return {
    ...config,
    maxBytes: config.maxSizeBytes,
    memoryEntries: MEMORY_ENTRIES,
    memoryBytes: MEMORY_BYTES,
  };
}

function wanSources(config: Config, { identity, nested }: ModuleCredentials) {
  const [host, port] = (config.wanProbeAddress === "" ? `${identity.hubHostName}:443` : config.wanProbeAddress).split(
    ":",
  );
  return {
    metricsUrl: config.edgeHubMetricsUrl === "" ? undefined : config.edgeHubMetricsUrl,
    probe: host === undefined || port === undefined ? undefined : { host, port: Number(port) },
    identity,
    nested,
  };
}

/** Not set: earlier than this release, or than the newest time that was ever written down [design section 8]. */
async function clockCheck(store: Store, clock: Clock): Promise<() => boolean> {
  const last = await store.meta("last-time");
  const floorMs = Math.max(RELEASED_MS, typeof last === "number" ? last : 0);
  return () => clock.now() >= floorMs;
}

async function startHealth(
  config: Config,
  relay: Relay,
  metrics: ReturnType<typeof createMetrics>,
  log: Log,
): Promise<HealthServer> {
  return startHealthServer({
    bind: config.opsBind,
    port: config.opsPort,
    title: "IoT Plug and Play gateway",
    log,
    alive: () => ({ isOk: true, reasons: [] }),
    ready: () => ({
      isOk: relay.synchronised,
      reasons: relay.synchronised ? [] : ["the module twin has never been read: leaves wait for their twins"],
    }),
    metrics: { contentType: metrics.contentType, text: () => metricsText(relay, metrics) },
    status: () => ({ ...relay.diagnostics(), leaves: relay.component.leafList() }),
  });
}

function metricsText(relay: Relay, metrics: ReturnType<typeof createMetrics>): Promise<string> {
  relay.gauges();
  const written = diskWrittenBytes();
  if (written !== undefined) metrics.gauge("disk_written_bytes", written);
  return metrics.text();
}
