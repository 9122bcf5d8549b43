/**
 * A numbered history of commits whose traces can be checked after any crash. Commit `n` stores three entries and a leaf record named
 * after it, and settles the three entries of the commit `SETTLE_AFTER` before it.
 */
import { expect } from "vitest";
import type { Store, Write } from "../../src/flow/ports.ts";
import { collect, entry, leafId, leafRecord } from "./store-samples.ts";

const ENTRIES = 3;
const SETTLE_AFTER = 20;

/** `bytes`: size of each payload. */
export function historyWrites(n: number, bytes: number): readonly Write[] {
  const seqs = seqsOf(n);
  return [
    ...seqs.map((seq): Write => ({ kind: "append", entry: entry(seq, `${n}`.padEnd(bytes, ".")) })),
    { kind: "leaf", record: leafRecord(`leaf-${n}`, { leafId: leafId(`leaf-${n}`), reportedVersion: n }) },
    ...(n >= SETTLE_AFTER ? seqsOf(n - SETTLE_AFTER) : []).map(
      (seq): Write => ({ kind: "settle", seq, retain: undefined }),
    ),
  ];
}

/**
 * The commits that are there, checked: they are the first so many, each whole, none of the `acknowledged` first ones missing.
 * Returns how many there are.
 */
export async function checkHistory(store: Store, acknowledged: number): Promise<number> {
  const records = await collect(store.leaves());
  const present = records.map(({ reportedVersion }) => reportedVersion).toSorted((a, b) => a - b);
  const there = present.length;
  expect(present, "the commits that are there are the first ones").toEqual(Array.from({ length: there }, (_, n) => n));
  expect(there, "an acknowledged commit is missing").toBeGreaterThanOrEqual(acknowledged);
  const unsettled = present.slice(Math.max(0, there - SETTLE_AFTER)).flatMap(seqsOf);
  const found = await store.outbox(0, ENTRIES * SETTLE_AFTER + 10);
  expect(found.map(({ seq }) => seq)).toEqual(unsettled);
  for (const { seq, message } of found)
    expect(Number.parseInt(Buffer.from(message.payload).toString(), 10)).toBe(Math.floor((seq - 1) / ENTRIES));
  expect(store.usage().entries).toBe(unsettled.length);
  expect(store.usage().lastSeq).toBe(ENTRIES * there);
  return there;
}

function seqsOf(n: number): readonly number[] {
  return Array.from({ length: ENTRIES }, (_, at) => ENTRIES * n + at + 1);
}

/** Reproducible randomness in [0, 1) [mulberry32]. */
export function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}
