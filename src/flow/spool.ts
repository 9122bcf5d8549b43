/**
 * The disk side of the outbox: groups appends into few synced commits, removes what the hub took in batches, keeps the quota.
 * Invariant: an entry is called stored only after its commit; an append and the eviction that makes room for it share one commit.
 */
import { GatewayError } from "../core/errors.ts";
import type { LeafId, OutboxEntry } from "../core/message.ts";
import { type AdmissionPolicy, admit, entryBytes } from "../core/outbox.ts";
import type { Clock, Log, Metrics, Store, Write } from "./ports.ts";

export interface SpoolSettings extends AdmissionPolicy {
  readonly commitIntervalMs: number;
}

export type Safe = { readonly kind: "safe" } | { readonly kind: "refused"; readonly reason: string };

/** An entry that is in memory. */
export interface Live {
  readonly entry: OutboxEntry;
  readonly bytes: number;
  /** How far its way to our disk has come; with "none" only the hub can make it safe. */
  disk: "none" | "waiting" | "writing" | "stored";
  settled: boolean;
  /** Failed sends since it was last accepted or alone in the window. */
  failures: number;
  readonly resolveSafe: (safe: Safe) => void;
}

/** A group this large is worth a commit of its own at once: waiting longer would not make the write cheaper. */
const GROUP_ENTRIES = 64;
const GROUP_BYTES = 256 * 1024;
const SETTLE_ENTRIES = 500;
const SETTLE_AFTER_MS = 1_000;
const RETRY_COMMIT_MS = 1_000;
const EVICT_ENTRIES = 100;

export interface SpoolOptions {
  readonly store: Store;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly settings: () => SpoolSettings;
  readonly stored: (live: Live) => void;
  /** Such an entry is not evicted. */
  readonly isBeingSent: (entry: OutboxEntry) => boolean;
  /** Given up to make room, by the operator's wish. */
  readonly evicted: (entry: OutboxEntry) => void;
}

export class Spool {
  readonly #options: SpoolOptions;
  readonly #stopping = new AbortController();
  #group: Live[] = [];
  #groupBytes = 0;
  #groupTimer = false;
  #settles: Write[] = [];
  #settleTimer = false;
  #bytes = 0;
  #entries = 0;
  readonly #leafBytes = new Map<LeafId, number>();
  #writing: Promise<void> = Promise.resolve();

  constructor(options: SpoolOptions) {
    this.#options = options;
  }

  /** Takes over what the store holds. */
  recount(): void {
    const usage = this.#options.store.usage();
    this.#bytes = usage.bytes;
    this.#entries = usage.entries;
  }

  get entries(): number {
    return this.#entries;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Asks for an entry to be stored with the next group. */
  want(live: Live): void {
    if (live.settled || live.disk !== "none") return;
    live.disk = "waiting";
    this.#group.push(live);
    this.#groupBytes += live.bytes;
    if (this.#group.length >= GROUP_ENTRIES || this.#groupBytes >= GROUP_BYTES) {
      this.flush();
    } else if (!this.#groupTimer) {
      this.#groupTimer = true;
      this.#later(this.#options.settings().commitIntervalMs, () => {
        this.#groupTimer = false;
        this.flush();
      });
    }
  }

  flush(): void {
    if (this.#group.length === 0) return;
    const group = this.#group;
    this.#group = [];
    this.#groupBytes = 0;
    this.#writing = this.#writing.then(() => this.#append(group));
  }

  /** The entry is done with; `retain` keeps a copy until it is forgotten. */
  remove(live: Live, retain: boolean): void {
    if (live.disk !== "stored") return;
    this.#account(live.entry.leafId, -live.bytes);
    this.#settles.push({ kind: "settle", seq: live.entry.seq, retain: retain ? live.entry : undefined });
    if (this.#settles.length === SETTLE_ENTRIES) this.#writing = this.#writing.then(() => this.#flushSettles());
    else this.#settleLater();
  }

  /** Runs `work`, which changes the outbox on disk, between two groups: all that was settled is written before. */
  exclusively(work: () => Promise<void>): Promise<void> {
    const done = this.#writing.then(async () => {
      await this.#flushSettles();
      if (this.#settles.length > 0) throw new GatewayError("STORE_FAILED", "the disk does not take what was delivered");
      await work();
      this.recount();
    });
    this.#writing = done.catch(() => undefined);
    return done;
  }

  /** Resolves when everything asked for so far was written (or refused by the disk). */
  async close(): Promise<void> {
    this.flush();
    await this.#writing;
    await this.#flushSettles();
    this.#stopping.abort();
  }

  async #append(group: readonly Live[]): Promise<void> {
    const { log, metrics, store } = this.#options;
    const admitted: Live[] = [];
    const writes: Write[] = [];
    for (const live of group) {
      if (live.settled || !(await this.#makeRoom(live, writes))) {
        live.disk = "none";
        continue;
      }
      live.disk = "writing";
      admitted.push(live);
      writes.push({ kind: "append", entry: live.entry });
      this.#account(live.entry.leafId, live.bytes);
    }
    if (writes.length === 0) return;
    try {
      await store.commit(writes);
    } catch (error) {
      log.error({ error: String(error), entries: admitted.length }, "the disk refused telemetry, it is tried again");
      for (const live of admitted) {
        this.#account(live.entry.leafId, -live.bytes);
        live.disk = "none";
        this.#later(RETRY_COMMIT_MS, () => this.want(live));
      }
      return;
    }
    metrics.count("telemetry_spilled_total", {}, admitted.length);
    for (const live of admitted) {
      live.disk = "stored";
      // The hub was quicker after all: the copy is not needed any more.
      if (live.settled) this.remove(live, false);
      else live.resolveSafe({ kind: "safe" });
      this.#options.stored(live);
    }
  }

  async #makeRoom(live: Live, writes: Write[]): Promise<boolean> {
    const leafBytes = this.#leafBytes.get(live.entry.leafId) ?? 0;
    const verdict = admit({ bytes: this.#bytes, leafBytes }, live.bytes, this.#options.settings());
    switch (verdict.kind) {
      case "admit":
        return true;
      case "refuse":
        return false;
      case "evict":
        return this.#evict(verdict.bytesToFree, verdict.whose === "own" ? live.entry.leafId : undefined, writes);
    }
  }

  /** All that is needed, or nothing: room that is made for nobody would be telemetry lost for nothing. */
  async #evict(bytesToFree: number, ofLeaf: LeafId | undefined, writes: Write[]): Promise<boolean> {
    const already = new Set(writes.map((write) => (write.kind === "settle" ? write.seq : -1)));
    const chosen: OutboxEntry[] = [];
    let freed = 0;
    for await (const entry of this.#oldest()) {
      if (freed >= bytesToFree) break;
      if (already.has(entry.seq) || this.#options.isBeingSent(entry)) continue;
      if (ofLeaf !== undefined && entry.leafId !== ofLeaf) continue;
      freed += entryBytes(entry.message);
      chosen.push(entry);
    }
    if (freed < bytesToFree) return false;
    for (const entry of chosen) {
      this.#account(entry.leafId, -entryBytes(entry.message));
      writes.push({ kind: "settle", seq: entry.seq, retain: undefined });
      this.#options.evicted(entry);
    }
    return true;
  }

  async *#oldest(): AsyncGenerator<OutboxEntry> {
    for (let after = 0; ; ) {
      const page = await this.#options.store.outbox(after, EVICT_ENTRIES);
      yield* page;
      if (page.length < EVICT_ENTRIES) return;
      after = page.at(-1)?.seq ?? after;
    }
  }

  #settleLater(): void {
    if (this.#settleTimer) return;
    this.#settleTimer = true;
    this.#later(SETTLE_AFTER_MS, () => {
      this.#settleTimer = false;
      this.#writing = this.#writing.then(() => this.#flushSettles());
    });
  }

  async #flushSettles(): Promise<void> {
    const settles = this.#settles;
    if (settles.length === 0) return;
    this.#settles = [];
    try {
      await this.#options.store.commit(settles);
    } catch (error) {
      // They stay on disk for now: after a crash they would be sent twice, never lost. It may be the last there is to settle for long.
      this.#settles = [...settles, ...this.#settles];
      this.#settleLater();
      this.#options.log.warn({ error: String(error) }, "delivered telemetry could not be removed from the disk yet");
    }
  }

  /** Of a leaf only what was stored in this life of the process is known; older entries count in the total alone. */
  #account(leafId: LeafId, bytes: number): void {
    this.#bytes += bytes;
    this.#entries += Math.sign(bytes);
    const after = (this.#leafBytes.get(leafId) ?? 0) + bytes;
    if (after <= 0) this.#leafBytes.delete(leafId);
    else this.#leafBytes.set(leafId, after);
  }

  #later(ms: number, then: () => void): void {
    this.#options.clock.sleep(ms, this.#stopping.signal).then(then, () => undefined);
  }
}

export function newLive(entry: OutboxEntry, resolveSafe: (safe: Safe) => void): Live {
  return { entry, bytes: entryBytes(entry.message), disk: "none", settled: false, failures: 0, resolveSafe };
}

/** An entry as it comes back from the disk. */
export function storedLive(entry: OutboxEntry): Live {
  return { ...newLive(entry, () => undefined), disk: "stored" };
}
