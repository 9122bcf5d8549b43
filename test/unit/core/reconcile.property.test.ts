import fc from "fast-check";
import { expect, test } from "vitest";
import type { LeafRecord } from "../../../src/core/leaf.ts";
import { applyPatch, deepEqual, diff, isEmpty, isJsonObject } from "../../../src/core/merge-patch.ts";
import type { Json, JsonObject } from "../../../src/core/message.ts";
import { isAcknowledgement, unacknowledged } from "../../../src/core/property-ack.ts";
import {
  acceptPatch,
  applyDesiredPatch,
  catchUpPatch,
  type DesiredChange,
  judgePatch,
  judgeRead,
  owed,
  reconcileDesired,
  settleRead,
  withMissed,
  withShown,
} from "../../../src/core/reconcile.ts";
import { sameValue } from "../../../src/core/same-value.ts";
import { COMPONENTS, documents, leafDesired, leafReported, patches, recordOf } from "../../support/arbitraries.ts";

const versions = fc.integer({ min: 1, max: 12 });
const judgements = fc.constantFrom<"first" | "same" | "advanced" | "recreated">(
  "first",
  "same",
  "advanced",
  "recreated",
);
const records = fc
  .record({
    desired: leafDesired,
    desiredVersion: fc.nat(12),
    reported: leafReported,
    reportedVersion: fc.nat(5),
    accepted: documents,
  })
  .map((some) => recordOf(some));

test("after a read the cache agrees with the hub, from any pair of states, and a second read changes nothing", () => {
  fc.assert(
    fc.property(records, leafDesired, versions, judgements, (record, desired, version, judgement) => {
      const { record: next } = reconcileDesired(record, desired, version, judgement, 1);
      expect(sameValue(next.desired, desired)).toBe(true);
      expect(next.desiredVersion).toBeLessThanOrEqual(version);
      const again = reconcileDesired(next, desired, version, "same", 2);
      expect(again.record).toBe(next);
      expect(again).toMatchObject({ notice: undefined, drop: false });
    }),
    { numRuns: 1_000 },
  );
});

test("a leaf that applies the notices has what the hub has", () => {
  fc.assert(
    fc.property(records, leafDesired, versions, judgements, (record, desired, version, judgement) => {
      const { record: next, notice } = reconcileDesired(record, desired, version, judgement, 1);
      const held = notice === undefined ? record.desired : applyPatch(record.desired, notice.patch);
      expect(sameValue(held, next.desired)).toBe(true);
      if (notice !== undefined) expect(notice.version).toBe(next.desiredVersion);
      for (const [name, change] of Object.entries(notice?.patch ?? {})) {
        if (isJsonObject(change) && COMPONENTS.some((component) => component === name)) {
          expect(Object.keys(change)[0]).toBe("__t");
        }
      }
    }),
    { numRuns: 500 },
  );
});

test("in another life no version of the former one is left", () => {
  fc.assert(
    fc.property(records, leafDesired, versions, (record, desired, version) => {
      const { record: next } = reconcileDesired(record, desired, version, "recreated", 1);
      expect(next.desiredVersion).toBe(version);
      for (const track of Object.values(next.tracks)) expect(track).toMatchObject({ state: "pending", version });
      const values = Object.entries(next.reported).flatMap(([name, value]): Json[] =>
        COMPONENTS.some((component) => component === name) && isJsonObject(value) ? Object.values(value) : [value],
      );
      for (const value of values) if (isAcknowledgement(value)) expect(value.av).toBe(0);
    }),
  );
});

test("what is owed, once the hub has it, makes hub and leaf agree, and nothing is owed any more", () => {
  fc.assert(
    fc.property(documents, documents, documents, fc.boolean(), (view, hub, accepted, fromCloud) => {
      const record = recordOf({ accepted, reportedVersion: 3 });
      const settled = settleRead(record, hub, view, fromCloud);
      const patch = owed(view, settled.accepted, settled.quarantined);
      const taken = acceptPatch(settled, patch);
      expect(sameValue(taken.accepted, applyPatch(hub, patch))).toBe(true);
      expect(sameValue(taken.accepted, view)).toBe(true);
      expect(owed(view, taken.accepted, taken.quarantined)).toEqual({});
      expect(settled.confirmedVersion === 3).toBe(fromCloud && sameValue(hub, view));
    }),
    { numRuns: 1_000 },
  );
});

test("what is quarantined is never owed, and all else still is", () => {
  fc.assert(
    fc.property(documents, documents, fc.nat(), (view, accepted, seed) => {
      const all = owed(view, accepted, {});
      const paths = Object.entries(all).flatMap(([component, change]) =>
        isJsonObject(change) ? Object.keys(change).map((property) => `${component}/${property}`) : [component],
      );
      const refused = paths.filter((_, at) => (seed >> (at % 16)) % 2 === 1);
      const left = owed(view, accepted, Object.fromEntries(refused.map((path) => [path, "refused"])));
      const leftPaths = Object.entries(left).flatMap(([component, change]) =>
        isJsonObject(change) ? Object.keys(change).map((property) => `${component}/${property}`) : [component],
      );
      expect(leftPaths.toSorted()).toEqual(paths.filter((path) => !refused.includes(path)).toSorted());
    }),
  );
});

test("a leaf that comes back after any patches is brought to what is desired, and hears of each property written", () => {
  fc.assert(
    fc.property(documents, fc.array(patches, { minLength: 1, maxLength: 5 }), (seen, missed) => {
      let record = recordOf({ desired: seen, desiredVersion: 1 });
      for (const [at, patch] of missed.entries()) {
        const { record: next, notice } = applyDesiredPatch(record, patch, at + 2, 1);
        record = withMissed(record, next, notice);
      }
      const told = catchUpPatch(record);
      expect(deepEqual(applyPatch(seen, told), record.desired)).toBe(true);
      for (const patch of missed) for (const name of Object.keys(patch)) expect(Object.hasOwn(told, name)).toBe(true);
    }),
    { numRuns: 500 },
  );
});

/** A leaf's connection, from the gateway's side: what is written to it arrives until it is dead, and nobody tells the gateway that it is. */
type Contact =
  | { readonly kind: "write"; readonly patch: JsonObject }
  | { readonly kind: "connect" | "die" | "disconnect" | "heard" | "killed" };

const contacts: fc.Arbitrary<Contact> = fc.oneof(
  fc.record({ kind: fc.constant("write" as const), patch: patches }),
  fc.record({ kind: fc.constantFrom("connect", "die", "disconnect", "heard", "killed") }),
);

test("however little may be noted, a leaf is brought to what is desired over dead connections and a killed gateway", () => {
  fc.assert(
    fc.property(documents, fc.array(contacts, { maxLength: 30 }), fc.constantFrom(0, 200), (first, steps, maxBytes) => {
      let held = first;
      let record = recordOf({ desired: first, desiredVersion: 1 });
      let disk = record;
      const connection = { line: "none" as "none" | "up" | "dead" };
      const tell = (patch: JsonObject): void => {
        if (connection.line === "none" || isEmpty(patch)) return;
        record = withShown(record);
        if (connection.line === "up") held = applyPatch(held, patch);
      };
      const connect = (): void => {
        connection.line = "up";
        tell(catchUpPatch(record));
      };
      for (const step of steps) {
        if (step.kind === "write") {
          const { record: next, notice } = applyDesiredPatch(record, step.patch, record.desiredVersion + 1, 1);
          record = disk = withMissed(record, next, notice, maxBytes);
          if (notice !== undefined) tell(notice.patch);
        } else if (step.kind === "connect") connect();
        else if (step.kind === "die" && connection.line === "up") connection.line = "dead";
        else if (step.kind === "heard" && connection.line === "up") record = { ...record, missed: undefined };
        else if (step.kind === "killed" || step.kind === "disconnect") connection.line = "none";
        if (step.kind === "killed") record = withShown(disk);
      }
      connect();
      expect(deepEqual(held, record.desired)).toBe(true);
    }),
    { numRuns: 5_000 },
  );
});

/** The module's desired section as one leaf sees it, in one or more lives, and what the gateway and the leaf make of it. */
type Step =
  | { readonly kind: "write"; readonly desired: JsonObject; readonly notified: boolean }
  | { readonly kind: "elsewhere"; readonly notified: boolean }
  | { readonly kind: "read" }
  | { readonly kind: "recreate"; readonly version: number };

const steps: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ kind: fc.constant("write" as const), desired: leafDesired, notified: fc.boolean() }),
  fc.record({ kind: fc.constant("elsewhere" as const), notified: fc.boolean() }),
  fc.constant<Step>({ kind: "read" }),
  fc.record({ kind: fc.constant("recreate" as const), version: fc.constantFrom(1, 2) }),
);

interface World {
  readonly hub: { readonly desired: JsonObject; readonly version: number; readonly life: number };
  readonly known: { readonly version: number; readonly life: number } | undefined;
  readonly record: LeafRecord;
  readonly leaf: { readonly desired: JsonObject; readonly seen: readonly { version: number; life: number }[] };
}

function tell(world: World, { record, notice, drop }: DesiredChange): World {
  const { leaf, hub } = world;
  if (notice === undefined && !drop) return { ...world, record };
  // A leaf that was dropped reads its twin again, from the cache.
  const desired = drop || notice === undefined ? record.desired : applyPatch(leaf.desired, notice.patch);
  return {
    ...world,
    record,
    leaf: { desired, seen: [...leaf.seen, { version: record.desiredVersion, life: hub.life }] },
  };
}

function read(world: World): World {
  const { hub, known, record } = world;
  const judgement = judgeRead(known?.version, hub.version);
  if (judgement === "unknown") return world;
  const next = { ...world, known: { version: hub.version, life: hub.life } };
  return tell(next, reconcileDesired(record, hub.desired, hub.version, judgement, 1));
}

function notified(world: World, patch: JsonObject): World {
  const { hub, known, record } = world;
  switch (judgePatch(known?.version, hub.version)) {
    case "stale":
      return world;
    case "gap":
      return read(world);
    case "applied": {
      const next = { ...world, known: { version: hub.version, life: hub.life } };
      return tell(next, { ...applyDesiredPatch(record, patch, hub.version, 1), drop: false });
    }
  }
}

function step(world: World, action: Step): World {
  const { hub } = world;
  switch (action.kind) {
    case "read":
      return read(world);
    case "recreate":
      // Seen before anything else is written: a version that was passed again hides a new life from everybody.
      return read({
        ...world,
        hub: { desired: {}, version: Math.min(action.version, hub.version), life: hub.life + 1 },
      });
    case "elsewhere": {
      const next = { ...world, hub: { ...hub, version: hub.version + 1 } };
      return action.notified ? notified(next, {}) : next;
    }
    case "write": {
      const patch = diff(hub.desired, action.desired);
      const next = { ...world, hub: { ...hub, desired: action.desired, version: hub.version + 1 } };
      return action.notified ? notified(next, patch) : next;
    }
  }
}

test("through any history a leaf ends with the hub's desired state, and never sees an older version in one life", () => {
  fc.assert(
    fc.property(fc.array(steps, { maxLength: 15 }), (history) => {
      const start: World = {
        hub: { desired: {}, version: 1, life: 0 },
        known: undefined,
        record: recordOf(),
        leaf: { desired: {}, seen: [] },
      };
      const end = read(history.reduce(step, start));
      expect(sameValue(end.leaf.desired, end.hub.desired)).toBe(true);
      expect(deepEqual(end.leaf.desired, end.record.desired)).toBe(true);
      for (const [at, { version, life }] of end.leaf.seen.entries()) {
        const before = end.leaf.seen[at - 1];
        if (before?.life === life) expect(version).toBeGreaterThanOrEqual(before.version);
      }
      for (const track of unacknowledged(end.record.tracks)) expect(track.version).toBeLessThanOrEqual(end.hub.version);
      expect(Object.keys(end.record.tracks).length > 0).toBe(!isEmpty(withoutMarkers(end.hub.desired)));
    }),
    { numRuns: 1_000 },
  );
});

/** Properties only: a component without any is none to track. */
function withoutMarkers(desired: JsonObject): JsonObject {
  return Object.fromEntries(
    Object.entries(desired).filter(([, value]) => !isJsonObject(value) || Object.keys(value).join() !== "__t"),
  );
}
