/**
 * Every interface to the outside, on one page. A promise that resolves here is a promise kept; nothing is fire-and-forget.
 */
import type { LeafRecord } from "../core/leaf.ts";
import type {
  Fault,
  Frame,
  Json,
  JsonObject,
  LeafId,
  ModuleTwin,
  OutboxEntry,
  SetAsideEntry,
  Subscription,
  Telemetry,
} from "../core/message.ts";
import type { WanState } from "../core/wan.ts";

// ------------------------------------------------------------------------------------------------ downstream

export type Delivered = "delivered" | "unacknowledged" | "offline";

export interface Downstream extends AsyncDisposable {
  /** Starts to accept leaves; resolves when every listener is bound. */
  listen(leaves: LeafHandler): Promise<void>;
  /**
   * "delivered": the leaf acknowledged (QoS 1) or every frame was written to its connection (QoS 0), in order.
   * "unacknowledged": a QoS 1 frame was written, and the connection ended before its PUBACK. "offline": the leaf is not connected, or
   * its connection ended before the frame was written (QoS 1), or before that was certain (QoS 0). Never throws.
   */
  deliver(to: LeafId, frames: readonly Frame[]): Promise<Delivered>;
  /** Closes the leaf's connection, if it has one; resolves when it is gone. */
  drop(leaf: LeafId, reason: string): Promise<void>;
}

/** What a leaf claims in CONNECT, its identity already parsed and its credentials already checked. */
export interface LeafConnect {
  readonly leafId: LeafId;
  readonly modelId: string | undefined;
  readonly dialect: string;
  readonly clean: boolean;
  readonly remoteAddress: string;
}

export type Admission =
  | { readonly kind: "accepted"; readonly subscriptions: readonly Subscription[] }
  /** 5 only when the credentials are wrong for sure; anything temporary is 3. */
  | { readonly kind: "refused"; readonly code: 3 | 5; readonly reason: string };

/** "close": the broker closes the leaf's connection without acknowledging the frame. */
export type Received = { readonly kind: "done" } | { readonly kind: "close"; readonly reason: string };

export interface LeafHandler {
  /** After authentication, before CONNACK. `subscriptions` are those of the kept session (none when clean). */
  admit(connect: LeafConnect): Promise<Admission>;
  /** The CONNACK is on its way; frames may be delivered from now on. */
  connected(connect: LeafConnect): Promise<void>;
  /** All current subscriptions of the leaf, after each SUBSCRIBE (before its SUBACK) and UNSUBSCRIBE. */
  subscribed(leaf: LeafId, subscriptions: readonly Subscription[]): Promise<void>;
  /**
   * Called in arrival order per leaf without waiting for earlier calls. Resolves once the frame is at its first safe place or
   * needs no keeping; only then, and in arrival order, the broker sends PUBACK.
   */
  received(leaf: LeafId, frame: Frame): Promise<Received>;
  /** The leaf has pinged, which shows as well as a frame does that it is there; in order with `received`. */
  pinged(leaf: LeafId): Promise<void>;
  /** The connection is gone, whoever ended it. Exactly once per `connected`. */
  disconnected(leaf: LeafId): Promise<void>;
}

/** What authentication gets to see of a CONNECT. The password is the raw SAS token or whatever was sent. */
export interface Credentials {
  readonly leafId: LeafId;
  readonly password: Uint8Array | undefined;
  /** DER of a client certificate that TLS has seen, verified or not. */
  readonly certificate: Uint8Array | undefined;
  /** Those that the leaf has sent along, from the one that issued its own upwards; nobody vouches for them. */
  readonly issuers?: readonly Uint8Array[];
  readonly remoteAddress: string;
  /** True for a listener without TLS. */
  readonly plain: boolean;
}

export type Authentication =
  /** The connection is closed when the life of its token or certificate (with its grace) is over. */
  | { readonly kind: "accepted"; readonly closeAtMs: number | undefined }
  | { readonly kind: "refused"; readonly code: 3 | 5; readonly reason: string };

export interface LeafAuthenticator {
  authenticate(credentials: Credentials): Promise<Authentication>;
}

// ------------------------------------------------------------------------------------------------ upstream

/** "accepted": edgeHub acknowledged it. */
export type Outcome = { readonly kind: "accepted" } | { readonly kind: "failed"; readonly fault: Fault };
export type TwinRead =
  | { readonly kind: "read"; readonly twin: ModuleTwin; readonly tookMs: number }
  | { readonly kind: "failed"; readonly fault: Fault };

export interface Upstream extends AsyncDisposable {
  /** Starts to connect, for ever, and tells `hub`. Resolves at once; the first link may be long in coming. */
  open(hub: HubHandler): Promise<void>;
  /** Calls keep their order on one link; the caller owns the window. Never throws; fails at once while the link is down. */
  send(output: string, message: Telemetry): Promise<Outcome>;
  /** Settles within 90 s. A non-2xx answer is a fault `rejected` (4xx), `throttled` (429) or `transient` (5xx, silence). */
  patchReported(patch: JsonObject): Promise<Outcome>;
  /** Settles within 90 s. A failed read leaves the link alone. One at a time. */
  getTwin(): Promise<TwinRead>;
  /** Tears the link down and makes a new one with a fresh client; for a link that no longer answers as it should. */
  reopen(reason: string): void;
}

export interface HubHandler {
  /** "up": connected, and subscribed to commands, desired patches and inputs. Each "up" is followed by one "down". */
  link(state: "up" | "down"): void;
  /** The credentials were renewed: patches and calls may have been lost meanwhile [azure-iot-device.md 6]. */
  renewed(): void;
  /** A raw desired patch; `version` is its `$version`, which `patch` no longer holds. */
  desired(patch: JsonObject, version: number): void;
  /** Always resolves. `signal` aborts when the link is lost: nobody can be answered any more. */
  command(name: string, payload: Json, signal: AbortSignal): Promise<CommandAnswer>;
  /** The SDK has acknowledged it before this is called: a crash in between can lose one (docs/guarantees.md says so). */
  input(name: string, message: Telemetry): Promise<void>;
}

export interface CommandAnswer {
  readonly status: number;
  readonly payload: Json;
}

export interface WanWatch extends AsyncDisposable {
  open(handler: WanHandler): Promise<void>;
  /** Asks edgeHub at once; the handler has heard what is new when this resolves. Takes seconds at most, never rejects. */
  look(): Promise<void>;
  /**
   * `edgehub_gettwin_total{source="upstream"}` of our module, fresh from edgeHub; undefined when it cannot be had or proves
   * nothing (behind a parent edgeHub). A read came from the cloud when it rose around that read.
   */
  cloudReads(): Promise<number | undefined>;
  /** One of our own twin reads took this long; a third source beside metrics and probe. */
  readTook(ms: number): void;
  /** Something came from the cloud just now: a desired notification, or a read that it has answered. */
  heard(): void;
}

export interface WanHandler {
  /** At each change, and "online" once more when the line was seen to return and nobody had seen it go. */
  wan(state: WanState): void;
  /** The edgeHub process that is there (its `instance_number`): at first sight and whenever it is another one, before its backlog. */
  edgeHubInstance(instance: string): void;
  /** Messages that edgeHub holds for the cloud, among them all that it took before `asOfMs` (steady time) and has not sent. */
  backlog(messages: number, asOfMs: number): void;
}

// ------------------------------------------------------------------------------------------------ store

export interface Store extends AsyncDisposable {
  /** All or nothing, durable (synced) when resolved. Concurrent calls may share one flush; order of calls is kept. */
  commit(writes: readonly Write[]): Promise<void>;
  /** All leaves; read once, at start. */
  leaves(): AsyncIterable<LeafRecord>;
  /** Unsettled entries with `seq > after` in order of `seq`, at most `limit`. */
  outbox(after: number, limit: number): Promise<readonly OutboxEntry[]>;
  /** power-safe: taken by edgeHub, not yet forgotten; in order of `seq`. */
  retained(): AsyncIterable<OutboxEntry>;
  setAside(): AsyncIterable<SetAsideEntry>;
  /** Queued cloud-to-device messages of all leaves in order; read once, at start. */
  cloudToDevice(): AsyncIterable<CloudToDeviceEntry>;
  meta(key: MetaKey): Promise<Json | undefined>;
  usage(): StoreUsage;
}

export interface StoreUsage {
  /** Unsettled outbox entries and their encoded size. */
  readonly entries: number;
  readonly bytes: number;
  readonly lastSeq: number;
}

export interface CloudToDeviceEntry {
  readonly leafId: LeafId;
  readonly seq: number;
  readonly message: Telemetry;
  readonly expiresMs: number;
}

/**
 * `module-desired`: `{desired, version}` as last synchronised. `unseen-reported`: components of the module's reported section whose
 * leaf has not been seen yet (since the disk was lost). `boot-id`, `edgehub-instance`: what retained entries were sent
 * under. `last-time`: the newest wall clock time seen. `steady-zero`: `{bootId, zeroMs}`, the steady time at which the machine has
 * booted, as the first gateway of this boot had it. `last-good-config`: what was desired of
 * the gateway itself, at which version, and which values are in force because of it.
 */
export type MetaKey =
  | "module-desired"
  | "unseen-reported"
  | "boot-id"
  | "edgehub-instance"
  | "last-time"
  | "steady-zero"
  | "last-good-config";

export type Write =
  /** Registry row and twin cache together. */
  | { readonly kind: "leaf"; readonly record: LeafRecord }
  /** With its queued cloud-to-device messages. */
  | { readonly kind: "leaf-removed"; readonly leafId: LeafId }
  | { readonly kind: "append"; readonly entry: OutboxEntry }
  /** `retain` keeps a copy for `retained()` until "forget". Settling an entry that was never appended is allowed (retain: stored). */
  | { readonly kind: "settle"; readonly seq: number; readonly retain: OutboxEntry | undefined }
  | { readonly kind: "forget"; readonly upToSeq: number }
  | { readonly kind: "set-aside"; readonly entry: SetAsideEntry }
  | { readonly kind: "set-aside-removed"; readonly seq: number }
  | { readonly kind: "cloud-to-device"; readonly entry: CloudToDeviceEntry }
  | { readonly kind: "cloud-to-device-done"; readonly leafId: LeafId; readonly seq: number }
  | { readonly kind: "meta"; readonly key: MetaKey; readonly value: Json };

// ------------------------------------------------------------------------------------------------ machine

export interface Clock {
  /** Wall clock, milliseconds since 1970. May jump. */
  now(): number;
  /** Milliseconds since 1970 as of process start, then advanced by the monotonic clock: never jumps, never goes back. */
  steady(): number;
  /** Rejects with the signal's reason when aborted. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

export type Labels = Readonly<Record<string, string>>;
/** Names without the prefix `pnp_gateway_`; each is declared once in `ops/metrics.ts`, where its help text stands. */
export interface Metrics {
  count(name: string, labels?: Labels, by?: number): void;
  gauge(name: string, value: number, labels?: Labels): void;
  observe(name: string, value: number, labels?: Labels): void;
}

export interface Log {
  debug(fields: object, event: string): void;
  info(fields: object, event: string): void;
  warn(fields: object, event: string): void;
  error(fields: object, event: string): void;
}
