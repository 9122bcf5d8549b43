/** What leaves did that was not taken: each is counted, and logged once per leaf, reason and minute, so that no leaf can flood the log. */
import type { Clock, Log, Metrics } from "../flow/ports.ts";

/** Every reason there is, the label of the metric. */
export const REFUSAL_REASONS = [
  // the socket
  "connections",
  "connections-per-address",
  "tls",
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

export class Refusals {
  readonly #clock: Clock;
  readonly #metrics: Metrics;
  readonly #log: Log;
  readonly #saidAtMs = new Map<string, number>();

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
    if (nowMs - (this.#saidAtMs.get(key) ?? -Infinity) < SILENCE_MS) return;
    if (this.#saidAtMs.size >= MAX_REMEMBERED) this.#forget(nowMs);
    this.#saidAtMs.set(key, nowMs);
    const about = detail === undefined ? {} : { detail: detail.slice(0, 300) };
    this.#log.warn(
      { ...(leafId === undefined ? {} : { leafId }), remoteAddress, reason, ...about },
      "a leaf was refused",
    );
  }

  #forget(nowMs: number): void {
    for (const [key, atMs] of this.#saidAtMs) if (nowMs - atMs >= SILENCE_MS) this.#saidAtMs.delete(key);
    // An attacker with many names: rather a line too many than a map without end.
    if (this.#saidAtMs.size >= MAX_REMEMBERED) this.#saidAtMs.clear();
  }
}
