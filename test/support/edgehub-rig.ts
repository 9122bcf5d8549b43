/** The real upstream against the development hub, with a cuttable network between the two. */
import { type DevHub, startDevHub } from "../../src/devhub/devhub.ts";
import type { DevHubSettings } from "../../src/devhub/settings.ts";
import type { Upstream } from "../../src/flow/ports.ts";
import {
  connectionStringCredentials,
  edgeCredentials,
  type ModuleCredentials,
} from "../../src/upstream/credentials.ts";
import { createModuleUpstream, type UpstreamLimits } from "../../src/upstream/module-upstream.ts";
import { RecordingLog } from "./recording-log.ts";
import { startTcpProxy, type TcpProxy } from "./tcp-proxy.ts";
import { noMetrics, RecordingHub, realClock } from "./upstream-harness.ts";

export const MODULE = { deviceId: "edge1", moduleId: "gw" };

/** Long waits of the real link, divided; still far above what a busy machine takes. */
const TEST_LIMITS: Partial<UpstreamLimits> = { twinMs: 3_000, closeMs: 500, backoffCapMs: 200, settledMs: 0 };

export interface EdgeHubRig extends AsyncDisposable {
  readonly devHub: DevHub;
  readonly proxy: TcpProxy;
  readonly upstream: Upstream;
  readonly hub: RecordingHub;
  readonly log: RecordingLog;
}

export interface RigOptions {
  readonly mode?: "workload" | "connection-string";
  readonly limits?: Partial<UpstreamLimits>;
  readonly settings?: Partial<DevHubSettings>;
}

export function startTestHub(settings: Partial<DevHubSettings> = {}): Promise<DevHub> {
  return startDevHub({
    mqttPort: 0,
    servicePort: 0,
    metricsPort: 0,
    probePort: 0,
    subscriptionDelayMs: 0,
    ...settings,
  });
}

/** Credentials that lead through the proxy. */
export function credentialsThrough(
  devHub: DevHub,
  port: number,
  mode: RigOptions["mode"] = "workload",
): ModuleCredentials {
  const gateway = `localhost:${port}`;
  if (mode === "connection-string") {
    const direct = devHub.moduleConnectionString.replace(/GatewayHostName=[^;]*/, `GatewayHostName=${gateway}`);
    return connectionStringCredentials(direct, { ca: devHub.caPem });
  }
  const credentials = edgeCredentials({ ...devHub.environment(), IOTEDGE_GATEWAYHOSTNAME: gateway });
  if (credentials === undefined) throw new Error("the development hub gave no environment");
  return credentials;
}

export function makeUpstream(
  credentials: ModuleCredentials,
  log: RecordingLog,
  limits: Partial<UpstreamLimits> = {},
): Upstream {
  return createModuleUpstream({
    credentials,
    modelId: "dtmi:iotedgePnpGateway:Gateway;1",
    productInfo: "iotedge-pnp-gateway/test",
    clock: realClock,
    log,
    metrics: noMetrics,
    random: Math.random,
    limits: { ...TEST_LIMITS, ...limits },
  });
}

/** Everything up to, but not including, `upstream.open`. */
export async function startEdgeHubRig({ mode, limits, settings }: RigOptions = {}): Promise<EdgeHubRig> {
  const devHub = await startTestHub(settings);
  const proxy = await startTcpProxy({ port: devHub.mqttPort });
  const log = new RecordingLog();
  const upstream = makeUpstream(credentialsThrough(devHub, proxy.port, mode), log, limits);
  return {
    devHub,
    proxy,
    upstream,
    log,
    hub: new RecordingHub(),
    async [Symbol.asyncDispose]() {
      await upstream[Symbol.asyncDispose]();
      await proxy[Symbol.asyncDispose]();
      await devHub[Symbol.asyncDispose]();
    },
  };
}
