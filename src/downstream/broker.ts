/**
 * The leaf broker: aedes speaks MQTT, everything that is decided is decided here and beside. Invariants: what a leaf sends reaches the
 * handler and nobody else, what a leaf hears comes from `deliver` and nobody else; a leaf has one connection at most; `disconnected`
 * follows each `connected`; nothing that one connection does is thrown into another's.
 */
import type { Duplex } from "node:stream";
import { Aedes, type Client } from "aedes";
import { GatewayError } from "../core/errors.ts";
import type { Frame, LeafId } from "../core/message.ts";
import type { Clock, Delivered, Downstream, LeafAuthenticator, LeafHandler, Log, Metrics } from "../flow/ports.ts";
import type { Dialect } from "../translate/dialect.ts";
import { Admission } from "./admission.ts";
import { aedesHooks } from "./aedes-hooks.ts";
import { LeafConnection, type Origin } from "./connection.ts";
import { HollowPersistence, SILENT_BUS } from "./hollow-stores.ts";
import { Allowances, type LeafLimits } from "./limits.ts";
import { type ListenerOptions, type Listeners, openListeners, type Ports } from "./listeners.ts";
import { type RefusalReason, Refusals } from "./refusals.ts";

export interface BrokerOptions {
  readonly dialects: readonly Dialect[];
  readonly authenticator: LeafAuthenticator;
  readonly limits: LeafLimits;
  readonly listeners: ListenerOptions;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Log;
}

export interface LeafBroker extends Downstream {
  /** Takes over a connection that somebody else accepted; after {@link Downstream.listen}. */
  attach(socket: Duplex, origin: Origin): void;
  /** Judges the credentials of all that are connected once more, by the keys and the deny list as they are now. */
  reauthenticate(): Promise<void>;
  /** What the listeners are bound to; none before {@link Downstream.listen}. */
  readonly ports: Ports;
  /** Connections, and everything that is remembered beyond them; for gauges and tests of leaks. */
  readonly load: { readonly connections: number; readonly leaves: number; readonly remembered: number };
}

export function createBroker(options: BrokerOptions): LeafBroker {
  return new Broker(options);
}

const HOUR_MS = 3_600_000;
/** What closes a connection and would at once do so again: the leaf's next CONNACK is late. */
const PUNISHED: ReadonlySet<RefusalReason> = new Set<RefusalReason>([
  "frame-refused",
  "held-too-long",
  "malformed-packet",
  "packet-too-large",
  "qos-2",
  "rate",
  "second-connect",
  "topic-too-long",
  "unexpected-packet",
]);

interface Running {
  readonly aedes: Aedes;
  readonly admission: Admission;
  readonly handler: LeafHandler;
  listeners: Listeners | undefined;
}

class Broker implements LeafBroker {
  readonly #options: BrokerOptions;
  readonly #refusals: Refusals;
  readonly #allowances: Allowances;
  readonly #connections = new Set<LeafConnection>();
  /** aedes' `client.conn` is the guard that it was given. */
  readonly #byStream = new WeakMap<object, LeafConnection>();
  readonly #byId = new Map<string, LeafConnection>();
  /** Those that were let in, until all that follows their end is done. */
  readonly #leaves = new Map<LeafId, LeafConnection>();
  readonly #work = new Set<Promise<void>>();
  #running: Running | undefined;
  #count = 0;
  #stopped = false;

  constructor(options: BrokerOptions) {
    this.#options = options;
    this.#refusals = new Refusals(options);
    this.#allowances = new Allowances(options.limits);
  }

  get ports(): Ports {
    return this.#running?.listeners?.ports ?? {};
  }

  get load(): LeafBroker["load"] {
    const remembered = (this.#running?.admission.remembered ?? 0) + this.#byId.size + this.#work.size;
    return { connections: this.#connections.size, leaves: this.#leaves.size, remembered };
  }

  async listen(handler: LeafHandler): Promise<void> {
    const { limits } = this.#options;
    const admission = new Admission({
      ...this.#options,
      handler,
      allowances: this.#allowances,
      leaves: () => this.#leaves.size,
      current: (leaf) => this.#leaves.get(leaf),
    });
    const aedes = await Aedes.createBroker({
      mq: SILENT_BUS,
      persistence: new HollowPersistence((id) => this.#byId.get(id)?.subscriptionList() ?? []),
      connectTimeout: limits.connectTimeoutMs,
      maxTopicLevels: limits.maxTopicLevels,
      // Heartbeats are for clusters.
      heartbeatInterval: HOUR_MS,
      ...aedesHooks({
        connectionOf: (client) => this.#connectionOf(client),
        limits,
        judge: (connection, claim, password) => {
          const verdict = admission.judge(connection, claim, password);
          // Whoever asked handles a failure; `dispose` only waits for the end of it.
          this.#track(verdict.then(() => undefined).catch(() => undefined));
          return verdict;
        },
        refused: (connection, reason, detail) => this.#refused(connection, reason, detail),
        handler,
        defect: (connection, error) => this.#defect(connection, error),
      }),
    });
    this.#observe(aedes, handler);
    this.#running = { aedes, admission, handler, listeners: undefined };
    const accept = (socket: Duplex, origin: Origin): void => this.attach(socket, origin);
    this.#running.listeners = await openListeners({ ...this.#options.listeners, limits }, accept, this.#refusals);
  }

  attach(socket: Duplex, origin: Origin): void {
    const running = this.#running;
    if (running === undefined) throw new GatewayError("INVARIANT", "a leaf was attached before the broker listened");
    if (this.#stopped) {
      socket.destroy();
      return;
    }
    const { clock, limits } = this.#options;
    const id = String((this.#count += 1));
    const refused = this.#refused.bind(this);
    const connection = new LeafConnection({ id, socket, origin, limits, clock, refused });
    this.#connections.add(connection);
    this.#byStream.set(connection.guard, connection);
    this.#byId.set(id, connection);
    this.#gauge();
    connection.client = running.aedes.handle(connection.guard);
    // Behind aedes' own listener: its client is closed when ours runs.
    connection.guard.once("close", () => this.#track(this.#ended(connection, running.handler)));
  }

  async deliver(to: LeafId, frames: readonly Frame[]): Promise<Delivered> {
    const connection = this.#leaves.get(to);
    if (connection === undefined || connection.isOver) return "offline";
    return connection.deliveries.deliver(frames.map((frame) => connection.lowered(frame)));
  }

  async drop(leaf: LeafId, reason: string): Promise<void> {
    const connection = this.#leaves.get(leaf);
    if (connection === undefined) return;
    this.#options.log.info({ leafId: leaf, reason }, "the leaf's connection is closed");
    connection.close();
    await connection.gone.promise;
  }

  async reauthenticate(): Promise<void> {
    for (const connection of this.#leaves.values()) {
      const objection = await this.#running?.admission.objection(connection);
      if (objection === undefined || connection.isOver) continue;
      this.#refused(connection, "credentials", objection);
      connection.close();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopped = true;
    const running = this.#running;
    for (const connection of this.#connections) connection.close();
    await running?.listeners?.[Symbol.asyncDispose]();
    while (this.#work.size > 0 || this.#connections.size > 0)
      await Promise.all([...this.#work, ...[...this.#connections].map((connection) => connection.gone.promise)]);
    if (running !== undefined) await new Promise<void>((resolve) => running.aedes.close(() => resolve()));
  }

  // ---------------------------------------------------------------- what aedes tells

  #observe(aedes: Aedes, handler: LeafHandler): void {
    // The CONNACK is written before anything else can happen: a leaf that has seen it is known.
    aedes.on("client", (client) => {
      const connection = this.#connectionOf(client);
      if (connection !== undefined && !connection.isOver) this.#connected(connection, handler);
    });
    aedes.on("clientReady", (client) => this.#connectionOf(client)?.leaveTurnstile());
    aedes.on("ack", (packet, client) => {
      // With the hollow persistence this is the PUBACK itself.
      this.#connectionOf(client)?.deliveries.acknowledged(packet.messageId);
    });
    aedes.on("ping", (_packet, client) => {
      const connection = this.#connectionOf(client);
      if (connection?.leaf === undefined || connection.isOver) return;
      this.#track(handler.pinged(connection.leaf.leafId));
    });
    aedes.on("unsubscribe", (filters, client) => {
      const connection = this.#connectionOf(client);
      // aedes says so for all of them when a connection ends, too: then it is no wish of the leaf's.
      if (connection === undefined || connection.isOver || client.closed) return;
      for (const filter of filters) connection.subscriptions.delete(filter);
      this.#track(this.#unsubscribed(connection, handler));
    });
    const failed = (client: Client, error: Error): void => this.#failed(client, error);
    aedes.on("clientError", failed);
    aedes.on("connectionError", failed);
    // aedes would end the process with what it cannot blame on a client.
    aedes.addListener("error", (error: unknown) => this.#defect(undefined, error));
  }

  #connected(connection: LeafConnection, handler: LeafHandler): void {
    const { leaf } = connection;
    if (leaf === undefined) return;
    this.#leaves.set(leaf.leafId, connection);
    connection.origin.letIn?.();
    connection.guard.open(this.#allowances.of(leaf.leafId, this.#options.clock.steady()));
    this.#options.metrics.count("leaf_connects_total");
    const told = async (): Promise<void> => handler.connected(leaf);
    connection.connected = told().catch((error: unknown) => this.#defect(connection, error));
    if (connection.closeAtMs !== undefined) this.#track(this.#expire(connection, connection.closeAtMs));
  }

  async #unsubscribed(connection: LeafConnection, handler: LeafHandler): Promise<void> {
    const { leaf } = connection;
    if (leaf !== undefined) await handler.subscribed(leaf.leafId, connection.subscriptionList());
  }

  /** In slices: the wall clock may be set meanwhile, and no timer takes more than 24 days. */
  async #expire(connection: LeafConnection, closeAtMs: number): Promise<void> {
    const { clock, log, metrics } = this.#options;
    while (!connection.isOver && clock.now() < closeAtMs)
      // Its only failure is the end of the connection, which the condition sees.
      await clock.sleep(Math.min(HOUR_MS, closeAtMs - clock.now()), connection.signal).catch(() => undefined);
    if (connection.isOver) return;
    metrics.count("leaf_tokens_expired_total");
    log.info(
      { leafId: connection.leaf?.leafId },
      "the leaf's token or certificate has expired, its connection is closed",
    );
    connection.close();
  }

  async #ended(connection: LeafConnection, handler: LeafHandler): Promise<void> {
    connection.end();
    this.#connections.delete(connection);
    this.#byId.delete(connection.id);
    this.#gauge();
    const leafId = connection.leaf?.leafId;
    try {
      if (leafId === undefined || connection.connected === undefined) return;
      await connection.connected;
      const will = this.#willOf(connection);
      // Called before `disconnected`, but not waited for: its safe place may be seconds away, and the leaf back before.
      if (will !== undefined) this.#track(handler.received(leafId, will).then(() => undefined));
      await handler.disconnected(leafId);
    } finally {
      if (leafId !== undefined && this.#leaves.get(leafId) === connection) this.#leaves.delete(leafId);
      connection.gone.resolve();
    }
  }

  #willOf({ claim, dialect, guard, leaf, origin }: LeafConnection): Frame | undefined {
    const will = claim?.will;
    if (will === undefined || leaf === undefined || guard.disconnectSeen) return undefined;
    if (dialect?.parse(leaf.leafId, will).kind === "telemetry") return will;
    this.#refusals.refused("will-topic", { leafId: leaf.leafId, ...origin }, will.topic);
    return undefined;
  }

  // ---------------------------------------------------------------- what goes wrong

  #refused(connection: LeafConnection, reason: RefusalReason, detail?: string): void {
    const leafId = connection.leaf?.leafId;
    this.#refusals.refused(reason, { leafId, remoteAddress: connection.origin.remoteAddress }, detail);
    const isPunished = leafId !== undefined && connection.connected !== undefined && PUNISHED.has(reason);
    if (isPunished) this.#running?.admission.penalise(leafId);
  }

  /** aedes has closed this connection already. */
  #failed(client: Client, error: Error): void {
    const connection = this.#connectionOf(client);
    // With an error code it is a CONNECT that was refused: that has been said.
    if (connection === undefined || connection.signal.aborted || "errorCode" in error) return;
    if (error.message === "connect did not arrive in time") this.#refused(connection, "connect-timeout");
    else if (error.message === "keep alive timeout") this.#refused(connection, "keep-alive");
    else if (error.message !== "connection closed") this.#refused(connection, "malformed-packet", error.message);
  }

  #defect(connection: LeafConnection | undefined, error: unknown): void {
    const { log, metrics } = this.#options;
    metrics.count("defects_total");
    log.error({ leafId: connection?.leaf?.leafId, error: String(error) }, "a leaf's connection could not be served");
    connection?.close();
  }

  #connectionOf(client: Client | null): LeafConnection | undefined {
    return client === null ? undefined : this.#byStream.get(client.conn);
  }

  #gauge(): void {
    this.#options.metrics.gauge("leaf_connections", this.#connections.size);
  }

  /** Work that nobody waits for but `dispose`; a failure is a defect, never a crash. */
  #track(work: Promise<void>): void {
    const tracked = work
      .catch((error: unknown) => this.#defect(undefined, error))
      .finally(() => this.#work.delete(tracked));
    this.#work.add(tracked);
  }
}
