import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { applyPatch, diff } from "../../../src/core/merge-patch.ts";
import type { JsonObject } from "../../../src/core/message.ts";
import {
  NOTHING_PUSHED,
  notePush,
  overlaid,
  type Pushed,
  withHollow,
  withoutTraces,
  withVanished,
} from "../../../src/core/pushed.ts";
import { merge } from "../../../src/devhub/edge-hub-json.ts";
import { documents } from "../../support/arbitraries.ts";

/** Few names, so that objects come, go and come again in the same places. */
const { section } = fc.letrec<{ section: JsonObject; value: JsonObject[string] }>((tie) => ({
  section: fc.dictionary(fc.constantFrom("a", "b", "c", "__proto__"), tie("value"), { maxKeys: 3 }),
  value: fc.oneof({ depthSize: "small" }, fc.constantFrom(1, 2, "x"), fc.constant([1]), tie("section")),
}));

/** edgeHub and the cloud behind it, by the development hub's reading of them. */
class TwoHops {
  cloud: JsonObject = {};
  #pending: JsonObject | undefined;

  take(patch: JsonObject): void {
    this.#pending = merge(this.#pending ?? {}, patch, "keep");
  }

  push(): void {
    if (this.#pending !== undefined) this.cloud = applyPatch(this.cloud, this.#pending);
    this.#pending = undefined;
  }
}

describe("reported states that follow each other", () => {
  const steps = fc.array(fc.record({ view: section, isSent: fc.boolean() }), { minLength: 1, maxLength: 8 });

  test("end at the cloud as the last of them, whenever edgeHub sends what it has", () => {
    fc.assert(
      fc.property(steps, (all) => {
        const hops = new TwoHops();
        let accepted: JsonObject = {};
        let pushed: Pushed = NOTHING_PUSHED;
        for (const { view, isSent } of all) {
          const patch = withVanished(diff(accepted, view), view, pushed.traces);
          hops.take(patch);
          pushed = notePush(pushed, accepted, patch, 0);
          accepted = applyPatch(accepted, patch);
          expect(accepted).toEqual(applyPatch({}, view));
          if (isSent) hops.push();
        }
        hops.push();
        expect(hops.cloud).toEqual(applyPatch({}, all.at(-1)?.view ?? {}));
      }),
    );
  });

  test("name nothing more once a read has shown all of them", () => {
    const removed = notePush(NOTHING_PUSHED, { a: { b: 1 } }, { a: null }, 0);
    expect(withVanished({ a: { c: 2 } }, { a: { c: 2 } }, removed.traces)).toEqual({ a: { c: 2, b: null } });
    expect(withoutTraces(removed, 15_999)).toBe(removed);
    expect(withoutTraces(removed, 16_000).traces).toEqual({});
    expect(withoutTraces(NOTHING_PUSHED, 0)).toBe(NOTHING_PUSHED);
  });

  test("fill no memory, however many objects come and go", () => {
    let pushed = NOTHING_PUSHED;
    for (let n = 0; n < 400; n += 1)
      pushed = notePush(pushed, { a: { [`${n}`.repeat(60)]: { x: 1 } } }, { a: null }, n);
    expect(pushed.recent.length).toBeLessThanOrEqual(16);
    expect(JSON.stringify(pushed.traces).length).toBeLessThanOrEqual(16 * 1024);
    pushed = notePush(pushed, {}, {}, 1_000_000);
    expect(pushed.recent).toHaveLength(1);
  });
});

describe("a read", () => {
  test("is completed with what was pushed too lately to show in it, and with nothing older", () => {
    const pushed = notePush(notePush(NOTHING_PUSHED, {}, { a: 1, b: 1 }, 1_000), {}, { a: null, c: 2 }, 10_000);
    expect(overlaid({ a: 0 }, pushed, 16_999)).toEqual({ b: 1, c: 2 });
    expect(overlaid({ a: 0 }, pushed, 17_000)).toEqual({ c: 2 });
    expect(overlaid({ a: 0 }, pushed, 26_000)).toEqual({ a: 0 });
  });

  test("that has dropped empty objects counts as showing them, and nothing else that is not there", () => {
    fc.assert(
      fc.property(documents, (accepted) => {
        const dropped = withoutHollow(accepted);
        expect(withHollow(dropped, accepted)).toEqual(accepted);
        expect(withHollow(accepted, accepted)).toBe(accepted);
        expect(withHollow(accepted, {})).toBe(accepted);
      }),
    );
    expect(withHollow({ b: 1 }, { a: 1, b: {}, c: { d: 1 }, e: { f: {} } })).toEqual({ b: 1, e: { f: {} } });
  });
});

/** As a hub would that keeps no object without members. */
function withoutHollow(section: JsonObject): JsonObject {
  const entries = Object.entries(section).flatMap(([key, value]): [string, JsonObject[string]][] => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) return [[key, value]];
    const inside = withoutHollow(value as JsonObject);
    return Object.keys(inside).length === 0 ? [] : [[key, inside]];
  });
  return Object.fromEntries(entries);
}
