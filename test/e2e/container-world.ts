/**
 * Containers on real networks: the development hub, and the gateway's image as the deployment manifest runs it. Leaves and back end are
 * unmodified SDKs on this machine, which come in through published ports. The uplink is an internal network of its own, since cutting
 * one that published ports hang on would cut the leaves too.
 */
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { Client as DeviceClient } from "azure-iot-device";
import azureIotDevice from "azure-iot-device";
import azureIotDeviceMqtt from "azure-iot-device-mqtt";
import {
  type ContainerRuntimeClient,
  GenericContainer,
  getContainerRuntimeClient,
  type StartedTestContainer,
  Wait,
} from "testcontainers";
import type { Json, JsonObject } from "../../src/core/message.ts";
import { HubClient } from "../../src/devhub/cli-hub-client.ts";
import { type BackEnd, connectBackEnd } from "../support/back-end.ts";
import { freePort } from "../support/gateway-process.ts";
import { deployedGateway, MODULE_ID } from "./manifest.ts";

const { Client } = azureIotDevice;
const { Mqtt } = azureIotDeviceMqtt;

/** Emulated machines are ten times slower, loaded ones too. */
export const WITHIN = { timeout: 90_000, interval: 100 };
const START_WITHIN_MS = 180_000;
const LABELS = { "org.testcontainers": "true" };
/** The name that modules dial for edgeHub. */
const EDGE_HOST = "edge-device";
/** The name that leaves in containers dial; those on this machine dial `localhost`. */
const GATEWAY_HOST = "gateway";
const HUB_HOST = "devhub.azure-devices.net";
/** Where the deployment manifest puts things in the gateway's container. */
const { environment: DEPLOYED_ENVIRONMENT, hostConfig: DEPLOYED, routes: ROUTES } = deployedGateway();

export interface HubMessage {
  readonly body: Json;
  readonly applicationProperties: Readonly<Record<string, string>>;
  readonly systemProperties: Readonly<Record<string, string>>;
}

export interface WorldOptions {
  /** `amd64` or `arm32v7`: which of the built images. */
  readonly architecture?: "amd64" | "arm32v7";
  /** For leaves named so there are keys. */
  readonly leaves: readonly string[];
}

/** The engine's own words for what a container's state is. */
interface ContainerState {
  readonly Running: boolean;
  readonly ExitCode: number;
  readonly OOMKilled: boolean;
  readonly Health?: { readonly Status: string } | undefined;
}

export class ContainerWorld implements AsyncDisposable {
  readonly engine: ContainerRuntimeClient;
  /** Telemetry that reached the cloud while somebody listened. */
  readonly messages: HubMessage[] = [];
  readonly leafPort: number;
  readonly #servicePort: number;
  readonly #image: string;
  readonly #platform: string;
  readonly #name: string;
  readonly #folder: string;
  readonly #keys: Readonly<Record<string, string>>;
  readonly #ended = new AbortController();
  readonly #leaves = new Set<DeviceClient>();
  readonly #closers: (() => PromiseLike<unknown> | void)[] = [];
  #listening = Promise.resolve();
  #parts:
    | {
        hub: StartedTestContainer;
        caPem: string;
        client: HubClient;
        backEnd: BackEnd;
        environment: Record<string, string>;
      }
    | undefined;
  #gateway: StartedTestContainer | undefined;
  #isListening = false;

  private constructor(engine: ContainerRuntimeClient, ports: readonly [number, number], options: WorldOptions) {
    const architecture = options.architecture ?? "amd64";
    this.engine = engine;
    [this.leafPort, this.#servicePort] = ports;
    this.#image = `iotedge-pnp-gateway:test-${architecture}`;
    this.#platform = architecture === "amd64" ? "linux/amd64" : "linux/arm/v7";
    this.#name = `pnp-${process.pid}-${this.leafPort}`;
    this.#folder = mkdtempSync(join(tmpdir(), "pnp-gateway-e2e-"));
    this.#keys = Object.fromEntries(
      options.leaves.map((id) => [id, Buffer.from(`key of ${id}`.padEnd(32)).toString("base64")]),
    );
  }

  /** With the hub running, and the gateway on an empty volume. */
  static async start(options: WorldOptions): Promise<ContainerWorld> {
    const engine = await getContainerRuntimeClient();
    const world = new ContainerWorld(engine, [await freePort(), await freePort()], options);
    try {
      await world.#prepare();
      await world.#startHub();
      await world.startGateway();
      return world;
    } catch (error) {
      const log = await world.gatewayLog().catch(String);
      await world[Symbol.asyncDispose]();
      throw new Error(`the containers did not start; the gateway said:\n${log}`, { cause: error });
    }
  }

  get hub(): StartedTestContainer {
    return this.#running.hub;
  }

  get gateway(): StartedTestContainer {
    if (this.#gateway === undefined) throw new Error("there is no gateway container");
    return this.#gateway;
  }

  get caPem(): string {
    return this.#running.caPem;
  }

  /** The field network, where other containers reach the gateway as {@link GATEWAY_HOST}. */
  get fieldNetwork(): string {
    return `${this.#name}-field`;
  }

  async startGateway(environment: Readonly<Record<string, string>> = {}): Promise<void> {
    const { PortBindings: _, Binds: __, ...hostConfig } = DEPLOYED;
    const container = new DeployedContainer(this.#image, {
      ...hostConfig,
      Binds: [`${this.#name}-state:/data`, `${this.#folder}:/config:ro`, `${this.#name}-edge:/var/run/iotedge`],
    })
      .alsoIn(this.engine, `${this.#name}-edge`, [])
      .withPlatform(this.#platform)
      .withLabels(LABELS)
      .withEnvironment({
        ...this.#running.environment,
        ...DEPLOYED_ENVIRONMENT,
        GATEWAY_SERVER_NAMES: `${GATEWAY_HOST},localhost`,
        GATEWAY_REPORTED_INTERVAL_MS: "200",
        ...environment,
      })
      .withNetworkMode(this.fieldNetwork)
      .withNetworkAliases(GATEWAY_HOST)
      .withExposedPorts({ container: 8883, host: this.leafPort })
      .withWaitStrategy(Wait.forLogMessage(/gateway started/))
      .withStartupTimeout(START_WITHIN_MS);
    this.#gateway = await container.start();
  }

  /** As the Edge agent does with a new image or new settings: the container goes, its volume stays. */
  async removeGateway(signal: "SIGKILL" | "SIGTERM"): Promise<ContainerState> {
    const raw = this.engine.container.getById(this.gateway.getId());
    if (signal === "SIGKILL") await raw.kill({ signal });
    else await raw.stop({ t: 10 });
    await raw.wait();
    const { State } = await raw.inspect();
    await raw.remove({ force: true });
    this.#gateway = undefined;
    return State;
  }

  /** A further container of the image, on nobody's volume, told to end `afterMs` after its start. */
  async endDuringStart(afterMs: number): Promise<ContainerState & { readonly tookMs: number }> {
    const { PortBindings: _, Binds: __, ...hostConfig } = DEPLOYED;
    const container = await this.engine.container.dockerode.createContainer({
      Image: this.#image,
      Labels: LABELS,
      Env: [
        "EdgeHubConnectionString=HostName=h;DeviceId=d;ModuleId=m;SharedAccessKey=a2V5;GatewayHostName=nowhere",
        "GATEWAY_TLS_ENABLED=false",
      ],
      HostConfig: { ...hostConfig, Tmpfs: { "/tmp": "", "/data": "uid=1000" } },
    });
    try {
      await container.start();
      await delay(afterMs);
      const began = Date.now();
      await container.stop({ t: 10 });
      return { ...(await container.inspect()).State, tookMs: Date.now() - began };
    } finally {
      await container.remove({ force: true });
    }
  }

  async gatewayState(): Promise<ContainerState> {
    return (await this.engine.container.getById(this.gateway.getId()).inspect()).State;
  }

  async gatewayLog(): Promise<string> {
    if (this.#gateway === undefined) return "";
    const raw = this.engine.container.getById(this.#gateway.getId());
    return (await raw.logs({ stdout: true, stderr: true, follow: false })).toString("utf8");
  }

  /** The uplink's cable is pulled; leaves stay connected. */
  async cutUplink(): Promise<void> {
    await this.engine.network
      .getById(`${this.#name}-edge`)
      .disconnect({ Container: this.gateway.getId(), Force: true });
  }

  async healUplink(): Promise<void> {
    await this.engine.network.getById(`${this.#name}-edge`).connect({ Container: this.gateway.getId() });
  }

  async stopHub(): Promise<void> {
    await this.engine.container.getById(this.hub.getId()).stop({ t: 10 });
  }

  /** With the gateway frozen until the event stream is open again, since the hub tells events only to those who listen. */
  async startStoppedHub(): Promise<void> {
    const gateway = this.engine.container.getById(this.gateway.getId());
    await gateway.pause();
    try {
      await this.engine.container.getById(this.hub.getId()).start();
      await this.#untilListening();
    } finally {
      await gateway.unpause();
    }
  }

  messagesOf(leafId: string): readonly HubMessage[] {
    return this.messages.filter(({ applicationProperties }) => applicationProperties["leafId"] === leafId);
  }

  /** A component of the module twin's reported section, as back ends see it. */
  async reported(component: string): Promise<unknown> {
    const { client } = this.#running;
    const { deviceId, moduleId } = client.module;
    const { body } = await client.call("GET", `/twins/${deviceId}/modules/${moduleId}`);
    const properties = (body as { properties: { reported: Record<string, unknown> } }).properties;
    return properties.reported[component];
  }

  async setDesired(desired: JsonObject): Promise<void> {
    const { backEnd, client } = this.#running;
    const { deviceId, moduleId } = client.module;
    await backEnd.registry.updateModuleTwin(deviceId, moduleId, { properties: { desired } }, "*");
  }

  async command(
    methodName: string,
    payload?: unknown,
  ): Promise<{ readonly status: number; readonly payload: unknown }> {
    const { backEnd, client } = this.#running;
    const { deviceId, moduleId } = client.module;
    const call = { methodName, responseTimeoutInSeconds: 60, ...(payload === undefined ? {} : { payload }) };
    const { result } = (await backEnd.client.invokeDeviceMethod(deviceId, moduleId, call)) as unknown as {
      result: { status: number; payload: unknown };
    };
    return result;
  }

  /** What the hub can be told to do, by the name of its control. */
  async control(name: string, args: JsonObject = {}): Promise<Json | undefined> {
    return (await this.#running.client.call("POST", `/control/${name}`, args)).body;
  }

  leafKey(leafId: string): string {
    const key = this.#keys[leafId];
    if (key === undefined) throw new Error(`${leafId} has no key`);
    return key;
  }

  /** A program with the unmodified device SDK, over TLS, with the leaf's key and the SDK's own retry policy. */
  async connectLeaf(leafId: string): Promise<DeviceClient> {
    const host = `HostName=${HUB_HOST};GatewayHostName=localhost:${this.leafPort}`;
    const client = Client.fromConnectionString(
      `${host};DeviceId=${leafId};SharedAccessKey=${this.leafKey(leafId)}`,
      Mqtt,
    );
    this.#leaves.add(client);
    client.on("error", () => undefined);
    await client.setOptions({ ca: this.caPem });
    await client.open();
    return client;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort();
    for (const client of this.#leaves) await client.close().catch(() => undefined);
    await this.#listening;
    this.#parts?.backEnd[Symbol.dispose]();
    for (const container of [this.#gateway, this.#parts?.hub]) {
      if (container !== undefined) await this.engine.container.getById(container.getId()).remove({ force: true });
    }
    for (const close of this.#closers.reverse()) await close();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  async #prepare(): Promise<void> {
    const keys = Object.entries(this.#keys).map(([id, primary]) => [id, { primary }]);
    writeFileSync(join(this.#folder, "leaf-keys.json"), JSON.stringify(Object.fromEntries(keys)));
    chmodSync(this.#folder, 0o755);
    const { dockerode } = this.engine.container;
    for (const name of ["field", "edge"]) {
      const network = await this.engine.network.create({
        Name: `${this.#name}-${name}`,
        Internal: name === "edge",
        Labels: LABELS,
        Options: { "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1" },
      });
      this.#closers.push(() => this.engine.network.remove(network));
    }
    for (const name of ["state", "edge"]) {
      await dockerode.createVolume({ Name: `${this.#name}-${name}`, Labels: LABELS });
      this.#closers.push(() => dockerode.getVolume(`${this.#name}-${name}`).remove());
    }
  }

  async #startHub(): Promise<void> {
    const hub = await new DeployedContainer("iotedge-pnp-gateway-devhub:test", {
      Binds: [`${this.#name}-edge:/var/run/iotedge`],
    })
      .alsoIn(this.engine, `${this.#name}-edge`, [EDGE_HOST, "edgeHub", HUB_HOST])
      .withLabels(LABELS)
      .withEnvironment({
        DEVHUB_MODULE_ID: MODULE_ID,
        DEVHUB_GATEWAY_HOSTNAME: EDGE_HOST,
        DEVHUB_MQTT_PORT: "8883",
        DEVHUB_METRICS_PORT: "9600",
        DEVHUB_PROBE_PORT: "443",
        DEVHUB_ROUTES: ROUTES.join("\n"),
        DEVHUB_SETTINGS: JSON.stringify({ reportedSyncMs: 100, messageAckTimeoutMs: 5_000 }),
      })
      .withNetworkMode(this.fieldNetwork)
      .withExposedPorts({ container: 18443, host: this.#servicePort })
      .withWaitStrategy(Wait.forLogMessage(/"ready":true/))
      .withStartupTimeout(START_WITHIN_MS)
      .start();
    const raw = this.engine.container.getById(hub.getId());
    const log = (await raw.logs({ stdout: true, stderr: false, follow: false })).toString("utf8");
    const announced = JSON.parse(/\{"ready":true.*\}/.exec(log)?.[0] ?? "{}") as {
      environment: Record<string, string>;
      serviceConnectionString: string;
    };
    const { output: caPem } = await hub.exec(["cat", "/state/ca.pem"]);
    const connectionString = announced.serviceConnectionString;
    const url = `https://localhost:${this.#servicePort}`;
    const client = new HubClient({ url, caFile: "", connectionString, deviceId: "edge1", moduleId: MODULE_ID }, caPem);
    const backEnd = connectBackEnd({ host: "127.0.0.1", port: this.#servicePort, ca: caPem, connectionString });
    // Modules dial port 8883 of the host name that the Edge agent gives them.
    const environment = { ...announced.environment, IOTEDGE_GATEWAYHOSTNAME: EDGE_HOST };
    this.#parts = { hub, caPem, client, backEnd, environment };
    this.#listening = this.#listen(client);
    await this.#untilListening();
  }

  async #listen(client: HubClient): Promise<void> {
    const { signal } = this.#ended;
    while (!signal.aborted) {
      try {
        const opened = () => {
          this.#isListening = true;
        };
        for await (const { data, name } of client.events(signal, opened)) {
          if (name === "telemetry") this.messages.push(data as unknown as HubMessage);
        }
      } catch {
        // The hub is away: asked again in a moment.
      }
      this.#isListening = false;
      await delay(100, undefined, { signal }).catch(() => undefined);
    }
  }

  async #untilListening(): Promise<void> {
    const until = Date.now() + START_WITHIN_MS;
    while (!this.#isListening) {
      if (Date.now() > until) throw new Error("the hub's events cannot be heard");
      await delay(50);
    }
  }

  get #running() {
    if (this.#parts === undefined) throw new Error("the hub is not started");
    return this.#parts;
  }
}

/** A container with settings that testcontainers has no words for, and in a second network before it starts. */
class DeployedContainer extends GenericContainer {
  #join: (id: string) => Promise<void> = () => Promise.resolve();

  constructor(image: string, hostConfig: Readonly<Record<string, unknown>>) {
    super(image);
    // Its helper image cannot be pulled everywhere; what an aborted run leaves behind has our label.
    this.withAutoCleanup(false);
    Object.assign(this.hostConfig, hostConfig);
  }

  alsoIn(engine: ContainerRuntimeClient, network: string, aliases: readonly string[]): this {
    this.#join = (id) =>
      engine.network.getById(network).connect({ Container: id, EndpointConfig: { Aliases: [...aliases] } });
    return this;
  }

  protected override containerCreated(id: string): Promise<void> {
    return this.#join(id);
  }
}
