/** Rates and waiting: arithmetic with the time as an argument. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Allowances, Slowdown, TokenBucket } from "../../../src/downstream/limits.ts";

describe("TokenBucket", () => {
  test("gives two seconds' worth at once, then the rate", () => {
    const bucket = new TokenBucket(10, 0);
    for (let at = 0; at < 20; at += 1) bucket.take(1, 0);
    expect(bucket.waitMs(0)).toBe(0);
    bucket.take(1, 0);
    expect(bucket.waitMs(0)).toBe(100);
    expect(bucket.waitMs(60)).toBe(40);
    expect(bucket.waitMs(100)).toBe(0);
  });

  test("a cost above its size is a debt, not a refusal", () => {
    const bucket = new TokenBucket(1_000, 0);
    bucket.take(12_000, 0);
    expect(bucket.waitMs(0)).toBe(10_000);
  });

  test("is full again after two seconds of rest, and never fuller", () => {
    const bucket = new TokenBucket(10, 0);
    bucket.take(20, 0);
    expect(bucket.isFull(1_999)).toBe(false);
    expect(bucket.isFull(2_000)).toBe(true);
    bucket.take(20, 1_000_000);
    expect(bucket.waitMs(1_000_000)).toBe(0);
    bucket.take(1, 1_000_000);
    expect(bucket.waitMs(1_000_000)).toBe(100);
  });

  test("whoever waits when told never gets more than burst plus rate", () => {
    const costs = fc.array(fc.tuple(fc.integer({ min: 1, max: 50 }), fc.nat(500)), { minLength: 1, maxLength: 100 });
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 100 }), costs, (perSec, takes) => {
        const bucket = new TokenBucket(perSec, 0);
        let [nowMs, taken] = [0, 0];
        for (const [cost, pauseMs] of takes) {
          nowMs += pauseMs;
          nowMs += bucket.waitMs(nowMs);
          // What went before fits; only the newest may be in debt.
          expect(taken).toBeLessThanOrEqual(2 * perSec + (perSec * nowMs) / 1000 + 1e-6);
          bucket.take(cost, nowMs);
          taken += cost;
        }
      }),
    );
  });

  test("a clock that stands still or goes back gives nothing", () => {
    const bucket = new TokenBucket(10, 1_000);
    bucket.take(21, 1_000);
    expect(bucket.waitMs(0)).toBe(100);
  });
});

describe("Allowances", () => {
  const limits = { maxMessagesPerSec: 10, maxBytesPerSec: 1_000 };

  test("are a leaf's own, over all its connections", () => {
    const allowances = new Allowances(limits);
    allowances.of("a", 0).take(15, 0, 0);
    expect(allowances.of("a", 0).waitMs(0)).toBe(0);
    allowances.of("a", 0).take(15, 0, 0);
    expect([allowances.waitMs("a", 0), allowances.waitMs("b", 0)]).toEqual([1_000, 0]);
    expect(allowances.of("b", 0).waitMs(0)).toBe(0);
  });

  test("count messages and bytes, and wait for the worse of both", () => {
    const allowance = new Allowances(limits).of("a", 0);
    allowance.take(1, 5_000, 0);
    expect(allowance.waitMs(0)).toBe(3_000);
  });

  test("no packet costs more than two seconds, however much work it is", () => {
    const allowance = new Allowances(limits).of("a", 0);
    allowance.take(1_000_000, 0, 0);
    allowance.take(1_000_000, 0, 0);
    expect(allowance.waitMs(0)).toBe(2_000);
  });

  test("of leaves that rest are forgotten, and of those that do not are kept", () => {
    const allowances = new Allowances(limits);
    for (let at = 0; at < 10_000; at += 1) {
      allowances.of("busy", at * 1_000).take(20, 0, at * 1_000);
      allowances.of(`leaf-${at}`, at * 1_000).take(1, 0, at * 1_000);
    }
    expect(allowances.size).toBeLessThan(600);
    expect(allowances.waitMs("busy", 9_999_000)).toBeGreaterThan(0);
  });
});

describe("Slowdown", () => {
  const waits = (slowdown: Slowdown, strikes: number, everyMs = 0) =>
    Array.from({ length: strikes }, (_, at) => {
      slowdown.strike("leaf-1", at * everyMs);
      return slowdown.waitMs("leaf-1", at * everyMs);
    });

  test("doubles from one second to twenty: clients wait thirty for a CONNACK", () => {
    expect(waits(new Slowdown({ free: 0 }), 7)).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000]);
  });

  test("the first strikes can be free", () => {
    expect(waits(new Slowdown({ free: 2 }), 4)).toEqual([0, 0, 1_000, 2_000]);
  });

  test("what was waited already counts", () => {
    const slowdown = new Slowdown({ free: 0 });
    slowdown.strike("leaf-1", 0);
    expect(slowdown.waitMs("leaf-1", 400)).toBe(600);
    expect(slowdown.waitMs("leaf-1", 5_000)).toBe(0);
  });

  test("forgets after two quiet minutes, and others have nothing to do with it", () => {
    expect(waits(new Slowdown({ free: 0 }), 3, 121_001)).toEqual([1_000, 1_000, 1_000]);
    expect(new Slowdown({ free: 0 }).waitMs("leaf-2", 0)).toBe(0);
  });

  test("does not grow with the leaves that were ever struck", () => {
    const slowdown = new Slowdown({ free: 0 });
    for (let at = 0; at < 5_000; at += 1) slowdown.strike(`leaf-${at}`, at * 1_000);
    expect(slowdown.size).toBeLessThan(300);
  });
});
