/**
 * The whole chain in one process: unmodified device SDK clients as leaves over TLS, the real gateway, the development hub, and the
 * unmodified service SDK as back end. Times of the hub are divided by 30; ports are free ones; nothing stays on disk.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Client as DeviceClient } from "azure-iot-device";
import azureIotDevice from "azure-iot-device";
import azureIotDeviceMqtt from "azure-iot-device-mqtt";
import { vi } from "vitest";
import { type Config, mergeConfig } from "../../src/config.ts";
import type { JsonObject } from "../../src/core/message.ts";
import type { CloudTwin, D2cMessage } from "../../src/devhub/cloud-types.ts";
import { type DevHub, startDevHub } from "../../src/devhub/devhub.ts";
import type { DevHubSettings } from "../../src/devhub/settings.ts";
import type { Clock } from "../../src/flow/ports.ts";
import { type Gateway, startGateway } from "../../src/gateway.ts";
import { type BackEnd, connectBackEnd } from "./back-end.ts";
import { startTcpProxy, type TcpProxy } from "./tcp-proxy.ts";

const { Client } = azureIotDevice;
const { Mqtt } = azureIotDeviceMqtt;

/** Ten times what anything in the chain takes on a loaded machine. */
export const WITHIN = { timeout: 30_000, interval: 25 };

const KEY = Buffer.from("any key will do in development").toString("base64");

/** The real edgeHub's times by 30. */
const FAST: Partial<DevHubSettings> = {
  mqttPort: 0,
  servicePort: 0,
  metricsPort: 0,
  probePort: 0,
  restartDrainIntervalMs: 300,
  messageAckTimeoutMs: 1_000,
  reportedSyncMs: 100,
  readInOutageMs: 700,
  minTwinSyncPeriodMs: 4_000,
  resumeAfterSilentMs: 800,
  resumeAfterRefusedMs: 1_300,
  wakingReadMs: 160,
  offlineNoticeMs: 1_000,
};

interface RigOptions {
  readonly hub?: Partial<DevHubSettings>;
  readonly config?: Partial<Config>;
  /** The gateway reaches edgeHub through {@link GatewayRig.proxy}. */
  readonly behindProxy?: boolean;
  /** The gateway's. */
  readonly clock?: Clock;
  /** Beside what the hub gives the module. */
  readonly environment?: Readonly<Record<string, string>>;
}

export async function startRig(options: RigOptions = {}): Promise<GatewayRig> {
  const hub = await startDevHub({ ...FAST, ...options.hub });
  const proxy = options.behindProxy === true ? await startTcpProxy({ port: hub.mqttPort }) : undefined;
  const rig = new GatewayRig(hub, proxy, options);
  try {
    await rig.startGateway();
    await vi.waitUntil(() => rig.gateway.relay.synchronised, WITHIN);
    return rig;
  } catch (error) {
    const log = rig.log.join("");
    await rig[Symbol.asyncDispose]();
    throw new Error(`the rig did not start; the gateway said:\n${log}`, { cause: error });
  }
}

export class GatewayRig implements AsyncDisposable {
  readonly hub: DevHub;
  readonly proxy: TcpProxy | undefined;
  readonly backEnd: BackEnd;
  /** What the gateway logged, a line each; print it with a failure. */
  readonly log: string[] = [];
  readonly moduleId: { readonly deviceId: string; readonly moduleId: string };
  readonly #stateFolder = mkdtempSync(join(tmpdir(), "gateway-rig-"));
  readonly #options: RigOptions;
  readonly #leaves = new Set<DeviceClient>();
  #gateway: Gateway | undefined;
  /** Of the first start: leaves come back to the same ones. */
  #ports: { readonly tlsPort: number; readonly plainPort: number } = { tlsPort: 0, plainPort: 0 };

  constructor(hub: DevHub, proxy: TcpProxy | undefined, options: RigOptions) {
    this.hub = hub;
    this.proxy = proxy;
    this.#options = options;
    const { deviceId, moduleId } = hub.settings;
    this.moduleId = { deviceId, moduleId };
    this.backEnd = connectBackEnd({
      host: "127.0.0.1",
      port: Number(new URL(hub.serviceUrl).port),
      ca: hub.caPem,
      connectionString: hub.serviceConnectionString,
    });
  }

  get gateway(): Gateway {
    if (this.#gateway === undefined) throw new Error("the gateway is stopped");
    return this.#gateway;
  }

  get tlsPort(): number {
    return this.#ports.tlsPort;
  }

  get plainPort(): number {
    return this.#ports.plainPort;
  }

  /** What leaves must trust. */
  get caPem(): string {
    return this.hub.caPem;
  }

  /** Everything that reached the cloud, the gateway's own status messages included. */
  get events(): readonly D2cMessage[] {
    return this.hub.cloud.events;
  }

  /** What reached the cloud of one leaf. */
  eventsOf(leafId: string): readonly D2cMessage[] {
    return this.events.filter(({ properties }) => properties["leafId"] === leafId);
  }

  moduleTwin(): CloudTwin {
    const twin = this.hub.cloud.twin(this.moduleId);
    if (twin === undefined) throw new Error("the module has no twin");
    return twin;
  }

  /** A component of the module twin's reported section, as back ends see it. */
  reported(component: string): unknown {
    return this.moduleTwin().reported[component];
  }

  /** As a back end: patches the module twin's desired properties with the service SDK. */
  async setDesired(desired: JsonObject): Promise<void> {
    const { deviceId, moduleId } = this.moduleId;
    await this.backEnd.registry.updateModuleTwin(deviceId, moduleId, { properties: { desired } }, "*");
  }

  /** As a back end: runs a command with the service SDK; rejects as the SDK does. */
  async command(methodName: string, payload?: unknown, responseTimeoutInSeconds = 30): Promise<CommandResult> {
    const { deviceId, moduleId } = this.moduleId;
    const call = { methodName, responseTimeoutInSeconds, ...(payload === undefined ? {} : { payload }) };
    const { result } = (await this.backEnd.client.invokeDeviceMethod(deviceId, moduleId, call)) as unknown as {
      result: CommandResult;
    };
    return result;
  }

  leafConnectionString(leafId: string): string {
    const host = `HostName=${this.hub.settings.iotHubHostName};GatewayHostName=localhost:${this.tlsPort}`;
    return `${host};DeviceId=${leafId};SharedAccessKey=${KEY}`;
  }

  /** A program with the unmodified device SDK and its own retry policy; closed with the rig at the latest. */
  async connectLeaf(leafId: string, { modelId }: { readonly modelId?: string } = {}): Promise<DeviceClient> {
    const client = Client.fromConnectionString(this.leafConnectionString(leafId), Mqtt);
    return this.openLeaf(client, modelId === undefined ? {} : { modelId });
  }

  /** A program that brings its own credentials; closed with the rig at the latest. */
  async openLeaf(client: DeviceClient, options: object = {}): Promise<DeviceClient> {
    this.#leaves.add(client);
    client.on("error", () => undefined);
    await client.setOptions({ ca: this.caPem, ...options });
    await client.open();
    return client;
  }

  /** One sample of a metric, without the prefix, labels as Prometheus writes them. */
  async metric(sample: string): Promise<number | undefined> {
    const text = await this.gateway.metricsText();
    const line = text.split("\n").find((candidate) => candidate.startsWith(`pnp_gateway_${sample} `));
    return line === undefined ? undefined : Number(line.slice(line.lastIndexOf(" ") + 1));
  }

  async closeLeaf(client: DeviceClient): Promise<void> {
    this.#leaves.delete(client);
    await client.close();
  }

  /** On the same state folder and ports. */
  async startGateway(): Promise<void> {
    const { metricsUrl, probeAddress, settings } = this.hub;
    const { clock, config = {}, environment: more = {} } = this.#options;
    const merged = mergeConfig(
      {
        authMode: "development",
        tlsBind: "127.0.0.1",
        plainEnabled: true,
        opsPort: 0,
        logLevel: "debug",
        reportedIntervalMs: 200,
        edgeHubMetricsUrl: metricsUrl,
        wanProbeAddress: `${probeAddress.host}:${probeAddress.port}`,
        ...this.#ports,
        ...config,
      },
      {},
    );
    if (merged.kind === "invalid") throw new Error(JSON.stringify(merged.problems));
    const environment = { ...this.hub.environment(), ...more };
    if (this.proxy !== undefined) {
      environment["IOTEDGE_GATEWAYHOSTNAME"] = `${settings.gatewayHostName}:${this.proxy.port}`;
    }
    this.#gateway = await startGateway({
      config: merged.config,
      environment,
      stateFolder: this.#stateFolder,
      bootId: "boot",
      ...(clock === undefined ? {} : { clock }),
      logDestination: { write: (line) => void this.log.push(line) },
    });
    const { plain = 0, tls = 0 } = this.#gateway.broker.ports;
    this.#ports = { tlsPort: tls, plainPort: plain };
  }

  async stopGateway(): Promise<void> {
    const gateway = this.#gateway;
    this.#gateway = undefined;
    await gateway?.[Symbol.asyncDispose]();
  }

  async restartGateway(): Promise<void> {
    await this.stopGateway();
    await this.startGateway();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#leaves) await client.close().catch(() => undefined);
    await this.stopGateway();
    this.backEnd[Symbol.dispose]();
    await this.proxy?.[Symbol.asyncDispose]();
    await this.hub[Symbol.asyncDispose]();
    rmSync(this.#stateFolder, { recursive: true, force: true });
  }
}

interface CommandResult {
  readonly status: number;
  readonly payload: unknown;
}
