/**
 * Gives room back to the disk. LevelDB does so only when it happens to merge a table, and a queue gives it no reason to: nothing is
 * ever written again where entries were settled. Invariants: the folder stays within about twice what waits in it plus five times
 * `compactBytes`; entries that still wait are rewritten only after as many bytes were settled, since cards wear out.
 */
import type { Log } from "../flow/ports.ts";
import { type KeyRange, keySeq, seqKey, seqRange } from "./format.ts";
import type { LevelDatabase } from "./level-database.ts";
import type { OutboxLedger } from "./outbox-ledger.ts";
import { folderBytes } from "./recovery.ts";

export interface RoomOptions {
  readonly database: LevelDatabase;
  readonly ledger: OutboxLedger;
  readonly folder: string;
  readonly log: Log;
  /** After so many settled bytes LevelDB is asked to merge. */
  readonly compactBytes: number;
  /** Room is wanted sooner: it is given back in smaller parts. */
  readonly isFull: () => boolean;
  /** Nothing retained lies up to here. */
  readonly retainedAfter: () => number;
}

/** Of `compactBytes`, while the disk is full. */
const FULL_PART = 4;
/** What LevelDB holds beside the entries, in `compactBytes`: write-ahead logs, tables whose turn has not come. */
const SLACK = 3;

export class Room implements AsyncDisposable {
  readonly #options: RoomOptions;
  #settledBytes = 0;
  #running: Promise<void> | undefined;
  #isClosed = false;
  /** On disk after everything was merged: what the ledger does not count (retained entries) must not cause it again and again. */
  #floor = 0;

  constructor(options: RoomOptions) {
    this.#options = options;
  }

  settled(bytes: number): void {
    this.#settledBytes += bytes;
    // Nobody waits for it: a failure only means that the room comes back later.
    this.#running ??= this.#giveBackWhileDue()
      .catch((error: unknown) => this.#options.log.warn({ error: String(error) }, "the store could not be compacted"))
      .finally(() => {
        this.#running = undefined;
      });
  }

  /** A slice that is being merged is waited for, the next ones are not begun. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true;
    await this.#running;
  }

  async #giveBackWhileDue(): Promise<void> {
    const { compactBytes, isFull } = this.#options;
    while (this.#settledBytes >= (isFull() ? compactBytes / FULL_PART : compactBytes) && !this.#isClosed) {
      this.#settledBytes = 0;
      await this.#giveBack();
    }
  }

  async #giveBack(): Promise<void> {
    const { compactBytes, folder, ledger } = this.#options;
    await this.#mergeDead();
    const onDisk = await folderBytes(folder);
    this.#floor = Math.min(this.#floor, onDisk);
    if (onDisk <= 2 * Math.max(ledger.counters.bytes, this.#floor) + SLACK * compactBytes) return;
    await this.#mergeAll(Math.ceil(onDisk / compactBytes));
    this.#floor = await folderBytes(folder);
  }

  /** Up to the first entry that waits there are only tombstones: merging them reads a little and writes next to nothing. */
  async #mergeDead(): Promise<void> {
    const { database, ledger, retainedAfter } = this.#options;
    // The ledger's own head is as old as the commit before the last.
    const [first] = await database.keys(seqRange("outbox", ledger.counters.head - 1), 1);
    const head = first === undefined ? ledger.counters.lastSeq + 1 : keySeq(first);
    await this.#merge([
      { gt: seqKey("outbox", 0), lt: seqKey("outbox", head) },
      { gt: seqKey("retained", 0), lt: seqKey("retained", retainedAfter()) },
    ]);
  }

  /**
   * Entries are settled behind others that wait when a leaf's oldest make room for its newest: then the room is all over the queue.
   * In slices, so that closing never waits for the whole.
   */
  async #mergeAll(slices: number): Promise<void> {
    const { head, lastSeq } = this.#options.ledger.counters;
    const step = Math.ceil((lastSeq - head + 1) / slices);
    for (let from = head; step > 0 && from <= lastSeq; from += step) {
      await this.#merge([
        { gt: seqKey("outbox", from), lt: seqKey("outbox", from + step) },
        { gt: seqKey("retained", from), lt: seqKey("retained", from + step) },
      ]);
    }
  }

  async #merge(ranges: readonly KeyRange[]): Promise<void> {
    for (const { gt, lt } of ranges) if (!this.#isClosed) await this.#options.database.compact(gt, lt);
  }
}
