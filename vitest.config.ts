import { defineConfig } from "vitest/config";

/** One project per tier of tests; what each tier is for stands in docs/testing.md. */
export default defineConfig({
  test: {
    projects: ["unit", "contract", "integration", "crash", "e2e"].map((name) => ({
      test: {
        name,
        include: [`test/${name}/**/*.test.ts`],
        // Watchdogs, for machines that do other things as well: what a test takes is far less.
        testTimeout: 120_000,
        hookTimeout: 120_000,
        pool: "forks" as const,
      },
    })),
  },
});
