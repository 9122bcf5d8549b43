/** The outbox counters when a database is opened: read where they can be trusted, counted where something was lost. */
import { entryBytes } from "../core/outbox.ts";
import { decodeCounters, decodeOutboxEntry, keySeq, type OutboxCounters, seqRange, USAGE_KEY } from "./format.ts";
import { type Level, readPage } from "./level-page.ts";
import { EMPTY_COUNTERS } from "./outbox-ledger.ts";
import type { OpenedLevel } from "./recovery.ts";

/** More than could have been given out between the last counters that are readable and the damage. */
const LOST_SEQS = 1_000_000;
const PAGE_ENTRIES = 1_000;

export async function loadCounters({ level, isDamaged }: OpenedLevel): Promise<OutboxCounters> {
  const sealed = await level.get(USAGE_KEY);
  const stored = sealed === undefined ? undefined : decodeCounters(sealed);
  if (stored?.kind === "ok" && !isDamaged) return stored.value;
  const counted = await countOutbox(level);
  if (stored === undefined && !isDamaged && counted.entries === 0) return EMPTY_COUNTERS;
  const known = stored?.kind === "ok" ? stored.value.lastSeq : 0;
  const lastSeq = Math.max(
    known,
    counted.lastSeq,
    await lastKeySeq(level, "retained"),
    await lastKeySeq(level, "setAside"),
  );
  return { ...counted, lastSeq: lastSeq + LOST_SEQS };
}

async function countOutbox(level: Level): Promise<OutboxCounters> {
  let { entries, bytes, lastSeq, head } = EMPTY_COUNTERS;
  let range = seqRange("outbox", 0);
  for (let isEnd = false; !isEnd; ) {
    const page = await readPage(level, range, PAGE_ENTRIES);
    for (const [key, value] of page.entries) {
      const decoded = decodeOutboxEntry(key, value);
      if (entries === 0) head = keySeq(key);
      entries += 1;
      bytes += decoded.kind === "ok" ? entryBytes(decoded.value.message) : value.length;
      lastSeq = keySeq(key);
    }
    isEnd = page.isEnd;
    range = { ...range, gt: page.entries.at(-1)?.[0] ?? range.gt };
  }
  return { entries, bytes, lastSeq, head };
}

async function lastKeySeq(level: Level, area: "retained" | "setAside"): Promise<number> {
  const [key] = await level.keys({ ...seqRange(area, 0), reverse: true, limit: 1 }).all();
  return key === undefined ? 0 : keySeq(key);
}
