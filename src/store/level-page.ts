/**
 * Reading a LevelDB page by page. An iterator lives only for one page, so that a slow reader never keeps the database from being
 * closed. Invariant: a damaged block costs its own entries, never those behind it, and never goes unnoticed.
 */
import type { ClassicLevel } from "classic-level";
import type { KeyRange } from "./format.ts";

export type Level = ClassicLevel<Buffer, Buffer>;
export const LEVEL_ENCODING = { keyEncoding: "buffer", valueEncoding: "buffer" } as const;

export type RawEntry = readonly [key: Buffer, value: Buffer];

export interface Page {
  readonly entries: readonly RawEntry[];
  /** Nothing of the range lies behind these entries. */
  readonly isEnd: boolean;
  /** Set when a part of the range could not be read and its entries are missing here. */
  readonly damage: unknown;
}

/** A page of the largest messages must not fill the memory of a small box. */
const PAGE_BYTES = 4 * 1024 * 1024;
const CHUNK_BYTES = 256 * 1024;

export async function readPage(level: Level, range: KeyRange, limit: number): Promise<Page> {
  try {
    return await read(level, range, limit, CHUNK_BYTES);
  } catch (error) {
    if (!isCorruption(error)) throw error;
    return readAround(level, range, limit, error);
  }
}

/** The keys alone; throws at a damaged block. */
export async function readKeys(level: Level, range: KeyRange, limit = -1): Promise<readonly Buffer[]> {
  return level.keys({ ...range, limit }).all();
}

/** LevelDB says that what it read is not what it wrote. */
export function isCorruption(error: unknown): boolean {
  return levelCode(error) === "LEVEL_CORRUPTION";
}

/** The code of an error of classic-level, or of its cause. */
export function levelCode(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  const own = "code" in error && typeof error.code === "string" ? error.code : undefined;
  return own === "LEVEL_DATABASE_NOT_OPEN" && error.cause !== undefined ? levelCode(error.cause) : own;
}

async function read(level: Level, range: KeyRange, limit: number, chunkBytes: number): Promise<Page> {
  const iterator = level.iterator({ ...range, limit, highWaterMarkBytes: chunkBytes, fillCache: false });
  try {
    const entries: RawEntry[] = [];
    let bytes = 0;
    while (bytes < PAGE_BYTES) {
      const chunk = await iterator.nextv(Math.max(1, limit - entries.length));
      if (chunk.length === 0) return { entries, isEnd: entries.length < limit, damage: undefined };
      for (const [key, value] of chunk) bytes += key.length + value.length;
      entries.push(...chunk);
    }
    return { entries, isEnd: false, damage: undefined };
  } finally {
    await iterator.close();
  }
}

/** One by one: LevelDB steps over a damaged block and reports it at the end, together with the last chunk, which is then lost. */
async function readAround(level: Level, range: KeyRange, limit: number, damage: unknown): Promise<Page> {
  const iterator = level.iterator({ ...range, limit, highWaterMarkBytes: 0, fillCache: false });
  const entries: RawEntry[] = [];
  try {
    for (;;) {
      const [entry] = await iterator.nextv(1);
      if (entry === undefined) break;
      entries.push(entry);
    }
  } catch (error) {
    if (!isCorruption(error)) throw error;
  } finally {
    await iterator.close();
  }
  return { entries, isEnd: entries.length < limit, damage };
}
