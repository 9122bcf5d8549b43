/** One at a time for each leaf, in order, and nothing left of those who have gone. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Turnstile } from "../../../src/downstream/turnstile.ts";

async function settle(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}

describe("Turnstile", () => {
  test("lets one in at a time, in the order in which they came, and forgets them", async () => {
    const turnstile = new Turnstile(10);
    const order: number[] = [];
    const leaveFns: (() => void)[] = [];
    const signal = new AbortController().signal;
    for (const at of [1, 2, 3]) {
      const entered = turnstile.enter("leaf-1", signal).then((leave) => {
        order.push(at);
        if (typeof leave === "function") leaveFns.push(leave);
      });
      void entered; // awaited by settle
    }
    for (const at of [1, 2, 3]) {
      await settle();
      expect(order).toHaveLength(at);
      leaveFns.shift()?.();
    }
    expect(order).toEqual([1, 2, 3]);
    expect(turnstile.size).toBe(0);
  });

  test("leaves do not wait for each other", async () => {
    const turnstile = new Turnstile(10);
    const { signal } = new AbortController();
    expect(typeof (await turnstile.enter("leaf-1", signal))).toBe("function");
    expect(typeof (await turnstile.enter("leaf-2", signal))).toBe("function");
  });

  test("too many that wait are told so; who came too late to wait is gone", async () => {
    const turnstile = new Turnstile(1);
    const { signal } = new AbortController();
    await turnstile.enter("leaf-1", signal);
    const waiting = turnstile.enter("leaf-1", signal);
    expect(await turnstile.enter("leaf-1", signal)).toBe("full");
    expect(await turnstile.enter("leaf-1", AbortSignal.abort())).toBe("gone");
    void waiting; // never let in, on purpose
  });

  test("nobody is ever inside together with another, however they come, go and give up", async () => {
    const step = fc.constantFrom("enter", "leave", "give up");
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(step, fc.nat(5)), { maxLength: 40 }), async (steps) => {
        const turnstile = new Turnstile(5);
        const inside: (() => void)[] = [];
        const waiting: AbortController[] = [];
        for (const [act, pick] of steps) {
          if (act === "enter") {
            const giveUp = new AbortController();
            waiting.push(giveUp);
            const entered = turnstile.enter("leaf-1", giveUp.signal).then((leave) => {
              waiting.splice(waiting.indexOf(giveUp), 1);
              if (typeof leave === "function") inside.push(leave);
            });
            void entered; // awaited by settle
          } else if (act === "leave") inside.shift()?.();
          else waiting[pick % Math.max(1, waiting.length)]?.abort();
          await settle();
          expect(inside.length).toBeLessThanOrEqual(1);
          if (waiting.length > 0) expect(inside).toHaveLength(1);
        }
        while (inside.length > 0) {
          inside.shift()?.();
          await settle();
        }
        expect([turnstile.size, waiting.length]).toEqual([0, 0]);
      }),
    );
  });
});
