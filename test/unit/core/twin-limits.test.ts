import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Json, JsonObject } from "../../../src/core/message.ts";
import {
  GATEWAY_REPORTED_CEILING_BYTES,
  isBeyondAnySection,
  MAX_DEPTH,
  MAX_INTEGER,
  MAX_TWIN_SECTION_BYTES,
  MIN_INTEGER,
  patchViolations,
  SECTION_WARNING_BYTES,
  twinBytes,
} from "../../../src/core/twin-limits.ts";
import { anyJson, objects } from "../../support/arbitraries.ts";

/** `levels` objects inside each other below the root, with one property in the last. */
function deep(levels: number, inside: Json = { property: "value" }): JsonObject {
  let value: Json = inside;
  for (let level = 1; level < levels; level += 1) value = { level: value };
  return { root: value };
}

describe("the limits that a patch may break", () => {
  test.each<[string, JsonObject]>([
    ["nothing", {}],
    ["a removal", { a: null, b: { c: null } }],
    ["every kind of value", { a: true, b: 1.5, c: "text", d: { e: [1, "x", [false], { f: 2 }] }, f: {}, g: [] }],
    ["the documentation's own deepest twin", deep(MAX_DEPTH)],
    ["ten levels of arrays", { a: JSON.parse(`${"[".repeat(10)}1${"]".repeat(10)}`) }],
    ["the marker of a component", { thermostat1: { __t: "c", a: 1 } }],
    ["the longest name", { ["k".repeat(1_024)]: 1 }],
    ["the longest text", { a: "é".repeat(2_048) }],
    ["the outermost integers", { a: MIN_INTEGER, b: MAX_INTEGER }],
    ["fractions of any size", { a: 1e21, b: -1e300, c: 2 ** 49 + 0.5 }],
    ["names that objects have by themselves", JSON.parse('{"__proto__":1,"constructor":{"toString":2}}')],
  ])("are kept by %s", (_, patch) => {
    expect(patchViolations(patch)).toEqual([]);
  });

  test.each<[string, JsonObject, string]>([
    ["eleven levels of objects", deep(11), "deeper than 10 levels"],
    ["an eleventh level without content", deep(11, {}), "deeper than 10 levels"],
    ["eleven levels of arrays", { a: JSON.parse(`${"[".repeat(11)}1${"]".repeat(11)}`) }, "deeper than 10 levels"],
    ["an empty name", { "": 1 }, ": a name is empty"],
    ["a name of 1,025 bytes", { ["é".repeat(512) + "x"]: 1 }, "more than 1024 bytes"],
    ["a dot in a name", { "a.b": 1 }, "a name holds"],
    ["a dollar in a name", { $version: 1 }, "a name holds"],
    ["a hash in a name, which only edgeHub minds", { "a#b": 1 }, "a name holds"],
    ["a blank in a name", { "a b": 1 }, "a name holds"],
    ["a no-break space in a name", { "a\u00a0b": 1 }, "a name holds"],
    ["an ideographic space in a name", { "a\u3000b": 1 }, "a name holds"],
    ["a line separator in a name", { "a\u2028b": 1 }, "a name holds"],
    ["a C0 control in a name", { "a\u0000b": 1 }, "a name holds"],
    ["a C1 control in a name", { "a\u0085b": 1 }, "a name holds"],
    ["half a character in a name", { "a\ud83d": 1 }, "a name is no Unicode text"],
    ["half a character in a text", { a: "\ude00" }, "a text is no Unicode text"],
    ["a text of 4,097 bytes", { a: `${"é".repeat(2_048)}x` }, "more than 4096 bytes"],
    ["an integer above the largest", { a: MAX_INTEGER + 1 }, "beyond 2^52"],
    ["an integer below the smallest", { a: MIN_INTEGER - 1 }, "beyond 2^52"],
    ["an integer of 21 digits", { a: 1e20 }, "beyond 2^52"],
    ["a number too large for JSON", { a: JSON.parse("1e999") }, "not a number that JSON knows"],
    ["no number", { a: Number.NaN }, "not a number that JSON knows"],
    ["null inside an array", { a: [1, null] }, "null inside an array"],
    ["null as a property of an object inside an array", { a: [{ b: { c: null } }] }, "null inside an array"],
    ["null inside an array inside an array", { a: [[null]] }, "null inside an array"],
    ["a wrong name inside an array", { a: [{ "b c": 1 }] }, "a name holds"],
  ])("are broken by %s", (_, patch, reason) => {
    const violations = patchViolations(patch);
    expect(violations).toHaveLength(1);
    expect(violations[0]).toContain(reason);
  });

  test("are fewer levels where the patch will stand deeper", () => {
    expect(patchViolations(deep(9), { maxDepth: 9 })).toEqual([]);
    expect(patchViolations(deep(10), { maxDepth: 9 })).toEqual([
      "root/level/level/level/level/level/level/level/level/level: deeper than 9 levels",
    ]);
  });

  test("are named with the path to what breaks them", () => {
    expect(patchViolations({ thermostat1: { list: [{ "a b": 1 }], ok: 1 }, text: "x".repeat(5_000) })).toEqual([
      "thermostat1/list/a b: a name holds what twins do not allow there (. $ # blank, control)",
      "text: a text has more than 4096 bytes",
    ]);
  });

  test("are listed in words that a log line can hold, whatever the leaf sends", () => {
    const [violation = ""] = patchViolations({ [`${"x".repeat(199)}😀\n`]: { "\n": 1 } });
    expect(violation.isWellFormed()).toBe(true);
    expect(violation).not.toMatch(/\p{Cc}/u);
    expect(patchViolations({ "a\nb": 1 })).toEqual([expect.stringMatching(/^a\?b: /)]);
  });

  test("are not listed without end", () => {
    const many = Object.fromEntries(Array.from({ length: 1_000 }, (_, at) => [`a b${at}`, 1]));
    expect(patchViolations(many)).toHaveLength(20);
    expect(patchViolations({ list: Array.from({ length: 1_000 }, () => null) })).toHaveLength(20);
  });

  test("cost no stack, however deep the patch", () => {
    const depth = 100_000;
    expect(patchViolations(JSON.parse(`${'{"a":'.repeat(depth)}1${"}".repeat(depth)}`))).toHaveLength(1);
    expect(patchViolations({ a: JSON.parse(`${"[".repeat(depth)}${"]".repeat(depth)}`) })).toHaveLength(1);
  });

  test("are found without ever throwing", () => {
    fc.assert(
      fc.property(objects(anyJson, fc.string({ unit: "binary", maxLength: 3 })), fc.nat(12), (patch, maxDepth) => {
        for (const violation of patchViolations(patch, { maxDepth })) expect(violation).toContain(": ");
      }),
    );
  });
});

describe("the size of a section as IoT Hub counts", () => {
  test.each<[string, JsonObject, number]>([
    ["nothing", {}, 0],
    ["numbers as 8 bytes", { a: 1, b: 1.5e300 }, 2 + 16],
    ["booleans as 4 bytes", { a: true, b: false }, 2 + 8],
    ["names and texts as UTF-8", { é: "€" }, 2 + 3],
    ["no control characters", { a: "x\u0000\n\u0085y" }, 1 + 2],
    ["nested objects with their names", { ab: { cd: { ef: 1 } } }, 6 + 8],
    ["arrays by their items", { a: [1, "xy", true, [2], { b: 3 }] }, 1 + 8 + 2 + 4 + 8 + 1 + 8],
    ["null as nothing but its name", { a: null }, 1],
    ["the service's own keys as nothing", { $version: 7, $metadata: { $lastUpdated: "x" }, a: 1 }, 1 + 8],
  ])("counts %s", (_, section, bytes) => {
    expect(twinBytes(section)).toBe(bytes);
  });

  test("leaves room below IoT Hub's limit, and warns before", () => {
    expect(SECTION_WARNING_BYTES).toBe(26_214);
    expect(SECTION_WARNING_BYTES).toBeLessThan(GATEWAY_REPORTED_CEILING_BYTES);
    expect(GATEWAY_REPORTED_CEILING_BYTES).toBeLessThan(MAX_TWIN_SECTION_BYTES);
  });
});

describe("isBeyondAnySection", () => {
  const many = (count: number, value: Json): JsonObject =>
    Object.fromEntries(Array.from({ length: count }, (_, at) => [`name${at}`, value]));

  test("is what no section holds, and nothing that one could", () => {
    expect(isBeyondAnySection(many(20_000, 1))).toBe(true);
    expect(isBeyondAnySection(many(20_000, true))).toBe(true);
    expect(isBeyondAnySection({ inside: { further: many(20_000, 1) } })).toBe(true);
    expect(isBeyondAnySection(many(20_000, null))).toBe(false);
    expect(isBeyondAnySection({ inside: many(20_000, null) })).toBe(false);
    expect(isBeyondAnySection({})).toBe(false);
  });

  test("never says so of a patch that a section would hold", () => {
    const value = fc.constantFrom<Json>(1, true, "text", "", null, [1, 2], { a: 1, b: null });
    fc.assert(
      fc.property(fc.nat(4_000), value, fc.boolean(), (count, each, isNested) => {
        const patch = isNested ? { part: many(count, each) } : many(count, each);
        if (twinBytes(patch) <= MAX_TWIN_SECTION_BYTES) expect(isBeyondAnySection(patch)).toBe(false);
      }),
    );
  });
});
