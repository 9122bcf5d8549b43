import { defineConfig } from "vitest/config";

/** One project per tier of tests; what each tier is for stands in docs/testing.md. */
export default defineConfig({
  test: {
    projects: ["unit", "contract", "integration", "crash", "e2e"].map((name) => ({
      test: {
        name,
        include: [`test/${name}/**/*.test.ts`],
        testTimeout: name === "unit" ? 20_000 : 60_000,
        hookTimeout: 60_000,
        pool: "forks" as const,
      },
    })),
  },
});
