/** A disk that refuses: commits are rejected while it does, nothing that resolved is lost, and the store works again by itself. */
import { spawnSync } from "node:child_process";
import { rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { OutboxEntry } from "../../src/core/message.ts";
import type { Store } from "../../src/flow/ports.ts";
import { systemClock } from "../../src/ops/clock.ts";
import { openLevelStore } from "../../src/store/level-store.ts";
import { ManualClock } from "../support/manual-clock.ts";
import { RecordingLog } from "../support/recording-log.ts";
import { RecordingMetrics } from "../support/recording-metrics.ts";
import { canMount, SmallDisk } from "../support/small-disk.ts";
import { checkHistory, historyWrites } from "../support/store-history.ts";
import { append, LevelRig, leafRecord, settle } from "../support/store-samples.ts";

const CHILD = new URL("../support/store-crash-child.ts", import.meta.url).pathname;

/** Commits until one is rejected; returns how many resolved. */
async function commitUntilFull(store: Store, from: number, bytes: number): Promise<number> {
  for (let n = from; ; n += 1) {
    const error: unknown = await store.commit(historyWrites(n, bytes)).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    if (error === undefined) continue;
    expect(error).toMatchObject({ code: "STORE_FAILED", cause: expect.anything() });
    return n;
  }
}

describe.skipIf(!canMount)("a full disk", () => {
  test.each([100, 3_000, 20_000])(
    "rejects, stays readable, and goes on when there is room again (%i bytes)",
    async (bytes) => {
      using disk = SmallDisk.memory(24);
      if (disk === undefined) throw new Error("the disk cannot be mounted any more");
      const metrics = new RecordingMetrics();
      const log = new RecordingLog();
      const context = { folder: join(disk.path, "store"), clock: new ManualClock(), log, metrics };
      let resolved = 0;
      {
        await using store = await openLevelStore(context, { reserveBytes: 0 });
        for (let round = 0; round < 3; round += 1) {
          for (let n = 0; n < 30; n += 1, resolved += 1) await store.commit(historyWrites(resolved, bytes));
          const filler = disk.fill();
          resolved = await commitUntilFull(store, resolved, bytes);
          for (let again = 0; again < 3; again += 1)
            await expect(store.commit(historyWrites(resolved, bytes))).rejects.toMatchObject({ code: "STORE_FAILED" });
          expect(await checkHistory(store, resolved)).toBe(resolved);
          rmSync(filler);
          await store.commit(historyWrites(resolved, bytes));
          resolved += 1;
          expect(await checkHistory(store, resolved)).toBe(resolved);
        }
      }
      expect(metrics.value("store_failures_total")).toBe(12);
      await using store = await openLevelStore(context, { reserveBytes: 0 });
      expect(await checkHistory(store, resolved)).toBe(resolved);
      expect(metrics.total("store_damaged_total")).toBe(0);
    },
  );

  test("commits that were called together with one that finds no room are rejected together", async () => {
    using disk = SmallDisk.memory(24);
    if (disk === undefined) throw new Error("the disk cannot be mounted any more");
    const context = {
      folder: join(disk.path, "store"),
      clock: new ManualClock(),
      log: new RecordingLog(),
      metrics: new RecordingMetrics(),
    };
    await using store = await openLevelStore(context, { reserveBytes: 0 });
    await store.commit(historyWrites(0, 100));
    disk.fill();
    const results = await Promise.allSettled([1, 2, 3].map((n) => store.commit(historyWrites(n, 200_000))));
    expect(results.map(({ status }) => status)).toEqual(["rejected", "rejected", "rejected"]);
    expect(await checkHistory(store, 1)).toBe(1);
  });
});

describe.skipIf(!canMount)("a disk full of the store's own entries", () => {
  const payload = "x".repeat(20_000);

  /** Until the store says that only what makes room is taken; returns the last number that is stored. */
  async function appendUntilFull(store: Store, metrics: RecordingMetrics, from: number): Promise<number> {
    for (let next = from; ; ) {
      const error: unknown = await store.commit([append(next, payload)]).catch((reason: unknown) => reason);
      if (error === undefined) next += 1;
      else if (metrics.value("store_disk_full") === 1) return next - 1;
    }
  }

  test.each([false, true])("is emptied by settling them (after a restart: %s)", async (restarts) => {
    using disk = SmallDisk.memory(96);
    if (disk === undefined) throw new Error("the disk cannot be mounted any more");
    const metrics = new RecordingMetrics();
    const context = { folder: join(disk.path, "store"), clock: systemClock, log: new RecordingLog(), metrics };
    let last = 0;
    {
      await using store = await openLevelStore(context);
      const reserve = (): number => statSync(`${context.folder}.reserve`, { throwIfNoEntry: false })?.size ?? 0;
      await expect.poll(reserve, { timeout: 60_000 }).toBe(24 * 1024 * 1024);
      last = await appendUntilFull(store, metrics, 1);
      expect(last).toBeGreaterThan(500);
      // What is no telemetry still finds room.
      await store.commit([{ kind: "leaf", record: leafRecord("leaf-1") }]);
      if (!restarts) await emptyAndFillAgain(store);
    }
    if (restarts) {
      await using store = await openLevelStore(context);
      // Opening has merged what was in the logs, so there may be room for a few more.
      last = await appendUntilFull(store, metrics, last + 1);
      await emptyAndFillAgain(store);
    }
    expect(metrics.total("store_damaged_total")).toBe(0);

    async function emptyAndFillAgain(store: Store): Promise<void> {
      const seqs = (await readAll(store)).map(({ seq }) => seq);
      expect(seqs).toEqual(Array.from({ length: last }, (_, at) => at + 1));
      for (let at = 0; at < seqs.length; at += 100)
        await store.commit(seqs.slice(at, at + 100).map((seq) => settle(seq)));
      const append1 = (): Promise<unknown> =>
        store.commit([append(last + 1, payload)]).catch((error: unknown) => error);
      await expect.poll(append1, { timeout: 30_000 }).toBeUndefined();
      expect(metrics.value("store_disk_full")).toBe(0);
      expect(await appendUntilFull(store, metrics, last + 2)).toBeGreaterThan(last + 300);
    }
  });
});

/** All entries; a page holds what fits into memory. */
async function readAll(store: Store): Promise<readonly OutboxEntry[]> {
  const all: OutboxEntry[] = [];
  for (;;) {
    const page = await store.outbox(all.at(-1)?.seq ?? 0, 500);
    all.push(...page);
    if (page.length < 500) return all;
  }
}

describe("a file that may not grow", () => {
  test("the store begins a new file and loses nothing", async () => {
    await using rig = await LevelRig.create();
    // 2,048 blocks of 512 bytes in sh: a write-ahead log fails in the middle of a record after 1 MB.
    const { stdout, status } = spawnSync(
      "sh",
      ["-c", 'ulimit -f 2048; exec "$@"', "sh", process.execPath, CHILD, rig.folder, "0", "400", "7"],
      { encoding: "utf8" },
    );
    expect(status).toBe(0);
    const lines = stdout.trim().split("\n").slice(1);
    const failed = lines.filter((line) => line.startsWith("failed")).map((line) => Number(line.slice(7)));
    expect(failed.length).toBeGreaterThan(0);
    await using store = await rig.open();
    const records = new Set<number>();
    for await (const { reportedVersion } of store.leaves()) records.add(reportedVersion);
    for (const line of lines) if (!line.startsWith("failed")) expect(records.has(Number(line)), line).toBe(true);
    expect(records.size).toBeGreaterThan(failed.length);
    expect((await store.outbox(0, 10_000)).length).toBe(store.usage().entries);
  });
});
