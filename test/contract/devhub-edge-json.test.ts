/** The development hub's JSON and framing rules, as properties. */

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Json, JsonObject } from "../../src/core/message.ts";
import { difference, formatDotnet, isObject, merge, rewriteDates } from "../../src/devhub/edge-hub-json.ts";
import { FrameSizeGuard } from "../../src/devhub/edge-mqtt-frames.ts";
import { formatBag, parseBag } from "../../src/devhub/edge-mqtt-topics.ts";

const key = fc.oneof(fc.constantFrom("a", "b", "__proto__", "constructor", "toString"), fc.string());
const leaf = fc.oneof(fc.boolean(), fc.integer(), fc.string());
const { object } = fc.letrec<{ value: Json; object: JsonObject }>((tie) => ({
  value: fc.oneof({ depthSize: "small" }, leaf, fc.array(leaf), tie("object")),
  object: fc.array(fc.tuple(key, tie("value")), { maxLength: 4 }).map((pairs) => Object.fromEntries(pairs)),
}));

describe("documents", () => {
  test("merge(a, difference(a, b)) is b", () => {
    fc.assert(
      fc.property(object, object, (a, b) => {
        expect(plain(merge(a, difference(a, b), "delete"))).toEqual(plain(b));
      }),
    );
  });

  test("the difference of a document to itself is empty", () => {
    fc.assert(
      fc.property(object, (a) => {
        expect(difference(a, structured(a))).toEqual({});
      }),
    );
  });

  test("merging pending patches first gives the same as applying them, unless a null met an object", () => {
    fc.assert(
      fc.property(object, object, object, (base, one, two) => {
        const pending = merge(one, two, "keep");
        const together = merge(base, pending, "delete");
        const apart = merge(merge(base, one, "delete"), two, "delete");
        // Without nulls nothing is deleted; then an object replaces an object only where `one` put a plain value between.
        if (!replacesByObject(one, two)) expect(plain(together)).toEqual(plain(apart));
      }),
    );
  });

  test("rewriting dates twice changes nothing more", () => {
    const date = fc.date({ noInvalidDate: true, min: new Date("1000-01-01"), max: new Date("9000-01-01") });
    const spelled = fc
      .tuple(date, fc.constantFrom("Z", "+02:00", "-0730", ""), fc.nat(9_999_999))
      .map(([at, zone, fraction]) => `${at.toISOString().slice(0, 19)}.${fraction}${zone}`);
    fc.assert(
      fc.property(spelled, (text) => {
        expect(rewriteDates(rewriteDates(text))).toBe(rewriteDates(text));
      }),
    );
  });

  test.each([
    ["2026-01-02T03:04:05.000Z", "2026-01-02T03:04:05Z"],
    ["2026-01-02T03:04:05.1230000Z", "2026-01-02T03:04:05.123Z"],
    ["2026-01-02T03:04:05+02:00", "2026-01-02T01:04:05+00:00"],
    ["2026-01-02", "2026-01-02"],
    ["2026-01-02T03:04:05", "2026-01-02T03:04:05"],
    ["2026-13-02T03:04:05Z", "2026-13-02T03:04:05Z"],
    ["2026-01-02T03:04:05.5z", "2026-01-02T03:04:05.5Z"],
    ["2026-01-02T03:04:05.123456700", "2026-01-02T03:04:05.1234567"],
    ["2026-01-02T03:04:05.123456789Z", "2026-01-02T03:04:05.123456789Z"],
    ["at 2026-01-02T03:04:05.000Z", "at 2026-01-02T03:04:05.000Z"],
  ])("the text %s becomes %s", (text, expected) => {
    expect(rewriteDates({ a: [text] })).toEqual({ a: [expected] });
  });

  test("numbers are written as .NET writes them, and stay the same numbers", () => {
    expect(formatDotnet({ a: [1e21, 1.5e-7, 1, -2.5, 123456789012345680] })).toBe(
      '{"a":[1E+21,1.5E-07,1,-2.5,123456789012345680]}',
    );
    fc.assert(
      fc.property(object, (a) => {
        expect(plain(JSON.parse(formatDotnet(a)))).toEqual(plain(a));
      }),
    );
  });
});

describe("the wire", () => {
  test("a bag survives its own writing", () => {
    const text = fc.string({ unit: "grapheme" });
    const bags = fc
      .array(
        fc.tuple(
          text.filter((name) => name !== ""),
          text,
        ),
      )
      .map((pairs) => new Map(pairs));
    fc.assert(
      fc.property(bags, (bag) => {
        // The empty bag has no parts; a system key is only spelled apart.
        expect(parseBag(formatBag(Object.fromEntries(bag), {}))).toEqual(bag);
      }),
    );
  });

  test("the size guard refuses the same stream however it is cut", () => {
    const sizes = fc.array(fc.nat(300), { minLength: 1, maxLength: 6 });
    fc.assert(
      fc.property(
        sizes,
        fc.integer({ min: 2, max: 400 }),
        fc.array(fc.integer({ min: 1, max: 50 })),
        (bodies, limit, cuts) => {
          const stream = Buffer.concat(bodies.map(frame));
          const fits = bodies.every((body) => frame(body).length <= limit);
          expect(new FrameSizeGuard(limit).accepts(stream)).toBe(fits);
          const guard = new FrameSizeGuard(limit);
          let at = 0;
          let accepted = true;
          for (const cut of [...cuts, stream.length]) {
            accepted = accepted && guard.accepts(stream.subarray(at, at + cut));
            at += cut;
          }
          expect(accepted).toBe(fits);
        },
      ),
    );
  });

  test("a fixed header of more than four length bytes is refused", () => {
    expect(new FrameSizeGuard(1000).accepts(Buffer.from([0x30, 0x80, 0x80, 0x80, 0x80]))).toBe(false);
  });
});

/** Compares own keys only, `__proto__` among them. */
function plain(value: Json): unknown {
  if (!isObject(value)) return value;
  return new Map(Object.entries(value).map(([name, item]) => [name, plain(item)]));
}

function structured(value: JsonObject): JsonObject {
  return Object.fromEntries(
    Object.entries(value).map(([name, item]) => [name, isObject(item) ? structured(item) : item]),
  );
}

function replacesByObject(one: JsonObject, two: JsonObject): boolean {
  return Object.entries(two).some(([name, value]) => {
    const before = Object.hasOwn(one, name) ? one[name] : undefined;
    if (before === undefined || !isObject(value)) return false;
    return !isObject(before) || replacesByObject(before, value);
  });
}

function frame(bodyBytes: number): Buffer {
  const length = bodyBytes < 128 ? [bodyBytes] : [0x80 | (bodyBytes % 128), bodyBytes >> 7];
  return Buffer.concat([Buffer.from([0x30, ...length]), Buffer.alloc(bodyBytes)]);
}
