import fc from "fast-check";
import { expect, test } from "vitest";
import {
  applyPatch,
  deepEqual,
  diff,
  isEmpty,
  isJsonObject,
  jsonBytes,
  mergePatches,
  splitPatch,
} from "../../../src/core/merge-patch.ts";
import type { Json, JsonObject } from "../../../src/core/message.ts";
import { documents, keys, objects, patches, plainValues } from "../../support/arbitraries.ts";

test("a difference makes the one document of the other, from any pair", () => {
  fc.assert(
    fc.property(documents, documents, (from, to) => {
      expect(deepEqual(applyPatch(from, diff(from, to)), to)).toBe(true);
    }),
    { numRuns: 1_000 },
  );
});

test("a difference is empty exactly for equal documents, and holds nothing that could be left out", () => {
  fc.assert(
    fc.property(documents, documents, (from, to) => {
      const patch = diff(from, to);
      expect(isEmpty(patch)).toBe(deepEqual(from, to));
      for (const key of Object.keys(patch)) {
        const less = Object.fromEntries(Object.entries(patch).filter(([name]) => name !== key));
        expect(deepEqual(applyPatch(from, less), to)).toBe(false);
      }
    }),
  );
});

test("a patch applied twice is a patch applied once, and the second time nothing changes", () => {
  fc.assert(
    fc.property(documents, patches, (target, patch) => {
      const once = applyPatch(target, patch);
      expect(applyPatch(once, patch)).toBe(once);
    }),
  );
});

test("applying changes neither target nor patch, and leaves no null behind", () => {
  const hasNull = (value: Json): boolean =>
    value === null || (isJsonObject(value) && Object.values(value).some((inner) => hasNull(inner)));
  fc.assert(
    fc.property(documents, patches, (target, patch) => {
      const [before, patchBefore] = [JSON.stringify(target), JSON.stringify(patch)];
      expect(hasNull(applyPatch(target, patch))).toBe(false);
      expect([JSON.stringify(target), JSON.stringify(patch)]).toEqual([before, patchBefore]);
    }),
  );
});

test("the result shares no prototype with a leaf's keys", () => {
  fc.assert(
    fc.property(documents, patches, (target, patch) => {
      expect(Object.getPrototypeOf(applyPatch(target, patch))).toBe(Object.prototype);
      expect(Object.keys({})).toEqual([]);
    }),
  );
});

/** No key changes its kind: what was an object once is an object or stays away. */
const kindredPatches: fc.Arbitrary<JsonObject> = fc
  .tuple(
    objects(fc.oneof(plainValues, fc.constant(null)), keys, 4),
    objects(objects(fc.oneof(plainValues, fc.constant(null)), keys, 3), fc.constantFrom("x", "y"), 2),
  )
  .map(([plain, nested]) => ({ ...plain, ...nested }));
const kindredDocuments = kindredPatches.map((patch) => applyPatch({}, patch));

test("merged patches do what the two do one after the other", () => {
  fc.assert(
    fc.property(kindredDocuments, kindredPatches, kindredPatches, (target, first, second) => {
      const apart = applyPatch(applyPatch(target, first), second);
      expect(deepEqual(applyPatch(target, mergePatches(first, second)), apart)).toBe(true);
    }),
    { numRuns: 500 },
  );
});

test("merged patches of any kind do so on a target that holds nothing below what the first removes", () => {
  fc.assert(
    fc.property(patches, patches, (first, second) => {
      const apart = applyPatch(applyPatch({}, first), second);
      expect(deepEqual(applyPatch({}, mergePatches(first, second)), apart)).toBe(true);
    }),
    { numRuns: 500 },
  );
});

test("it does not matter which two of three patches are merged first", () => {
  fc.assert(
    fc.property(kindredPatches, kindredPatches, kindredPatches, (a, b, c) => {
      expect(deepEqual(mergePatches(mergePatches(a, b), c), mergePatches(a, mergePatches(b, c)))).toBe(true);
    }),
    { numRuns: 500 },
  );
});

const modulePatches = objects(
  fc.oneof(
    fc.constant(null),
    objects(fc.oneof(plainValues, objects(plainValues)), keys, 4).map((inner): JsonObject => ({ __t: "c", ...inner })),
  ),
  fc.constantFrom("leaf1", "leaf1__thermostat1", "leaf2", "__proto__"),
  4,
);

test("the parts of a split patch each fit, do in any order what the whole does, and lose only what is named", () => {
  fc.assert(
    fc.property(modulePatches, documents, fc.integer({ min: 20, max: 400 }), (patch, twin, maxBytes) => {
      const { parts, tooLarge } = splitPatch(patch, maxBytes);
      for (const part of parts) expect(jsonBytes(part)).toBeLessThanOrEqual(maxBytes);
      const expected = without(patch, tooLarge);
      const forward = parts.reduce(applyPatch, twin);
      const backward = parts.toReversed().reduce(applyPatch, twin);
      expect(deepEqual(forward, applyPatch(twin, expected))).toBe(true);
      expect(deepEqual(backward, forward)).toBe(true);
      if (jsonBytes(patch) <= maxBytes) expect(tooLarge).toEqual([]);
    }),
    { numRuns: 1_000 },
  );
});

/** The patch without the paths; a component that has lost all its properties says nothing. */
function without(patch: JsonObject, paths: readonly string[]): JsonObject {
  const gone = new Set(paths);
  const entries = Object.entries(patch).flatMap(([component, value]): [string, Json][] => {
    if (gone.has(component)) return [];
    if (!isJsonObject(value)) return [[component, value]];
    const kept = Object.entries(value).filter(([property]) => !gone.has(`${component}/${property}`));
    const isGone = kept.length < Object.keys(value).length && kept.every(([property]) => property === "__t");
    return isGone ? [] : [[component, Object.fromEntries(kept)]];
  });
  return Object.fromEntries(entries);
}
