/**
 * A file that keeps room for the store's own work on a full disk. Without it a disk full of our own entries could never be emptied:
 * removing what the hub took is a write too, and so is opening the database. Invariant: once the room was given up, nothing new is
 * to be stored until the file is there again, so that the room serves what makes room.
 */
import { randomFillSync } from "node:crypto";
import { open, rm, stat, statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { roomFor } from "./disk-room.ts";
import type { StoreContext } from "./recovery.ts";

/** What LevelDB writes before it can remove anything: at worst its first two levels merged anew (12 tables of 1 MB, 10 MB). */
export const RESERVE_BYTES = 32 * 1024 * 1024;
/** Small volumes give up no more than this part of themselves. */
const VOLUME_PART = 4;
/** The reserve is taken back only when this much would stay free beside it. */
const MARGIN_BYTES = 8 * 1024 * 1024;
const TRY_AGAIN_MS = 1_000;
const CHUNK_BYTES = 64 * 1024;

export class Reserve implements AsyncDisposable {
  readonly #context: StoreContext;
  readonly #maxBytes: number;
  readonly #path: string;
  #isSpent = false;
  #tryFromMs = 0;
  #taking: Promise<void> | undefined;

  /** Beside the database's folder, never in it: it must not be copied when a damaged one is salvaged. 0 bytes: none is kept. */
  constructor(context: StoreContext, maxBytes: number) {
    this.#context = context;
    this.#maxBytes = maxBytes;
    this.#path = `${context.folder}.reserve`;
  }

  /** Nothing new is to be stored: there is only room for what makes room. Each asking may lead to its end, soon. */
  get isSpent(): boolean {
    if (this.#isSpent) this.#takeSoon();
    return this.#isSpent;
  }

  /** Looks for the file; when it is not there, it is made in the background where there is room for it, and else counts as spent. */
  async open(): Promise<void> {
    if (this.#maxBytes === 0) return;
    await this.#assertRoom(await this.#bytes()).catch(() => this.#spent());
    this.#takeSoon();
  }

  /** Gives the room up; false when there is none to give. */
  async release(): Promise<boolean> {
    await this.#taking;
    const had = await sizeOf(this.#path);
    if (had === 0) return false;
    await rm(this.#path, { force: true });
    this.#spent();
    return true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#tryFromMs = Number.POSITIVE_INFINITY;
    await this.#taking;
  }

  #spent(): void {
    const { folder, log, metrics } = this.#context;
    if (!this.#isSpent) log.error({ folder }, "the disk is full: nothing new is stored until there is room again");
    this.#isSpent = true;
    metrics.gauge("store_disk_full", 1);
  }

  #takeSoon(): void {
    const { clock } = this.#context;
    if (this.#taking !== undefined || clock.steady() < this.#tryFromMs) return;
    this.#tryFromMs = clock.steady() + TRY_AGAIN_MS;
    this.#taking = this.#take()
      .catch(() => this.#spent())
      .finally(() => {
        this.#taking = undefined;
      });
  }

  /** Rejects when there is no room for it. */
  async #take(): Promise<void> {
    const { folder, log, metrics } = this.#context;
    const bytes = await this.#bytes();
    if ((await sizeOf(this.#path)) < bytes) {
      await this.#assertRoom(bytes);
      await fill(this.#path, bytes);
    }
    if (this.#isSpent) log.warn({ folder }, "there is room on the disk again");
    this.#isSpent = false;
    metrics.gauge("store_disk_full", 0);
  }

  async #bytes(): Promise<number> {
    const { blocks, bsize } = await statfs(dirname(this.#context.folder));
    return Math.min(this.#maxBytes, Math.floor((blocks * bsize) / VOLUME_PART));
  }

  async #assertRoom(bytes: number): Promise<void> {
    const has = await sizeOf(this.#path);
    if (has < bytes) await roomFor(dirname(this.#context.folder), bytes - has + Math.min(MARGIN_BYTES, bytes));
  }
}

async function sizeOf(path: string): Promise<number> {
  return stat(path).then(
    ({ size }) => size,
    () => 0,
  );
}

/** Random bytes: no file system can store them in less. */
async function fill(path: string, bytes: number): Promise<void> {
  const chunk = randomFillSync(Buffer.alloc(CHUNK_BYTES));
  const file = await open(path, "w", 0o600);
  try {
    for (let left = bytes; left > 0; left -= chunk.length) await file.write(chunk, 0, Math.min(left, chunk.length));
    await file.sync();
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  } finally {
    await file.close();
  }
}
