/**
 * What the outbox on disk amounts to, kept in memory so that nobody has to count. Invariant: the counters are those of the last
 * commit that succeeded; a commit that fails leaves them alone, since it only ever changed a draft.
 */
import type { OutboxCounters } from "./format.ts";

export const EMPTY_COUNTERS: OutboxCounters = { entries: 0, bytes: 0, lastSeq: 0, head: 1 };

/** A read of the disk that is under way. */
export interface LedgerRead {
  /** What was written or settled meanwhile. */
  readonly changed: Set<number>;
}

export class OutboxLedger {
  #counters = EMPTY_COUNTERS;
  #sizes = new SizeTable();
  #reads: LedgerRead[] = [];

  get counters(): OutboxCounters {
    return this.#counters;
  }

  load(counters: OutboxCounters): void {
    this.#counters = counters;
    this.#sizes = new SizeTable();
    this.#reads = [];
  }

  /** Undefined when only the disk can tell; 0 when the entry is surely not there. */
  sizeOf(seq: number): number | undefined {
    const { head, lastSeq } = this.#counters;
    return seq < head || seq > lastSeq ? 0 : this.#sizes.get(seq);
  }

  /** Entries are about to be read from disk; needs an {@link endRead}. */
  beginRead(): LedgerRead {
    const read: LedgerRead = { changed: new Set() };
    this.#reads.push(read);
    return read;
  }

  /** An entry was read from disk: settling it will need no look-up. What has changed since the read began is known better. */
  saw(read: LedgerRead, seq: number, bytes: number): void {
    if (!this.#reads.includes(read) || read.changed.has(seq)) return;
    if (this.sizeOf(seq) === undefined) this.#sizes.set(seq, bytes);
  }

  endRead(read: LedgerRead): void {
    this.#reads = this.#reads.filter((each) => each !== read);
  }

  /** `found` holds the sizes that had to be looked up. `first`: the first unsettled entry on disk, when it was looked up. */
  draft(found: ReadonlyMap<number, number>, first: number | undefined): LedgerDraft {
    const head = Math.max(this.#counters.head, first ?? 0);
    return new LedgerDraft({ ...this.#counters, head }, (seq) => this.sizeOf(seq) ?? found.get(seq) ?? 0);
  }

  apply(draft: LedgerDraft): void {
    this.#counters = draft.counters;
    for (const [seq, bytes] of draft.changes) {
      this.#sizes.set(seq, bytes);
      for (const { changed } of this.#reads) changed.add(seq);
    }
  }
}

/** The counters as they will be when the batch that is being put together succeeds. */
export class LedgerDraft {
  /** `seq` -> size; 0: removed. */
  readonly changes = new Map<number, number>();
  readonly #before: (seq: number) => number;
  #counters: OutboxCounters;
  #isChanged = false;
  #removedBytes = 0;

  constructor(counters: OutboxCounters, before: (seq: number) => number) {
    this.#counters = counters;
    this.#before = before;
  }

  get counters(): OutboxCounters {
    // Rounding of anything lost to damage ends here: an empty outbox has no bytes.
    return this.#counters.entries === 0 ? { ...this.#counters, bytes: 0 } : this.#counters;
  }

  get isChanged(): boolean {
    return this.#isChanged;
  }

  get removedBytes(): number {
    return this.#removedBytes;
  }

  append(seq: number, bytes: number): void {
    this.remove(seq);
    const { entries, bytes: sum, head } = this.#counters;
    this.#counters = { ...this.#counters, entries: entries + 1, bytes: sum + bytes, head: Math.min(head, seq) };
    this.changes.set(seq, bytes);
  }

  remove(seq: number): void {
    this.used(seq);
    const bytes = this.changes.get(seq) ?? this.#before(seq);
    if (bytes === 0) return;
    const { entries, bytes: sum } = this.#counters;
    this.#counters = { ...this.#counters, entries: Math.max(0, entries - 1), bytes: Math.max(0, sum - bytes) };
    this.changes.set(seq, 0);
    this.#removedBytes += bytes;
  }

  /** This number has been in a commit and is never given out again. */
  used(seq: number): void {
    this.#isChanged = true;
    if (seq > this.#counters.lastSeq) this.#counters = { ...this.#counters, lastSeq: seq };
  }
}

const BLOCK = 64;

/** Sizes by `seq`, about 6 bytes each: a million waiting entries must not cost a million map entries. */
class SizeTable {
  readonly #blocks = new Map<number, Uint32Array>();

  get(seq: number): number | undefined {
    const size = this.#blocks.get(Math.floor(seq / BLOCK))?.[seq % BLOCK];
    return size === 0 ? undefined : size;
  }

  /** 0 takes the entry out. */
  set(seq: number, bytes: number): void {
    const at = Math.floor(seq / BLOCK);
    const block = this.#blocks.get(at) ?? new Uint32Array(BLOCK);
    block[seq % BLOCK] = bytes;
    if (bytes === 0 && block.every((size) => size === 0)) this.#blocks.delete(at);
    else this.#blocks.set(at, block);
  }
}
