/** A power cut: of everything written after the last sync any part may be missing. */
import { cpSync, readdirSync, rmSync, statSync, truncateSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { checkHistory, historyWrites, seeded } from "../support/store-history.ts";
import { LevelRig } from "../support/store-samples.ts";

const COMMITS = 150;
const SEEDS = Array.from({ length: 20 }, (_, at) => at + 1);

type Lengths = ReadonlyMap<string, number>;

/** Names that LevelDB syncs before it relies on them; only its log has a tail that is not synced. */
function isLog(name: string): boolean {
  return name.endsWith(".log");
}

function lengthsOf(folder: string): Lengths {
  const sizes = readdirSync(folder).map((name): [string, number] => [
    name,
    // LevelDB removes files meanwhile.
    statSync(join(folder, name), { throwIfNoEntry: false })?.size ?? 0,
  ]);
  return new Map(sizes);
}

/** A copy in which no file appeared or vanished while it was made: LevelDB goes on in its own threads. */
function copyStill(from: string, to: string): Lengths {
  for (;;) {
    const names = readdirSync(from).join();
    try {
      cpSync(from, to, { recursive: true });
      if (readdirSync(from).join() === names) return lengthsOf(to);
    } catch {
      // A file vanished between the listing and its turn.
    }
    rmSync(to, { recursive: true, force: true });
  }
}

/**
 * Cuts the logs somewhere between what was synced and what is there. What LevelDB did by itself since the last commit may be undone
 * as well: the names of files that it made, and what it wrote of them into its manifest. It syncs the folder and then the manifest
 * before it removes anything, so when something has vanished that work was durable.
 */
function cut(folder: string, synced: Lengths, actual: Lengths, random: () => number): void {
  const isUndone = [...synced.keys()].every((name) => actual.has(name)) && random() < 0.5;
  for (const [name, length] of actual) {
    const from = Math.min(length, synced.get(name) ?? 0);
    if (isUndone && !synced.has(name)) rmSync(join(folder, name));
    else if (isUndone && name.startsWith("MANIFEST")) truncateSync(join(folder, name), from);
    else if (isLog(name)) truncateSync(join(folder, name), from + Math.floor(random() * (length - from + 1)));
  }
}

test.each(SEEDS)("a power cut loses no commit that had resolved (seed %i)", async (seed) => {
  const random = seeded(seed);
  await using rig = await LevelRig.create();
  await using after = await LevelRig.create();
  const cutAt = 20 + Math.floor(random() * (COMMITS - 40));
  {
    await using store = await rig.open();
    let acknowledged = 0;
    let synced: Lengths = lengthsOf(rig.folder);
    let isCut = false;
    const all: Promise<void>[] = [];
    for (let n = 0; n < COMMITS && !isCut; n += 1) {
      const commit = store.commit(historyWrites(n, Math.floor(random() * 40_000))).then(() => {
        if (isCut) return;
        acknowledged = n + 1;
        synced = lengthsOf(rig.folder);
      });
      all.push(commit);
      // Some alone, some sharing a flush, some under way while the power fails.
      if (random() < 0.3) await Promise.all(all);
      else await new Promise((resolve) => setImmediate(resolve));
      if (n === cutAt) {
        isCut = true;
        cut(after.folder, synced, copyStill(rig.folder, after.folder), random);
      }
    }
    await Promise.all(all);
    await using reopened = await after.open();
    const there = await checkHistory(reopened, acknowledged);
    expect(there).toBeLessThanOrEqual(cutAt + 1);
    expect(after.metrics.total("store_damaged_total")).toBe(0);
    // It takes commits again.
    await reopened.commit(historyWrites(there, 100));
    expect(await checkHistory(reopened, there + 1)).toBe(there + 1);
  }
});
