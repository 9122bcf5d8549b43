import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { JsonObject } from "../../../src/core/message.ts";
import { formatModulePath, parseModulePath, withPaths } from "../../../src/core/module-path.ts";

const names = fc.constantFrom("a", "b", "c/d", "__proto__");
const section = fc.dictionary(
  fc.constantFrom("leaf1", "leaf2", "__proto__"),
  fc.oneof(fc.constant(7), fc.dictionary(names, fc.integer({ min: 0, max: 2 }), { maxKeys: 3 })),
  { maxKeys: 3 },
) as fc.Arbitrary<JsonObject>;
const path = fc
  .record({ component: fc.constantFrom("leaf1", "leaf2", "gone"), property: fc.option(names, { nil: undefined }) })
  .map(({ component, property }) => formatModulePath(property === undefined ? [component] : [component, property]));

function at(object: JsonObject, of: string): unknown {
  const [component, property] = parseModulePath(of);
  const value = Object.hasOwn(object, component) ? object[component] : undefined;
  if (property === undefined) return value;
  const inside = value as JsonObject | undefined;
  return typeof inside === "object" && Object.hasOwn(inside, property) ? inside[property] : undefined;
}

describe("paths of the module's twin", () => {
  test("a property's name may hold a slash, a component's does not", () => {
    expect(parseModulePath("leaf1")).toEqual(["leaf1"]);
    expect(parseModulePath("leaf1/a/b")).toEqual(["leaf1", "a/b"]);
    expect(formatModulePath(["leaf1", "a/b"])).toBe("leaf1/a/b");
  });

  test("what is at a path comes from the other section, and nothing else does", () => {
    fc.assert(
      fc.property(section, section, path, path, (mine, theirs, one, two) => {
        const result = withPaths(mine, theirs, [one]);
        expect(at(result, one)).toEqual(at(theirs, one));
        const [component, property] = parseModulePath(one);
        const [other, otherProperty] = parseModulePath(two);
        const isApart =
          component !== other || (property !== undefined && otherProperty !== undefined && property !== otherProperty);
        if (isApart) expect(at(result, two)).toEqual(at(mine, two));
      }),
    );
  });

  test("nothing taken from nothing makes no component", () => {
    expect(withPaths({}, {}, ["leaf1/a"])).toEqual({});
    expect(withPaths({ leaf1: { a: 1 } }, {}, ["leaf1/a"])).toEqual({ leaf1: {} });
  });
});
