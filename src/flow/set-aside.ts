/**
 * Messages that the hub refused while others passed: out of the way, on disk, for people to look at and to send once more or discard.
 * Invariants: a message is set aside, or given up for a newer one, in one commit; it leaves only once it is safe in the outbox again,
 * or when somebody discards it; there is a bound, and what goes beyond it is counted and logged.
 */
import type { OutboxEntry, SetAsideEntry } from "../core/message.ts";
import { entryBytes } from "../core/outbox.ts";
import type { Clock, Log, Metrics, Store, Write } from "./ports.ts";
import type { Safe } from "./spool.ts";

const MAX_ENTRIES = 1_000;
const MAX_BYTES = 16 * 1024 * 1024;

export interface SetAsideOptions {
  readonly store: Store;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Log;
  /** Takes a message into the outbox; resolves when it is safe or refused. */
  readonly enqueue: (entry: OutboxEntry) => Promise<Safe>;
}

/** Which ones: one, all of a leaf, or all. */
export type Selection = (entry: OutboxEntry) => boolean;

export class SetAside {
  readonly #options: SetAsideOptions;
  /** `seq` -> bytes, oldest first. */
  readonly #sizes = new Map<number, number>();
  #bytes = 0;

  constructor(options: SetAsideOptions) {
    this.#options = options;
  }

  async load(): Promise<void> {
    for await (const { entry } of this.#options.store.setAside()) this.#note(entry);
  }

  get size(): number {
    return this.#sizes.size;
  }

  async add(entry: OutboxEntry, reason: string): Promise<void> {
    const { clock, log, metrics, store } = this.#options;
    const oldest = this.#toGiveUp(entryBytes(entry.message));
    const removals = oldest.map((seq): Write => ({ kind: "set-aside-removed", seq }));
    await store.commit([...removals, { kind: "set-aside", entry: { entry, reason, setAsideMs: clock.now() } }]);
    for (const seq of oldest) {
      this.#forget(seq);
      metrics.count("telemetry_dropped_total", { reason: "set-aside-full" });
      log.warn({ seq, reason: "set-aside-full" }, "telemetry dropped");
    }
    this.#note(entry);
  }

  /** In the order of their numbers, beginning after `after`. */
  async *entries(after: number, isMeant: Selection): AsyncGenerator<SetAsideEntry> {
    for await (const aside of this.#options.store.setAside())
      if (aside.entry.seq > after && isMeant(aside.entry)) yield aside;
  }

  /** Sends them once more, behind what waits already. A crash in between sends one twice, with the same message id. */
  async retry(isMeant: Selection): Promise<{ readonly retried: number; readonly refused: number }> {
    const asides = await all(this.entries(0, isMeant));
    // All at once, so that they keep their order.
    const results = await Promise.all(
      asides.map(async ({ entry }) => ((await this.#options.enqueue(entry)).kind === "safe" ? entry.seq : undefined)),
    );
    const safe = results.filter((seq) => seq !== undefined);
    await this.#remove(safe);
    return { retried: safe.length, refused: asides.length - safe.length };
  }

  async discard(isMeant: Selection): Promise<number> {
    const seqs = (await all(this.entries(0, isMeant))).map(({ entry }) => entry.seq);
    await this.#remove(seqs);
    this.#options.metrics.count("telemetry_dropped_total", { reason: "discarded" }, seqs.length);
    return seqs.length;
  }

  async #remove(seqs: readonly number[]): Promise<void> {
    if (seqs.length === 0) return;
    await this.#options.store.commit(seqs.map((seq): Write => ({ kind: "set-aside-removed", seq })));
    for (const seq of seqs) this.#forget(seq);
  }

  #toGiveUp(bytes: number): readonly number[] {
    const seqs: number[] = [];
    let [count, total] = [this.#sizes.size + 1, this.#bytes + bytes];
    for (const [seq, size] of this.#sizes) {
      if (count <= MAX_ENTRIES && total <= MAX_BYTES) break;
      seqs.push(seq);
      count -= 1;
      total -= size;
    }
    return seqs;
  }

  #note(entry: OutboxEntry): void {
    const bytes = entryBytes(entry.message);
    this.#sizes.set(entry.seq, bytes);
    this.#bytes += bytes;
  }

  #forget(seq: number): void {
    this.#bytes -= this.#sizes.get(seq) ?? 0;
    this.#sizes.delete(seq);
  }
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const item of items) list.push(item);
  return list;
}
