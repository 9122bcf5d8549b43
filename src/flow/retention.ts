/**
 * power-safe: what edgeHub has taken stays on our disk for a while, since it does not sync, and may come up without its store
 * [design section 7]. Invariants: a message is forgotten only when it is old enough and, where edgeHub's backlog can be seen, the
 * backlog was empty since; beyond that only its time to live and the quota end its stay, and the latter is counted and logged.
 */
import type { OutboxEntry } from "../core/message.ts";
import { entryBytes } from "../core/outbox.ts";
import type { Clock, Log, Metrics, Store, Write } from "./ports.ts";

interface RetentionSettings {
  readonly retainAfterAckSecs: number;
  readonly timeToLiveSecs: number;
  readonly maxBytes: number;
}

export interface RetentionOptions {
  readonly store: Store;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly settings: () => RetentionSettings;
  /** What of the quota waiting messages take. */
  readonly queuedBytes: () => number;
}

interface Retained {
  readonly seq: number;
  readonly bytes: number;
  readonly sinceMs: number;
}

/** Back to the outbox in commits of so many. */
const RESTORE_ENTRIES = 500;

export class Retention {
  readonly #options: RetentionOptions;
  #retained: Retained[] = [];
  #bytes = 0;
  /** edgeHub's backlog can be seen. */
  #isBacklogKnown = false;
  #backlogClearedMs = Number.NEGATIVE_INFINITY;

  constructor(options: RetentionOptions) {
    this.#options = options;
  }

  get isEmpty(): boolean {
    return this.#retained.length === 0;
  }

  /** Takes over what the store holds; how long it has been there is not known, so its time begins anew. */
  async load(): Promise<void> {
    for await (const entry of this.#options.store.retained()) this.add(entry);
  }

  add(entry: OutboxEntry): void {
    const bytes = entryBytes(entry.message);
    this.#retained.push({ seq: entry.seq, bytes, sinceMs: this.#options.clock.steady() });
    this.#bytes += bytes;
  }

  /** Messages that edgeHub still held for the cloud at that steady time, which is before it was asked. */
  backlog(messages: number, asOfMs: number): void {
    this.#isBacklogKnown = true;
    if (messages === 0) this.#backlogClearedMs = asOfMs;
  }

  /** Everything becomes an outbox entry again, under its old number and so in front of all others. Nothing may be settled meanwhile. */
  async restore(): Promise<void> {
    const { store, log, metrics } = this.#options;
    let entries: OutboxEntry[] = [];
    let restored = 0;
    const flush = async (): Promise<void> => {
      if (entries.length === 0) return;
      const writes: Write[] = entries.map((entry) => ({ kind: "append", entry }));
      await store.commit([...writes, { kind: "forget", upToSeq: entries.at(-1)?.seq ?? 0 }]);
      restored += entries.length;
      entries = [];
    };
    for await (const entry of store.retained()) {
      entries.push(entry);
      if (entries.length >= RESTORE_ENTRIES) await flush();
    }
    await flush();
    this.#retained = [];
    this.#bytes = 0;
    if (restored === 0) return;
    metrics.count("telemetry_resent_total", {}, restored);
    log.warn(
      { messages: restored },
      "edgeHub may have lost messages that it had acknowledged, they are sent once more",
    );
  }

  async forget(): Promise<void> {
    const { log, store } = this.#options;
    // The store forgets up to a number, and acknowledgements do not come in the order of the numbers.
    const inOrder = this.#retained.toSorted((a, b) => a.seq - b.seq);
    const count = this.#toForget(inOrder);
    const last = inOrder[count - 1];
    if (last === undefined) return;
    try {
      await store.commit([{ kind: "forget", upToSeq: last.seq }]);
    } catch (error) {
      log.warn({ error: String(error) }, "retained telemetry could not be removed from the disk yet");
      return;
    }
    const gone = new Set(inOrder.slice(0, count));
    this.#retained = this.#retained.filter((one) => !gone.has(one));
    for (const { bytes } of gone) this.#bytes -= bytes;
  }

  /** How many, from the oldest on. */
  #toForget(inOrder: readonly Retained[]): number {
    const { log, metrics, queuedBytes, settings } = this.#options;
    let bytesOver = this.#bytes + queuedBytes() - settings().maxBytes;
    let count = 0;
    let evicted = 0;
    for (const one of inOrder) {
      const isDue = this.#isDue(one);
      if (!isDue && bytesOver <= 0) break;
      if (!isDue) evicted += 1;
      bytesOver -= one.bytes;
      count += 1;
    }
    if (evicted > 0) {
      metrics.count("telemetry_retained_evicted_total", {}, evicted);
      log.warn(
        { messages: evicted },
        "the quota is full: acknowledged messages are kept for less long than they should",
      );
    }
    return count;
  }

  #isDue({ sinceMs }: Retained): boolean {
    const { clock, settings } = this.#options;
    const { retainAfterAckSecs, timeToLiveSecs } = settings();
    const ageMs = clock.steady() - sinceMs;
    if (ageMs > timeToLiveSecs * 1000) return true;
    if (ageMs < retainAfterAckSecs * 1000) return false;
    return !this.#isBacklogKnown || this.#backlogClearedMs > sinceMs;
  }
}
