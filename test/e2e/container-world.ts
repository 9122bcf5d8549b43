/**
 * Containers on real networks: the development hub, and the gateway's image as the deployment manifest runs it. Leaves and back end are
 * unmodified SDKs on this machine, which come in through published ports, or further containers in the field network. The uplink is an
 * internal network of its own, since cutting one that published ports hang on would cut the leaves too.
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
  getContainerRuntimeClient,
  type StartedTestContainer,
  Wait,
} from "testcontainers";
import { freePort } from "../support/gateway-process.ts";
import { CloudContainer, HUB_HOST } from "./cloud-container.ts";
import { type ContainerState, DeployedContainer, LABELS } from "./deployed-container.ts";
import { deployedGateway } from "./manifest.ts";

const { Client } = azureIotDevice;
const { Mqtt } = azureIotDeviceMqtt;

export const WITHIN = { timeout: 90_000, interval: 100 };
/** The name that leaves in containers dial; those on this machine dial `localhost`. */
export const GATEWAY_HOST = "gateway";
/** Where the deployment manifest puts things in the gateway's container. */
const { environment: DEPLOYED_ENVIRONMENT, hostConfig: DEPLOYED, routes: ROUTES } = deployedGateway();

interface WorldOptions {
  /** `amd64` or `arm32v7`: which of the built images. */
  readonly architecture?: "amd64" | "arm32v7";
  /** For leaves named so there are keys. */
  readonly leaves: readonly string[];
  /** How often the engine asks for the gateway's health; as the image says when absent. Each time costs a start of Node. */
  readonly healthIntervalMs?: number;
}

interface GatewayStart {
  readonly environment?: Readonly<Record<string, string>>;
  /** Another image than the one of the architecture. */
  readonly image?: string;
}

export class ContainerWorld implements AsyncDisposable {
  readonly engine: ContainerRuntimeClient;
  readonly leafPort: number;
  readonly #servicePort: number;
  readonly #image: string;
  readonly #platform: string;
  readonly #name: string;
  readonly #folder: string;
  readonly #keys: Readonly<Record<string, string>>;
  readonly #healthIntervalMs: number | undefined;
  readonly #leaves = new Set<DeviceClient>();
  readonly #closers: (() => PromiseLike<unknown> | void)[] = [];
  #cloud: CloudContainer | undefined;
  #gateway: StartedTestContainer | undefined;

  private constructor(engine: ContainerRuntimeClient, ports: readonly [number, number], options: WorldOptions) {
    const architecture = options.architecture ?? "amd64";
    this.engine = engine;
    this.#healthIntervalMs = options.healthIntervalMs;
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
      await world.startGateway();
      return world;
    } catch (error) {
      const log = await world.gatewayLog().catch(String);
      await world[Symbol.asyncDispose]();
      throw new Error(`the containers did not start; the gateway said:\n${log}`, { cause: error });
    }
  }

  get cloud(): CloudContainer {
    if (this.#cloud === undefined) throw new Error("the hub is not started");
    return this.#cloud;
  }

  get gateway(): StartedTestContainer {
    if (this.#gateway === undefined) throw new Error("there is no gateway container");
    return this.#gateway;
  }

  /** The field network, where other containers reach the gateway as {@link GATEWAY_HOST}. */
  get fieldNetwork(): string {
    return `${this.#name}-field`;
  }

  /** On the volume that its predecessors had. */
  async startGateway({ environment = {}, image = this.#image }: GatewayStart = {}): Promise<void> {
    const { PortBindings: _, Binds: __, ...hostConfig } = DEPLOYED;
    const container = new DeployedContainer(image, {
      ...hostConfig,
      Binds: [`${this.#name}-state:/data`, `${this.#folder}:/config:ro`, `${this.#name}-edge:/var/run/iotedge`],
    })
      .alsoIn(this.engine, this.#edgeNetwork, [])
      .withPlatform(this.#platform)
      .withEnvironment({
        ...this.cloud.environment,
        ...DEPLOYED_ENVIRONMENT,
        GATEWAY_SERVER_NAMES: `${GATEWAY_HOST},localhost`,
        GATEWAY_REPORTED_INTERVAL_MS: "200",
        GATEWAY_COMMAND_TIMEOUT_SECS: "10",
        ...environment,
      })
      .mainlyIn(this.fieldNetwork, [GATEWAY_HOST])
      .withExposedPorts({ container: 8883, host: this.leafPort })
      .withWaitStrategy(Wait.forLogMessage(/gateway started/));
    if (this.#healthIntervalMs !== undefined) container.checkedEvery(this.#healthIntervalMs);
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
    await this.engine.network.getById(this.#edgeNetwork).disconnect({ Container: this.gateway.getId(), Force: true });
  }

  async healUplink(): Promise<void> {
    await this.engine.network.getById(this.#edgeNetwork).connect({ Container: this.gateway.getId() });
  }

  /** With the gateway frozen until the event stream is open again, since the hub tells events only to those who listen. */
  async resumeCloud(): Promise<void> {
    const gateway = this.engine.container.getById(this.gateway.getId());
    await gateway.pause();
    try {
      await this.cloud.resume();
      await this.cloud.untilListening();
    } finally {
      await gateway.unpause();
    }
  }

  leafKey(leafId: string): string {
    const key = this.#keys[leafId];
    if (key === undefined) throw new Error(`${leafId} has no key`);
    return key;
  }

  /** A program with the unmodified device SDK, over TLS, with the leaf's key and the SDK's own retry policy. */
  async connectLeaf(leafId: string): Promise<DeviceClient> {
    const client = Client.fromConnectionString(this.leafConnectionString(leafId, `localhost:${this.leafPort}`), Mqtt);
    this.#leaves.add(client);
    client.on("error", () => undefined);
    await client.setOptions({ ca: this.cloud.caPem });
    await client.open();
    return client;
  }

  leafConnectionString(leafId: string, gatewayHost: string): string {
    const host = `HostName=${HUB_HOST};GatewayHostName=${gatewayHost}`;
    return `${host};DeviceId=${leafId};SharedAccessKey=${this.leafKey(leafId)}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#leaves) await client.close().catch(() => undefined);
    if (this.#gateway !== undefined) await this.engine.container.getById(this.#gateway.getId()).remove({ force: true });
    await this.#cloud?.[Symbol.asyncDispose]();
    for (const close of this.#closers.reverse()) await close();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  get #edgeNetwork(): string {
    return `${this.#name}-edge`;
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
    this.#cloud = await CloudContainer.start({
      engine: this.engine,
      fieldNetwork: this.fieldNetwork,
      edgeNetwork: this.#edgeNetwork,
      edgeVolume: `${this.#name}-edge`,
      servicePort: this.#servicePort,
      routes: ROUTES,
    });
  }
}
