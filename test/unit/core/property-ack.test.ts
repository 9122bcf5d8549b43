import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { deepEqual } from "../../../src/core/merge-patch.ts";
import type { Json, JsonObject } from "../../../src/core/message.ts";
import {
  clampAcknowledgements,
  isAcknowledgement,
  type PropertyTracks,
  resetAcknowledgements,
  trackDelivered,
  trackDesired,
  trackReported,
  unacknowledged,
} from "../../../src/core/property-ack.ts";
import { COMPONENTS, leafDesired, leafReported } from "../../support/arbitraries.ts";

const components = new Set<string>(COMPONENTS);
const parse = (text: string): JsonObject => JSON.parse(text);
const ack = (ac: number, av: number, ad?: Json): JsonObject => ({
  value: 1,
  ac,
  av,
  ...(ad === undefined ? {} : { ad }),
});

describe("what is an acknowledgement", () => {
  test.each<[Json]>([
    [{ value: 1, ac: 200, av: 3 }],
    [{ value: { deep: 1 }, ac: 200, av: 3, ad: "text" }],
    [{ value: null, ac: 200, av: 3 }],
    [{ ac: 200, av: 3, ad: "its value was null" }],
    [{ ac: 200, av: 3 }],
    [{ value: 1, ac: 200, av: 3, more: 1 }],
  ])("%j is one", (value) => {
    expect(isAcknowledgement(value)).toBe(true);
  });

  test.each<[Json | undefined]>([
    [undefined],
    [null],
    [1],
    [[200, 3]],
    [{}],
    [{ value: 1, ac: 200 }],
    [{ value: 1, av: 3 }],
    [{ value: 1, ac: "200", av: 3 }],
    [{ value: 1, ac: 200, av: "3" }],
    [{ ac: 230, av: 12, frequency: 50 }],
    [parse('{"__proto__":{"ac":200,"av":3},"value":1}')],
  ])("%j is none", (value) => {
    expect(isAcknowledgement(value)).toBe(false);
  });
});

describe("a desired change", () => {
  test("makes pending what it writes, in components too, and forgets what it removes", () => {
    const first = trackDesired({}, { a: 1, b: 2, thermostat1: { __t: "c", p: 3, q: 4 } }, components, 7, 100);
    expect(first).toEqual({
      a: { state: "pending", version: 7, sinceMs: 100 },
      b: { state: "pending", version: 7, sinceMs: 100 },
      "thermostat1/p": { state: "pending", version: 7, sinceMs: 100 },
      "thermostat1/q": { state: "pending", version: 7, sinceMs: 100 },
    });
    expect(Object.keys(trackDesired(first, { a: null, thermostat1: { p: null } }, components, 8, 200))).toEqual([
      "b",
      "thermostat1/q",
    ]);
  });

  test("that removes a component forgets all its properties and no other's", () => {
    const first = trackDesired({}, { thermostat1: { p: 1, q: 2 }, thermostat2: { p: 1 } }, components, 7, 100);
    expect(Object.keys(trackDesired(first, { thermostat1: null }, components, 8, 200))).toEqual(["thermostat2/p"]);
  });

  test("that removes a property forgets none whose name only begins alike", () => {
    const first = trackDesired({}, { a: 1, ab: 2 }, components, 7, 100);
    expect(Object.keys(trackDesired(first, { a: null }, components, 8, 200))).toEqual(["ab"]);
  });

  test("knows a component by its marker before anybody else does", () => {
    expect(Object.keys(trackDesired({}, { other: { __t: "c", p: 1 } }, components, 7, 100))).toEqual(["other/p"]);
    expect(Object.keys(trackDesired({}, { other: { __t: "x", p: 1 } }, components, 7, 100))).toEqual(["other"]);
  });

  test("makes pending again what was done", () => {
    const done = trackReported(trackDesired({}, { a: 1 }, components, 7, 100), { a: ack(200, 7) }, components, 200);
    expect(trackDesired(done, { a: 2 }, components, 8, 300)).toEqual({
      a: { state: "pending", version: 8, sinceMs: 300 },
    });
  });

  test("that says nothing changes nothing", () => {
    const tracks: PropertyTracks = { a: { state: "done", version: 1, sinceMs: 1 } };
    expect(trackDesired(tracks, {}, components, 8, 300)).toBe(tracks);
  });

  test("takes __proto__ for a name like any other", () => {
    const tracks = trackDesired({}, parse('{"__proto__":1}'), components, 7, 100);
    expect(Object.keys(tracks)).toEqual(["__proto__"]);
    expect(unacknowledged(tracks).map(({ path }) => path)).toEqual(["__proto__"]);
  });
});

describe("a delivery", () => {
  const tracks: PropertyTracks = {
    old: { state: "pending", version: 5, sinceMs: 100 },
    now: { state: "pending", version: 7, sinceMs: 100 },
    later: { state: "pending", version: 8, sinceMs: 100 },
    done: { state: "done", version: 5, sinceMs: 100 },
  };

  test("moves what was pending up to its version", () => {
    expect(trackDelivered(tracks, 7, 200)).toEqual({
      ...tracks,
      old: { state: "delivered", version: 5, sinceMs: 200 },
      now: { state: "delivered", version: 7, sinceMs: 200 },
    });
  });

  test("of what was delivered before changes nothing", () => {
    const delivered = trackDelivered(tracks, 7, 200);
    expect(trackDelivered(delivered, 7, 300)).toBe(delivered);
  });
});

describe("an acknowledgement", () => {
  const tracks = trackDesired({}, { a: 1, thermostat1: { p: 2 } }, components, 7, 100);
  const after = (...reports: readonly JsonObject[]): PropertyTracks =>
    reports.reduce((current, report, at) => trackReported(current, report, components, 200 + at * 100), tracks);

  test.each([
    [200, "done"],
    [203, "done"],
    [202, "in-progress"],
    [400, "failed"],
    [500, "failed"],
    [0, "failed"],
    [100, "failed"],
    [300, "failed"],
  ])("with status %d is %s", (ac, state) => {
    expect(after({ a: ack(ac, 7) })["a"]).toEqual({ state, version: 7, sinceMs: 200, ac, av: 7 });
  });

  test("of a component's property moves that property's track alone", () => {
    const tracked = after({ thermostat1: { __t: "c", p: ack(200, 7) } });
    expect(tracked["thermostat1/p"]?.state).toBe("done");
    expect(tracked["a"]).toBe(tracks["a"]);
  });

  test("goes from in progress to done", () => {
    expect(after({ a: ack(202, 7) }, { a: ack(200, 7) })["a"]).toMatchObject({ state: "done", sinceMs: 300 });
  });

  test("of a later version counts too: the leaf has seen this one", () => {
    expect(after({ a: ack(200, 9) })["a"]).toMatchObject({ state: "done", version: 7, av: 9 });
  });

  test("of an earlier version is superseded and never counts", () => {
    expect(after({ a: ack(200, 6) })).toBe(tracks);
  });

  test("203 with version 0 is the leaf's own value and answers nothing", () => {
    expect(after({ a: ack(203, 0) })).toBe(tracks);
  });

  test("of what nobody asked for is no track", () => {
    expect(after({ b: ack(200, 7), thermostat2: { __t: "c", p: ack(200, 7) } })).toBe(tracks);
  });

  test("that is repeated changes nothing", () => {
    const once = after({ a: ack(200, 7, "fine") });
    expect(trackReported(once, { a: ack(200, 7, "fine") }, components, 900)).toBe(once);
  });

  test("keeps the time of its state when only its text changes", () => {
    const twice = after({ a: ack(202, 7, "10 %") }, { a: ack(202, 7, "20 %") });
    expect(twice["a"]).toEqual({ state: "in-progress", version: 7, sinceMs: 200, ac: 202, av: 7, ad: "20 %" });
  });

  test("keeps of its description what people can read, and drops what is no text", () => {
    expect(after({ a: ack(200, 7, `${"x".repeat(199)}😀 and more`) })["a"]?.ad).toBe(`${"x".repeat(199)}\ufffd`);
    expect(after({ a: ack(200, 7, { not: "text" }) })["a"]).not.toHaveProperty("ad");
  });

  test("is no plain value", () => {
    expect(after({ a: 1 })).toBe(tracks);
  });
});

test("unacknowledged is what has no final answer", () => {
  const tracks: PropertyTracks = {
    a: { state: "pending", version: 1, sinceMs: 1 },
    b: { state: "delivered", version: 2, sinceMs: 2 },
    c: { state: "in-progress", version: 3, sinceMs: 3, ac: 202, av: 3 },
    d: { state: "done", version: 4, sinceMs: 4, ac: 200, av: 4 },
    e: { state: "failed", version: 5, sinceMs: 5, ac: 400, av: 5 },
  };
  expect(unacknowledged(tracks)).toEqual([
    { path: "a", state: "pending", version: 1, sinceMs: 1 },
    { path: "b", state: "delivered", version: 2, sinceMs: 2 },
    { path: "c", state: "in-progress", version: 3, sinceMs: 3, ac: 202, av: 3 },
  ]);
});

describe("a version that no hub has issued", () => {
  test.each([
    ["above the hub's", 9, 203, 0],
    ["the hub's own", 8, 200, 8],
    ["below the hub's", 3, 200, 3],
    ["none", 0, 200, 0],
    ["below none", -1, 203, 0],
    ["a fraction", 1.5, 203, 0],
  ])("%s (%d) goes up as ac %d, av %d", (_, av, expectedAc, expectedAv) => {
    const said = { a: ack(200, av, "x"), thermostat1: { __t: "c", p: ack(200, av) } };
    expect(clampAcknowledgements(said, components, 8)).toEqual({
      a: ack(expectedAc, expectedAv, "x"),
      thermostat1: { __t: "c", p: ack(expectedAc, expectedAv) },
    });
  });

  test("is looked for where properties are, not inside their values", () => {
    const section = { a: { inner: ack(200, 99) }, list: [ack(200, 99)], thermostat1: null, thermostat2: 5 };
    expect(clampAcknowledgements(section, components, 8)).toBe(section);
  });

  test("is not looked for in a component that looks like one", () => {
    const section = { thermostat1: { value: 1, ac: 230, av: 99 } };
    expect(clampAcknowledgements(section, components, 8)).toBe(section);
  });
});

test("after the twin was made anew every acknowledged version is 0", () => {
  const section = {
    a: ack(200, 7),
    b: ack(203, 0),
    c: ack(400, 0),
    d: 5,
    thermostat1: { __t: "c", p: ack(202, 3, "text") },
  };
  expect(resetAcknowledgements(section, components)).toEqual({
    a: ack(203, 0),
    b: ack(203, 0),
    c: ack(400, 0),
    d: 5,
    thermostat1: { __t: "c", p: ack(203, 0, "text") },
  });
});

describe("for any section", () => {
  test("no acknowledgement above the hub's version is left, values stay, and a second time nothing changes", () => {
    const withoutStatus = (value: Json): string =>
      JSON.stringify(value, (key, inner) => (key === "ac" || key === "av" ? undefined : inner));
    fc.assert(
      fc.property(leafReported, fc.nat(12), (section, version) => {
        const clamped = clampAcknowledgements(section, components, version);
        for (const av of versionsIn(clamped)) expect(av).toBeLessThanOrEqual(version);
        expect(withoutStatus(clamped)).toBe(withoutStatus(section));
        expect(clampAcknowledgements(clamped, components, version)).toBe(clamped);
        if (deepEqual(clamped, section)) expect(clamped).toBe(section);
        for (const av of versionsIn(resetAcknowledgements(section, components))) expect(av).toBe(0);
      }),
    );
  });

  test("an acknowledgement of each desired property at its version leaves none open", () => {
    fc.assert(
      fc.property(leafDesired, fc.integer({ min: 1, max: 9 }), (desired, version) => {
        const tracks = trackDelivered(trackDesired({}, desired, components, version, 1), version, 2);
        expect(unacknowledged(tracks)).toHaveLength(Object.keys(tracks).length);
        const answer = (value: Json): Json => ({ value, ac: 200, av: version });
        const reported = Object.fromEntries(
          Object.entries(desired).map(([name, value]): [string, Json] => [
            name,
            components.has(name)
              ? Object.fromEntries(
                  Object.entries(value ?? {}).map(([inner, each]) => [inner, inner === "__t" ? each : answer(each)]),
                )
              : answer(value),
          ]),
        );
        expect(unacknowledged(trackReported(tracks, reported, components, 3))).toEqual([]);
      }),
    );
  });
});

/** The versions that a section acknowledges, where properties are. */
function versionsIn(section: JsonObject): number[] {
  const values = Object.entries(section).flatMap(([name, value]) =>
    components.has(name) ? Object.values(value ?? {}) : [value],
  );
  return values.flatMap((value) => (isAcknowledgement(value) ? [value.av] : []));
}
