/**
 * One life of the edgeHub process: takes connections, keeps sessions and hands each packet to the part that knows it.
 * A new life on the same {@link EdgeStore} is a restart.
 */

import type { IConnectPacket, IPublishPacket, ISubscribePacket, IUnsubscribePacket } from "mqtt-packet";
import type { JsonObject } from "../core/message.ts";
import type { Behaviour, Drop, TwinAnswer } from "./behaviour.ts";
import type { Cloud, Identity, MethodCall, MethodOutcome } from "./cloud-types.ts";
import { type InputMessage, type InputOutcome, type InputTarget, ModuleInputs } from "./edge-hub-inputs.ts";
import { MethodCalls, type Reach } from "./edge-hub-methods.ts";
import { parseRoute, type Route, type Sink, sinksFor } from "./edge-hub-routes.ts";
import { type EdgeStore, keyOf, type QueuedMessage, type Session } from "./edge-hub-store.ts";
import { errorReply, StrictTwins } from "./edge-hub-strict-twins.ts";
import { acceptTelemetry } from "./edge-hub-telemetry.ts";
import { EdgeTwins, type TwinReply, type Twins } from "./edge-hub-twins.ts";
import { Upstream } from "./edge-hub-upstream.ts";
import type { WanLink } from "./edge-hub-wan.ts";
import { EdgeMetrics } from "./edge-metrics.ts";
import { judgeConnect } from "./edge-mqtt-auth.ts";
import type { ConnectedClient, ConnectionHandler, ConnectVerdict, EdgeConnection } from "./edge-mqtt-connection.ts";
import { channelOf, type Inbound, parseInbound } from "./edge-mqtt-topics.ts";
import type { DevHubSettings } from "./settings.ts";

export interface EdgeHubParts {
  readonly settings: DevHubSettings;
  readonly behaviour: Behaviour;
  readonly store: EdgeStore;
  readonly wan: WanLink;
  readonly cloud: Cloud;
  dropped(drop: Drop): void;
}

type Verdict = "acknowledge" | "close";

/** Told to say nothing: recognised by identity. */
const SILENCE: TwinReply = { status: 0 };
/** IoT Hub has no routes between its device side and its events. */
const UPSTREAM_ONLY: readonly Sink[] = [{ kind: "upstream" }];

export class EdgeHub implements ConnectionHandler {
  readonly metrics: EdgeMetrics;
  readonly #parts: EdgeHubParts;
  readonly #routes: readonly Route[];
  readonly #connections = new Map<string, EdgeConnection>();
  readonly #methods = new MethodCalls((key) => this.#reach(key));
  readonly #inputs = new Map<string, ModuleInputs>();
  readonly #upstream: Upstream;
  readonly #twins: Twins;
  readonly #stops: (() => void)[] = [];
  #offlineNoticed = false;
  /** From when on the cloud sends a client's desired changes; it goes on doing so while this process lives. */
  readonly #heardFromMs = new Map<string, number>();

  constructor(parts: EdgeHubParts) {
    this.#parts = parts;
    const { deviceId, iotHubHostName, routes, personality } = parts.settings;
    this.#routes = routes.map(parseRoute);
    this.metrics = new EdgeMetrics({ deviceId, iotHubHostName, queueLength: () => this.#upstream.length });
    const dropped = (message: { from: Identity }, reason: string) => this.#drop(keyOf(message.from), "", reason);
    this.#upstream = new Upstream({ ...parts, metrics: this.metrics, dropped });
    const isHeard = (key: string) => performance.now() >= (this.#heardFromMs.get(key) ?? Number.POSITIVE_INFINITY);
    const notify = (key: string, patch: JsonObject, version: number) => this.#notify(key, patch, version);
    const twinParts = { ...parts, metrics: this.metrics, notify, isHeard };
    this.#twins = personality === "iothub" ? new StrictTwins(twinParts) : new EdgeTwins(twinParts);
  }

  start(): void {
    const { wan, cloud, settings } = this.#parts;
    this.#stops.push(
      wan.listen({
        resumed: () => this.#resumed(),
        offlineNoticed: () => {
          this.#offlineNoticed = true;
          this.metrics.offline();
        },
        retried: () => this.metrics.retried(),
      }),
      cloud.onDesired((id, patch, version) => this.#twins.desiredChanged(id, patch, version)),
    );
    const rounds = setInterval(() => this.#reauthenticate(), settings.reauthenticationIntervalMs);
    this.#stops.push(() => clearInterval(rounds));
    if (wan.connected) this.metrics.online();
    else this.#offlineNoticed = true;
    this.#upstream.start();
  }

  /** The process is gone: nothing is finished, nothing is said. */
  stop(): void {
    for (const stop of this.#stops.splice(0)) stop();
    this.#upstream.stop();
    this.#twins.stop();
    this.resetConnections();
  }

  resetConnections(): void {
    for (const connection of this.#connections.values()) connection.reset();
  }

  #reauthenticate(): void {
    for (const connection of this.#connections.values()) {
      if ((connection.client?.expiresMs ?? 0) < Date.now()) connection.reset();
    }
  }

  get connected(): readonly string[] {
    return [...this.#connections.keys()];
  }

  invokeMethod(call: MethodCall): Promise<MethodOutcome> {
    return this.#methods.invoke(keyOf(call.id), call);
  }

  sendInput(moduleId: string, input: string, message: InputMessage): Promise<InputOutcome> {
    return this.#inputsOf(moduleId).send(input, message);
  }

  connect(connection: EdgeConnection, packet: IConnectPacket): Promise<ConnectVerdict> {
    const { behaviour, store, settings } = this.#parts;
    if (typeof behaviour.connections === "object") {
      return Promise.resolve({ kind: "refused", code: behaviour.connections.connack });
    }
    const judged = judgeConnect(packet, (key) => store.identities.get(key)?.key, settings, Date.now());
    if (judged.kind === "refused") return Promise.resolve(judged);
    const { client } = judged;
    const sessionPresent = this.#openSession(client.key, packet.clean === true);
    connection.client = client;
    // One connection per identity: the new one evicts the old.
    this.#connections.get(client.key)?.reset();
    this.#connections.set(client.key, connection);
    setImmediate(() => this.#clientChanged(client.key));
    return Promise.resolve({ kind: "accepted", sessionPresent });
  }

  closed(connection: EdgeConnection, will: IConnectPacket["will"]): void {
    const { client } = connection;
    if (client === undefined) return;
    if (this.#connections.get(client.key) === connection) {
      this.#connections.delete(client.key);
      if (client.clean) this.#parts.store.setSession(client.key, undefined);
    }
    this.#methods.disconnected(client.key);
    if (will === undefined) return;
    const inbound = parseInbound(will.topic);
    const payload = Buffer.from(will.payload);
    const packet = { topic: will.topic, payload, retain: will.retain === true, dup: false };
    if (inbound.kind === "telemetry") this.#telemetry(client, packet, inbound, true);
  }

  subscribe(connection: EdgeConnection, packet: ISubscribePacket): void {
    const { client } = connection;
    if (client === undefined) return;
    const added = packet.subscriptions.map(({ topic, qos }): [string, 0 | 1] => [topic, qos === 0 ? 0 : 1]);
    const session = { ...this.#parts.store.sessions.get(client.key), ...Object.fromEntries(added) };
    this.#parts.store.setSession(client.key, session);
    this.#subscribedToDesired(client.key);
    this.#clientChanged(client.key);
  }

  #subscribedToDesired(key: string): void {
    if (this.#qosOf(key, "desired") === undefined || this.#heardFromMs.has(key)) return;
    this.#heardFromMs.set(key, performance.now() + this.#parts.settings.subscriptionDelayMs);
  }

  unsubscribe(connection: EdgeConnection, packet: IUnsubscribePacket): void {
    const { client } = connection;
    if (client === undefined) return;
    const kept = Object.entries(this.#session(client.key)).filter(([f]) => !packet.unsubscriptions.includes(f));
    this.#parts.store.setSession(client.key, Object.fromEntries(kept));
  }

  async publish(connection: EdgeConnection, packet: IPublishPacket): Promise<Verdict> {
    const { client } = connection;
    if (client === undefined) return "close";
    const inbound = parseInbound(packet.topic);
    switch (inbound.kind) {
      case "fatal":
        return "close";
      case "dropped":
        return this.#drop(client.key, packet.topic, inbound.reason);
      case "telemetry":
        return this.#telemetry(client, packet, inbound, false);
      case "method-answer":
        this.#methods.answered(client.key, inbound.rid, inbound.status, Buffer.from(packet.payload));
        return "acknowledge";
      case "twin-get":
        this.#answer(connection, inbound.rid, await this.#twinGet(client.identity));
        return "acknowledge";
      case "twin-patch":
        this.#answer(connection, inbound.rid, this.#twinPatch(client.identity, packet, inbound.ifVersion));
        return "acknowledge";
    }
  }

  async #twinGet(identity: Identity): Promise<TwinReply | undefined> {
    return this.#misbehave(this.#parts.behaviour.twinGet) ?? (await this.#twins.get(identity));
  }

  #twinPatch(identity: Identity, packet: IPublishPacket, ifVersion: string | undefined): TwinReply | undefined {
    const told = this.#misbehave(this.#parts.behaviour.twinPatch);
    return told ?? this.#twins.patch(identity, Buffer.from(packet.payload), ifVersion);
  }

  /** A reply that stands for silence, or undefined to answer honestly. edgeHub's errors have an empty body. */
  #misbehave(answer: TwinAnswer): TwinReply | undefined {
    if (answer === "normal") return undefined;
    if (answer === "silence") return SILENCE;
    return this.#strict ? errorReply(answer.status, "told to fail") : { status: answer.status };
  }

  #answer(connection: EdgeConnection, rid: string | undefined, reply: TwinReply | undefined): void {
    if (connection.client === undefined || rid === undefined || reply === undefined || reply === SILENCE) return;
    const qos = this.#qosOf(connection.client.key, "twin-answers");
    // Without a subscription an answer is dropped, also one to a request just made.
    if (qos === undefined) return;
    const version = reply.version === undefined ? "" : `&$version=${reply.version}`;
    connection.send(`$iothub/twin/res/${reply.status}/?$rid=${rid}${version}`, reply.body ?? "", qos);
  }

  #telemetry(
    client: ConnectedClient,
    packet: Pick<IPublishPacket, "topic" | "payload" | "retain" | "dup">,
    inbound: Extract<Inbound, { kind: "telemetry" }>,
    will: boolean,
  ): Verdict {
    // edgeHub does not compare the topic with who is connected; it only needs to know the identity named.
    const sender = this.#parts.store.identities.get(keyOf(inbound.from));
    if (sender === undefined) return this.#drop(client.key, packet.topic, "identity not in scope");
    if (this.#strict && keyOf(inbound.from) !== client.key) return "close";
    const { bag } = inbound;
    const envelope = { packet, bag, sender, modelId: client.modelId, will, nowMs: Date.now() };
    const accepted = acceptTelemetry(envelope, this.#parts.settings.personality);
    if (accepted.kind === "dropped") return this.#drop(client.key, packet.topic, accepted.reason);
    const sinks = this.#strict ? UPSTREAM_ONLY : sinksFor(this.#routes, sender.identity, accepted.output);
    if (sinks.length === 0) return this.#drop(client.key, packet.topic, "no route");
    for (const sink of sinks) {
      if (sink.kind === "upstream") this.#upstream.add(accepted.message);
      // A module that is away keeps the message waiting; nobody here waits with it.
      else void this.sendInput(sink.moduleId, sink.input, toInput(accepted.message));
    }
    return "acknowledge";
  }

  #drop(from: string, topic: string, reason: string): Verdict {
    this.metrics.messageDropped(from, reason);
    this.#parts.dropped({ from, topic, reason });
    return this.#strict ? "close" : "acknowledge";
  }

  get #strict(): boolean {
    return this.#parts.settings.personality === "iothub";
  }

  #resumed(): void {
    // Only an outage that edgeHub counted has an end to count.
    if (this.#offlineNoticed) this.metrics.online();
    this.#offlineNoticed = false;
    this.#twins.resumed();
    this.#upstream.resume();
    this.#methods.changed();
  }

  #notify(key: string, patch: JsonObject, version: number): void {
    const qos = this.#qosOf(key, "desired");
    if (qos === undefined) return;
    const body = JSON.stringify({ ...patch, $version: version });
    this.#connections.get(key)?.send(`$iothub/twin/PATCH/properties/desired/?$version=${version}`, body, qos);
  }

  #reach(key: string): Reach {
    const connection = this.#connections.get(key);
    if (!this.#parts.wan.connected || connection?.open !== true) return { kind: "away" };
    if (this.#qosOf(key, "methods") === undefined) return { kind: this.#strict ? "away" : "unsubscribed" };
    return { kind: "reachable", send: (topic, payload) => connection.send(topic, payload, 0) };
  }

  #openSession(key: string, clean: boolean): boolean {
    const { store } = this.#parts;
    const present = !clean && store.sessions.has(key);
    if (!present) store.setSession(key, clean ? undefined : {});
    return present;
  }

  #session(key: string): Session {
    return this.#parts.store.sessions.get(key) ?? {};
  }

  #qosOf(key: string, channel: ReturnType<typeof channelOf>): 0 | 1 | undefined {
    return Object.entries(this.#session(key)).find(([filter]) => channelOf(filter) === channel)?.[1];
  }

  #clientChanged(key: string): void {
    this.#methods.changed();
    const moduleId = this.#parts.store.identities.get(key)?.identity.moduleId;
    if (moduleId !== undefined) this.#inputs.get(moduleId)?.changed();
  }

  #inputsOf(moduleId: string): ModuleInputs {
    const known = this.#inputs.get(moduleId);
    if (known !== undefined) return known;
    const { deviceId } = this.#parts.settings;
    const made = new ModuleInputs(deviceId, moduleId, () => this.#inputTarget(keyOf({ deviceId, moduleId })));
    this.#inputs.set(moduleId, made);
    return made;
  }

  #inputTarget(key: string): InputTarget | undefined {
    const connection = this.#connections.get(key);
    const filters = Object.keys(this.#session(key)).filter((filter) => channelOf(filter) === "inputs");
    return connection === undefined || !connection.open || filters.length === 0 ? undefined : { connection, filters };
  }
}

function toInput({ from, system, properties, body }: Omit<QueuedMessage, "seq">): InputMessage {
  const sender = { cdid: from.deviceId, ...(from.moduleId === undefined ? {} : { cmid: from.moduleId }) };
  return { body: Buffer.from(body, "base64"), properties, system: { ...system, ...sender } };
}
