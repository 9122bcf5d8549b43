import { describe, expect, it } from "vitest";
import type { Outcome } from "../../../src/flow/ports.ts";
import { PendingRequests } from "../../../src/upstream/pending-requests.ts";
import { ManualClock } from "../../support/manual-clock.ts";

const ACCEPTED: Outcome = { kind: "accepted" };
const nothing = (): void => undefined;

describe("PendingRequests", () => {
  it("settles with the first answer and ignores the others", async () => {
    const pending = new PendingRequests(new ManualClock());
    let settle: (answer: Outcome) => void = nothing;
    const asked = pending.ask<Outcome>("message", undefined, (answer) => {
      settle = answer;
    });
    settle(ACCEPTED);
    settle({ kind: "failed", fault: { kind: "rejected", reason: "late" } });
    pending.refuse("later still");
    expect(await asked).toEqual(ACCEPTED);
  });

  it("refuses when time is up, and says so once", async () => {
    const clock = new ManualClock();
    const pending = new PendingRequests(clock);
    let passed = 0;
    const limit = {
      ms: 100,
      passed: () => {
        passed += 1;
      },
    };
    const slow = pending.ask<Outcome>("twin", limit, nothing);
    const quick = pending.ask<Outcome>("twin", limit, (settle) => settle(ACCEPTED));
    await clock.advance(1_000);
    expect(await slow).toMatchObject({ kind: "failed", fault: { kind: "transient" } });
    expect(await quick).toEqual(ACCEPTED);
    expect(passed).toBe(1);
  });

  it("refuses one kind and leaves the other", async () => {
    const pending = new PendingRequests(new ManualClock());
    const twin = pending.ask<Outcome>("twin", undefined, nothing);
    let settle: (answer: Outcome) => void = nothing;
    const message = pending.ask<Outcome>("message", undefined, (answer) => {
      settle = answer;
    });
    pending.refuse("renewed", "twin");
    expect(await twin).toEqual({ kind: "failed", fault: { kind: "transient", reason: "renewed" } });
    settle(ACCEPTED);
    expect(await message).toEqual(ACCEPTED);
  });

  it("refuses what cannot even be started", async () => {
    const pending = new PendingRequests(new ManualClock());
    const asked = pending.ask<Outcome>("message", undefined, () => {
      throw new Error("the link is down");
    });
    expect(await asked).toMatchObject({ kind: "failed", fault: { kind: "transient" } });
    expect(pending.oldestMessageMs()).toBe(0);
  });

  it("counts how long the oldest message waits, without the time in which a read or a patch has no answer", async () => {
    const clock = new ManualClock();
    const pending = new PendingRequests(clock);
    const answers: (() => void)[] = [];
    const askTwin = (): void => {
      void pending.ask<Outcome>("twin", undefined, (settle) => answers.push(() => settle(ACCEPTED)));
    };
    askTwin();
    await clock.advance(1_000);
    answers[0]?.();
    expect(pending.oldestMessageMs()).toBe(0);
    void pending.ask<Outcome>("message", undefined, nothing);
    await clock.advance(10);
    askTwin();
    await clock.advance(30_000);
    askTwin();
    await clock.advance(10_000);
    answers[1]?.();
    answers[1]?.();
    await clock.advance(10_000);
    expect(pending.oldestMessageMs()).toBe(10);
    answers[2]?.();
    await clock.advance(7);
    void pending.ask<Outcome>("message", undefined, nothing);
    expect(pending.oldestMessageMs()).toBe(17);
  });

  it("counts how long reads have taken", async () => {
    const clock = new ManualClock();
    const pending = new PendingRequests(clock);
    pending.readStarted();
    await clock.advance(50_000);
    expect(pending.readMs()).toBe(50_000);
    pending.readEnded();
    await clock.advance(7);
    expect(pending.readMs()).toBe(50_000);
  });
});
