/**
 * The development hub: edgeHub, its daemon and the IoT Hub behind it on one machine. In-process for tests, as a process
 * by `main.ts`. What a module under test has to know is on {@link DevHub}.
 */

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { type Drop, type EdgeControl, normalBehaviour } from "./behaviour.ts";
import { type CertificateAuthority, openCertificateAuthority, withoutPort } from "./certificates.ts";
import { IotHubCloud } from "./cloud.ts";
import type { Identity } from "./cloud-types.ts";
import { hubControls } from "./control-functions.ts";
import type { InputMessage, InputOutcome } from "./edge-hub-inputs.ts";
import { EdgeHubProcess } from "./edge-hub-process.ts";
import { EdgeStore, keyOf } from "./edge-hub-store.ts";
import { WanLink } from "./edge-hub-wan.ts";
import { type Probe, startProbe } from "./edge-probe.ts";
import { type ServiceApi, startServiceApi } from "./service-api.ts";
import { writeServiceFile } from "./service-api-file.ts";
import { DEFAULT_SETTINGS, type DevHubSettings } from "./settings.ts";
import { startWorkloadApi, type WorkloadApi } from "./workload-api.ts";

export interface DevHub extends AsyncDisposable, EdgeControl {
  readonly settings: DevHubSettings;
  readonly cloud: IotHubCloud;
  /** The ports bound. */
  readonly mqttPort: number;
  readonly plainMqttPort: number | undefined;
  /** `http://host:port/metrics`, as edgeHub's own. */
  readonly metricsUrl: string;
  /** Where back ends reach the service API, and with what. */
  readonly serviceUrl: string;
  readonly serviceConnectionString: string;
  /** What to probe instead of port 443 of the hub's host. */
  readonly probeAddress: { readonly host: string; readonly port: number };
  /** The root CA as PEM and as a file. */
  readonly caPem: string;
  readonly caFile: string;
  /** The module's environment, as the Edge agent would set it. */
  environment(): Record<string, string>;
  /** With GatewayHostName, for clients that do not use the workload API. */
  readonly moduleConnectionString: string;
  /** Makes a device or a further module known to hub and cloud. */
  register(identity: Identity): void;
  /** The connection string of an identity, which exists from then on at the edge side. */
  connectionString(identity: Identity): string;
  /** Everything that another process needs to use the hub, as one JSON object. */
  announcement(): Record<string, unknown>;
  /** The workload API over TCP, when a port was given. */
  readonly workloadHttpUri: string | undefined;
}

const MAX_DROPS = 1_000;
const EDGEHUB_CERTIFICATE_LIFE_MS = 90 * 24 * 3_600_000;
const WORKLOAD_API_VERSION = "2020-07-07";

/** Starts everything; what is not told is as in {@link DEFAULT_SETTINGS}; port 0 takes a free one. */
export async function startDevHub(given: Partial<DevHubSettings> = {}): Promise<DevHub> {
  const settings: DevHubSettings = { ...DEFAULT_SETTINGS, ...given };
  const hub = new DevelopmentHub(settings);
  try {
    await hub.start();
  } catch (error) {
    await hub[Symbol.asyncDispose]();
    throw error;
  }
  return hub;
}

class DevelopmentHub implements DevHub {
  readonly settings: DevHubSettings;
  readonly behaviour = normalBehaviour();
  readonly wan: WanLink;
  readonly drops: Drop[] = [];
  readonly #folder: string;
  readonly cloud: IotHubCloud;
  readonly #store: EdgeStore;
  readonly #closers: (() => PromiseLike<void> | void)[] = [];
  #started:
    | { edge: EdgeHubProcess; workload: WorkloadApi; probe: Probe; service: ServiceApi; caPem: string }
    | undefined;

  constructor(settings: DevHubSettings) {
    this.settings = settings;
    this.wan = new WanLink(settings);
    const kept = settings.stateFolder;
    this.#folder = resolve(kept ?? mkdtempSync(join(tmpdir(), "devhub-")));
    if (kept === undefined) this.#closers.push(() => rmSync(this.#folder, { recursive: true, force: true }));
    else mkdirSync(this.#folder, { recursive: true });
    this.#store = new EdgeStore(this.#keep("edge"));
    this.cloud = new IotHubCloud(this.#keep("cloud"));
    this.#closers.push(() => this.wan.dispose());
  }

  async start(): Promise<void> {
    const { settings, behaviour, wan, cloud } = this;
    const { deviceId, moduleId } = settings;
    for (const identity of [{ deviceId }, { deviceId, moduleId }]) this.register(identity);
    const authority = await openCertificateAuthority(this.#keep("certificates"));
    // Modules dial edgeHub under both names.
    const names = [withoutPort(settings.gatewayHostName), "edgeHub"];
    const certificate = await authority.issue(names, EDGEHUB_CERTIFICATE_LIFE_MS, "ec");
    const dropped = (drop: Drop) => this.#dropped(drop);
    const edge = new EdgeHubProcess({ settings, behaviour, store: this.#store, wan, cloud, dropped }, certificate);
    this.#closers.push(() => edge.kill());
    await edge.start();
    cloud.setMethodRoute((call) => edge.hub?.invokeMethod(call) ?? Promise.resolve({ kind: "offline" }));
    const workload = await this.#startWorkload(authority);
    this.#closers.push(() => workload[Symbol.asyncDispose]());
    const probe = await startProbe(wan, settings.bind, settings.probePort);
    this.#closers.push(() => probe[Symbol.asyncDispose]());
    const service = await this.#startService(authority);
    this.#closers.push(() => service[Symbol.asyncDispose]());
    this.#started = { edge, workload, probe, service, caPem: authority.rootPem };
    this.#writeFiles();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const close of this.#closers.splice(0).reverse()) await close();
  }

  get mqttPort(): number {
    return this.#running.edge.ports.mqtt;
  }

  get plainMqttPort(): number | undefined {
    return this.#running.edge.ports.plain;
  }

  get metricsUrl(): string {
    return `http://${this.#dialled}:${this.#running.edge.ports.metrics}/metrics`;
  }

  get probeAddress(): { host: string; port: number } {
    return { host: this.#dialled, port: this.#running.probe.port };
  }

  get serviceUrl(): string {
    return `https://localhost:${this.#running.service.port}`;
  }

  get serviceConnectionString(): string {
    return this.#running.service.connectionString;
  }

  get caPem(): string {
    return this.#running.caPem;
  }

  get caFile(): string {
    return join(this.#folder, "ca.pem");
  }

  get workloadHttpUri(): string | undefined {
    return this.#running.workload.httpUri;
  }

  get connected(): readonly string[] {
    return this.#started?.edge.hub?.connected ?? [];
  }

  environment(): Record<string, string> {
    const { deviceId, moduleId, iotHubHostName } = this.settings;
    return {
      IOTEDGE_WORKLOADURI: this.#running.workload.socketUri,
      IOTEDGE_DEVICEID: deviceId,
      IOTEDGE_MODULEID: moduleId,
      IOTEDGE_MODULEGENERATIONID: this.#store.ensureIdentity({ deviceId, moduleId }).generationId,
      IOTEDGE_IOTHUBHOSTNAME: iotHubHostName,
      IOTEDGE_GATEWAYHOSTNAME: this.#gateway,
      IOTEDGE_AUTHSCHEME: "sasToken",
      IOTEDGE_APIVERSION: WORKLOAD_API_VERSION,
    };
  }

  get moduleConnectionString(): string {
    const { deviceId, moduleId } = this.settings;
    return this.connectionString({ deviceId, moduleId });
  }

  connectionString(identity: Identity): string {
    const { key } = this.#store.ensureIdentity(identity);
    const ids = identity.moduleId === undefined ? "" : `;ModuleId=${identity.moduleId}`;
    const host = `HostName=${this.settings.iotHubHostName}`;
    return `${host};DeviceId=${identity.deviceId}${ids};SharedAccessKey=${key};GatewayHostName=${this.#gateway}`;
  }

  announcement(): Record<string, unknown> {
    const { mqttPort, plainMqttPort, metricsUrl, probeAddress, caFile, moduleConnectionString, workloadHttpUri } = this;
    const { serviceUrl, serviceConnectionString } = this;
    const service = { serviceUrl, serviceConnectionString };
    const ports = { mqttPort, plainMqttPort, metricsUrl, probeAddress, workloadHttpUri, ...service };
    return { ready: true, environment: this.environment(), moduleConnectionString, caFile, ...ports };
  }

  register(identity: Identity): void {
    this.#store.ensureIdentity(identity);
    this.cloud.ensureModule(identity);
  }

  cutConnections(): void {
    this.#running.edge.hub?.resetConnections();
  }

  async killEdge(store: "keep" | "lose"): Promise<void> {
    await this.#running.edge.kill();
    if (store === "lose") this.#store.lose();
  }

  startEdge(): Promise<void> {
    return this.#running.edge.start();
  }

  sendInput(moduleId: string, input: string, message: InputMessage): Promise<InputOutcome> {
    const { hub } = this.#running.edge;
    return hub === undefined ? Promise.resolve("lost") : hub.sendInput(moduleId, input, message);
  }

  #startWorkload(authority: CertificateAuthority): Promise<WorkloadApi> {
    const { settings, behaviour } = this;
    const { deviceId, workloadPort, bind, serverCertificateLifeMs } = settings;
    const socketPath = settings.workloadSocket ?? join(this.#folder, "workload.sock");
    return startWorkloadApi({
      socketPath,
      port: workloadPort,
      bind,
      serverCertificateLifeMs,
      authority,
      behaviour,
      find: (moduleId) => this.#store.identities.get(keyOf({ deviceId, moduleId })),
    });
  }

  async #startService(authority: CertificateAuthority): Promise<ServiceApi> {
    const { cloud, settings } = this;
    const { bind, servicePort, iotHubHostName, gatewayHostName, deviceId, moduleId } = settings;
    const names = [...new Set(["localhost", iotHubHostName, withoutPort(gatewayHostName)])];
    const { privateKeyPem, chainPem } = await authority.issue(names, EDGEHUB_CERTIFICATE_LIFE_MS, "ec");
    const controls = hubControls({ edge: this, cloud, module: { deviceId, moduleId } });
    this.#closers.push(() => controls[Symbol.dispose]());
    return startServiceApi({
      cloud,
      tls: { key: privateKeyPem, cert: chainPem },
      bind,
      port: servicePort,
      hostName: iotHubHostName,
      controls: controls.functions,
      isConnected: (id) => this.connected.includes(keyOf(id)),
    });
  }

  /** Whatever another program on this machine needs to find us. */
  #writeFiles(): void {
    const { deviceId, moduleId } = this.settings;
    const { serviceUrl: url, serviceConnectionString: connectionString, caFile } = this;
    writeFileSync(caFile, this.caPem);
    writeServiceFile(this.#folder, { url, caFile, connectionString, deviceId, moduleId });
  }

  #keep(name: string): string | undefined {
    return this.settings.stateFolder === undefined ? undefined : join(this.#folder, name);
  }

  get #gateway(): string {
    return `${withoutPort(this.settings.gatewayHostName)}:${this.mqttPort}`;
  }

  /** Where this machine reaches its own listeners. */
  get #dialled(): string {
    return this.settings.bind === "0.0.0.0" ? "127.0.0.1" : this.settings.bind;
  }

  get #running() {
    if (this.#started === undefined) throw new Error("the development hub is not started");
    return this.#started;
  }

  #dropped(drop: Drop): void {
    if (this.drops.push(drop) > MAX_DROPS) this.drops.shift();
  }
}
