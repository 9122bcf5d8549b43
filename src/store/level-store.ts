/**
 * The gateway's only durable state: one LevelDB folder. Invariants: a commit is whole or not there; what resolved is synced; commits
 * take effect in the order of their calls; a number that was used once is never given out again as `lastSeq` + 1.
 */
import { GatewayError } from "../core/errors.ts";
import type { LeafRecord } from "../core/leaf.ts";
import type { Json, LeafId, OutboxEntry, SetAsideEntry } from "../core/message.ts";
import { entryBytes } from "../core/outbox.ts";
import type { CloudToDeviceEntry, MetaKey, Store, StoreUsage, Write } from "../flow/ports.ts";
import { encodeWrite, isAddition, type KeysOnDisk, planBatch, type Step } from "./batch-plan.ts";
import { CommitQueue } from "./commit-queue.ts";
import {
  areaRange,
  cloudToDeviceRange,
  type Decoded,
  damagedKey,
  decodeCloudToDevice,
  decodeLeaf,
  decodeMeta,
  decodeOutboxEntry,
  decodeSetAside,
  type KeyRange,
  keySeq,
  metaKey,
  seqKey,
  seqRange,
} from "./format.ts";
import { LevelDatabase, type Operation } from "./level-database.ts";
import { isCorruption, type Page, type RawEntry } from "./level-page.ts";
import { loadCounters } from "./load-counters.ts";
import { OutboxLedger } from "./outbox-ledger.ts";
import { isDiskFull, type StoreContext } from "./recovery.ts";
import { RESERVE_BYTES } from "./reserve.ts";
import { Room } from "./room.ts";

type Decode<T> = (key: Buffer, sealed: Buffer) => Decoded<T>;

const PAGE_ENTRIES = 500;
export interface StoreSizes {
  /** Room is given back after so many settled bytes. */
  readonly compactBytes: number;
  /** Kept free for the store's own work on a full disk; 0: nothing. */
  readonly reserveBytes: number;
}

/** The first is large against what merging costs, small against what a gateway may keep. */
const SIZES: StoreSizes = { compactBytes: 8 * 1024 * 1024, reserveBytes: RESERVE_BYTES };

/**
 * Opens the store in `folder`, which is made when it does not exist; its parent must be on the same volume, since a damaged
 * database is set aside next to it, and the reserve lies there. Throws STATE_LOCKED, STATE_FORMAT or STORE_FAILED.
 */
export async function openLevelStore(context: StoreContext, sizes: Partial<StoreSizes> = {}): Promise<Store> {
  const store = new LevelStore(context, { ...SIZES, ...sizes });
  await store.open();
  return store;
}

class LevelStore implements Store {
  readonly #context: StoreContext;
  readonly #database: LevelDatabase;
  readonly #ledger = new OutboxLedger();
  readonly #queue = new CommitQueue((steps) => this.#flush(steps));
  /** Nothing retained lies up to here but the tombstones of what was forgotten. */
  #retainedAfter = 0;
  readonly #room: Room;
  readonly #unreadable = new Set<string>();

  constructor(context: StoreContext, { compactBytes, reserveBytes }: StoreSizes) {
    this.#context = context;
    this.#database = new LevelDatabase(context, reserveBytes, async (opened) => {
      this.#retainedAfter = 0;
      this.#ledger.load(await loadCounters(opened));
      this.#reportUsage();
    });
    this.#room = new Room({
      ...context,
      database: this.#database,
      ledger: this.#ledger,
      compactBytes,
      isFull: () => this.#database.isFull,
      retainedAfter: () => this.#retainedAfter,
    });
  }

  async open(): Promise<void> {
    await this.#database.open();
  }

  async commit(writes: readonly Write[]): Promise<void> {
    if (isAddition(writes) && this.#database.isFull) throw storeFailed("the disk is full");
    return this.#queue.enqueue(writes.map(encodeWrite));
  }

  leaves(): AsyncIterable<LeafRecord> {
    return this.#all(areaRange("leaf"), decodeLeaf);
  }

  async outbox(after: number, limit: number): Promise<readonly OutboxEntry[]> {
    const read = this.#ledger.beginRead();
    try {
      const found = await this.#outbox(after, limit);
      for (const { seq, message } of found) this.#ledger.saw(read, seq, entryBytes(message));
      return found;
    } finally {
      this.#ledger.endRead(read);
    }
  }

  async #outbox(after: number, limit: number): Promise<readonly OutboxEntry[]> {
    const found: OutboxEntry[] = [];
    let range = seqRange("outbox", Math.max(after, this.#ledger.counters.head - 1));
    // Fewer than `limit` means the end to the caller, so damaged entries are made up for.
    for (let isEnd = false; !isEnd && found.length < limit; ) {
      const page = await this.#page(range, limit - found.length);
      found.push(...(await this.#decode(page, decodeOutboxEntry)));
      isEnd = page.isEnd;
      range = { ...range, gt: page.entries.at(-1)?.[0] ?? range.gt };
    }
    return found;
  }

  retained(): AsyncIterable<OutboxEntry> {
    return this.#all(seqRange("retained", this.#retainedAfter), decodeOutboxEntry);
  }

  setAside(): AsyncIterable<SetAsideEntry> {
    return this.#all(areaRange("setAside"), decodeSetAside);
  }

  cloudToDevice(): AsyncIterable<CloudToDeviceEntry> {
    return this.#all(areaRange("cloudToDevice"), decodeCloudToDevice);
  }

  async meta(key: MetaKey): Promise<Json | undefined> {
    const at = metaKey(key);
    const value = await this.#guard(() => this.#database.get(at));
    if (value === undefined) return undefined;
    const decoded = decodeMeta(at, value);
    if (decoded.kind === "ok") return decoded.value;
    await this.#keepDamaged([at, value], decoded.reason);
    return undefined;
  }

  /** `bytes` by the measure of the outbox policy (`entryBytes`), so that the two can be compared. */
  usage(): StoreUsage {
    const { entries, bytes, lastSeq } = this.#ledger.counters;
    return { entries, bytes, lastSeq };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#queue[Symbol.asyncDispose]();
    await this.#room[Symbol.asyncDispose]();
    await this.#database[Symbol.asyncDispose]();
  }

  // ---------------------------------------------------------------------------------------------- writing

  /** Rejects with STORE_FAILED; then nothing of it counts, and the next one finds the store working if the disk does. */
  async #flush(steps: readonly Step[]): Promise<void> {
    if (steps.length === 0) return;
    try {
      await this.#write(steps).catch((error: unknown) => {
        // LevelDB refuses because its own compaction met a damaged block or the end of the disk: salvaged, or with the reserve given
        // up, it takes it. What was written all the same is written once more.
        if (isCorruption(error) || isDiskFull(error)) return this.#write(steps);
        throw error;
      });
    } catch (error) {
      this.#context.metrics.count("store_failures_total");
      throw storeFailed(error);
    }
  }

  async #write(steps: readonly Step[]): Promise<void> {
    const { clock, metrics } = this.#context;
    // Before the draft: opening anew may find other counters than those in memory.
    await this.#database.prepare();
    const startMs = clock.steady();
    const draft = this.#ledger.draft(await this.#lookUpSizes(steps), await this.#firstUnsettled(steps));
    const operations = planBatch(steps, await this.#lookUpKeys(steps), draft);
    await this.#database.write(operations);
    this.#ledger.apply(draft);
    this.#followRetained(steps);
    metrics.count("store_commits_total");
    metrics.count(
      "store_bytes_written_total",
      {},
      operations.reduce((sum, each) => sum + operationBytes(each), 0),
    );
    metrics.observe("store_commit_seconds", (clock.steady() - startMs) / 1000);
    this.#reportUsage();
    this.#room.settled(draft.removedBytes);
  }

  #reportUsage(): void {
    const { entries, bytes } = this.#ledger.counters;
    this.#context.metrics.gauge("store_outbox_entries", entries);
    this.#context.metrics.gauge("store_outbox_bytes", bytes);
  }

  /** Sizes of entries that are touched but were neither appended nor read since the database was opened. */
  async #lookUpSizes(steps: readonly Step[]): Promise<ReadonlyMap<number, number>> {
    const sizes = new Map<number, number>();
    for (const step of steps) {
      if ((step.kind !== "append" && step.kind !== "settle") || this.#ledger.sizeOf(step.seq) !== undefined) continue;
      const key = seqKey("outbox", step.seq);
      const value = await this.#database.get(key);
      if (value === undefined) continue;
      const decoded = decodeOutboxEntry(key, value);
      sizes.set(step.seq, decoded.kind === "ok" ? entryBytes(decoded.value.message) : value.length);
    }
    return sizes;
  }

  /** Looked up whenever entries are settled, so that the head follows the hub and no read ever starts in front of tombstones. */
  async #firstUnsettled(steps: readonly Step[]): Promise<number | undefined> {
    if (!steps.some(({ kind }) => kind === "settle")) return undefined;
    const { head, lastSeq } = this.#ledger.counters;
    const [key] = await this.#database.keys(seqRange("outbox", head - 1), 1);
    return key === undefined ? lastSeq + 1 : keySeq(key);
  }

  async #lookUpKeys(steps: readonly Step[]): Promise<KeysOnDisk> {
    const cloudToDevice = new Map<LeafId, readonly Buffer[]>();
    let upToSeq = -1;
    for (const step of steps) {
      if (step.kind === "leaf-removed")
        cloudToDevice.set(step.leafId, await this.#database.keys(cloudToDeviceRange(step.leafId)));
      if (step.kind === "forget") upToSeq = Math.max(upToSeq, step.upToSeq);
    }
    if (upToSeq < 0) return { retained: [], cloudToDevice };
    const range = { ...seqRange("retained", this.#retainedAfter), lt: seqKey("retained", upToSeq + 1) };
    const retained = upToSeq > this.#retainedAfter ? await this.#database.keys(range) : [];
    return { retained, cloudToDevice };
  }

  #followRetained(steps: readonly Step[]): void {
    for (const step of steps) {
      if (step.kind === "forget") this.#retainedAfter = Math.max(this.#retainedAfter, step.upToSeq);
      if (step.kind === "settle") this.#retainedAfter = Math.min(this.#retainedAfter, step.seq - 1);
    }
  }

  // ---------------------------------------------------------------------------------------------- reading

  async *#all<T>(all: KeyRange, decode: Decode<T>): AsyncGenerator<T> {
    let range = all;
    for (let isEnd = false; !isEnd; ) {
      const page = await this.#page(range, PAGE_ENTRIES);
      yield* await this.#decode(page, decode);
      isEnd = page.isEnd;
      range = { ...range, gt: page.entries.at(-1)?.[0] ?? range.gt };
    }
  }

  #page(range: KeyRange, limit: number): Promise<Page> {
    return this.#guard(() => this.#database.page(range, limit));
  }

  async #decode<T>({ entries }: Page, decode: Decode<T>): Promise<readonly T[]> {
    const values: T[] = [];
    for (const entry of entries) {
      const decoded = decode(...entry);
      if (decoded.kind === "ok") values.push(decoded.value);
      else await this.#keepDamaged(entry, decoded.reason);
    }
    return values;
  }

  /** Out of the way and kept for inspection. When the disk does not take that now, it is tried at the next read. */
  async #keepDamaged([key, value]: RawEntry, reason: string): Promise<void> {
    const { log, metrics } = this.#context;
    const name = key.toString("hex");
    if (!this.#unreadable.has(name)) {
      this.#unreadable.add(name);
      metrics.count("store_damaged_total", { what: "entry" });
      log.error({ entry: name, reason }, "a stored entry is damaged, it is kept aside and the others go on");
    }
    const isOutbox = seqKey("outbox", 0)[0] === key[0];
    const put: Operation = { type: "put", key: damagedKey(key), value };
    const steps: readonly Step[] = [
      { kind: "plain", operations: [put, { type: "del", key }], usedSeq: undefined },
      ...(isOutbox ? [{ kind: "settle", seq: keySeq(key), operations: [] } as const] : []),
    ];
    await this.#queue.enqueue(steps).catch(() => undefined);
  }

  async #guard<T>(read: () => Promise<T>): Promise<T> {
    try {
      return await read();
    } catch (error) {
      throw storeFailed(error);
    }
  }
}

function operationBytes(operation: Operation): number {
  return operation.key.length + (operation.type === "put" ? operation.value.length : 0);
}

function storeFailed(error: unknown): GatewayError {
  if (error instanceof GatewayError && error.code === "STORE_FAILED") return error;
  return new GatewayError("STORE_FAILED", `the disk refused: ${String(error)}`, { cause: error });
}
