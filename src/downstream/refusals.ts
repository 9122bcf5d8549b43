/**
 * What leaves did that was not taken: each is counted, and logged once per leaf, reason and minute. Invariant: nobody can flood the log,
 * under however many names.
 */
import type { Clock, Log, Metrics } from "../flow/ports.ts";

/** Every reason there is, the label of the metric. */
export const REFUSAL_REASONS = [
  // the socket
  "connections",
  "connections-per-address",
  "tls",
  "web-socket",
  "connect-timeout",
  // CONNECT
  "not-connect",
  "protocol-version",
  "identity",
  "credentials",
  "not-ready",
  "overloaded",
  "crowded",
  "admission",
  "defect",
  // what a leaf sends
  "second-connect",
  "packet-too-large",
  "topic-too-long",
  "qos-2",
  "unexpected-packet",
  "malformed-packet",
  "frame-refused",
  "subscription",
  "subscriptions",
  "will-topic",
  // how it behaves
  "rate",
  "held-too-long",
  "slow-leaf",
  "keep-alive",
] as const;
export type RefusalReason = (typeof REFUSAL_REASONS)[number];

export interface Offender {
  readonly leafId: string | undefined;
  readonly remoteAddress: string;
}

const SILENCE_MS = 60_000;
const MAX_REMEMBERED = 4_096;
/** Lines in a minute. Whoever has not shown its credentials may claim another id each time, and each would be a line. */
const MAX_LINES = 300;
const MAX_LINES_OF_ADDRESS = 30;

export class Refusals {
  readonly #clock: Clock;
  readonly #metrics: Metrics;
  readonly #log: Log;
  readonly #saidAtMs = new Map<string, number>();
  readonly #linesOf = new Map<string, number>();
  #minuteMs = Number.NEGATIVE_INFINITY;
  #lines = 0;
  #unsaid = 0;

  constructor(options: { readonly clock: Clock; readonly metrics: Metrics; readonly log: Log }) {
    this.#clock = options.clock;
    this.#metrics = options.metrics;
    this.#log = options.log;
  }

  get remembered(): number {
    return this.#saidAtMs.size;
  }

  /** `detail` is for people and may hold what the leaf sent. */
  refused(reason: RefusalReason, { leafId, remoteAddress }: Offender, detail?: string): void {
    this.#metrics.count("leaf_refused_total", { reason });
    const nowMs = this.#clock.steady();
    const key = `${reason} ${leafId ?? remoteAddress}`;
    if (nowMs - (this.#saidAtMs.get(key) ?? -Infinity) < SILENCE_MS || !this.#hasLine(remoteAddress, nowMs)) return;
    if (this.#saidAtMs.size >= MAX_REMEMBERED) this.#forget(nowMs);
    this.#saidAtMs.set(key, nowMs);
    const about = detail === undefined ? {} : { detail: detail.slice(0, 300) };
    this.#log.warn(
      { ...(leafId === undefined ? {} : { leafId }), remoteAddress, reason, ...about },
      "a leaf was refused",
    );
  }

  #hasLine(remoteAddress: string, nowMs: number): boolean {
    if (nowMs - this.#minuteMs >= SILENCE_MS) {
      if (this.#unsaid > 0) this.#log.warn({ refusals: this.#unsaid }, "more refusals than are worth a line each");
      this.#minuteMs = nowMs;
      [this.#lines, this.#unsaid] = [0, 0];
      this.#linesOf.clear();
    }
    const lines = this.#linesOf.get(remoteAddress) ?? 0;
    if (this.#lines >= MAX_LINES || lines >= MAX_LINES_OF_ADDRESS) {
      this.#unsaid += 1;
      return false;
    }
    this.#lines += 1;
    this.#linesOf.set(remoteAddress, lines + 1);
    return true;
  }

  #forget(nowMs: number): void {
    for (const [key, atMs] of this.#saidAtMs) if (nowMs - atMs >= SILENCE_MS) this.#saidAtMs.delete(key);
    // An attacker with many names: rather a line too many than a map without end.
    if (this.#saidAtMs.size >= MAX_REMEMBERED) this.#saidAtMs.clear();
  }
}
