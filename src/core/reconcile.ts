/**
 * Design section 6 as functions on one leaf's record: what a desired patch, a twin read and an answer of edgeHub mean for it.
 * Invariants: within one life of the module twin a leaf's desired version only grows; only the leaf changes `reported` (but for
 * acknowledgements of a life that is over); only the hub changes `desired`.
 */
import type { LeafRecord } from "./leaf.ts";
import { applyPatch, diff, isEmpty, isJsonObject } from "./merge-patch.ts";
import type { Json, JsonObject } from "./message.ts";
import { resetAcknowledgements, resetTracks, trackDesired } from "./property-ack.ts";
import { sameValue } from "./same-value.ts";

export type PatchJudgement = "applied" | "stale" | "gap";
export type ReadJudgement = "unknown" | "first" | "same" | "advanced" | "recreated";

/** A patch applies only right after the version we know: anything else means that one was missed. */
export function judgePatch(known: number | undefined, version: number): PatchJudgement {
  if (known === undefined) return "gap";
  if (version === known + 1) return "applied";
  return version <= known ? "stale" : "gap";
}

/** A read without version says that edgeHub knows nothing; a lower one, that the module twin was made anew. */
export function judgeRead(known: number | undefined, read: number | undefined): ReadJudgement {
  if (read === undefined) return "unknown";
  if (known === undefined) return "first";
  if (read === known) return "same";
  return read > known ? "advanced" : "recreated";
}

/** What a leaf is to hear. */
export interface DesiredNotice {
  readonly patch: JsonObject;
  readonly version: number;
}

export interface DesiredChange {
  readonly record: LeafRecord;
  readonly notice: DesiredNotice | undefined;
  /** The leaf's connection is to be closed, so that it reads its twin again. */
  readonly drop: boolean;
}

function componentsOf(record: LeafRecord): ReadonlySet<string> {
  return new Set(Object.keys(record.components));
}

/** One desired patch (leaf words; empty: it does not touch this leaf) whose version follows the known one. */
export function applyDesiredPatch(
  record: LeafRecord,
  patch: JsonObject,
  version: number,
  nowMs: number,
): Pick<DesiredChange, "record" | "notice"> {
  if (isEmpty(patch)) return { record, notice: undefined };
  const desired = applyPatch(record.desired, patch);
  const tracks = trackDesired(record.tracks, patch, componentsOf(record), version, nowMs);
  return { record: { ...record, desired, desiredVersion: version, tracks }, notice: { patch, version } };
}

/** A read of the module twin, projected on this leaf (`desired` in leaf words). */
export function reconcileDesired(
  record: LeafRecord,
  desired: JsonObject,
  version: number,
  judgement: Exclude<ReadJudgement, "unknown">,
  nowMs: number,
): DesiredChange {
  const changes = diff(record.desired, desired, sameValue);
  switch (judgement) {
    case "same":
      return isEmpty(changes)
        ? { record, notice: undefined, drop: false }
        : { ...changed(record, desired, changes, version, nowMs), drop: false };
    case "first":
      return firstSight(record, desired, changes, version, nowMs);
    case "advanced":
      return afterGap(record, desired, changes, version, nowMs);
    case "recreated":
      return recreated(record, desired, version, nowMs);
  }
}

function changed(
  record: LeafRecord,
  desired: JsonObject,
  patch: JsonObject,
  version: number,
  nowMs: number,
): Pick<DesiredChange, "record" | "notice"> {
  const tracks = trackDesired(record.tracks, patch, componentsOf(record), version, nowMs);
  return { record: { ...record, desired, desiredVersion: version, tracks }, notice: { patch, version } };
}

function firstSight(
  record: LeafRecord,
  desired: JsonObject,
  changes: JsonObject,
  version: number,
  nowMs: number,
): DesiredChange {
  if (isEmpty(changes)) return { record: { ...record, desiredVersion: version }, notice: undefined, drop: false };
  return { ...changed(record, desired, changes, version, nowMs), drop: false };
}

/**
 * Versions were missed, and nobody can tell which property was written in between, possibly back to its old value: a leaf with
 * desired properties gets the whole section once and acknowledges; otherwise a back end waits for ever for a change 1 -> 2 -> 1.
 */
function afterGap(
  record: LeafRecord,
  desired: JsonObject,
  changes: JsonObject,
  version: number,
  nowMs: number,
): DesiredChange {
  if (isEmpty(desired) && isEmpty(changes)) return { record, notice: undefined, drop: false };
  const gone = Object.entries(changes).filter(([, value]) => value === null);
  const patch = mergeWithRemovals(changes, { ...desired, ...Object.fromEntries(gone) });
  return { ...changed(record, desired, patch, version, nowMs), drop: false };
}

/** The whole section, with the nulls that the difference has at any depth. */
function mergeWithRemovals(changes: JsonObject, whole: JsonObject): JsonObject {
  return Object.fromEntries(
    Object.entries(whole).map(([key, value]): [string, Json] => {
      const change = Object.hasOwn(changes, key) ? changes[key] : undefined;
      if (!isJsonObject(value) || !isJsonObject(change)) return [key, value];
      const gone = Object.entries(change).filter(([, inner]) => inner === null);
      return [key, mergeWithRemovals(change, { ...value, ...Object.fromEntries(gone) })];
    }),
  );
}

/** Another life: the new twin is taken whole; what the leaf acknowledged before answered versions that no longer exist. */
function recreated(record: LeafRecord, desired: JsonObject, version: number, nowMs: number): DesiredChange {
  const isAffected = !isEmpty(desired) || !isEmpty(record.desired) || record.desiredVersion > version;
  const reported = resetAcknowledgements(record.reported, componentsOf(record));
  const tracks = resetTracks(trackDesired({}, desired, componentsOf(record), version, nowMs), version, nowMs);
  const next = {
    ...record,
    desired,
    desiredVersion: version,
    reported,
    tracks,
    missed: undefined,
    accepted: {},
    confirmedVersion: 0,
  };
  return { record: next, notice: undefined, drop: isAffected };
}

/** What the hub lacks of `view` (the module's reported section for this leaf), without what it refuses for good. */
export function owed(
  view: JsonObject,
  accepted: JsonObject,
  quarantined: Readonly<Record<string, string>>,
): JsonObject {
  const patch = diff(accepted, view, sameValue);
  if (isEmpty(quarantined)) return patch;
  const kept: [string, Json][] = [];
  for (const [component, value] of Object.entries(patch)) {
    if (Object.hasOwn(quarantined, component)) continue;
    if (!isJsonObject(value)) {
      kept.push([component, value]);
      continue;
    }
    const properties = Object.entries(value).filter(([name]) => !Object.hasOwn(quarantined, `${component}/${name}`));
    if (properties.some(([name]) => name !== "__t")) kept.push([component, Object.fromEntries(properties)]);
  }
  return Object.fromEntries(kept);
}

/** edgeHub has taken this patch (module words) of the leaf's components. */
export function acceptPatch(record: LeafRecord, patch: JsonObject): LeafRecord {
  return { ...record, accepted: applyPatch(record.accepted, patch) };
}

/**
 * A read shows `slice` of the leaf's components: that is what the hub has. Only a read from the cloud confirms, since edgeHub's
 * own answers have our unsent patches merged in.
 */
export function settleRead(record: LeafRecord, slice: JsonObject, view: JsonObject, fromCloud: boolean): LeafRecord {
  const isConfirmed = fromCloud && isEmpty(diff(slice, view, sameValue));
  const confirmedVersion = isConfirmed ? record.reportedVersion : record.confirmedVersion;
  if (isEmpty(diff(record.accepted, slice)) && confirmedVersion === record.confirmedVersion) return record;
  return { ...record, accepted: slice, confirmedVersion };
}

/** An empty cache (a new disk) takes what the hub has: the leaf loses nothing that it had told the cloud. */
export function adoptReported(record: LeafRecord, reported: JsonObject): LeafRecord {
  return { ...record, reported, reportedVersion: record.reportedVersion + 1 };
}
