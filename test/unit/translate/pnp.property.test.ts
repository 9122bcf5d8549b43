import fc from "fast-check";
import { expect, test } from "vitest";
import { isLegalComponentName } from "../../../src/core/component-name.ts";
import type { LeafNaming } from "../../../src/core/leaf.ts";
import { applyPatch, deepEqual, isJsonObject } from "../../../src/core/merge-patch.ts";
import type { ComponentName, Json, JsonObject } from "../../../src/core/message.ts";
import { sha256Hex } from "../../../src/sha256-hex.ts";
import {
  leafComponentOf,
  leafDesired,
  leafDesiredPatch,
  leafReported,
  learnComponents,
  moduleSlice,
  moduleView,
  unknownComponents,
} from "../../../src/translate/pnp.ts";

const bare: LeafNaming = { component: "leaf1" as ComponentName, components: {} };
const NAMES = ["x", "zone 1", "__proto__", "constructor", "__t"];

/** Few names, so that they meet; with those that are dangerous. */
const key = fc.constantFrom("a", "b", "x", "__t", "__proto__", "constructor", "zone 1");
const scalar = fc.constantFrom<Json>(1, "c", true, 2.5);
const namings = fc.subarray(NAMES).map((names) => learnComponents(bare, names, sha256Hex, 9).naming);

function objects(value: fc.Arbitrary<Json>): fc.Arbitrary<JsonObject> {
  return fc.array(fc.tuple(key, value), { maxLength: 4 }).map((entries) => Object.fromEntries(entries));
}

const state: fc.Arbitrary<Json> = fc.oneof(
  scalar,
  fc.array(scalar, { maxLength: 2 }),
  objects(fc.oneof(scalar, objects(scalar))),
);
const change: fc.Arbitrary<Json> = fc.oneof(
  fc.constant(null),
  scalar,
  objects(fc.oneof(fc.constant(null), scalar, objects(fc.oneof(fc.constant(null), scalar)))),
);

const hashedNames = Object.values(learnComponents(bare, NAMES, sha256Hex, 9).naming.components);

/** A section of the module's twin: this leaf's components, known or not, and others'. */
function moduleSections(value: fc.Arbitrary<Json>): fc.Arbitrary<JsonObject> {
  const name = fc.constantFrom("leaf1", "leaf1__x", "leaf1__y", "leaf2", "leaf2__x", "gateway", ...hashedNames);
  return fc.array(fc.tuple(name, value), { maxLength: 6 }).map((entries) => Object.fromEntries(entries));
}

function check(actual: JsonObject, expected: JsonObject): void {
  expect(deepEqual(actual, expected), `${JSON.stringify(actual)}\nis not\n${JSON.stringify(expected)}`).toBe(true);
}

/** What a round trip may add: every component carries its marker, the root none. */
function normalised(naming: LeafNaming, reported: JsonObject): JsonObject {
  return Object.fromEntries(
    Object.entries(reported)
      .filter(([name, value]) => name !== "__t" || (isJsonObject(value) && Object.hasOwn(naming.components, name)))
      .map(([name, value]): [string, Json] =>
        isJsonObject(value) && Object.hasOwn(naming.components, name) ? [name, { ...value, __t: "c" }] : [name, value],
      ),
  );
}

const many = { numRuns: 1_000 };

test("what a leaf has reported comes back from the module's section, whoever else is in it", () => {
  fc.assert(
    fc.property(namings, objects(state), moduleSections(state), (naming, reported, others) => {
      const view = moduleView(naming, reported);
      const mine = new Set<string>(["leaf1", ...Object.values(naming.components)]);
      const foreign = Object.entries(others).filter(([name]) => !mine.has(name));
      const slice = moduleSlice(naming, { ...Object.fromEntries(foreign), ...view });
      check(slice, view);
      check(leafReported(naming, slice), normalised(naming, reported));
      check(moduleView(naming, leafReported(naming, slice)), view);
    }),
    many,
  );
});

test("translating a desired patch and applying it is applying it and translating", () => {
  fc.assert(
    fc.property(namings, moduleSections(state), moduleSections(change), (naming, desired, patch) => {
      const before = leafDesired(naming, desired);
      const translated = leafDesiredPatch(naming, patch, before);
      check(applyPatch(before, translated), leafDesired(naming, applyPatch(desired, patch)));
    }),
    { numRuns: 3_000 },
  );
});

test("each component of a translated section or patch begins with its marker", () => {
  fc.assert(
    fc.property(namings, moduleSections(change), (naming, patch) => {
      for (const section of [leafDesiredPatch(naming, patch, {}), leafDesired(naming, applyPatch({}, patch))])
        for (const name of Object.keys(naming.components)) {
          const value = Object.hasOwn(section, name) ? section[name] : undefined;
          if (isJsonObject(value)) expect(Object.entries(value)[0]).toEqual(["__t", "c"]);
        }
    }),
    many,
  );
});

test("whatever a leaf names, its components are legal, its own and one for each name, and lead back to it", () => {
  const name = fc.oneof(
    key,
    fc.string({ unit: "binary", maxLength: 80 }),
    fc.stringMatching(/^[a-z]{1,6}_[0-9a-f]{8}$/),
  );
  fc.assert(
    fc.property(fc.array(name, { maxLength: 12 }), (names) => {
      const { naming } = learnComponents(bare, names, sha256Hex, 10);
      const components = Object.values(naming.components);
      expect(new Set(components).size).toBe(components.length);
      for (const [leafName, component] of Object.entries(naming.components)) {
        expect(component.startsWith("leaf1__")).toBe(true);
        expect(isLegalComponentName(component)).toBe(true);
        expect(leafComponentOf(naming, component)).toEqual({ component: leafName });
        // A name told from the module's section is the true one, or none is told.
        const [told] = unknownComponents(bare, { [component]: {} });
        expect([leafName, undefined]).toContain(told);
        expect(leafComponentOf(bare, component)?.component).toBe(told);
      }
    }),
    many,
  );
});

test("a registry that was lost is learned again from the module's section, to the same names", () => {
  const legal = fc.stringMatching(/^[a-zA-Z](?:[a-z0-9]{0,12})$/);
  fc.assert(
    fc.property(fc.uniqueArray(legal, { maxLength: 6 }), (names) => {
      const { naming } = learnComponents(bare, names, sha256Hex, 10);
      const section = Object.fromEntries(
        Object.values(naming.components).map((component) => [component, { __t: "c" }]),
      );
      expect(learnComponents(bare, unknownComponents(bare, section), sha256Hex, 10).naming.components).toEqual(
        naming.components,
      );
    }),
  );
});
