/**
 * The telemetry queue: in memory while the hub keeps up, on disk from the moment it does not.
 * Invariants: entries leave in the order of `seq`; an entry is called safe only when the hub took it or its append was committed;
 * memory holds about `memoryEntries`, whatever lies on disk.
 *
 * `#queue` is the head of the line. When it is full a gap opens: later entries go to the disk (`#beyond` holds them until they are
 * there) and are read back in order when the head has room. The gap closes when the end of the disk has been read.
 */
import type { LeafId, OutboxEntry, Telemetry } from "../core/message.ts";
import { isExpired } from "../core/outbox.ts";
import { takeOut } from "../core/take-out.ts";
import type { Clock, Log, Metrics, Store } from "./ports.ts";
import { type Live, newLive, type Safe, Spool, type SpoolSettings, storedLive } from "./spool.ts";

export interface QueueSettings extends SpoolSettings {
  readonly spillAfterMs: number;
  readonly timeToLiveSecs: number;
  readonly memoryEntries: number;
  readonly memoryBytes: number;
  readonly durability: "first-safe" | "power-safe";
}

/** How long an entry that finds no safe place is held before its leaf is told, beyond the spill time [aedes.md 4]. */
const HOLD_MS = 5_000;
const TICK_MS = 50;
/** Of 256 KB each at the most. */
const LOAD_ENTRIES = 100;
const RETRY_READ_MS = 1_000;

export interface QueueOptions {
  readonly store: Store;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly settings: () => QueueSettings;
  /** Resolves when the entry is kept for inspection. */
  readonly setAside: (entry: OutboxEntry, reason: string) => Promise<void>;
  /** True while the hub is likely to be quicker than our disk. */
  readonly hubIsPrompt: () => boolean;
  /** There may be something to take. */
  readonly available: () => void;
}

export class DurableQueue {
  readonly #options: QueueOptions;
  readonly #spool: Spool;
  readonly #stopping = new AbortController();
  #queue: Live[] = [];
  #queueBytes = 0;
  /** Arrived behind the gap; those that are stored by now are dropped from here when nobody reads the disk. */
  #beyond: Live[] = [];
  #gap = false;
  #loading = false;
  /** Another for each beginning of the line; what was read for an earlier one is of no use. */
  #generation = 0;
  #lastSeq = 0;
  #lastQueuedSeq = 0;
  /** Not safe yet, in order of arrival. */
  #unsafe: Live[] = [];
  #ticking = false;
  /** By the sender, and not accepted yet; few. */
  readonly #taken: Live[] = [];

  constructor(options: QueueOptions) {
    this.#options = options;
    this.#spool = new Spool({
      ...options,
      stored: () => {
        this.#pruneBeyond();
        this.#loadIfLow();
        options.available();
      },
      isBeingSent: (entry) => this.#taken.some((live) => live.entry.seq === entry.seq),
      evicted: (entry) => this.#evicted(entry),
    });
  }

  start(): void {
    this.#spool.recount();
    this.#lastSeq = this.#options.store.usage().lastSeq;
    this.#gap = this.#spool.entries > 0;
    this.#loadIfLow();
  }

  /** Entries that wait for the hub, wherever they are. */
  get depth(): number {
    let inMemoryOnly = 0;
    for (const live of [...this.#queue, ...this.#beyond, ...this.#taken])
      if (live.disk !== "stored" && !live.settled) inMemoryOnly += 1;
    return this.#spool.entries + inMemoryOnly;
  }

  get diskBytes(): number {
    return this.#spool.bytes;
  }

  /** Steady time at which the oldest waiting entry arrived. */
  get oldestMs(): number | undefined {
    return (this.#taken[0] ?? this.#queue[0])?.entry.enqueuedMs;
  }

  /** Takes a message in; resolves when it is safe, or refused because no safe place had room in time. */
  enqueue(leafId: LeafId, message: Telemetry): Promise<Safe> {
    const { promise, resolve } = Promise.withResolvers<Safe>();
    const live = newLive({ seq: ++this.#lastSeq, leafId, message, enqueuedMs: this.#options.clock.steady() }, resolve);
    if (!this.#gap && this.#hasRoom()) {
      this.#push(live);
    } else {
      this.#gap = true;
      this.#beyond.push(live);
    }
    const powerSafe = this.#options.settings().durability === "power-safe";
    if (powerSafe || this.#gap || !this.#options.hubIsPrompt()) this.#spool.want(live);
    this.#unsafe.push(live);
    this.#tick();
    this.#options.available();
    return promise;
  }

  /** The next entry to send, in order. In power-safe the hub is no safe place, so only what is on our disk is sent. */
  take(): Live | undefined {
    const mustBeStored = this.#options.settings().durability === "power-safe";
    for (;;) {
      if (mustBeStored && this.#queue[0]?.disk !== "stored" && this.#queue[0]?.settled === false) return undefined;
      const live = this.#queue.shift();
      this.#loadIfLow();
      if (live === undefined) return undefined;
      this.#queueBytes -= live.bytes;
      if (live.settled) continue;
      if (this.#isExpired(live)) {
        this.#expire(live);
        continue;
      }
      this.#taken.push(live);
      return live;
    }
  }

  /** Entries that were taken and not accepted, back to the head in their order. */
  giveBack(lives: readonly Live[]): void {
    for (const live of lives) {
      takeOut(this.#taken, live);
      this.#queueBytes += live.bytes;
    }
    this.#queue = [...lives.toSorted((a, b) => a.entry.seq - b.entry.seq), ...this.#queue];
  }

  /** The hub has it. In power-safe a copy stays on disk until it is forgotten. */
  settle(live: Live): void {
    takeOut(this.#taken, live);
    if (live.settled) return;
    live.settled = true;
    live.resolveSafe({ kind: "safe" });
    this.#spool.remove(live, this.#options.settings().durability === "power-safe");
  }

  /** The hub refuses this one for good: kept for inspection, out of the way of the others. */
  async setAside(live: Live, reason: string): Promise<void> {
    const { log, metrics, setAside } = this.#options;
    await setAside(live.entry, reason);
    takeOut(this.#taken, live);
    live.settled = true;
    live.resolveSafe({ kind: "safe" });
    this.#spool.remove(live, false);
    metrics.count("telemetry_set_aside_total");
    log.error({ leafId: live.entry.leafId, seq: live.entry.seq, reason }, "the hub refuses a message, it is set aside");
  }

  /** Forgets what is past its time to live at the head of the line. */
  sweep(): void {
    for (
      let live = this.#queue[0];
      live !== undefined && (live.settled || this.#isExpired(live));
      live = this.#queue[0]
    ) {
      this.#queue.shift();
      this.#queueBytes -= live.bytes;
      if (!live.settled) this.#expire(live);
    }
    this.#loadIfLow();
  }

  /** `work` puts older entries back on the disk (a resend); then the line begins at its beginning. Nothing may be taken meanwhile. */
  async restart(work: () => Promise<void>): Promise<void> {
    await this.#spool.exclusively(work);
    this.#beyond = [...this.#queue, ...this.#beyond].filter((live) => live.disk !== "stored" && !live.settled);
    this.#queue = [];
    this.#queueBytes = 0;
    this.#lastQueuedSeq = 0;
    this.#generation += 1;
    this.#gap = true;
    this.#loadIfLow();
  }

  /** Puts everything that is not safe yet on disk and waits for it; nothing may be enqueued afterwards. */
  async close(): Promise<void> {
    for (const live of [...this.#taken, ...this.#queue, ...this.#beyond]) this.#spool.want(live);
    await this.#spool.close();
    this.#stopping.abort();
  }

  /** Entries that the hub does not take in time go to disk, and those that find no place there either are refused. */
  #tick(): void {
    if (this.#ticking || this.#unsafe.length === 0) return;
    this.#ticking = true;
    const { clock, settings } = this.#options;
    clock.sleep(TICK_MS, this.#stopping.signal).then(
      () => {
        this.#ticking = false;
        const now = clock.steady();
        const { spillAfterMs } = settings();
        this.#unsafe = this.#unsafe.filter((live) => {
          if (live.settled || live.disk === "stored") return false;
          const waitedMs = now - live.entry.enqueuedMs;
          if (waitedMs >= spillAfterMs + HOLD_MS && live.disk !== "writing") return !this.#refuse(live);
          if (waitedMs >= spillAfterMs) this.#spool.want(live);
          return true;
        });
        this.#tick();
      },
      () => undefined,
    );
  }

  /** No safe place in time: the leaf keeps it and sends it again. One that is under way to the hub may still arrive. */
  #refuse(live: Live): true {
    live.settled = true;
    live.resolveSafe({ kind: "refused", reason: "neither the hub nor the disk has taken it in time" });
    this.#pruneBeyond();
    return true;
  }

  #isExpired(live: Live): boolean {
    return isExpired(live.entry, this.#options.clock.steady(), this.#options.settings().timeToLiveSecs);
  }

  #expire(live: Live): void {
    live.settled = true;
    live.resolveSafe({ kind: "safe" });
    this.#countDropped(live.entry, "expired");
    this.#spool.remove(live, false);
  }

  #evicted(entry: OutboxEntry): void {
    const inMemory = this.#queue.find((live) => live.entry.seq === entry.seq);
    if (inMemory !== undefined) inMemory.settled = true;
    this.#countDropped(entry, "evicted");
  }

  #countDropped(entry: OutboxEntry, reason: string): void {
    this.#options.metrics.count("telemetry_dropped_total", { reason });
    this.#options.log.warn({ leafId: entry.leafId, seq: entry.seq, reason }, "telemetry dropped");
  }

  #hasRoom(): boolean {
    const settings = this.#options.settings();
    return this.#queue.length < settings.memoryEntries && this.#queueBytes < settings.memoryBytes;
  }

  #push(live: Live): void {
    this.#queue.push(live);
    this.#queueBytes += live.bytes;
    this.#lastQueuedSeq = live.entry.seq;
  }

  #pruneBeyond(): void {
    if (!this.#loading) this.#beyond = this.#beyond.filter((live) => live.disk !== "stored" && !live.settled);
  }

  #loadIfLow(): void {
    if (!this.#gap || this.#loading || this.#stopping.signal.aborted) return;
    if (this.#queue.length >= LOAD_ENTRIES) return;
    this.#pruneBeyond();
    this.#loading = true;
    this.#load().then(
      () => {
        this.#loading = false;
        this.#loadIfLow();
        this.#options.available();
      },
      (error: unknown) => {
        this.#loading = false;
        this.#options.log.error({ error: String(error) }, "the outbox could not be read, it is tried again");
        this.#options.clock.sleep(RETRY_READ_MS, this.#stopping.signal).then(
          () => this.#loadIfLow(),
          () => undefined,
        );
      },
    );
  }

  /**
   * One step: what the disk has next and what is beyond it in memory, merged in order. An entry that is stored while we read is
   * found in both, one that is not stored yet in `#beyond` only.
   */
  async #load(): Promise<void> {
    const generation = this.#generation;
    const entries = await this.#options.store.outbox(this.#lastQueuedSeq, LOAD_ENTRIES);
    if (generation !== this.#generation) return;
    const isEnd = entries.length < LOAD_ENTRIES;
    const upTo = isEnd ? Number.POSITIVE_INFINITY : (entries.at(-1)?.seq ?? 0);
    const merged = new Map<number, Live>();
    for (const entry of entries) merged.set(entry.seq, storedLive(entry));
    for (const live of this.#beyond) if (live.entry.seq <= upTo) merged.set(live.entry.seq, live);
    this.#beyond = this.#beyond.filter((live) => live.entry.seq > upTo);
    for (const seq of [...merged.keys()].toSorted((a, b) => a - b)) {
      const live = merged.get(seq);
      if (live !== undefined && !live.settled) this.#push(live);
    }
    if (isEnd) this.#gap = false;
  }
}
