import { describe, expect, test } from "vitest";
import type { Clock } from "../../../src/flow/ports.ts";
import { systemClock } from "../../../src/ops/clock.ts";
import { ManualClock } from "../../support/manual-clock.ts";

/** `pass` lets at least so many milliseconds of the clock go by. */
const CLOCKS: readonly { name: string; create: () => { clock: Clock; pass: (ms: number) => Promise<void> } }[] = [
  { name: "system clock", create: () => ({ clock: systemClock, pass: (ms) => systemClock.sleep(ms) }) },
  {
    name: "manual clock",
    create: () => {
      const clock = new ManualClock();
      return { clock, pass: (ms) => clock.advance(ms) };
    },
  },
];

describe.each(CLOCKS)("$name", ({ create }) => {
  test("steady time goes on with sleep and never back", async () => {
    const { clock, pass } = create();
    const start = clock.steady();
    await pass(20);
    // Timers of Node may fire up to a millisecond early.
    expect(clock.steady() - start).toBeGreaterThanOrEqual(19);
    expect(Math.abs(clock.steady() - clock.now())).toBeLessThan(60_000);
  });

  test("who sleeps less wakes first", async () => {
    const { clock, pass } = create();
    const woken: number[] = [];
    const sleeps = [30, 1, 15].map((ms) => clock.sleep(ms).then(() => woken.push(ms)));
    await pass(60);
    await Promise.all(sleeps);
    expect(woken).toEqual([1, 15, 30]);
  });

  test("an aborted sleep rejects with the reason of the signal, before and during", async () => {
    const { clock } = create();
    const reason = new Error("stop");
    await expect(clock.sleep(1_000, AbortSignal.abort(reason))).rejects.toBe(reason);
    const controller = new AbortController();
    const sleep = clock.sleep(100_000, controller.signal);
    controller.abort(reason);
    await expect(sleep).rejects.toBe(reason);
  });
});

describe("manual clock", () => {
  test("whatever a sleeper sets off is done before the next one wakes", async () => {
    const clock = new ManualClock();
    const seen: string[] = [];
    const chain = async (name: string, ms: number) => {
      await clock.sleep(ms);
      for (let step = 0; step < 20; step += 1) await Promise.resolve();
      seen.push(`${name} at ${clock.steady() - start}`);
      if (name === "a") await chain("a again", 5);
    };
    const start = clock.steady();
    const all = [chain("b", 20), chain("a", 10)];
    await clock.advance(100);
    await Promise.all(all);
    expect(seen).toEqual(["a at 10", "a again at 15", "b at 20"]);
    expect(clock.steady() - start).toBe(100);
    expect(clock.sleeping).toBe(0);
  });

  test("setting the wall clock wakes nobody and moves no steady time", async () => {
    const clock = new ManualClock(1_000);
    clock.jump(-500);
    expect([clock.now(), clock.steady()]).toEqual([500, 1_000]);
  });
});
