/**
 * A process that commits as fast as it can until it is killed: `node store-crash-child.ts <folder> <first commit> <commits> <seed>`.
 * Writes the number of each commit to standard output when it has resolved, or `failed <number>`; what was written to a pipe outlives
 * the writer.
 */
import { writeSync } from "node:fs";
import { openLevelStore } from "../../src/store/level-store.ts";
import { ManualClock } from "./manual-clock.ts";
import { RecordingLog } from "./recording-log.ts";
import { RecordingMetrics } from "./recording-metrics.ts";
import { historyWrites, seeded } from "./store-history.ts";

const IN_FLIGHT = 4;
const [folder = "", first = "0", commits = "0", seed = "1"] = process.argv.slice(2);
const random = seeded(Number(seed));
const metrics = new RecordingMetrics();
const store = await openLevelStore(
  { folder, clock: new ManualClock(), log: new RecordingLog(), metrics },
  { reserveBytes: 0 },
);
writeSync(1, "open\n");

let next = Number(first);
const end = next + Number(commits);
const lanes = Array.from({ length: IN_FLIGHT }, async () => {
  while (next < end) {
    const n = next;
    next += 1;
    await store.commit(historyWrites(n, Math.floor(random() ** 4 * 20_000))).then(
      () => writeSync(1, `${n}\n`),
      () => writeSync(1, `failed ${n}\n`),
    );
  }
});
await Promise.all(lanes);
await store[Symbol.asyncDispose]();
