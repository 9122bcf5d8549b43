/** The real gateway and the development hub in one process, and leaves that say any bytes over plain MQTT to it. */
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Config, mergeConfig } from "../../src/config.ts";
import { isJsonObject } from "../../src/core/merge-patch.ts";
import type { Json, JsonObject } from "../../src/core/message.ts";
import type { D2cMessage } from "../../src/devhub/cloud-types.ts";
import { type DevHub, startDevHub } from "../../src/devhub/devhub.ts";
import type { DevHubSettings } from "../../src/devhub/settings.ts";
import { type Gateway, startGateway } from "../../src/gateway.ts";
import { RawLeaf } from "../support/leaf-client.ts";

const WATCHDOG_MS = 30_000;
const MODULE = { deviceId: "edge1", moduleId: "gw" };

export interface WorldOptions {
  readonly hub?: Partial<DevHubSettings>;
  readonly config?: Partial<Config>;
  /** False: edgeHub is down when the gateway starts. */
  readonly edgeUp?: boolean;
}

/** One gateway, its hub, and every message that has reached the hub since the start. */
export class World implements AsyncDisposable {
  readonly hub: DevHub;
  readonly folder = mkdtempSync(join(tmpdir(), "raw-world-"));
  readonly logLines: string[] = [];
  readonly messages: D2cMessage[] = [];
  readonly #config: Partial<Config>;
  #gateway: Gateway | undefined;

  private constructor(hub: DevHub, config: Partial<Config>) {
    this.hub = hub;
    this.#config = config;
    hub.cloud.onEvent((event) => {
      if (event.kind === "message") this.messages.push(event.message);
    });
  }

  static async start({ config = {}, edgeUp = true, hub: settings = {} }: WorldOptions = {}): Promise<World> {
    const ports = { mqttPort: 0, servicePort: 0, metricsPort: 0, probePort: 0 };
    const hub = await startDevHub({ ...ports, reportedSyncMs: 20, readInOutageMs: 600, ...settings });
    const world = new World(hub, config);
    try {
      if (!edgeUp) await hub.killEdge("keep");
      await world.startGateway();
      if (edgeUp) await world.linked();
      return world;
    } catch (error) {
      await world[Symbol.asyncDispose]();
      throw error;
    }
  }

  get gateway(): Gateway {
    if (this.#gateway === undefined) throw new Error("the gateway is not started");
    return this.#gateway;
  }

  /** Again on the same state folder after {@link stopGateway}. */
  async startGateway(changes: Partial<Config> = {}): Promise<void> {
    const { metricsUrl, probeAddress } = this.hub;
    const merged = mergeConfig(
      {
        authMode: "development",
        tlsEnabled: false,
        plainEnabled: true,
        plainPort: 0,
        opsEnabled: false,
        logLevel: "warn",
        reportedIntervalMs: 50,
        edgeHubMetricsUrl: metricsUrl,
        wanProbeAddress: `${probeAddress.host}:${probeAddress.port}`,
        ...this.#config,
        ...changes,
      },
      {},
    );
    if (merged.kind === "invalid") throw new Error(JSON.stringify(merged.problems));
    this.#gateway = await startGateway({
      config: merged.config,
      environment: this.hub.environment(),
      stateFolder: this.folder,
      bootId: "boot-1",
      logDestination: { write: (line) => this.logLines.push(line) },
    });
  }

  async stopGateway(): Promise<void> {
    const gateway = this.#gateway;
    this.#gateway = undefined;
    await gateway?.[Symbol.asyncDispose]();
  }

  /** The module twin has been read and commands come through. */
  async linked(): Promise<void> {
    const ping = { id: MODULE, name: "gateway*ping", payload: {} };
    await this.until("the link", async () => (await this.hub.cloud.invoke(ping)).kind === "answer");
    await this.until("the first synchronisation", () => this.gateway.relay.synchronised);
  }

  /** A connection that has said nothing yet. */
  socket(): RawLeaf {
    const { plain } = this.gateway.broker.ports;
    if (plain === undefined) throw new Error("the gateway has no plain listener");
    return new RawLeaf(connect(plain, "127.0.0.1"));
  }

  /** A leaf that is let in. */
  async leaf(leafId: string, fields: Parameters<RawLeaf["connect"]>[1] = {}): Promise<RawLeaf> {
    const leaf = this.socket();
    const { code } = await leaf.connect(leafId, fields);
    if (code !== 0) throw new Error(`${leafId} was refused with CONNACK ${code}`);
    return leaf;
  }

  messagesOf(leafId: string): readonly D2cMessage[] {
    return this.messages.filter(({ properties }) => properties["leafId"] === leafId);
  }

  /** A component of the module twin's reported section, as the cloud has it. */
  reported(component: string): Json | undefined {
    const reported = this.hub.cloud.twin(MODULE)?.reported ?? {};
    return Object.hasOwn(reported, component) ? reported[component] : undefined;
  }

  setDesired(patch: JsonObject): void {
    const { kind } = this.hub.cloud.patchDesired(MODULE, patch);
    if (kind !== "updated") throw new Error(`the hub says ${kind}`);
  }

  async command(name: string, payload: Json = {}): Promise<{ readonly status: number; readonly payload: Json }> {
    const outcome = await this.hub.cloud.invoke({ id: MODULE, name, payload });
    if (outcome.kind !== "answer") throw new Error(`${name}: ${outcome.kind}`);
    return outcome;
  }

  /** One sample of a metric, without the prefix, labels as Prometheus writes them. */
  async metric(sample: string): Promise<number> {
    const text = await this.gateway.metricsText();
    const line = text.split("\n").find((candidate) => candidate.startsWith(`pnp_gateway_${sample} `));
    return line === undefined ? 0 : Number(line.slice(line.lastIndexOf(" ") + 1));
  }

  /** Polls; the time is a watchdog, not a measurement. */
  async until(what: string, holds: () => boolean | Promise<boolean>, withinMs = WATCHDOG_MS): Promise<void> {
    const deadline = Date.now() + withinMs;
    while (!(await holds())) {
      if (Date.now() > deadline) throw new Error(`waited ${withinMs} ms for ${what}`);
      await sleep(10);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stopGateway();
    await this.hub[Symbol.asyncDispose]();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

export const TWIN_GET = "$iothub/twin/GET/?$rid=";
export const TWIN_REPORT = "$iothub/twin/PATCH/properties/reported/?$rid=";
export const DESIRED = "$iothub/twin/PATCH/properties/desired/#";
export const COMMANDS = "$iothub/methods/POST/#";

export interface TwinReply {
  readonly topic: string;
  readonly status: number;
  readonly text: string;
  readonly body: JsonObject;
}

/** The next PUBLISH that the leaf hears, which must be the answer to a twin request. */
export async function twinReply(leaf: RawLeaf): Promise<TwinReply> {
  const { payload, topic } = await leaf.next("publish");
  const status = /^\$iothub\/twin\/res\/(\d+)\//.exec(topic)?.[1];
  if (status === undefined) throw new Error(`not a twin answer: ${topic}`);
  const text = payload.toString();
  const body = text === "" ? {} : (JSON.parse(text) as Json);
  return { topic, status: Number(status), text, body: isJsonObject(body) ? body : {} };
}

/** Says what it has to report and hears the answer. */
export async function report(leaf: RawLeaf, body: Json | Buffer, parameters = "1"): Promise<TwinReply> {
  const payload = Buffer.isBuffer(body) ? body : Buffer.from(JSON.stringify(body));
  leaf.send({
    cmd: "publish",
    topic: `${TWIN_REPORT}${parameters}`,
    payload,
    qos: 0,
    dup: false,
    retain: false,
  });
  return twinReply(leaf);
}
