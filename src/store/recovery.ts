/**
 * Opening the database folder, whatever state it is in. Invariants: what cannot be opened is never deleted but set aside under a
 * dated name; what is readable in it goes on in its place; a crash at any point of this leaves a folder that the next start can use.
 */
import { constants } from "node:fs";
import { access, cp, open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { ClassicLevel } from "classic-level";
import { GatewayError } from "../core/errors.ts";
import type { Clock, Log, Metrics } from "../flow/ports.ts";
import { makeFolder } from "./disk-room.ts";
import { areaOf, damagedKey, decodeVersion, encodeVersion, FORMAT_VERSION, unseal, VERSION_KEY } from "./format.ts";
import { isCorruption, LEVEL_ENCODING, type Level, levelCode, type RawEntry, readPage } from "./level-page.ts";

export interface StoreContext {
  readonly folder: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
}

export interface OpenedLevel {
  readonly level: Level;
  /** Something was lost or may be: counters kept beside the data cannot be trusted. */
  readonly isDamaged: boolean;
}

/**
 * Opens the folder, makes it when there is none, and salvages it when it is damaged (or `mustSalvage` says so).
 * Throws STATE_LOCKED, STATE_FORMAT, or STORE_FAILED when the disk does not let it.
 */
export async function openLevel(context: StoreContext, mustSalvage = false): Promise<OpenedLevel> {
  try {
    await makeFolder(dirname(context.folder));
    const isFinished = await finishSalvage(context);
    let attempt: Attempt = mustSalvage ? { kind: "damaged", reason: "a damaged block" } : await tryOpen(context.folder);
    const isSalvaged = attempt.kind === "damaged";
    if (attempt.kind === "damaged") {
      await salvage(context, attempt.reason);
      attempt = { kind: "open", level: await openPlain(context.folder) };
    }
    return await prepare(context, attempt.level, isFinished || isSalvaged);
  } catch (error) {
    throw openFailure(context.folder, error);
  }
}

async function prepare(context: StoreContext, level: Level, isSalvaged: boolean): Promise<OpenedLevel> {
  try {
    await checkVersion(context, level);
    await syncFolders(context.folder);
    const droppedBytes = await reportDropped(context);
    return { level, isDamaged: isSalvaged || droppedBytes > 0 };
  } catch (error) {
    await level.close();
    throw error;
  }
}

/** Bytes of all files of the folder. LevelDB may remove some meanwhile. */
export async function folderBytes(folder: string): Promise<number> {
  let bytes = 0;
  for (const name of await readdir(folder)) {
    const found = await stat(join(folder, name)).catch(() => undefined);
    bytes += found?.size ?? 0;
  }
  return bytes;
}

const MB = 1024 * 1024;

async function openPlain(folder: string): Promise<Level> {
  // Without compression a damaged byte costs one entry; with it, a whole block of them.
  // Open tables are mapped into memory, 1 MB each: few are enough for reading in order. Nothing is read often enough for a cache.
  // Half and a quarter of the usual sizes: what LevelDB merges in one go must fit into the reserve of a full disk. It costs a
  // twentieth more writing when a long queue is written at full speed, and nothing at the pace of leaves.
  const level: Level = new ClassicLevel(folder, {
    ...LEVEL_ENCODING,
    compression: false,
    cacheSize: MB,
    maxOpenFiles: 64,
    maxFileSize: MB,
    writeBufferSize: MB,
  });
  await level.open();
  return level;
}

function openFailure(folder: string, error: unknown): GatewayError {
  if (error instanceof GatewayError) return error;
  if (levelCode(error) === "LEVEL_LOCKED")
    return new GatewayError(
      "STATE_LOCKED",
      `another gateway uses the state folder ${folder}: end it, or give this one a folder of its own (GATEWAY_STATE)`,
      { cause: error },
    );
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  return new GatewayError("STORE_FAILED", `the state folder ${folder} cannot be opened: ${String(cause)}`, {
    cause: error,
  });
}

// ------------------------------------------------------------------------------------------------ version

async function checkVersion({ folder, log }: StoreContext, level: Level): Promise<void> {
  const sealed = await level.get(VERSION_KEY);
  const version = sealed === undefined ? undefined : decodeVersion(sealed);
  if (version?.kind === "damaged") log.warn({ folder, reason: version.reason }, "the format version was unreadable");
  if (version?.kind === "ok") {
    refuseNewer(folder, version.value);
    if (version.value === FORMAT_VERSION) return;
  }
  // Before any value in the new format is written, so that an older gateway never meets one.
  await level.put(VERSION_KEY, encodeVersion(FORMAT_VERSION), { sync: true });
}

function refuseNewer(folder: string, version: number): void {
  if (version > FORMAT_VERSION)
    throw new GatewayError(
      "STATE_FORMAT",
      `the state folder ${folder} has format ${version}, this gateway knows formats up to ${FORMAT_VERSION}: use the newer gateway`,
    );
}

// ------------------------------------------------------------------------------------------------ damage

type Attempt = { readonly kind: "open"; readonly level: Level } | { readonly kind: "damaged"; readonly reason: string };

/** Throws when it is not damage that is in the way. */
async function tryOpen(folder: string): Promise<Attempt> {
  const names = await list(folder);
  const hasData = names.some((name) => name.endsWith(".ldb") || name.endsWith(".log"));
  // LevelDB would begin an empty database here and delete the tables of the old one.
  if (hasData && !names.includes("CURRENT")) return { kind: "damaged", reason: "CURRENT is missing" };
  try {
    return { kind: "open", level: await openPlain(folder) };
  } catch (error) {
    const reason = error instanceof Error ? String(error.cause) : String(error);
    const isFileMissing = levelCode(error) === "LEVEL_IO_ERROR" && reason.includes("No such file") && hasData;
    if (isCorruption(error) || isFileMissing) return { kind: "damaged", reason };
    throw error;
  }
}

/** A crash between the two renames of {@link salvage}: the folder is gone, the rebuilt one is complete. */
async function finishSalvage({ folder, log }: StoreContext): Promise<boolean> {
  if ((await exists(folder)) || !(await exists(rebuiltName(folder)))) return false;
  await rename(rebuiltName(folder), folder);
  log.warn({ folder }, "an interrupted salvage of the database was finished");
  return true;
}

/** Copy, repair the copy, take over entry by entry what is readable, and only then swap the folders. */
async function salvage(context: StoreContext, reason: string): Promise<void> {
  const { folder, clock, log, metrics } = context;
  metrics.count("store_damaged_total", { what: "database" });
  log.error({ folder, reason }, "the database is damaged, what is readable is salvaged");
  const copy = `${folder}.salvage`;
  const rebuilt = rebuiltName(folder);
  await rm(copy, { recursive: true, force: true });
  await rm(rebuilt, { recursive: true, force: true });
  await cp(folder, copy, { recursive: true, mode: constants.COPYFILE_FICLONE });
  const taken = await rebuild(context, copy, rebuilt);
  const aside = `${folder}.damaged-${new Date(clock.now()).toISOString().replaceAll(":", "-")}`;
  await syncFolders(rebuilt);
  await rename(folder, aside);
  await rename(rebuilt, folder);
  await rm(copy, { recursive: true, force: true });
  log.error({ folder, aside, ...taken }, "the damaged database was set aside, its readable entries were taken over");
}

interface Taken {
  entries: number;
  damaged: number;
}

async function rebuild(context: StoreContext, copy: string, rebuilt: string): Promise<Taken> {
  const taken = { entries: 0, damaged: 0 };
  const target = await openPlain(rebuilt);
  try {
    const source = await openRepaired(context, copy);
    if (source !== undefined) {
      try {
        await takeOver(context, source, target, taken);
      } finally {
        await source.close();
      }
    }
    await target.put(VERSION_KEY, encodeVersion(FORMAT_VERSION), { sync: true });
  } finally {
    await target.close();
  }
  return taken;
}

async function openRepaired({ folder, log }: StoreContext, copy: string): Promise<Level | undefined> {
  try {
    await ClassicLevel.repair(copy);
    return await openPlain(copy);
  } catch (error) {
    if (isDiskFull(error)) throw error;
    log.error({ folder, error: String(error) }, "nothing of the damaged database can be read");
    return undefined;
  }
}

/** By the words of LevelDB and of Node. */
export function isDiskFull(error: unknown): boolean {
  return error instanceof Error && /No space|ENOSPC/.test(`${error.message} ${String(error.cause)}`);
}

const TAKE_ENTRIES = 1_000;

async function takeOver(context: StoreContext, source: Level, target: Level, taken: Taken): Promise<void> {
  let gt: Buffer = Buffer.from([0]);
  const lt = Buffer.from([0xff]);
  for (let isEnd = false; !isEnd; ) {
    const page = await readPage(source, { gt, lt }, TAKE_ENTRIES);
    const puts = page.entries.flatMap((entry) => takenEntry(context, entry, taken));
    await target.batch(puts, { sync: page.isEnd });
    isEnd = page.isEnd;
    gt = page.entries.at(-1)?.[0] ?? gt;
  }
}

function takenEntry(
  { folder, metrics }: StoreContext,
  [key, value]: RawEntry,
  taken: Taken,
): { type: "put"; key: Buffer; value: Buffer }[] {
  const area = areaOf(key);
  if (area === "version") {
    const version = decodeVersion(value);
    if (version.kind === "ok") refuseNewer(folder, version.value);
    return [];
  }
  if (area === "damaged" || unseal(key, value).kind === "ok") {
    taken.entries += 1;
    return [{ type: "put", key, value }];
  }
  taken.damaged += 1;
  metrics.count("store_damaged_total", { what: "entry" });
  return [{ type: "put", key: damagedKey(key), value }];
}

/**
 * LevelDB passes over unreadable parts of its write-ahead log without an error and only mentions them in its own LOG file. A tail
 * that was never synced is not mentioned, so a mention means that something is lost that was called durable.
 */
async function reportDropped({ folder, log, metrics }: StoreContext): Promise<number> {
  const text = await readFile(join(folder, "LOG"), "utf8").catch(() => "");
  let bytes = 0;
  for (const [, dropped] of text.matchAll(/: dropping (\d+) bytes; /g)) bytes += Number(dropped);
  if (bytes > 0) {
    metrics.count("store_damaged_total", { what: "log" });
    log.error({ folder, bytes }, "the newest part of the database was damaged and is lost");
  }
  return bytes;
}

// ------------------------------------------------------------------------------------------------ folders

function rebuiltName(folder: string): string {
  return `${folder}.rebuilt`;
}

async function list(folder: string): Promise<readonly string[]> {
  return (await exists(folder)) ? readdir(folder) : [];
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

/** LevelDB syncs its files, not the folder that names them. */
async function syncFolders(folder: string): Promise<void> {
  for (const path of [folder, dirname(folder)]) await syncFolder(path);
}

/** What the folder names is named after a power cut too. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
