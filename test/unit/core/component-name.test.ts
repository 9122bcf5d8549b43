import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  componentName,
  componentOf,
  GATEWAY_COMPONENT,
  isLegalComponentName,
  splitComponentName,
  subComponentName,
} from "../../../src/core/component-name.ts";
import type { ComponentName } from "../../../src/core/message.ts";
import { sha256Hex } from "../../../src/sha256-hex.ts";
import { leafIdOf, leafIds } from "../../support/arbitraries.ts";

interface Golden {
  readonly leaves: readonly { readonly leafId: string; readonly component: string }[];
  readonly components: readonly { readonly component: string; readonly leafComponent: string; readonly name: string }[];
}

/** Add, never edit: back ends compute these names, and a changed one would swap leaves in every twin that there is. */
const golden: Golden = JSON.parse(
  readFileSync(new URL("../../fixtures/component-names.json", import.meta.url), "utf8"),
);

/** DTDL v2: 64 characters, letters, digits and underscores, a letter first, no underscore last. */
const DTDL_V2_NAME = /^(?=.{1,64}$)[a-zA-Z](?:[a-zA-Z0-9_]*[a-zA-Z0-9])?$/;

describe("the names that were given once and stay", () => {
  test.each(golden.leaves)("$leafId is $component", ({ leafId, component }) => {
    expect(componentName(leafIdOf(leafId), sha256Hex)).toBe(component);
  });

  test.each(golden.components)("$leafComponent of $component is $name", ({ component, leafComponent, name }) => {
    expect(subComponentName(component as ComponentName, leafComponent, sha256Hex)).toBe(name);
  });

  test("hold every character of IoT Hub's ids", () => {
    const used = golden.leaves.map(({ leafId }) => leafId).join("");
    for (const character of "-:.+%_#*?!(),=@;$'") expect(used).toContain(character);
  });
});

describe("a leaf's component", () => {
  test("is a legal name without separator, whatever the id", () => {
    fc.assert(
      fc.property(leafIds, (leafId) => {
        const name = componentName(leafId, sha256Hex);
        expect(name).toMatch(DTDL_V2_NAME);
        expect(name.length).toBeLessThanOrEqual(40);
        expect(name).not.toContain("__");
        expect(name).not.toBe(GATEWAY_COMPONENT);
      }),
      { numRuns: 2_000 },
    );
  });

  test("is no other leaf's", () => {
    // Ids of few characters meet after the illegal ones were replaced; only the hash keeps them apart.
    const similar = fc
      .array(fc.constantFrom("a", "_", "-", ".", "1"), { minLength: 1, maxLength: 6 })
      .map((characters) => leafIdOf(characters.join("")));
    fc.assert(
      fc.property(fc.uniqueArray(fc.oneof(similar, leafIds), { minLength: 2, maxLength: 30 }), (ids) => {
        const names = ids.map((id) => componentName(id, sha256Hex));
        expect(new Set(names).size).toBe(ids.length);
      }),
      { numRuns: 300 },
    );
  });
});

describe("a component of a leaf", () => {
  const components = leafIds.map((leafId) => componentName(leafId, sha256Hex));
  const names = fc.oneof(fc.string({ maxLength: 80 }), fc.stringMatching(/^[a-z][a-z0-9_]{0,70}$/));

  test("has a legal name that splits into the leaf's and its own, whatever the leaf calls it", () => {
    fc.assert(
      fc.property(components, names, (component, leafComponent) => {
        const name = subComponentName(component, leafComponent, sha256Hex);
        expect(name).toMatch(DTDL_V2_NAME);
        const { component: first, sub = "" } = splitComponentName(name);
        expect(first).toBe(component);
        expect(sub).toMatch(DTDL_V2_NAME);
        expect(sub).not.toContain("__");
      }),
      { numRuns: 1_000 },
    );
  });

  test("keeps its own name where that is legal and fits", () => {
    fc.assert(
      fc.property(components, fc.stringMatching(/^[a-z][a-z0-9]{0,21}$/), (component, leafComponent) => {
        const name = subComponentName(component, leafComponent, sha256Hex);
        expect(splitComponentName(name)).toEqual({ component, sub: leafComponent });
      }),
    );
  });

  test("is no other component's of that leaf", () => {
    fc.assert(
      fc.property(components, fc.uniqueArray(names, { minLength: 2, maxLength: 20 }), (component, leafComponents) => {
        const given = leafComponents.map((name) => subComponentName(component, name, sha256Hex));
        expect(new Set(given).size).toBe(leafComponents.length);
      }),
    );
  });
});

test("an alias stands in for what the id makes, for the leaf that has it alone", () => {
  const rules = { sha256Hex, aliases: { "leaf-2": "pump" } };
  const of = (id: string): string => componentOf(leafIdOf(id), rules);
  expect(of("leaf-2")).toBe("pump");
  expect(of("leaf-3")).toBe(componentName(leafIdOf("leaf-3"), sha256Hex));
  // An id that every object has a property of.
  expect(of("constructor")).toBe("constructor");
});

test.each([
  ["leaf1", { component: "leaf1", sub: undefined }],
  ["leaf_1", { component: "leaf_1", sub: undefined }],
  ["leaf1__thermostat1", { component: "leaf1", sub: "thermostat1" }],
  ["leaf1__a__b", { component: "leaf1", sub: "a__b" }],
  ["leaf1__", { component: "leaf1", sub: "" }],
  ["", { component: "", sub: undefined }],
])("the name %j has its parts", (name, expected) => {
  expect(splitComponentName(name)).toEqual(expected);
});

test.each([
  ["a", true],
  ["leaf1__thermostat1", true],
  ["x".repeat(64), true],
  ["x".repeat(65), false],
  ["", false],
  ["1a", false],
  ["_a", false],
  ["a_", false],
  ["a-b", false],
  ["é", false],
  ["a\n", false],
])("%j is a legal component name: %s", (name, expected) => {
  expect(isLegalComponentName(name)).toBe(expected);
});
