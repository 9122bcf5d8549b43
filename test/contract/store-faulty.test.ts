/** The store with misfortunes does what its names say: model tests build on it. */
import { describe, expect, test } from "vitest";
import { FaultyStore, type Misfortune } from "../support/faulty-store.ts";
import { ManualClock } from "../support/manual-clock.ts";
import { emptyDisk, MemoryStore } from "../support/memory-store.ts";
import { append } from "../support/store-samples.ts";

function faulty(plan: readonly Misfortune[]) {
  const disk = emptyDisk();
  const clock = new ManualClock();
  const store = new FaultyStore(new MemoryStore(disk), clock, (nth) => plan[nth - 1] ?? "none");
  return { clock, store, seqs: () => [...disk.outbox.keys()] };
}

/** Whether a promise has settled once everything that waits for nothing has happened. */
async function state(promise: Promise<void>, clock: ManualClock): Promise<"resolved" | "rejected" | "pending"> {
  let result: "resolved" | "rejected" | "pending" = "pending";
  promise.then(
    () => {
      result = "resolved";
    },
    () => {
      result = "rejected";
    },
  );
  await clock.settle();
  return result;
}

describe("faulty store", () => {
  test.each<[Misfortune, string, readonly number[]]>([
    ["none", "resolved", [1, 2]],
    ["fail", "rejected", [2]],
    ["fail-written", "rejected", [1, 2]],
    ["crash", "pending", []],
    ["crash-written", "pending", [1]],
  ])("%s: the commit is %s and the disk has %j after one more commit", async (misfortune, outcome, there) => {
    const { clock, store, seqs } = faulty([misfortune]);
    expect(await state(store.commit([append(1)]), clock)).toBe(outcome);
    const next = await state(store.commit([append(2)]), clock);
    expect(next).toBe(store.isCrashed ? "pending" : "resolved");
    expect(seqs()).toEqual(there);
  });

  test("a delayed commit holds up those behind it, and a crash meanwhile loses them all", async () => {
    const { clock, store, seqs } = faulty([100, "none", 100]);
    const commits = [1, 2].map((seq) => store.commit([append(seq)]));
    await clock.advance(99);
    expect(seqs()).toEqual([]);
    await clock.advance(1);
    await Promise.all(commits);
    expect(seqs()).toEqual([1, 2]);
    const lost = store.commit([append(3)]);
    await clock.advance(50);
    store.crash();
    await clock.advance(100);
    expect(await state(lost, clock)).toBe("pending");
    expect(seqs()).toEqual([1, 2]);
  });
});
