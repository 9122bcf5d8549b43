import { describe, expect, test } from "vitest";
import {
  applyPatch,
  deepEqual,
  diff,
  isEmpty,
  isJsonObject,
  jsonBytes,
  mergePatches,
  ownValue,
  splitPatch,
} from "../../../src/core/merge-patch.ts";
import type { JsonObject } from "../../../src/core/message.ts";

/** As a leaf can send them: `__proto__` is the object's own key. */
const parse = (text: string): JsonObject => JSON.parse(text);

describe("applyPatch", () => {
  test.each([
    ["adds a key", { a: 1 }, { b: 2 }, { a: 1, b: 2 }],
    ["replaces a value", { a: 1 }, { a: 2 }, { a: 2 }],
    ["deletes with null", { a: 1, b: 2 }, { a: null }, { b: 2 }],
    ["leaves an object behind that lost its last key", { a: { b: 1 } }, { a: { b: null } }, { a: {} }],
    ["merges objects", { a: { b: 1, c: 2 } }, { a: { c: 3, d: 4 } }, { a: { b: 1, c: 3, d: 4 } }],
    ["puts an object in a plain value's place", { a: 1 }, { a: { b: 2 } }, { a: { b: 2 } }],
    ["puts a plain value in an object's place", { a: { b: 2 } }, { a: 1 }, { a: 1 }],
    ["replaces arrays whole", { a: [1, 2, 3] }, { a: [9] }, { a: [9] }],
    ["replaces an array by an object", { a: [1] }, { a: { 0: 2 } }, { a: { 0: 2 } }],
    ["drops nulls inside a new object", {}, { a: { b: null, c: { d: null } } }, { a: { c: {} } }],
    ["keeps nulls inside arrays, which are values", {}, { a: [null] }, { a: [null] }],
  ])("%s", (_, target, patch, expected) => {
    expect(applyPatch(target, patch)).toEqual(expected);
  });

  test("keeps the order of keys and appends new ones", () => {
    expect(Object.keys(applyPatch({ a: 1, b: 2, c: 3 }, { d: 4, b: 5, a: null }))).toEqual(["b", "c", "d"]);
  });

  test.each([
    ["an empty patch", {}],
    ["equal values", { a: 1, list: [1, { x: 2 }] }],
    ["an equal object", { inner: { b: 2 } }],
    ["an empty object where there is one", { inner: {} }],
    ["the deletion of what is not there", { gone: null, inner: { gone: null } }],
  ])("answers the very same object after %s", (_, patch) => {
    const target = { a: 1, list: [1, { x: 2 }], inner: { b: 2 } };
    expect(applyPatch(target, patch)).toBe(target);
  });

  test("keeps the very same object for a part that did not change", () => {
    const inner = { b: 2 };
    expect(applyPatch({ a: 1, inner }, { a: 2, inner: { b: 2 } })["inner"]).toBe(inner);
  });

  test("takes __proto__ and constructor for keys like any other", () => {
    const patched = applyPatch({ a: 1 }, parse('{"__proto__":{"polluted":true},"constructor":{"prototype":{"x":1}}}'));
    expect(JSON.stringify(patched)).toBe('{"a":1,"__proto__":{"polluted":true},"constructor":{"prototype":{"x":1}}}');
    expect(Object.getPrototypeOf(patched)).toBe(Object.prototype);
    expect("polluted" in {}).toBe(false);
    expect(JSON.stringify(applyPatch(patched, parse('{"__proto__":null,"constructor":null}')))).toBe('{"a":1}');
  });

  test("does not take an inherited member for a value that is there", () => {
    expect(applyPatch({}, { toString: null, constructor: {} })).toEqual({ constructor: {} });
  });
});

describe("diff", () => {
  test.each([
    ["nothing for equal documents", { a: 1, b: { c: [1] } }, { b: { c: [1] }, a: 1 }, {}],
    ["null for a key that vanished", { a: 1, b: 2 }, { b: 2 }, { a: null }],
    ["null for a key that vanished inside", { a: { b: 1, c: 2 } }, { a: { c: 2 } }, { a: { b: null } }],
    [
      "changed keys only where an object replaces an object",
      { a: { b: 1, c: 2 } },
      { a: { c: 3, d: 4 } },
      { a: { b: null, c: 3, d: 4 } },
    ],
    ["a whole object where it replaces a plain value", { a: 1 }, { a: { b: 2 } }, { a: { b: 2 } }],
    ["a plain value where it replaces an object", { a: { b: 2 } }, { a: 1 }, { a: 1 }],
    ["arrays whole", { a: [1, 2] }, { a: [1, 3] }, { a: [1, 3] }],
    ["an empty object that is new", {}, { a: {} }, { a: {} }],
    ["no removal of what neither has, where a document holds a null", { a: null }, { a: 1, b: null }, { a: 1 }],
    ["a removal where a document holds a null", { a: 1 }, { a: null }, { a: null }],
  ])("is %s", (_, from, to, expected) => {
    expect(diff(from, to)).toEqual(expected);
  });

  test("leaves out what the caller calls equal", () => {
    const equal = (a: unknown, b: unknown): boolean => String(a).toLowerCase() === String(b).toLowerCase();
    expect(diff({ a: "X", b: { c: "Y" } }, { a: "x", b: { c: "z" } }, equal)).toEqual({ b: { c: "z" } });
  });

  test("does not take an inherited member for a value that is there", () => {
    expect(JSON.stringify(diff({}, parse('{"toString":1,"__proto__":{"a":1}}')))).toBe(
      '{"toString":1,"__proto__":{"a":1}}',
    );
    expect(JSON.stringify(diff(parse('{"__proto__":{"a":1}}'), {}))).toBe('{"__proto__":null}');
  });
});

describe("mergePatches", () => {
  test("keeps the nulls of both and lets the second win", () => {
    expect(mergePatches({ a: 1, b: null, c: { d: 1, e: null } }, { a: null, c: { d: 2 }, f: 3 })).toEqual({
      a: null,
      b: null,
      c: { d: 2, e: null },
      f: 3,
    });
  });

  test("forgets what the first put into an object that the second removes", () => {
    expect(mergePatches({ a: { b: 1 } }, { a: null })).toEqual({ a: null });
  });

  test("cannot say that an object was removed before it came again, and says what is there now", () => {
    expect(mergePatches({ a: null }, { a: { b: 1 } })).toEqual({ a: { b: 1 } });
  });
});

describe("deepEqual", () => {
  test.each([
    [1, 1, true],
    [0, -0, true],
    ["a", "a", true],
    [null, null, true],
    [null, {}, false],
    [{}, null, false],
    [[], {}, false],
    [{}, [], false],
    [[1], [1, 2], false],
    [[1, [2]], [1, [2]], true],
    [[1, 2], [2, 1], false],
    [{ a: 1, b: 2 }, { b: 2, a: 1 }, true],
    [{ a: 1 }, { b: 1 }, false],
    [{ a: 1 }, { a: 1, b: 2 }, false],
    [{ a: null }, { b: null }, false],
    [{ toString: 1 }, { a: 1 }, false],
    ["1", 1, false],
  ])("of %j and %j is %s", (a, b, expected) => {
    expect(deepEqual(a, b)).toBe(expected);
  });
});

describe("what is an object", () => {
  test("arrays, null and nothing are none", () => {
    expect([{}, { a: 1 }].every(isJsonObject)).toBe(true);
    expect([[], null, undefined, "a", 1, true].some(isJsonObject)).toBe(false);
  });

  test("it is empty without own keys", () => {
    expect(isEmpty({})).toBe(true);
    expect(isEmpty(parse('{"__proto__":1}'))).toBe(false);
  });

  test("its own value is never its prototype's", () => {
    expect(ownValue({}, "constructor")).toBeUndefined();
    expect(ownValue({}, "__proto__")).toBeUndefined();
    expect(ownValue(parse('{"__proto__":7}'), "__proto__")).toBe(7);
  });
});

describe("jsonBytes", () => {
  test.each(["", "plain", "é", "€", "😀", "\ud83d", "\ude00\ud83d", 'a\u0000\n"\\', "é€😀".repeat(9)])(
    "counts the UTF-8 bytes of %j as its JSON text",
    (text) => {
      expect(jsonBytes(text)).toBe(Buffer.byteLength(JSON.stringify(text)));
      expect(jsonBytes({ [text]: [text, null, 1.5] })).toBe(
        Buffer.byteLength(JSON.stringify({ [text]: [text, null, 1.5] })),
      );
    },
  );
});

describe("splitPatch", () => {
  test("leaves a patch that fits as one part", () => {
    const patch = { leaf1: { __t: "c", a: 1 }, leaf2: null };
    expect(splitPatch(patch, jsonBytes(patch))).toEqual({ parts: [patch], tooLarge: [] });
  });

  test("makes no part of nothing", () => {
    expect(splitPatch({}, 100)).toEqual({ parts: [], tooLarge: [] });
  });

  test("splits between components first", () => {
    const patch = { leaf1: { __t: "c", a: 1, b: 2 }, leaf2: { __t: "c", a: 1, b: 2 }, leaf3: { __t: "c", a: 1, b: 2 } };
    const { parts } = splitPatch(patch, 80);
    expect(parts).toEqual([{ leaf1: patch.leaf1, leaf2: patch.leaf2 }, { leaf3: patch.leaf3 }]);
  });

  test("splits a component that does not fit, each piece with its marker", () => {
    const patch = { leaf1: { a: "x".repeat(20), __t: "c", b: "y".repeat(20), c: "z".repeat(20) } };
    const { parts, tooLarge } = splitPatch(patch, 60);
    expect(parts).toEqual([
      { leaf1: { __t: "c", a: "x".repeat(20) } },
      { leaf1: { __t: "c", b: "y".repeat(20) } },
      { leaf1: { __t: "c", c: "z".repeat(20) } },
    ]);
    expect(tooLarge).toEqual([]);
  });

  test("fills a piece to the last byte", () => {
    const full = { leaf1: { __t: "c", a: "x".repeat(20), b: 2 } };
    expect(splitPatch({ leaf1: { ...full.leaf1, c: 3 } }, jsonBytes(full))).toEqual({
      parts: [full, { leaf1: { __t: "c", c: 3 } }],
      tooLarge: [],
    });
    const alone = { leaf1: { __t: "c", a: "x".repeat(20) } };
    expect(splitPatch(full, jsonBytes(alone)).tooLarge).toEqual([]);
    expect(splitPatch(full, jsonBytes(alone) - 1).tooLarge).toEqual(["leaf1/a"]);
  });

  test("gives a component without marker none", () => {
    const patch = { leaf1: { a: "x".repeat(20), b: "y".repeat(20) } };
    expect(splitPatch(patch, 50).parts).toEqual([{ leaf1: { a: "x".repeat(20) } }, { leaf1: { b: "y".repeat(20) } }]);
  });

  test("names what does not fit into any part and keeps the rest", () => {
    const patch = {
      leaf1: { __t: "c", small: 1, large: "x".repeat(100) },
      plain: "y".repeat(100),
      leaf2: { __t: "c", a: 1 },
    };
    expect(splitPatch(patch, 80)).toEqual({
      parts: [{ leaf1: { __t: "c", small: 1 }, leaf2: { __t: "c", a: 1 } }],
      tooLarge: ["leaf1/large", "plain"],
    });
  });

  test("names a marker that does not fit alone", () => {
    expect(splitPatch({ leaf1: { __t: "c".repeat(50) } }, 40)).toEqual({ parts: [], tooLarge: ["leaf1/__t"] });
  });

  test("says nothing of a component whose properties are all too large", () => {
    const patch = { leaf1: { __t: "c", a: "x".repeat(100) } };
    expect(splitPatch(patch, 80)).toEqual({ parts: [], tooLarge: ["leaf1/a"] });
  });
});
