/** The development hub's container, which is edgeHub, Edge daemon and IoT Hub to the gateway, and what a back end sees and does through it. */
import { setTimeout as delay } from "node:timers/promises";
import { type ContainerRuntimeClient, type StartedTestContainer, Wait } from "testcontainers";
import type { Json, JsonObject } from "../../src/core/message.ts";
import { HubClient } from "../../src/devhub/cli-hub-client.ts";
import { type BackEnd, connectBackEnd } from "../support/back-end.ts";
import { DeployedContainer, START_WITHIN_MS } from "./deployed-container.ts";
import { MODULE_ID } from "./manifest.ts";

/** The name that modules dial for edgeHub. */
const EDGE_HOST = "edge-device";
export const HUB_HOST = "devhub.azure-devices.net";
const SETTINGS = { reportedSyncMs: 100, messageAckTimeoutMs: 5_000 };

export interface HubMessage {
  readonly body: Json;
  readonly applicationProperties: Readonly<Record<string, string>>;
  readonly systemProperties: Readonly<Record<string, string>>;
}

export interface CloudOptions {
  readonly engine: ContainerRuntimeClient;
  readonly fieldNetwork: string;
  readonly edgeNetwork: string;
  /** Holds the workload API's socket. */
  readonly edgeVolume: string;
  /** Of this machine: the service API is published there. */
  readonly servicePort: number;
  readonly routes: readonly string[];
}

interface Announcement {
  readonly environment: Record<string, string>;
  readonly serviceConnectionString: string;
}

export class CloudContainer implements AsyncDisposable {
  /** Telemetry that reached the cloud while somebody listened. */
  readonly messages: HubMessage[] = [];
  /** What the Edge agent puts into the module's environment. */
  readonly environment: Readonly<Record<string, string>>;
  readonly caPem: string;
  readonly #engine: ContainerRuntimeClient;
  readonly #id: string;
  readonly #client: HubClient;
  readonly #backEnd: BackEnd;
  readonly #ended = new AbortController();
  readonly #listening: Promise<void>;
  #isListening = false;

  private constructor(options: CloudOptions, container: StartedTestContainer, announced: Announcement, caPem: string) {
    const { serviceConnectionString: connectionString } = announced;
    const url = `https://localhost:${options.servicePort}`;
    this.#engine = options.engine;
    this.#id = container.getId();
    this.caPem = caPem;
    // Modules dial port 8883 of the host name that the Edge agent gives them.
    this.environment = { ...announced.environment, IOTEDGE_GATEWAYHOSTNAME: EDGE_HOST };
    this.#client = new HubClient({ url, caFile: "", connectionString, deviceId: "edge1", moduleId: MODULE_ID }, caPem);
    this.#backEnd = connectBackEnd({ host: "127.0.0.1", port: options.servicePort, ca: caPem, connectionString });
    this.#listening = this.#listen();
  }

  static async start(options: CloudOptions): Promise<CloudContainer> {
    const { edgeNetwork, edgeVolume, engine, fieldNetwork, routes, servicePort } = options;
    const container = await new DeployedContainer("iotedge-pnp-gateway-devhub:test", {
      Binds: [`${edgeVolume}:/var/run/iotedge`],
    })
      .alsoIn(engine, edgeNetwork, [EDGE_HOST, "edgeHub", HUB_HOST])
      .withEnvironment({
        DEVHUB_MODULE_ID: MODULE_ID,
        DEVHUB_GATEWAY_HOSTNAME: EDGE_HOST,
        DEVHUB_MQTT_PORT: "8883",
        DEVHUB_METRICS_PORT: "9600",
        DEVHUB_PROBE_PORT: "443",
        DEVHUB_ROUTES: routes.join("\n"),
        DEVHUB_SETTINGS: JSON.stringify(SETTINGS),
      })
      .mainlyIn(fieldNetwork, [])
      .withExposedPorts({ container: 18443, host: servicePort })
      .withWaitStrategy(Wait.forLogMessage(/"ready":true/))
      .start();
    const raw = engine.container.getById(container.getId());
    const log = (await raw.logs({ stdout: true, stderr: false, follow: false })).toString("utf8");
    const announced = JSON.parse(/\{"ready":true.*\}/.exec(log)?.[0] ?? "{}") as Announcement;
    const { output: caPem } = await container.exec(["cat", "/state/ca.pem"]);
    const cloud = new CloudContainer(options, container, announced, caPem);
    await cloud.untilListening();
    return cloud;
  }

  async stop(): Promise<void> {
    await this.#engine.container.getById(this.#id).stop({ t: 10 });
    this.#isListening = false;
  }

  /** What happens before {@link untilListening} resolves is not heard. */
  async resume(): Promise<void> {
    await this.#engine.container.getById(this.#id).start();
  }

  async untilListening(): Promise<void> {
    const until = Date.now() + START_WITHIN_MS;
    while (!this.#isListening) {
      if (Date.now() > until) throw new Error("the hub's events cannot be heard");
      await delay(50);
    }
  }

  messagesOf(leafId: string): readonly HubMessage[] {
    return this.messages.filter(({ applicationProperties }) => applicationProperties["leafId"] === leafId);
  }

  /** A component of the module twin's reported section, as back ends see it. */
  async reported(component: string): Promise<unknown> {
    return (await this.moduleTwin()).reported[component];
  }

  async moduleTwin(): Promise<{ readonly desired: JsonObject; readonly reported: JsonObject }> {
    const { deviceId, moduleId } = this.#client.module;
    const { body } = await this.#client.call("GET", `/twins/${deviceId}/modules/${moduleId}`);
    return (body as unknown as { properties: { desired: JsonObject; reported: JsonObject } }).properties;
  }

  async setDesired(desired: JsonObject): Promise<void> {
    const { deviceId, moduleId } = this.#client.module;
    await this.#backEnd.registry.updateModuleTwin(deviceId, moduleId, { properties: { desired } }, "*");
  }

  async command(
    methodName: string,
    payload?: unknown,
  ): Promise<{ readonly status: number; readonly payload: unknown }> {
    const { deviceId, moduleId } = this.#client.module;
    const call = { methodName, responseTimeoutInSeconds: 60, ...(payload === undefined ? {} : { payload }) };
    const { result } = (await this.#backEnd.client.invokeDeviceMethod(deviceId, moduleId, call)) as unknown as {
      result: { status: number; payload: unknown };
    };
    return result;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort();
    await this.#listening;
    this.#backEnd[Symbol.dispose]();
    await this.#engine.container.getById(this.#id).remove({ force: true });
  }

  async #listen(): Promise<void> {
    const { signal } = this.#ended;
    while (!signal.aborted) {
      try {
        const opened = () => {
          this.#isListening = true;
        };
        for await (const { data, name } of this.#client.events(signal, opened)) {
          if (name === "telemetry") this.messages.push(data as unknown as HubMessage);
        }
      } catch {
        // The hub is away: asked again in a moment.
      }
      this.#isListening = false;
      await delay(100, undefined, { signal }).catch(() => undefined);
    }
  }
}
