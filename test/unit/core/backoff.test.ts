import fc from "fast-check";
import { expect, test } from "vitest";
import { fullJitter } from "../../../src/core/backoff.ts";

function delays(backoff: { baseMs: number; capMs: number }, random: () => number, count: number): number[] {
  const taken: number[] = [];
  for (const delayMs of fullJitter(backoff, random)) {
    if (taken.length >= count) break;
    taken.push(delayMs);
  }
  return taken;
}

test("doubles the ceiling up to the cap and stays there", () => {
  expect(delays({ baseMs: 100, capMs: 1_000 }, () => 1, 6)).toEqual([100, 200, 400, 800, 1_000, 1_000]);
});

test("asks for a new random number for each delay", () => {
  const randoms = [0, 0.5, 0.25];
  expect(delays({ baseMs: 100, capMs: 1_000 }, () => randoms.shift() ?? 0, 3)).toEqual([0, 100, 100]);
});

test("never waits longer than the cap, also from the first", () => {
  expect(delays({ baseMs: 5_000, capMs: 1_000 }, () => 1, 2)).toEqual([1_000, 1_000]);
});

test("gives a number between 0 and the cap for ever", () => {
  const figures = fc.record({ baseMs: fc.nat(10_000), capMs: fc.nat(100_000) });
  fc.assert(
    fc.property(figures, fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), (backoff, random) => {
      for (const delayMs of delays(backoff, () => random, 2_000)) {
        expect(delayMs).toBeGreaterThanOrEqual(0);
        expect(delayMs).toBeLessThanOrEqual(backoff.capMs);
      }
    }),
    { numRuns: 30 },
  );
});
