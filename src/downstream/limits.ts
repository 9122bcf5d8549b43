/** What one leaf may cost, and the arithmetic of rates and of waiting. Pure: the time is an argument. */

/** From outside: keys of the configuration. */
export interface LeafLimits {
  /** Above it a leaf gets CONNACK 3; listeners close sockets only well above it. */
  readonly maxConnections: number;
  readonly maxConnectionsPerAddress: number;
  readonly maxSubscriptions: number;
  /** Frames of one leaf that are not yet at their safe place; reading stops there. */
  readonly maxHeld: number;
  readonly maxMessagesPerSec: number;
  readonly maxBytesPerSec: number;
  readonly connectTimeoutMs: number;
  readonly tlsHandshakeTimeoutMs: number;
  /** Deliveries to one leaf that are not done; one more closes its connection. */
  readonly maxDeliveries: number;
  /** Bytes that wait for a leaf to read; more close its connection. */
  readonly maxUnreadBytes: number;
  /** Of one PUBLISH with everything in it; edgeHub's `MaxInboundMessageSize` and IoT Hub's 256 KB are 262,144. */
  readonly maxMessageBytes: number;
  readonly maxTopicBytes: number;
  /** A telemetry topic has five levels, a method answer four; many more can only be meant badly. */
  readonly maxTopicLevels: number;
}

/** CONNECT, SUBSCRIBE and all other packets. A CONNECT carries a token and perhaps a will, hardly 2 KB. */
export const MAX_CONTROL_BYTES = 8_192;
/** IoT Hub drops a silent connection after 1.5 times its keep-alive, but at most after 1,767 s [iothub-mqtt.md 1.6]. */
export const MAX_KEEP_ALIVE_SECS = 1_178;
/** The longest filter that a leaf may need has 160 bytes; all of them are kept on disk with the leaf. */
export const MAX_FILTER_CHARS = 512;
/** With nothing reaching its safe place for so long there is no hope for this connection: flow answers within about 5 s. */
export const HELD_TIMEOUT_MS = 10_000;
/** A leaf that is slowed down for so long without a rest is closed, so that somebody notices. */
export const MAX_THROTTLED_MS = 30_000;
/** A leaf that pings (which never waits) its way into a debt of so many seconds is closed. */
export const MAX_DEBT_MS = 10_000;

/** A bucket that may go into debt: a cost is paid at once and waited for afterwards, so that no packet is too big for it. */
export class TokenBucket {
  readonly #perSec: number;
  #tokens: number;
  #atMs: number;

  /** Starts full; holds two seconds' worth. */
  constructor(perSec: number, nowMs: number) {
    this.#perSec = perSec;
    this.#tokens = 2 * perSec;
    this.#atMs = nowMs;
  }

  take(cost: number, nowMs: number): void {
    this.#refill(nowMs);
    this.#tokens -= cost;
  }

  /** Until the debt is paid; 0 when there is none. */
  waitMs(nowMs: number): number {
    this.#refill(nowMs);
    return this.#tokens >= 0 ? 0 : Math.ceil((-this.#tokens * 1000) / this.#perSec);
  }

  isFull(nowMs: number): boolean {
    this.#refill(nowMs);
    return this.#tokens >= 2 * this.#perSec;
  }

  #refill(nowMs: number): void {
    const gained = (Math.max(0, nowMs - this.#atMs) * this.#perSec) / 1000;
    this.#tokens = Math.min(2 * this.#perSec, this.#tokens + gained);
    this.#atMs = nowMs;
  }
}

/** What one leaf may send: messages and bytes. */
export class Allowance {
  readonly #maxMessages: number;
  readonly #messages: TokenBucket;
  readonly #bytes: TokenBucket;

  constructor({ maxMessagesPerSec, maxBytesPerSec }: AllowanceLimits, nowMs: number) {
    this.#maxMessages = 2 * maxMessagesPerSec;
    this.#messages = new TokenBucket(maxMessagesPerSec, nowMs);
    this.#bytes = new TokenBucket(maxBytesPerSec, nowMs);
  }

  /** However much work a packet is, as messages it never costs more than two seconds. */
  take(messages: number, bytes: number, nowMs: number): void {
    this.#messages.take(Math.min(messages, this.#maxMessages), nowMs);
    this.#bytes.take(bytes, nowMs);
  }

  waitMs(nowMs: number): number {
    return Math.max(this.#messages.waitMs(nowMs), this.#bytes.waitMs(nowMs));
  }

  isFull(nowMs: number): boolean {
    return this.#messages.isFull(nowMs) && this.#bytes.isFull(nowMs);
  }
}

export type AllowanceLimits = Pick<LeafLimits, "maxMessagesPerSec" | "maxBytesPerSec">;

/** The allowances of all leaves, over all their connections: whoever comes back for another burst finds the last one counted. */
export class Allowances {
  readonly #limits: AllowanceLimits;
  readonly #byLeaf = new Map<string, Allowance>();
  #sweepAt = SWEEP_ABOVE;

  constructor(limits: AllowanceLimits) {
    this.#limits = limits;
  }

  /** Entries kept; bounded by the leaves that are connected or were within the last seconds. */
  get size(): number {
    return this.#byLeaf.size;
  }

  of(leaf: string, nowMs: number): Allowance {
    const known = this.#byLeaf.get(leaf);
    if (known !== undefined) return known;
    if (this.#byLeaf.size >= this.#sweepAt) this.#sweep(nowMs);
    const allowance = new Allowance(this.#limits, nowMs);
    this.#byLeaf.set(leaf, allowance);
    return allowance;
  }

  /** How long the leaf's debt keeps it waiting; nothing is remembered for the question. */
  waitMs(leaf: string, nowMs: number): number {
    return this.#byLeaf.get(leaf)?.waitMs(nowMs) ?? 0;
  }

  /** A full one is as good as none; a connection that holds it goes on with it, and is counted apart only after two idle seconds. */
  #sweep(nowMs: number): void {
    for (const [leaf, allowance] of this.#byLeaf) if (allowance.isFull(nowMs)) this.#byLeaf.delete(leaf);
    // Where all of them are needed the next look comes later: sweeping must not cost each connect a walk over everybody.
    this.#sweepAt = Math.max(SWEEP_ABOVE, 2 * this.#byLeaf.size);
  }
}

export interface SlowdownOptions {
  /** Strikes in a row that cost nothing. */
  readonly free: number;
}

const FIRST_DELAY_MS = 1_000;
/** C's SDK, mqtt.js, paho and mosquitto wait 30 s for a CONNACK: one that comes later is never seen, and the next try waits anew. */
const LONGEST_DELAY_MS = 20_000;
const QUIET_MS = 120_000;
const SWEEP_ABOVE = 256;

/**
 * Who came back too fast waits: 1 s, doubling to 20 s, forgotten after two quiet minutes. A late CONNACK is the only brake that
 * no SDK misreads: a refusal parks some of them for ever [iothub-mqtt.md 1.5, 1.7].
 */
export class Slowdown {
  readonly #free: number;
  readonly #strikes = new Map<string, { readonly count: number; readonly untilMs: number }>();

  constructor({ free }: SlowdownOptions) {
    this.#free = free;
  }

  /** Entries kept; bounded by who was struck within the last two minutes. */
  get size(): number {
    return this.#strikes.size;
  }

  strike(who: string, nowMs: number): void {
    if (this.#strikes.size > SWEEP_ABOVE) this.#sweep(nowMs);
    const last = this.#strikes.get(who);
    const count = last === undefined || nowMs - last.untilMs > QUIET_MS ? 1 : last.count + 1;
    const paid = count - this.#free;
    const delayMs = paid <= 0 ? 0 : Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** (paid - 1));
    this.#strikes.set(who, { count, untilMs: nowMs + delayMs });
  }

  /** How long its next CONNACK has to wait. */
  waitMs(who: string, nowMs: number): number {
    return Math.max(0, (this.#strikes.get(who)?.untilMs ?? nowMs) - nowMs);
  }

  #sweep(nowMs: number): void {
    for (const [who, { untilMs }] of this.#strikes) if (nowMs - untilMs > QUIET_MS) this.#strikes.delete(who);
  }
}
