import { describe, expect, test } from "vitest";
import type { Json, JsonObject } from "../../../src/core/message.ts";
import {
  acceptPatch,
  adoptReported,
  applyDesiredPatch,
  catchUpPatch,
  HELD_BACK,
  heldBackPaths,
  judgePatch,
  judgeRead,
  owed,
  REFUSED_SILENTLY,
  RESPELLED,
  reconcileDesired,
  removedRecord,
  resubscribed,
  settleRead,
  withLostSession,
  withMissed,
  withoutComponents,
} from "../../../src/core/reconcile.ts";
import { recordOf } from "../../support/arbitraries.ts";

const NOW_MS = 1_000;

test.each([
  [undefined, 1, "gap"],
  [undefined, 5, "gap"],
  [4, 5, "applied"],
  [5, 5, "stale"],
  [6, 5, "stale"],
  [3, 5, "gap"],
])("knowing version %s, a patch of version %s is: %s", (known, version, expected) => {
  expect(judgePatch(known, version)).toBe(expected);
});

test.each([
  [undefined, undefined, "unknown"],
  [5, undefined, "unknown"],
  [undefined, 5, "first"],
  [5, 5, "same"],
  [5, 6, "advanced"],
  [5, 9, "advanced"],
  [5, 4, "recreated"],
  [5, 1, "recreated"],
])("knowing version %s, a read of version %s is: %s", (known, read, expected) => {
  expect(judgeRead(known, read)).toBe(expected);
});

describe("a desired patch", () => {
  test("that touches the leaf is stored, tracked and told with its version", () => {
    const record = recordOf({ desired: { a: 1, b: 2 }, desiredVersion: 4 });
    const { record: next, notice } = applyDesiredPatch(record, { a: 7, b: null }, 5, NOW_MS);
    expect(next).toEqual({
      ...record,
      desired: { a: 7 },
      desiredVersion: 5,
      tracks: { a: { state: "pending", version: 5, sinceMs: NOW_MS } },
    });
    expect(notice).toEqual({ patch: { a: 7, b: null }, version: 5 });
  });

  test("that writes the old value again is told all the same: somebody waits for an acknowledgement of this version", () => {
    const record = recordOf({ desired: { a: 1 }, desiredVersion: 4 });
    const { record: next, notice } = applyDesiredPatch(record, { a: 1 }, 5, NOW_MS);
    expect(next.desired).toBe(record.desired);
    expect(next.desiredVersion).toBe(5);
    expect(next.tracks["a"]).toMatchObject({ state: "pending", version: 5 });
    expect(notice).toEqual({ patch: { a: 1 }, version: 5 });
  });

  test("that does not touch the leaf leaves its record and its version alone", () => {
    const record = recordOf({ desired: { a: 1 }, desiredVersion: 4 });
    expect(applyDesiredPatch(record, {}, 5, NOW_MS)).toEqual({ record, notice: undefined });
  });
});

describe("a read of the version that is known", () => {
  const record = recordOf({ desired: { a: 1, at: "2026-01-02T03:04:05.000Z" }, desiredVersion: 4 });

  test("changes nothing when the values are the same, however edgeHub spells them", () => {
    const change = reconcileDesired(record, { a: 1, at: "2026-01-02T03:04:05Z" }, 9, "same", NOW_MS);
    expect(change.record).toBe(record);
    expect(change).toMatchObject({ notice: undefined, drop: false });
  });

  test("tells the difference when there is one all the same, and keeps the spelling of the rest", () => {
    const change = reconcileDesired(record, { a: 2, at: "2026-01-02T03:04:05Z" }, 9, "same", NOW_MS);
    expect(change.record.desired).toEqual({ a: 2, at: "2026-01-02T03:04:05.000Z" });
    expect(change).toMatchObject({
      record: { desiredVersion: 9 },
      notice: { patch: { a: 2 }, version: 9 },
      drop: false,
    });
  });

  test("gives a leaf that has no version yet its first", () => {
    expect(reconcileDesired(recordOf(), {}, 9, "same", NOW_MS).record.desiredVersion).toBe(9);
  });
});

describe("a read after a gap", () => {
  test("tells a leaf its whole section with the nulls of what went, markers first", () => {
    const desired = {
      a: 1,
      gone: 2,
      inner: { x: 1, y: 2 },
      thermostat1: { __t: "c", p: 1, q: 2 },
      thermostat2: { __t: "c", p: 1 },
    };
    const read = { a: 1, inner: { x: 3 }, thermostat1: { __t: "c", q: 3 }, added: [1] };
    const record = recordOf({ desired, desiredVersion: 4 });
    const change = reconcileDesired(record, read, 9, "advanced", NOW_MS);
    expect(change.record.desired).toEqual(read);
    expect(change.record.desiredVersion).toBe(9);
    expect(JSON.stringify(change.notice)).toBe(
      JSON.stringify({
        patch: {
          a: 1,
          inner: { x: 3, y: null },
          thermostat1: { __t: "c", q: 3, p: null },
          added: [1],
          gone: null,
          thermostat2: null,
        },
        version: 9,
      }),
    );
    expect(Object.keys(change.record.tracks)).toEqual(["a", "inner", "thermostat1/q", "added"]);
    expect(change.drop).toBe(false);
  });

  test("tells a leaf its section even when nothing seems to have changed: it may have, and back again", () => {
    const record = recordOf({ desired: { a: 1 }, desiredVersion: 4 });
    expect(reconcileDesired(record, { a: 1 }, 6, "advanced", NOW_MS)).toMatchObject({
      record: { desiredVersion: 6, tracks: { a: { state: "pending", version: 6 } } },
      notice: { patch: { a: 1 }, version: 6 },
    });
  });

  test("tells a leaf that its last desired property went", () => {
    const record = recordOf({ desired: { a: 1 }, desiredVersion: 4 });
    expect(reconcileDesired(record, {}, 6, "advanced", NOW_MS)).toMatchObject({
      record: { desired: {}, desiredVersion: 6, tracks: {} },
      notice: { patch: { a: null }, version: 6 },
    });
  });

  test("tells a leaf without desired properties nothing", () => {
    const record = recordOf({ desiredVersion: 4 });
    const change = reconcileDesired(record, {}, 6, "advanced", NOW_MS);
    expect(change.record).toBe(record);
    expect(change.notice).toBeUndefined();
  });

  test("tells a leaf that was never synchronised what there is", () => {
    expect(reconcileDesired(recordOf(), { a: 1 }, 6, "advanced", NOW_MS)).toMatchObject({
      record: { desired: { a: 1 }, desiredVersion: 6 },
      notice: { patch: { a: 1 }, version: 6 },
    });
    expect(reconcileDesired(recordOf(), {}, 6, "advanced", NOW_MS)).toMatchObject({
      record: { desiredVersion: 6 },
      notice: undefined,
    });
  });
});

describe("the first read", () => {
  test("gives each leaf its version, and tells what differs, components with their marker", () => {
    const record = recordOf({ desired: { thermostat1: { __t: "c", p: 1, q: 2 }, old: { x: 1 } } });
    const read = { thermostat1: { __t: "c", p: 1, q: 3 }, old: { x: 2 }, added: 1 };
    const { record: next, notice, drop } = reconcileDesired(record, read, 6, "first", NOW_MS);
    expect(next).toMatchObject({ desired: read, desiredVersion: 6 });
    expect(JSON.stringify(notice)).toBe(
      '{"patch":{"thermostat1":{"__t":"c","q":3},"old":{"x":2},"added":1},"version":6}',
    );
    expect(drop).toBe(false);
  });

  test("tells a leaf nothing that has it all", () => {
    expect(reconcileDesired(recordOf({ desired: { a: 1 } }), { a: 1 }, 6, "first", NOW_MS)).toMatchObject({
      record: { desired: { a: 1 }, desiredVersion: 6, tracks: {} },
      notice: undefined,
    });
  });

  test("of a gateway that lost the module's version, but not the leaf's, is a gap for the leaf", () => {
    const record = recordOf({ desired: { a: 1 }, desiredVersion: 4 });
    expect(reconcileDesired(record, { a: 1 }, 6, "first", NOW_MS).notice).toEqual({ patch: { a: 1 }, version: 6 });
    expect(reconcileDesired(record, { a: 1 }, 4, "first", NOW_MS)).toEqual({ record, notice: undefined, drop: false });
  });
});

describe("a module twin that was made anew", () => {
  const record = recordOf({
    desired: { a: 1, gone: 2 },
    desiredVersion: 57,
    reported: { a: { value: 1, ac: 200, av: 57 }, thermostat1: { __t: "c", p: { value: 1, ac: 202, av: 50 } }, s: "x" },
    reportedVersion: 12,
    accepted: { leaf1: { __t: "c", s: "x" } },
    confirmedVersion: 12,
    tracks: { gone: { state: "done", version: 57, sinceMs: 1, ac: 200, av: 57 } },
    missed: { from: { old: 1 }, touched: { a: 1, old: null } },
  });

  test("is taken whole; acknowledgements lose their version, tracks wait again, the hub has nothing", () => {
    const { record: next, notice, drop } = reconcileDesired(record, { a: 5 }, 2, "recreated", NOW_MS);
    expect(next).toEqual({
      ...record,
      desired: { a: 5 },
      desiredVersion: 2,
      reported: { a: { value: 1, ac: 203, av: 0 }, thermostat1: { __t: "c", p: { value: 1, ac: 203, av: 0 } }, s: "x" },
      tracks: { a: { state: "pending", version: 2, sinceMs: NOW_MS } },
      accepted: {},
      confirmedVersion: 0,
    });
    expect(notice).toEqual({ patch: { a: 5, gone: null }, version: 2 });
    expect(drop).toBe(true);
  });

  test("drops a leaf without desired properties too: it would take every new version for an old one", () => {
    const change = reconcileDesired(recordOf({ desiredVersion: 57 }), {}, 2, "recreated", NOW_MS);
    expect(change).toMatchObject({ record: { desiredVersion: 2 }, notice: undefined, drop: true });
  });

  test("leaves a leaf alone that was never told anything", () => {
    expect(reconcileDesired(recordOf(), {}, 2, "recreated", NOW_MS)).toMatchObject({ notice: undefined, drop: false });
  });

  test("shows itself by a leaf's higher version although the gateway forgot the module's", () => {
    expect(reconcileDesired(record, { a: 1 }, 2, "first", NOW_MS)).toMatchObject({
      record: { desiredVersion: 2, confirmedVersion: 0 },
      drop: true,
    });
  });
});

describe("what is owed", () => {
  const view: JsonObject = { leaf1: { __t: "c", a: 1, b: { x: 1 } }, leaf1__thermostat1: { __t: "c", p: 5 } };

  test("is everything for a hub that has nothing", () => {
    expect(owed(view, {}, {})).toEqual(view);
  });

  test("is nothing for a hub that has it all, however it spells it", () => {
    const spelled = (at: string): JsonObject => ({ leaf1: { __t: "c", at } });
    expect(owed(view, view, {})).toEqual({});
    expect(owed(spelled("2026-01-02T03:04:05.000Z"), spelled("2026-01-02T03:04:05Z"), {})).toEqual({});
  });

  test("is the difference, each component with its marker in front", () => {
    const accepted = { leaf1: { __t: "c", a: 1, b: { x: 1, y: 2 }, gone: 3 }, leaf1__thermostat1: { __t: "c", p: 4 } };
    expect(JSON.stringify(owed(view, accepted, {}))).toBe(
      '{"leaf1":{"__t":"c","b":{"y":null},"gone":null},"leaf1__thermostat1":{"__t":"c","p":5}}',
    );
  });

  test("is the removal of a component that the leaf has no more", () => {
    expect(owed({}, view, {})).toEqual({ leaf1: null, leaf1__thermostat1: null });
  });

  test("is what it is where a component has no marker, or is none", () => {
    expect(owed({ leaf1: { a: 1 }, text: "x" }, { leaf1: {} }, {})).toEqual({ leaf1: { a: 1 }, text: "x" });
  });

  test("is never what the hub refuses for good", () => {
    const refused = { "leaf1/a": "too large", leaf1__thermostat1: "why ever" };
    expect(owed(view, {}, refused)).toEqual({ leaf1: { __t: "c", b: { x: 1 } } });
    expect(owed(view, {}, { "leaf1/a": "", "leaf1/b": "" })).toEqual({
      leaf1__thermostat1: view["leaf1__thermostat1"],
    });
    expect(owed(view, { ...view, leaf1: { __t: "c", b: { x: 1 } } }, { "leaf1/a": "" })).toEqual({});
  });

  test("is a component without properties too, whatever else is refused", () => {
    expect(owed({ leaf1: { __t: "c" } }, {}, { "leaf1/a": "" })).toEqual({ leaf1: { __t: "c" } });
  });
});

describe("what the hub has", () => {
  const slice: JsonObject = { leaf1: { __t: "c", a: 1 } };

  test("grows with each patch that edgeHub takes", () => {
    const record = recordOf({ accepted: { leaf1: { __t: "c", a: 1, b: 2 } } });
    expect(acceptPatch(record, { leaf1: { __t: "c", b: null, c: 3 } }).accepted).toEqual({
      leaf1: { __t: "c", a: 1, c: 3 },
    });
    expect(acceptPatch(record, { leaf1: { __t: "c", a: 1 } })).toBe(record);
  });

  test("is what a read shows", () => {
    const record = recordOf({ accepted: { leaf1: { b: 2 } }, reportedVersion: 7, confirmedVersion: 3 });
    expect(settleRead(record, slice, slice, false)).toEqual({ ...record, accepted: slice });
  });

  test("is confirmed only by a read from the cloud that shows it all", () => {
    const record = recordOf({ accepted: slice, reportedVersion: 7, confirmedVersion: 3 });
    const view: Json = { leaf1: { __t: "c", a: 1, b: 2 } };
    expect(settleRead(record, slice, slice, true)).toEqual({ ...record, confirmedVersion: 7 });
    expect(settleRead(record, slice, view, true)).toBe(record);
    expect(settleRead(record, slice, slice, false)).toBe(record);
    const confirmed = recordOf({ accepted: slice, reportedVersion: 7, confirmedVersion: 7 });
    expect(settleRead(confirmed, { ...slice }, slice, true)).toBe(confirmed);
  });

  test("is taken over by an empty cache", () => {
    const record = recordOf();
    expect(adoptReported(record, { a: 1 })).toEqual({ ...record, reported: { a: 1 }, reportedVersion: 1 });
    expect(adoptReported(record, {})).toBe(record);
  });
});

describe("what a leaf has missed", () => {
  test("is nothing without a notice", () => {
    const record = recordOf({ desired: { a: 1 } });
    expect(withMissed(recordOf(), record, undefined)).toBe(record);
    expect(catchUpPatch(record)).toEqual({});
  });

  test("is told as one patch that names what was written, also back to its old value", () => {
    const before = recordOf({ desired: { a: 1, b: 2 }, desiredVersion: 4 });
    const first = applyDesiredPatch(before, { a: 2 }, 5, NOW_MS);
    const noted = withMissed(before, first.record, first.notice);
    const second = applyDesiredPatch(noted, { a: 1, b: null }, 6, NOW_MS);
    const both = withMissed(noted, second.record, second.notice);
    expect(both.missed?.from).toEqual(before.desired);
    expect(catchUpPatch(both)).toEqual({ a: 1, b: null });
  });

  test("loses the old keys of an object that was removed and made again", () => {
    const before = recordOf({ desired: { a: { old: 1 } }, desiredVersion: 4 });
    const removed = applyDesiredPatch(before, { a: null }, 5, NOW_MS);
    const noted = withMissed(before, removed.record, removed.notice);
    const made = applyDesiredPatch(noted, { a: { now: 2 } }, 6, NOW_MS);
    expect(catchUpPatch(withMissed(noted, made.record, made.notice))).toEqual({ a: { old: null, now: 2 } });
  });

  test("outlives the module twin: the leaf has still not heard of it", () => {
    const before = recordOf({ desired: {}, desiredVersion: 57, missed: { from: { a: 1 }, touched: { a: null } } });
    const { record, notice } = reconcileDesired(before, {}, 2, "recreated", NOW_MS);
    expect(catchUpPatch(withMissed(before, record, notice))).toEqual({ a: null });
  });
});

describe("a property that the cloud refuses without a word", () => {
  const view = { leaf1: { __t: "c", bad: 1, good: 2 } };

  test.each([HELD_BACK, REFUSED_SILENTLY])("is owed as a null once (%s)", (reason) => {
    const quarantined = { "leaf1/bad": reason };
    expect(heldBackPaths(quarantined)).toEqual(["leaf1/bad"]);
    expect(owed(view, view, quarantined)).toEqual({ leaf1: { __t: "c", bad: null } });
    expect(owed(view, { leaf1: { __t: "c", good: 2 } }, quarantined)).toEqual({});
  });

  test("is not owed where the hub has it in another spelling, and is where it has nothing", () => {
    const quarantined = { "leaf1/bad": RESPELLED };
    expect(heldBackPaths(quarantined)).toEqual([]);
    expect(owed(view, { leaf1: { __t: "c", bad: "one", good: 2 } }, quarantined)).toEqual({});
    expect(owed(view, { leaf1: { __t: "c", good: 2 } }, quarantined)).toEqual({ leaf1: { __t: "c", bad: 1 } });
    expect(owed(view, {}, quarantined)).toEqual(view);
  });

  test("is no other one that edgeHub itself refuses: that was never taken", () => {
    const quarantined = { "leaf1/bad": "400" };
    expect(heldBackPaths(quarantined)).toEqual([]);
    expect(owed(view, { leaf1: { __t: "c", good: 2 } }, quarantined)).toEqual({});
  });
});

describe("a leaf that is removed", () => {
  test("keeps its session, and what it may have seen of its desired properties", () => {
    const subscriptions = [{ filter: "$iothub/methods/POST/#", qos: 0 as const }];
    const record = recordOf({ desired: { a: 1 }, reported: { b: 2 }, reportedVersion: 3, subscriptions });
    const removed = removedRecord(record);
    expect(removed).toMatchObject({ removed: true, desired: {}, reported: {}, reportedVersion: 0, subscriptions });
    expect(catchUpPatch(removed)).toEqual({ a: null });
    const noted = removedRecord({ ...record, missed: { from: { c: 1 }, touched: { c: 2 } } });
    expect(catchUpPatch(noted)).toEqual({ c: null });
  });
});

describe("components that a new model no longer has", () => {
  test("go with what was reported and tracked of them, and nothing else goes", () => {
    const track = { state: "pending", version: 1, sinceMs: 0 } as const;
    const record = recordOf({
      reported: { mine: 1, part: { __t: "c", a: 1 } },
      reportedVersion: 4,
      tracks: { "part/a": track, partial: track },
    });
    expect(withoutComponents(record, ["part"])).toEqual({
      ...record,
      reported: { mine: 1 },
      reportedVersion: 5,
      tracks: { partial: track },
    });
    expect(withoutComponents(record, ["other"])).toBe(record);
  });
});

test("subscriptions follow the connection, but for those that it does not know of", () => {
  const [a, b, c] = ["a", "b", "c"].map((filter) => ({ filter, qos: 0 as const }));
  if (a === undefined || b === undefined || c === undefined) throw new Error("three filters");
  expect(resubscribed([a], [a], [a, b])).toEqual([a, b]);
  expect(resubscribed([a, b], [a, b], [b])).toEqual([b]);
  expect(resubscribed([a], [a], [{ ...a, qos: 1 }])).toEqual([{ ...a, qos: 1 }]);
  expect(resubscribed([a, b, c], [a], [a, b])).toEqual([c, a, b]);
  expect(resubscribed([a, c], [a], [])).toEqual([c]);
});

test("a lost session has what an SDK subscribes to, beside what the leaf has subscribed to since, each once", () => {
  const since = [
    { filter: "devices/leaf1/messages/devicebound/#", qos: 1 },
    { filter: "answers/#", qos: 1 },
  ] as const;
  const record = recordOf({ subscriptions: since });
  const session = [
    { filter: "answers/#", qos: 0 },
    { filter: "desired/#", qos: 0 },
  ] as const;
  const taken = withLostSession(record, session);
  expect(taken).toEqual({ ...record, subscriptions: [...since, session[1]] });
  expect(withLostSession(taken, session)).toBe(taken);
});
