/** The outbox on a disk that fails: what was delivered leaves the disk in the end, so that a restart does not send it again (G1, G7). */
import { expect, test } from "vitest";
import { newLive, Spool } from "../../src/flow/spool.ts";
import { FaultyStore } from "../support/faulty-store.ts";
import { ManualClock } from "../support/manual-clock.ts";
import { emptyDisk, MemoryStore } from "../support/memory-store.ts";
import { RecordingLog } from "../support/recording-log.ts";
import { RecordingMetrics } from "../support/recording-metrics.ts";
import { entry } from "../support/store-samples.ts";

test("what was delivered is removed when the disk takes it again, though nothing else is ever delivered", async () => {
  const clock = new ManualClock();
  let isFailing = false;
  const store = new FaultyStore(new MemoryStore(emptyDisk()), clock, () => (isFailing ? "fail" : "none"));
  const spool = new Spool({
    store,
    clock,
    metrics: new RecordingMetrics(),
    log: new RecordingLog(),
    settings: () => ({ maxBytes: 1_000_000, overflow: "reject", commitIntervalMs: 100 }),
    stored: () => undefined,
    isBeingSent: () => false,
    evicted: () => undefined,
  });
  const live = newLive(entry(1), () => undefined);
  spool.want(live);
  await clock.advance(200);
  expect(store.usage().entries).toBe(1);
  isFailing = true;
  spool.remove(live, false);
  await clock.advance(3_000);
  expect(store.usage().entries).toBe(1);
  isFailing = false;
  await clock.advance(3_000);
  expect(store.usage().entries).toBe(0);
});
