/**
 * One connection of one leaf, from its first byte to its last: what is known of it and what is under way on it.
 * Invariant: `gone` resolves exactly once, after everything that had to follow its end.
 */
import { setMaxListeners } from "node:events";
import type { Duplex } from "node:stream";
import type { Client } from "aedes";
import type { Frame, Subscription } from "../core/message.ts";
import type { Clock, LeafConnect } from "../flow/ports.ts";
import type { Dialect } from "../translate/dialect.ts";
import { Deliveries } from "./deliveries.ts";
import type { LeafLimits } from "./limits.ts";
import { type GuardRefusal, PacketGuard } from "./packet-guard.ts";
import { PubackOrder } from "./puback-order.ts";

/** Where a connection comes from, as its listener knows it. */
export interface Origin {
  readonly plain: boolean;
  readonly remoteAddress: string;
  /** DER of the client certificate that TLS has seen, verified or not. */
  readonly certificate?: Uint8Array | undefined;
  /** What came with it, from its issuer upwards. */
  readonly issuers?: readonly Uint8Array[];
  /** Tells the listener that it is a leaf's, no stranger's any more. */
  readonly letIn?: () => void;
}

/** The CONNECT packet as far as it matters here. */
export interface Claim {
  readonly clientId: string;
  readonly username: string | undefined;
  readonly clean: boolean;
  readonly will: Frame | undefined;
}

export interface ConnectionOptions {
  readonly id: string;
  readonly socket: Duplex;
  readonly origin: Origin;
  readonly limits: LeafLimits;
  readonly clock: Clock;
  readonly refused: (connection: LeafConnection, reason: GuardRefusal | "frame-refused", detail?: string) => void;
}

export class LeafConnection {
  /** aedes' client id: never two alike, so that aedes never sees one connection take another's place. */
  readonly id: string;
  readonly origin: Origin;
  readonly guard: PacketGuard;
  readonly order: PubackOrder;
  readonly deliveries: Deliveries;
  readonly subscriptions = new Map<string, 0 | 1>();
  readonly gone = Promise.withResolvers<void>();
  readonly #ended = new AbortController();
  client: Client | undefined;
  claim: Claim | undefined;
  /** Known from the moment its CONNECT names one. */
  leaf: LeafConnect | undefined;
  dialect: Dialect | undefined;
  /** undefined until the leaf is let in; then what `connected` returned. */
  connected: Promise<void> | undefined;
  /** What the leaf was let in with. */
  password: Uint8Array | undefined;
  closeAtMs: number | undefined;
  storing: Promise<void> | undefined;
  #leaveTurnstile: (() => void) | undefined;

  constructor({ id, socket, origin, limits, clock, refused }: ConnectionOptions) {
    // Each delivery that is not written yet listens; `maxDeliveries` bounds them.
    setMaxListeners(0, this.#ended.signal);
    this.id = id;
    this.origin = origin;
    this.guard = new PacketGuard({ socket, limits, clock, refused: (reason) => refused(this, reason) });
    this.order = new PubackOrder((detail) => {
      refused(this, "frame-refused", detail);
      this.close();
    });
    this.deliveries = new Deliveries({
      maxWaiting: limits.maxDeliveries,
      write: (frame) => this.#write(frame, limits.maxUnreadBytes, () => refused(this, "slow-leaf")),
      overflow: () => {
        if (!this.isOver) refused(this, "slow-leaf");
        this.close();
      },
    });
  }

  /** Aborts when the connection ends, whoever ends it. */
  get signal(): AbortSignal {
    return this.#ended.signal;
  }

  get isOver(): boolean {
    return this.#ended.signal.aborted || this.guard.destroyed;
  }

  /** Ends it; `gone` says when everything has followed. */
  close(): void {
    this.guard.destroy();
  }

  /** The first thing that happens when it has ended: nothing waits for it any more. */
  end(): void {
    this.#ended.abort(new Error("the leaf's connection has ended"));
    this.order.end();
    this.deliveries.end();
    this.leaveTurnstile();
  }

  entered(leave: () => void): void {
    this.#leaveTurnstile = leave;
    if (this.isOver) this.leaveTurnstile();
  }

  leaveTurnstile(): void {
    this.#leaveTurnstile?.();
    this.#leaveTurnstile = undefined;
  }

  /** As the leaf made them, those of a kept session included. */
  subscriptionList(): readonly Subscription[] {
    return [...this.subscriptions].map(([filter, qos]) => ({ filter, qos }));
  }

  /** A message goes out with the lower of its own QoS and the subscription's [MQTT-3.8.4-6]; aedes does not look at wildcards. */
  lowered(frame: Frame): Frame {
    if (frame.qos === 0) return frame;
    const granted = [...this.subscriptions].filter(([filter]) => matches(filter, frame.topic)).map(([, qos]) => qos);
    return granted.length > 0 && granted.every((qos) => qos === 0) ? { ...frame, qos: 0 } : frame;
  }

  #write(frame: Frame, maxUnreadBytes: number, overflow: () => void): Promise<void> {
    const { client } = this;
    if (client === undefined || this.isOver) return Promise.resolve();
    if (this.guard.writableLength > maxUnreadBytes) {
      overflow();
      this.close();
      return Promise.resolve();
    }
    const { topic, qos } = frame;
    const payload = Buffer.from(frame.payload.buffer, frame.payload.byteOffset, frame.payload.byteLength);
    return new Promise((resolve) => {
      const written = (): void => {
        this.signal.removeEventListener("abort", written);
        resolve();
      };
      // aedes forgets who waits for a full stream when the connection ends before it was ready.
      this.signal.addEventListener("abort", written, { once: true });
      client.publish({ cmd: "publish", topic, payload, qos, retain: false, dup: false }, written);
    });
  }
}

function matches(filter: string, topic: string): boolean {
  return filter === topic || (filter.endsWith("/#") && `${topic}/`.startsWith(filter.slice(0, -1)));
}
