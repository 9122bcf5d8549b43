import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decodePercent, encodePercent, formatBag, parseBag, parseRequest } from "../../../src/translate/topic.ts";

const unicode = fc.string({ unit: "grapheme" });
const anything = fc.string({ unit: "binary" });

describe("percent-encoding", () => {
  test("decoding undoes encoding for any text", () => {
    fc.assert(
      fc.property(unicode, (text) => {
        expect(decodePercent(encodePercent(text))).toBe(text);
      }),
    );
  });

  test("encoded text means nothing in a topic or a bag", () => {
    fc.assert(
      fc.property(anything, (text) => {
        expect(encodePercent(text)).toMatch(/^[A-Za-z0-9\-_.!~*'()%]*$/);
      }),
    );
  });

  test("decodes what is UTF-8 and leaves the rest as it stands", () => {
    expect(decodePercent("%C3%BC %zz %FF 100% %41")).toBe("ü %zz %FF 100% A");
    expect(decodePercent("a+b")).toBe("a+b");
  });

  test("each run of percent-encoding is decoded or left exactly as decodeURIComponent would or would not", () => {
    const byte = fc.oneof(
      fc.nat(255),
      fc.constantFrom(0xc0, 0xc2, 0xe0, 0xed, 0xef, 0xf0, 0xf4, 0xf5, 0x80, 0x9f, 0xa0, 0xbf),
    );
    const run = fc
      .array(byte, { minLength: 1, maxLength: 5 })
      .map((bytes) => bytes.map((one) => `%${one.toString(16).padStart(2, "0")}`).join(""));
    fc.assert(
      fc.property(fc.array(run, { minLength: 1, maxLength: 4 }), (runs) => {
        const expected = runs.map((each) => {
          try {
            return decodeURIComponent(each);
          } catch {
            return each;
          }
        });
        expect(decodePercent(`${runs.join("|")}|%zz`)).toBe(`${expected.join("|")}|%zz`);
      }),
      { numRuns: 2_000 },
    );
  });

  test("half a surrogate pair becomes the replacement character instead of an exception", () => {
    expect(encodePercent("\ud800")).toBe("%EF%BF%BD");
  });

  test("decoding never throws", () => {
    const pieces = fc.constantFrom("%", "%4", "%C3", "%BC", "%ff", "%2B", "ü", "+");
    fc.assert(
      fc.property(fc.array(fc.oneof(pieces, anything)), (parts) => {
        expect(typeof decodePercent(parts.join(""))).toBe("string");
      }),
    );
  });
});

describe("property bags", () => {
  test("parsing undoes formatting for any keys and values", () => {
    const bags = fc.uniqueArray(fc.tuple(fc.string({ unit: "grapheme", minLength: 1 }), unicode), {
      selector: ([key]) => key,
    });
    fc.assert(
      fc.property(bags, (entries) => {
        expect([...parseBag(formatBag(entries))]).toEqual(entries);
      }),
    );
  });

  test("keys that JavaScript's own objects have are keys like any other", () => {
    const entries: [string, string][] = [
      ["__proto__", "1"],
      ["constructor", "2"],
      ["toString", "3"],
    ];
    expect([...parseBag(formatBag(entries))]).toEqual(entries);
  });

  test("an empty key has no form and is left out", () => {
    expect(
      formatBag([
        ["", "lost"],
        ["a", ""],
      ]),
    ).toBe("a=");
    expect(parseBag("").size).toBe(0);
  });
});

describe("request parameters", () => {
  test("a request id comes back byte for byte", () => {
    fc.assert(
      fc.property(
        fc.string({ minLength: 1 }).filter((rid) => !rid.includes("&")),
        (rid) => {
          expect(parseRequest(`?$rid=${rid}`)).toEqual({ rid, version: undefined });
          expect(parseRequest(`?$version=3&$rid=${rid}`)).toEqual({ rid, version: "3" });
        },
      ),
    );
  });

  test.each(["", "$rid=1", "?", "?$rid", "?$rid=", "?$version=1", "?$rid=1&$rid=1", "x?$rid=1"])(
    "%j names no request",
    (text) => {
      expect(parseRequest(text)).toBeUndefined();
    },
  );
});
