import { defineConfig } from "vitest/config";

/** One project per tier of tests; what each tier is for stands in docs/testing.md. Groups run one after the other. */
const TIERS = [
  // Most of the time of a contract test is waiting, and most of the CPU of a pure one went into loading its imports anew.
  { name: "unit", group: 0, isolate: false, maxWorkers: 3 },
  { name: "contract", group: 0, isolate: false, maxWorkers: 3 },
  { name: "integration", group: 1, isolate: true, maxWorkers: 2 },
  { name: "crash", group: 2, isolate: true, maxWorkers: 1 },
  { name: "e2e", group: 2, isolate: true, maxWorkers: 1 },
];

export default defineConfig({
  test: {
    projects: TIERS.map(({ name, group, isolate, maxWorkers }) => ({
      test: {
        name,
        include: [`test/${name}/**/*.test.ts`],
        // Watchdogs, for machines that do other things as well: what a test takes is far less.
        testTimeout: 120_000,
        hookTimeout: 120_000,
        expect: { poll: { timeout: 20_000 } },
        pool: "forks" as const,
        isolate,
        maxWorkers,
        sequence: { groupOrder: group },
      },
    })),
  },
});
