/**
 * Leaves behind the port `Downstream`, without a broker: each is a small PnP program that keeps what it was told, as an SDK does.
 * The wire between them and the gateway is the IoT Hub dialect's own frames.
 */
import type { Frame, Json, JsonObject, LeafId } from "../../src/core/message.ts";
import type { Delivered, Downstream, LeafHandler, Received } from "../../src/flow/ports.ts";
import { hubMerge } from "./model-hub.ts";

const text = new TextDecoder();
const bytes = new TextEncoder();
const DEVICE_FILTERS = [
  "$iothub/twin/res/#",
  "$iothub/methods/POST/#",
  "$iothub/twin/PATCH/properties/desired/#",
] as const;

export interface TwinAnswer {
  readonly status: number;
  readonly body: JsonObject | undefined;
}

export class ModelLeaf {
  readonly id: LeafId;
  connected = false;
  /** Saw the SUBACKs once: with a kept session it never subscribes again. */
  hasSubscribed = false;
  desired: JsonObject = {};
  desiredVersion = 0;
  /** What it reported and saw answered 204. */
  reported: JsonObject = {};
  /** Top-level keys of reports whose answer it did not see: nobody can say what became of them. */
  readonly uncertain = new Set<string>();
  /** Versions in the order in which it saw them, for the promise that none goes back. */
  readonly versions: number[] = [];
  /** By `property` or `component/property`: the newest version at which it was told of it. */
  readonly toldAt = new Map<string, number>();
  readonly commands: { readonly name: string; readonly payload: Json; readonly rid: string }[] = [];
  readonly cloudToDevice: string[] = [];
  readonly answers = new Map<string, TwinAnswer>();
  /** What is written to it is lost on the way, and nobody knows yet. */
  isUnreachable = false;
  answerCommands: ((name: string, payload: Json) => { status: number; payload: Json } | undefined) | undefined;
  readonly #world: ModelLeaves;
  #rid = 0;
  #connecting = false;
  #end = Promise.withResolvers<void>();

  constructor(id: LeafId, world: ModelLeaves) {
    this.id = id;
    this.#world = world;
  }

  /** Connects with a kept session, as all SDKs do; subscribes and reads its twin like a fresh program when asked to. */
  async connect(options: {
    readonly subscribe: boolean;
    readonly clean?: boolean;
    readonly modelId?: string;
  }): Promise<boolean> {
    const handler = this.#world.handler;
    // The broker lets in one CONNECT of an id at a time.
    if (handler === undefined || this.connected || this.#connecting) return false;
    this.#connecting = true;
    try {
      return await this.#connect(handler, options);
    } finally {
      this.#connecting = false;
    }
  }

  async #connect(
    handler: LeafHandler,
    options: { readonly subscribe: boolean; readonly clean?: boolean; readonly modelId?: string },
  ): Promise<boolean> {
    const connect = {
      leafId: this.id,
      modelId: options.modelId,
      dialect: "iothub",
      clean: options.clean ?? false,
      remoteAddress: "test",
    };
    const admission = await handler.admit(connect);
    if (admission.kind === "refused") return false;
    this.connected = true;
    this.#end = Promise.withResolvers<void>();
    await handler.connected(connect);
    if (!options.subscribe) return true;
    const own = `devices/${this.id}/messages/devicebound/#`;
    try {
      await handler.subscribed(
        this.id,
        [...DEVICE_FILTERS, own].map((filter) => ({ filter, qos: 1 as const })),
      );
      this.hasSubscribed = true;
      return true;
    } catch {
      // No SUBACK: the broker closes such a connection.
      await this.disconnect();
      return false;
    }
  }

  async subscribe(...filters: readonly string[]): Promise<void> {
    await this.#world.handler?.subscribed(
      this.id,
      filters.map((filter) => ({ filter, qos: 1 as const })),
    );
  }

  /** Its connection breaks, and the broker publishes its will for it. */
  async breakWithWill(): Promise<void> {
    const topic = `devices/${this.id}/messages/events/`;
    this.connected = false;
    this.#end.resolve();
    const will = this.#world.handler?.received(this.id, { topic, payload: bytes.encode("gone"), qos: 1, will: true });
    await this.#world.handler?.disconnected(this.id);
    await will;
  }

  /** The other side is dead: whatever was under way never ends. */
  abandon(): void {
    this.connected = false;
    this.#end.resolve();
    this.#connecting = false;
  }

  async disconnect(): Promise<void> {
    if (!this.connected) return;
    this.connected = false;
    this.#end.resolve();
    await this.#world.handler?.disconnected(this.id);
  }

  async ping(): Promise<void> {
    if (this.connected) await this.#world.handler?.pinged(this.id);
  }

  publish(topic: string, payload: Json | Uint8Array, qos: 0 | 1 = 1): Promise<Received> {
    const handler = this.#world.handler;
    if (handler === undefined || !this.connected) return Promise.resolve({ kind: "close", reason: "not connected" });
    return handler.received(this.id, {
      topic,
      payload: payload instanceof Uint8Array ? payload : bytes.encode(JSON.stringify(payload)),
      qos,
    });
  }

  telemetry(body: Json, bag = ""): Promise<Received> {
    return this.publish(`devices/${this.id}/messages/events/${bag}`, body);
  }

  /** Resolves to the status of the answer, undefined when none came on this connection. */
  async report(patch: JsonObject): Promise<number | undefined> {
    const rid = `r${++this.#rid}`;
    await this.publish(`$iothub/twin/PATCH/properties/reported/?$rid=${rid}`, patch);
    const status = this.answers.get(rid)?.status;
    if (status === 204) this.reported = hubMerge(this.reported, patch);
    for (const key of Object.keys(patch)) {
      if (status === 204) this.uncertain.delete(key);
      else this.uncertain.add(key);
    }
    return status;
  }

  async read(): Promise<TwinAnswer | undefined> {
    const rid = `g${++this.#rid}`;
    await this.publish(`$iothub/twin/GET/?$rid=${rid}`, new Uint8Array());
    const answer = this.answers.get(rid);
    const desired = answer?.body?.["desired"];
    if (answer?.status === 200 && typeof desired === "object" && desired !== null && !Array.isArray(desired)) {
      const { $version, ...rest } = desired as JsonObject;
      this.desired = rest;
      this.toldAt.clear();
      this.#noteTold("", rest, Number($version));
      this.#sees(Number($version));
    }
    return answer;
  }

  /** Resolves when the current connection has ended. */
  get ended(): Promise<void> {
    return this.#end.promise;
  }

  take(frame: Frame): void {
    const { topic } = frame;
    const twinAnswer = /^\$iothub\/twin\/res\/(\d+)\/\?\$rid=([^&]+)/.exec(topic);
    if (twinAnswer !== null) {
      const body = frame.payload.length === 0 ? undefined : (JSON.parse(text.decode(frame.payload)) as JsonObject);
      this.answers.set(twinAnswer[2] ?? "", { status: Number(twinAnswer[1]), body });
      return;
    }
    if (topic.startsWith("$iothub/twin/PATCH/properties/desired/")) {
      const { $version, ...patch } = JSON.parse(text.decode(frame.payload)) as JsonObject;
      this.desired = hubMerge(this.desired, patch);
      this.#noteTold("", patch, Number($version));
      this.#sees(Number($version));
      return;
    }
    const command = /^\$iothub\/methods\/POST\/([^/]+)\/\?\$rid=(.+)$/.exec(topic);
    if (command !== null) {
      this.#command(command[1] ?? "", command[2] ?? "", JSON.parse(text.decode(frame.payload)) as Json);
      return;
    }
    this.cloudToDevice.push(text.decode(frame.payload));
  }

  #command(name: string, rid: string, payload: Json): void {
    this.commands.push({ name, payload, rid });
    const answer = this.answerCommands?.(name, payload);
    if (answer !== undefined) void this.publish(`$iothub/methods/res/${answer.status}/?$rid=${rid}`, answer.payload, 0);
  }

  #noteTold(prefix: string, section: JsonObject, version: number): void {
    for (const [name, value] of Object.entries(section)) {
      if (name === "part" && typeof value === "object" && value !== null)
        this.#noteTold("part/", value as JsonObject, version);
      else if (name !== "__t") this.toldAt.set(`${prefix}${name}`, version);
    }
  }

  #sees(version: number): void {
    this.desiredVersion = version;
    this.versions.push(version);
  }
}

export class ModelLeaves implements Downstream {
  handler: LeafHandler | undefined;
  readonly #leaves = new Map<LeafId, ModelLeaf>();
  readonly drops: string[] = [];

  leaf(id: string): ModelLeaf {
    const leafId = id as LeafId;
    const leaf = this.#leaves.get(leafId) ?? new ModelLeaf(leafId, this);
    this.#leaves.set(leafId, leaf);
    return leaf;
  }

  all(): Iterable<ModelLeaf> {
    return this.#leaves.values();
  }

  async listen(handler: LeafHandler): Promise<void> {
    this.handler = handler;
  }

  async deliver(to: LeafId, frames: readonly Frame[]): Promise<Delivered> {
    const leaf = this.#leaves.get(to);
    if (leaf === undefined || !leaf.connected || this.handler === undefined) return "offline";
    if (!leaf.isUnreachable) for (const frame of frames) leaf.take(frame);
    // Its PUBACK does not come.
    else if (frames.some(({ qos }) => qos === 1)) return leaf.ended.then(() => "unacknowledged");
    return "delivered";
  }

  async drop(leafId: LeafId): Promise<void> {
    this.drops.push(leafId);
    await this.#leaves.get(leafId)?.disconnect();
  }

  /** The gateway's process is gone: every connection breaks, and nobody tells the gateway. */
  detach(): void {
    this.handler = undefined;
    for (const leaf of this.#leaves.values()) leaf.abandon();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const leaf of this.#leaves.values()) await leaf.disconnect();
    this.handler = undefined;
  }
}
