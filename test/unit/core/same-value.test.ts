import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { sameValue } from "../../../src/core/same-value.ts";
import { anyJson, dates } from "../../support/arbitraries.ts";

/** As measured on edgeHub: what was written, what it shows [iothub-mqtt.md 12.2]. */
const REWRITTEN = [
  ["2026-01-02T03:04:05.000Z", "2026-01-02T03:04:05Z"],
  ["2026-01-02T03:04:05.1230000Z", "2026-01-02T03:04:05.123Z"],
  ["2026-01-02T03:04:05.120Z", "2026-01-02T03:04:05.12Z"],
  ["2026-01-02T03:04:05+02:00", "2026-01-02T01:04:05+00:00"],
] as const;

describe("equal after edgeHub's rewriting", () => {
  test.each<readonly [string, string]>([
    ...REWRITTEN,
    ["2026-01-02T03:04:05+0200", "2026-01-02T01:04:05Z"],
    ["2026-01-02T03:04:05-05", "2026-01-02T08:04:05Z"],
    ["2026-01-01T00:30:00.5+01:00", "2025-12-31T23:30:00.50Z"],
    ["2024-03-01T00:00:00+00:01", "2024-02-29T23:59:00Z"],
    ["2026-01-02T03:04:05.500", "2026-01-02T03:04:05.5"],
    ["2026-01-02T03:04:05z", "2026-01-02T03:04:05Z"],
    // As Java's LocalDateTime and Go print nanoseconds without a zone.
    ["2026-01-02T03:04:05.123456789", "2026-01-02T03:04:05.1234567"],
    ["2000-02-29T00:00:00.0Z", "2000-02-29T00:00:00Z"],
    ["/Date(1198908717056)/", "2007-12-29T06:11:57.056Z"],
    ["/Date(-1500+0200)/", "1969-12-31T23:59:58.5+00:00"],
  ])("%s is shown as %s", (a, b) => {
    expect(sameValue(a, b)).toBe(true);
    expect(sameValue(b, a)).toBe(true);
    expect(sameValue({ list: [{ at: a }] }, { list: [{ at: b }] })).toBe(true);
  });

  test("numbers are equal however they were spelled", () => {
    expect(sameValue(JSON.parse("1e21"), JSON.parse("1E+21"))).toBe(true);
    expect(sameValue(JSON.parse("1.0"), 1)).toBe(true);
    expect(sameValue(0, -0)).toBe(true);
    expect(sameValue(0.1 + 0.2, 0.3)).toBe(true);
    expect(sameValue(-0.1 - 0.2, -0.3)).toBe(true);
    expect(sameValue(Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY)).toBe(true);
  });
});

describe("still a difference", () => {
  test.each([
    ["another millisecond", "2026-01-02T03:04:05.001Z", "2026-01-02T03:04:05.002Z"],
    ["another second", "2026-01-02T03:04:05Z", "2026-01-02T03:04:06Z"],
    ["another zone's same reading", "2026-01-02T03:04:05+01:00", "2026-01-02T03:04:05+02:00"],
    ["a reading without zone", "2026-01-02T03:04:05", "2026-01-02T03:04:05Z"],
    ["a day without time, which edgeHub leaves alone", "2026-01-02", "2026-01-02T00:00:00Z"],
    ["more digits than edgeHub parses", "2026-01-02T03:04:05.12345678Z", "2026-01-02T03:04:05.12345679Z"],
    [
      "nanoseconds with a zone, which edgeHub leaves alone",
      "2026-01-02T03:04:05.123456789Z",
      "2026-01-02T03:04:05.1234567Z",
    ],
    ["eight digits without a zone", "2026-01-02T03:04:05.12345678", "2026-01-02T03:04:05.1234567"],
    ["more digits, although all are zero", "2026-01-02T03:04:05.00000000Z", "2026-01-02T03:04:05Z"],
    ["a month that is none", "2026-13-01T00:00:00Z", "2027-01-01T00:00:00Z"],
    ["a month before the first", "2026-00-01T00:00:00Z", "2025-12-01T00:00:00Z"],
    ["a day that is none", "2026-02-29T00:00:00Z", "2026-03-01T00:00:00Z"],
    ["a leap day of a century", "1900-02-29T00:00:00Z", "1900-03-01T00:00:00Z"],
    ["a day before the first", "2026-01-00T00:00:00Z", "2025-12-31T00:00:00Z"],
    ["a year before the first", "0000-12-31T00:00:00Z", "0000-12-31T00:00:00.0Z"],
    ["an hour that is none", "2026-01-01T24:00:00Z", "2026-01-02T00:00:00Z"],
    ["a minute that is none", "2026-01-01T00:60:00Z", "2026-01-01T01:00:00Z"],
    ["a second that is none", "2026-01-01T00:00:60Z", "2026-01-01T00:01:00Z"],
    ["an offset that is none", "2026-01-01T00:00:00+24:00", "2025-12-31T00:00:00Z"],
    ["milliseconds beyond all dates", "/Date(253402300800000)/", "/Date(253402300800000+0000)/"],
    ["milliseconds before all dates", "/Date(-62135596800001)/", "/Date(-62135596800001+0000)/"],
    ["text around a date", " 2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"],
  ])("%s: %s is not %s", (_, a, b) => {
    expect(sameValue(a, b)).toBe(false);
  });

  test.each([
    [1_700_000_000_000_001, 1_700_000_000_000_002],
    [4_503_599_627_370_495, 4_503_599_627_370_494],
    [0.1, 0.1000000000001],
    [0, Number.MIN_VALUE],
    [1, -1],
    [1, "1"],
    [1, true],
    [null, 0],
    [null, {}],
    [{}, []],
    [{ a: 1 }, { a: 1, b: 2 }],
    [{ a: 1 }, { b: 1 }],
    [{ toString: 1 }, { a: 1 }],
    [[1], [1, 2]],
    [
      [1, 2],
      [2, 1],
    ],
    [[1], { 0: 1 }],
  ])("%j is not %j", (a, b) => {
    expect(sameValue(a, b)).toBe(false);
    expect(sameValue(b, a)).toBe(false);
  });
});

test("every value is the same as itself, and as its own copy", () => {
  fc.assert(
    fc.property(anyJson, (value) => {
      fc.pre(!JSON.stringify(value).includes("null"));
      expect(sameValue(value, value)).toBe(true);
      expect(sameValue(value, JSON.parse(JSON.stringify(value)))).toBe(true);
    }),
  );
});

test("it does not matter which value comes first", () => {
  const values = fc.oneof(anyJson, dates, fc.double());
  fc.assert(fc.property(values, values, (a, b) => sameValue(a, b) === sameValue(b, a)));
});

test("a date is the same instant as JavaScript's own reading of it", () => {
  const instants = fc.date({ min: new Date("0001-01-02"), max: new Date("9999-12-30"), noInvalidDate: true });
  const offsets = fc.integer({ min: -14 * 60, max: 14 * 60 });
  const spelled = (date: Date, offset: number): string => {
    const local = new Date(date.getTime() + offset * 60_000).toISOString().slice(0, -1);
    const [hours, minutes] = [Math.floor(Math.abs(offset) / 60), Math.abs(offset) % 60].map((n) =>
      String(n).padStart(2, "0"),
    );
    return `${local}${offset < 0 ? "-" : "+"}${hours}:${minutes}`;
  };
  fc.assert(
    fc.property(instants, offsets, instants, (date, offset, other) => {
      expect(sameValue(spelled(date, offset), date.toISOString())).toBe(true);
      expect(sameValue(spelled(date, offset), other.toISOString())).toBe(date.getTime() === other.getTime());
    }),
  );
});
