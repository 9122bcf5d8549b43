import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Fault, Telemetry } from "../../../src/core/message.ts";
import { type AdmissionPolicy, admit, afterFailure, entryBytes, isExpired } from "../../../src/core/outbox.ts";

const reject: AdmissionPolicy = { maxBytes: 1_000, overflow: "reject" };
const dropOldest: AdmissionPolicy = { maxBytes: 1_000, overflow: "drop-oldest" };

describe("room in the outbox", () => {
  test.each([reject, dropOldest])("is there for a first message: $overflow", (policy) => {
    expect(admit({ bytes: 0, leafBytes: 0 }, 100, policy)).toEqual({ kind: "admit" });
  });

  test.each([reject, dropOldest])("is never there for a message above a leaf's whole share: $overflow", (policy) => {
    expect(admit({ bytes: 0, leafBytes: 0 }, 900, policy)).toEqual({ kind: "admit" });
    expect(admit({ bytes: 0, leafBytes: 0 }, 901, policy)).toEqual({ kind: "refuse", reason: "full" });
    expect(admit({ bytes: 0, leafBytes: 0 }, 5_000, policy)).toEqual({ kind: "refuse", reason: "full" });
  });

  test("is for one leaf alone nine tenths of all", () => {
    expect(admit({ bytes: 890, leafBytes: 890 }, 10, reject)).toEqual({ kind: "admit" });
    expect(admit({ bytes: 900, leafBytes: 900 }, 10, reject)).toEqual({ kind: "refuse", reason: "leaf-share" });
  });

  test("is still there for a leaf that comes later", () => {
    expect(admit({ bytes: 900, leafBytes: 0 }, 50, reject)).toEqual({ kind: "admit" });
  });

  test("is shared as the operator says", () => {
    const half: AdmissionPolicy = { ...reject, leafSharePercent: 50 };
    expect(admit({ bytes: 490, leafBytes: 490 }, 10, half)).toEqual({ kind: "admit" });
    expect(admit({ bytes: 500, leafBytes: 500 }, 10, half)).toEqual({ kind: "refuse", reason: "leaf-share" });
  });

  test("is refused when there is none, and the leaf keeps its message", () => {
    expect(admit({ bytes: 990, leafBytes: 0 }, 20, reject)).toEqual({ kind: "refuse", reason: "full" });
  });

  test("is made by a chatty leaf's own oldest messages first", () => {
    expect(admit({ bytes: 900, leafBytes: 900 }, 10, dropOldest)).toEqual({
      kind: "evict",
      bytesToFree: 10,
      whose: "own",
    });
  });

  test("is made by the oldest of all when the leaf has nothing to give", () => {
    expect(admit({ bytes: 1_000, leafBytes: 0 }, 90, dropOldest)).toEqual({
      kind: "evict",
      bytesToFree: 100,
      whose: "any",
    });
  });

  test("is made of all there is when no less will do", () => {
    expect(admit({ bytes: 300, leafBytes: 10 }, 900, dropOldest)).toEqual({
      kind: "evict",
      bytesToFree: 300,
      whose: "any",
    });
  });

  const figures = fc.record({
    maxBytes: fc.integer({ min: 100, max: 100_000 }),
    otherBytes: fc.nat(100_000),
    leafBytes: fc.nat(100_000),
    entry: fc.integer({ min: 1, max: 100_000 }),
    leafSharePercent: fc.integer({ min: 1, max: 99 }),
  });

  test("is never overdrawn, and what was asked to be evicted is enough", () => {
    fc.assert(
      fc.property(figures, fc.constantFrom("reject", "drop-oldest"), (figure, overflow) => {
        const { maxBytes, otherBytes, leafBytes, entry, leafSharePercent } = figure;
        const policy: AdmissionPolicy = { maxBytes, overflow, leafSharePercent };
        const room = { bytes: otherBytes + leafBytes, leafBytes };
        const verdict = admit(room, entry, policy);
        if (verdict.kind === "admit") expect(room.bytes + entry).toBeLessThanOrEqual(maxBytes);
        if (verdict.kind !== "evict") return;
        expect(overflow).toBe("drop-oldest");
        expect(verdict.bytesToFree).toBeGreaterThan(0);
        expect(verdict.bytesToFree).toBeLessThanOrEqual(verdict.whose === "own" ? leafBytes : room.bytes);
        const ownFreed = verdict.whose === "own" ? verdict.bytesToFree : Math.max(0, verdict.bytesToFree - otherBytes);
        const after = { bytes: room.bytes - verdict.bytesToFree, leafBytes: leafBytes - ownFreed };
        expect(admit(after, entry, policy)).toEqual({ kind: "admit" });
      }),
      { numRuns: 2_000 },
    );
  });

  test("is there for a quiet leaf however many greedy ones there are", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(9), { minLength: 200, maxLength: 600 }), (turns) => {
        const held = new Map<number, number>();
        let bytes = 0;
        for (const leaf of turns) {
          const leafBytes = held.get(leaf) ?? 0;
          if (admit({ bytes, leafBytes }, 10, { maxBytes: 5_000, overflow: "reject" }).kind !== "admit") continue;
          held.set(leaf, leafBytes + 10);
          bytes += 10;
        }
        expect(admit({ bytes, leafBytes: 0 }, 10, { maxBytes: 5_000, overflow: "reject" }).kind).toBe("admit");
      }),
    );
  });
});

test("an entry expires when its time to live is over, and not before", () => {
  expect(isExpired({ enqueuedMs: 1_000 }, 61_000, 60)).toBe(false);
  expect(isExpired({ enqueuedMs: 1_000 }, 61_001, 60)).toBe(true);
});

test("an entry from a clock that was ahead does not expire early", () => {
  expect(isExpired({ enqueuedMs: 10_000_000 }, 1_000, 60)).toBe(false);
});

test("an entry takes its payload, its properties in UTF-8 and a fixed part", () => {
  const message = (payload: number, more: Partial<Telemetry> = {}): Telemetry => ({
    payload: new Uint8Array(payload),
    system: {},
    properties: {},
    ...more,
  });
  const empty = entryBytes(message(0));
  expect(empty).toBeGreaterThan(0);
  expect(entryBytes(message(100))).toBe(empty + 100);
  expect(entryBytes(message(0, { system: { mid: "1" }, properties: { é: "€" } }))).toBe(empty + 4 + 5);
});

describe("after a failed send", () => {
  const transient: Fault = { kind: "transient", reason: "the link broke" };

  test.each<[Fault["kind"], number, boolean, ReturnType<typeof afterFailure>]>([
    ["rejected", 1, false, "set-aside"],
    ["throttled", 100, true, "retry"],
    ["unauthorized", 100, true, "retry"],
    ["transient", 1, true, "retry"],
    ["transient", 2, true, "retry-alone"],
    ["transient", 4, true, "retry-alone"],
    ["transient", 5, true, "set-aside"],
    ["transient", 100, false, "retry-alone"],
  ])("%s, %d times, others passing %s: %s", (kind, failures, othersPassed, expected) => {
    expect(afterFailure(failures, othersPassed, { kind, reason: "" })).toBe(expected);
  });

  test("a line that breaks under a full window makes no message guilty", () => {
    expect(Array.from({ length: 16 }, () => afterFailure(1, true, transient))).toEqual(Array(16).fill("retry"));
  });
});
