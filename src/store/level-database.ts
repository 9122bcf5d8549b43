/**
 * One LevelDB folder that goes on after failures. Invariant: nothing is written after a failed write before the database was opened
 * anew. A record that a full disk cut short stays in the write-ahead log, and LevelDB reads past it by dropping the rest of its
 * 32 KB block: commits that were synced after it would silently be gone at the next start.
 */
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { GatewayError } from "../core/errors.ts";
import { assertWritable } from "./disk-room.ts";
import type { KeyRange } from "./format.ts";
import { isCorruption, type Level, type Page, readKeys, readPage } from "./level-page.ts";
import { folderBytes, isDiskFull, type OpenedLevel, openLevel, type StoreContext, syncFolder } from "./recovery.ts";
import { Reserve } from "./reserve.ts";

export type Operation =
  | { readonly type: "put"; readonly key: Buffer; readonly value: Buffer }
  | { readonly type: "del"; readonly key: Buffer };

/** A new write-ahead log. */
const LOG_BYTES = 4 * 1024 * 1024;
/** A salvage that failed (it needs room for two copies) is not tried again with each commit. */
const SALVAGE_AGAIN_MS = 60_000;

export class LevelDatabase implements AsyncDisposable {
  readonly #context: StoreContext;
  readonly #reserve: Reserve;
  /** Called with each newly opened database before anybody else reads it. */
  readonly #opened: (opened: OpenedLevel) => Promise<void>;
  #level: Level | undefined;
  /** A write failed: open anew before the next. */
  #isSuspect = false;
  /** The newest write-ahead log that the folder is known to name after a power cut, and how far it was written. */
  #log: { readonly name: string; readonly bytes: number } | undefined;
  /** A block cannot be read: salvage as soon as there is room, since LevelDB ends all writing when a compaction meets it. */
  #isDamaged = false;
  #salvageFromMs = 0;
  #healing: Promise<void> | undefined;
  #users = 0;
  #idle: (() => void) | undefined;
  #isClosed = false;

  constructor(context: StoreContext, reserveBytes: number, opened: (opened: OpenedLevel) => Promise<void>) {
    this.#context = context;
    this.#reserve = new Reserve(context, reserveBytes);
    this.#opened = opened;
  }

  /** Throws as `openLevel` does. */
  async open(): Promise<void> {
    try {
      await this.#openAnew(false);
    } catch (error) {
      if (!isDiskFull(error) || !(await this.#reserve.release())) throw error;
      await this.#openAnew(false);
    }
    await this.#reserve.open();
  }

  /** Only what makes room should be written: the reserve is used up. */
  get isFull(): boolean {
    return this.#reserve.isSpent;
  }

  /** Opens anew, or salvages, when that has to come before the next write. `opened` may be called meanwhile. */
  async prepare(): Promise<void> {
    const { clock, log } = this.#context;
    if (this.#isDamaged && clock.steady() >= this.#salvageFromMs) {
      this.#salvageFromMs = clock.steady() + SALVAGE_AGAIN_MS;
      await this.#heal(true).catch((error: unknown) =>
        log.error({ error: String(error) }, "the damaged database could not be salvaged, it is tried again"),
      );
    }
    if (this.#isSuspect || this.#level === undefined) await this.#heal(false);
  }

  /** After `prepare`. Synced when resolved; rejected, it may still be found, whole, after the database was opened anew. */
  async write(operations: readonly Operation[]): Promise<void> {
    try {
      await this.#use((level) => level.batch([...operations], { sync: true }));
      await this.#syncNewLog();
    } catch (error) {
      this.#isSuspect = true;
      throw error;
    }
  }

  /** LevelDB syncs a new write-ahead log, but not the folder that has to name it: a power cut could take the whole file. */
  async #syncNewLog(): Promise<void> {
    const { folder } = this.#context;
    const known = this.#log;
    const sizeOf = async (name: string): Promise<number> => (await stat(join(folder, name))).size;
    // What has grown has taken the write, so that is no new one. To look through the folder each time would cost more than the write.
    const bytes = known === undefined ? 0 : await sizeOf(known.name).catch(() => 0);
    if (known !== undefined && bytes > known.bytes) {
      this.#log = { ...known, bytes };
      return;
    }
    const logs = (await readdir(folder)).filter((name) => name.endsWith(".log"));
    const name = logs.toSorted((a, b) => Number.parseInt(b, 10) - Number.parseInt(a, 10))[0];
    if (name === undefined) throw new GatewayError("STORE_FAILED", "the database has no write-ahead log");
    if (name !== known?.name) await syncFolder(folder);
    this.#log = { name, bytes: await sizeOf(name) };
  }

  page(range: KeyRange, limit: number): Promise<Page> {
    return this.#use(async (level) => {
      const page = await readPage(level, range, limit);
      if (page.damage !== undefined) this.#foundDamage(page.damage);
      return page;
    });
  }

  keys(range: KeyRange, limit?: number): Promise<readonly Buffer[]> {
    return this.#use((level) => readKeys(level, range, limit));
  }

  get(key: Buffer): Promise<Buffer | undefined> {
    return this.#use((level) => level.get(key));
  }

  /** Gives the room of what was deleted between two keys back to the disk. */
  compact(from: Buffer, to: Buffer): Promise<void> {
    return this.#use((level) => level.compactRange(from, to, {}));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true;
    await this.#healing?.catch(() => undefined);
    await this.#reserve[Symbol.asyncDispose]();
    await this.#closeLevel();
  }

  async #use<T>(work: (level: Level) => Promise<T>): Promise<T> {
    while (this.#healing !== undefined) await this.#healing.catch(() => undefined);
    if (this.#level === undefined) await this.#heal(false);
    const level = this.#level;
    if (level === undefined) throw new GatewayError("STORE_FAILED", "the store is closed");
    this.#users += 1;
    try {
      return await work(level);
    } catch (error) {
      if (isCorruption(error)) this.#foundDamage(error);
      throw error;
    } finally {
      this.#users -= 1;
      if (this.#users === 0) this.#idle?.();
    }
  }

  #foundDamage(error: unknown): void {
    if (!this.#isDamaged) this.#context.log.error({ error: String(error) }, "a part of the database cannot be read");
    this.#isDamaged = true;
  }

  #heal(mustSalvage: boolean): Promise<void> {
    if (this.#isClosed) return Promise.reject(new GatewayError("STORE_FAILED", "the store is closed"));
    this.#healing ??= this.#reopen(mustSalvage).finally(() => {
      this.#healing = undefined;
    });
    return this.#healing;
  }

  /** As long as there is no room for opening anew, the old one is kept for reading: what is on disk can still go up. */
  async #reopen(mustSalvage: boolean): Promise<void> {
    const { folder, log } = this.#context;
    if (this.#level !== undefined) {
      const bytes = mustSalvage ? 2 * (await folderBytes(folder)) : LOG_BYTES;
      await assertWritable(folder, bytes).catch(async (error: unknown) => {
        if (mustSalvage || !(await this.#reserve.release())) throw error;
        await assertWritable(folder, bytes);
      });
      await this.#closeLevel();
    }
    await this.#openAnew(mustSalvage);
    log.warn({ folder }, "the database was opened anew after a failure");
  }

  async #openAnew(mustSalvage: boolean): Promise<void> {
    const opened = await openLevel(this.#context, mustSalvage);
    try {
      await this.#opened(opened);
    } catch (error) {
      await opened.level.close();
      throw error;
    }
    this.#level = opened.level;
    this.#log = undefined;
    this.#isSuspect = false;
    if (opened.isDamaged) this.#isDamaged = false;
  }

  async #closeLevel(): Promise<void> {
    if (this.#users > 0)
      await new Promise<void>((resolve) => {
        this.#idle = resolve;
      });
    const level = this.#level;
    this.#level = undefined;
    await level?.close();
  }
}
