/**
 * Design section 6 as functions on one leaf's record: what a desired patch, a twin read and an answer of edgeHub mean for it.
 * Invariants: within one life of the module twin a leaf's desired version only grows; only the leaf changes `reported` (but for
 * acknowledgements of a life that is over); only the hub changes `desired`.
 */
import type { LeafRecord } from "./leaf.ts";
import {
  applyPatch,
  deepEqual,
  diff,
  isEmpty,
  isJsonObject,
  jsonBytes,
  mergePatches,
  ownValue,
} from "./merge-patch.ts";
import type { Json, JsonObject, Subscription } from "./message.ts";
import { formatModulePath, parseModulePath, valueAt, withPaths } from "./module-path.ts";
import { resetAcknowledgements, trackDesired } from "./property-ack.ts";
import { sameValue } from "./same-value.ts";

/** Marks a component in a twin [PnP conventions]. */
const MARKER = "__t";

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

/**
 * A read of the module twin, projected on this leaf (`desired` in leaf words). A record from a higher version than the read belongs
 * to a life that is over, whatever the module's own judgement was.
 */
export function reconcileDesired(
  record: LeafRecord,
  desired: JsonObject,
  version: number,
  judgement: Exclude<ReadJudgement, "unknown">,
  nowMs: number,
): DesiredChange {
  if (judgement === "recreated" || record.desiredVersion > version) return recreated(record, desired, version, nowMs);
  // What edgeHub only spells otherwise in a read is no change, and stays as the notification had it.
  const changes = diff(record.desired, desired, sameValue);
  const whole = applyPatch(record.desired, changes);
  const isFirstSight = record.desiredVersion === 0;
  if (!isFirstSight && hasGap(record, version, judgement)) {
    return { ...applyDesiredPatch(record, mergePatches(whole, changes), version, nowMs), drop: false };
  }
  if (!isEmpty(changes)) return { ...applyDesiredPatch(record, marked(changes, whole), version, nowMs), drop: false };
  return { record: isFirstSight ? { ...record, desiredVersion: version } : record, notice: undefined, drop: false };
}

/**
 * Versions were missed, and nobody can tell which property was written in between, possibly back to its old value: a leaf with
 * desired properties gets the whole section once and acknowledges; otherwise a back end waits for ever for a change 1 -> 2 -> 1.
 * Who forgot what the module's version was ("first") has a gap wherever the leaf's own is lower.
 */
function hasGap(record: LeafRecord, version: number, judgement: ReadJudgement): boolean {
  return judgement === "advanced" || (judgement === "first" && record.desiredVersion < version);
}

/** Each component in the patch bears its marker, and first, as in any patch of the hub's [PnP conventions]. */
function marked(patch: JsonObject, whole: JsonObject): JsonObject {
  return Object.fromEntries(
    Object.entries(patch).map(([name, change]): [string, Json] => {
      const component = ownValue(whole, name);
      const marker = isJsonObject(component) ? ownValue(component, MARKER) : undefined;
      return [name, marker === undefined || !isJsonObject(change) ? change : { [MARKER]: marker, ...change }];
    }),
  );
}

/**
 * Another life of the module twin: its desired section is taken whole, and what the leaf acknowledged before answered versions that
 * no longer exist. The leaf reads its twin again because its connection is dropped; the notice is for one that never does.
 */
function recreated(record: LeafRecord, desired: JsonObject, version: number, nowMs: number): DesiredChange {
  const patch = mergePatches(desired, diff(record.desired, desired));
  // A leaf that was told a higher version would take whatever comes now for stale.
  const isAffected = !isEmpty(patch) || record.desiredVersion > version;
  const next: LeafRecord = {
    ...record,
    desired,
    desiredVersion: version,
    reported: resetAcknowledgements(record.reported, componentsOf(record)),
    tracks: trackDesired({}, desired, componentsOf(record), version, nowMs),
    accepted: {},
    confirmedVersion: 0,
  };
  return { record: next, notice: isEmpty(patch) ? undefined : { patch, version }, drop: isAffected };
}

// ---------------------------------------------------------------- reported

/** Reasons of a quarantine that edgeHub's 204 hides: it has the value, and only a null takes it back [iothub-mqtt.md 12.2]. */
export const HELD_BACK = "the hub takes it and keeps showing another value: held back while the reason is sought";
export const REFUSED_SILENTLY = "the hub takes it and keeps showing another value";

/** Not refused: the hub has what was sent, in a spelling that we do not know. Sent again only where the hub has nothing. */
export const RESPELLED = "the hub keeps it in another spelling";

export function respelledPaths(quarantined: Readonly<Record<string, string>>): readonly string[] {
  return Object.keys(quarantined).filter((path) => quarantined[path] === RESPELLED);
}

/** Paths that edgeHub must be told a null for. */
export function heldBackPaths(quarantined: Readonly<Record<string, string>>): readonly string[] {
  return Object.entries(quarantined)
    .filter(([, reason]) => reason === HELD_BACK || reason === REFUSED_SILENTLY)
    .map(([path]) => path);
}

/**
 * What the hub lacks of `view` (the module's reported section for this leaf), without what it refuses for good. Each component in it
 * bears its marker again: back ends look at the patch, not at the twin [PnP conventions].
 */
export function owed(
  view: JsonObject,
  accepted: JsonObject,
  quarantined: Readonly<Record<string, string>>,
): JsonObject {
  const heldBack = heldBackPaths(quarantined);
  const sent = withPaths(view, {}, heldBack);
  const never = new Set(Object.keys(quarantined));
  for (const path of heldBack) never.delete(path);
  for (const path of respelledPaths(quarantined))
    if (valueAt(accepted, parseModulePath(path)) === undefined) never.delete(path);
  const due: [string, Json][] = [];
  for (const [component, change] of Object.entries(diff(accepted, sent, sameValue))) {
    if (never.has(component)) continue;
    if (!isJsonObject(change)) {
      due.push([component, change]);
      continue;
    }
    const properties = Object.entries(change).filter(([name]) => !never.has(formatModulePath([component, name])));
    const isEmptied = properties.length < Object.keys(change).length && properties.every(([name]) => name === MARKER);
    if (!isEmptied) due.push([component, Object.fromEntries(properties)]);
  }
  return marked(Object.fromEntries(due), view);
}

/** edgeHub has taken this patch (module words) of the leaf's components. */
export function acceptPatch(record: LeafRecord, patch: JsonObject): LeafRecord {
  const accepted = applyPatch(record.accepted, patch);
  return accepted === record.accepted ? record : { ...record, accepted };
}

/**
 * A read shows `slice` of the leaf's components: that is what the hub has. Only a read from the cloud confirms, since edgeHub's
 * own answers have our unsent patches merged in. `hub`: the slice with what edgeHub has taken so lately that no read shows it.
 */
export function settleRead(
  record: LeafRecord,
  slice: JsonObject,
  view: JsonObject,
  fromCloud: boolean,
  hub = slice,
): LeafRecord {
  const confirmedVersion = fromCloud && sameValue(view, slice) ? record.reportedVersion : record.confirmedVersion;
  const accepted = deepEqual(record.accepted, hub) ? record.accepted : hub;
  const isSame = accepted === record.accepted && confirmedVersion === record.confirmedVersion;
  return isSame ? record : { ...record, accepted, confirmedVersion };
}

/** An empty cache (a new disk) takes what the hub has (leaf words): the leaf loses nothing that it had told the cloud. */
export function adoptReported(record: LeafRecord, reported: JsonObject): LeafRecord {
  if (deepEqual(record.reported, reported)) return record;
  return { ...record, reported, reportedVersion: record.reportedVersion + 1 };
}

// ---------------------------------------------------------------- what a leaf has missed

/**
 * The hub has what a leaf once reported, and the gateway does not know the leaf: a disk was lost, and the leaf's session with it. SDKs
 * that never subscribe again would be deaf for ever, so the record gets the subscriptions of `session` beside what the leaf has
 * subscribed to since.
 */
export function withLostSession(record: LeafRecord, session: readonly Subscription[]): LeafRecord {
  const since = new Set(record.subscriptions.map(({ filter }) => filter));
  const lost = session.filter(({ filter }) => !since.has(filter));
  return lost.length === 0 ? record : { ...record, subscriptions: [...record.subscriptions, ...lost] };
}

/**
 * A leaf's subscriptions when its connection goes from `before` to `after`. What the connection does not know of stays: it was given
 * back to the leaf since, by {@link withLostSession}.
 */
export function resubscribed(
  known: readonly Subscription[],
  before: readonly Subscription[],
  after: readonly Subscription[],
): readonly Subscription[] {
  const told = new Set([...before, ...after].map(({ filter }) => filter));
  return [...known.filter(({ filter }) => !told.has(filter)), ...after];
}

/** JSON of the patches that are noted for one leaf: twice what a desired section may have. */
const MAX_NOTED_BYTES = 65_536;

/** The record with a change noted that the leaf may not have seen; goes into the same commit as the change itself. */
export function withMissed(
  before: LeafRecord,
  after: LeafRecord,
  notice: DesiredNotice | undefined,
  maxBytes = MAX_NOTED_BYTES,
): LeafRecord {
  if (notice === undefined) return after;
  const { from, touched } = before.missed ?? { from: before.desired, touched: {} };
  const noted = mergePatches(touched, notice.patch);
  return { ...after, missed: { from, touched: jsonBytes(noted) > maxBytes ? withoutUnseen(noted, from) : noted } };
}

/**
 * The record of a leaf that is being told what is desired of it: from now on it may have each of those keys. The same record when
 * nothing is noted as missed, or nothing is new.
 */
export function withShown(record: LeafRecord): LeafRecord {
  if (record.missed === undefined) return record;
  const { from, touched } = record.missed;
  const shown = unionOfKeys(from, record.desired);
  return deepEqual(shown, from) ? record : { ...record, missed: { from: shown, touched } };
}

/** Without the removals of what the leaf never had: a back end that writes and removes ever new names for it would fill its record. */
function withoutUnseen(patch: JsonObject, from: JsonObject): JsonObject {
  const left: [string, Json][] = [];
  for (const [key, value] of Object.entries(patch)) {
    const seen = ownValue(from, key);
    if (isJsonObject(value)) left.push([key, withoutUnseen(value, isJsonObject(seen) ? seen : {})]);
    else if (value !== null || seen !== undefined) left.push([key, value]);
  }
  return Object.fromEntries(left);
}

/** One patch that brings a leaf from whatever it has seen to what is desired, and names all that was written meanwhile. */
export function catchUpPatch({ desired, missed }: LeafRecord): JsonObject {
  return missed === undefined ? {} : mergePatches(missed.touched, diff(missed.from, desired));
}

// ---------------------------------------------------------------- removal

/**
 * The record of a leaf that was removed by command: the hub's part is to be nulled, its cache goes. Its session stays, since an SDK
 * that subscribed once would be deaf after a confirmation; what it may have seen of its desired properties is noted for the same case.
 */
export function removedRecord(record: LeafRecord): LeafRecord {
  return {
    ...record,
    removed: true,
    desired: {},
    reported: {},
    reportedVersion: 0,
    tracks: {},
    quarantined: {},
    missed: { from: record.missed?.from ?? record.desired, touched: {} },
  };
}

/**
 * The record without what a leaf had reported of components that its new model no longer has: the hub's part of them is to be nulled.
 * Their names and desired properties stay, as a module cannot delete those.
 */
export function withoutComponents(record: LeafRecord, names: readonly string[]): LeafRecord {
  const isGone = (path: string): boolean => names.includes(path.split("/", 1)[0] ?? "");
  const reported = Object.entries(record.reported).filter(([name]) => !names.includes(name));
  if (reported.length === Object.keys(record.reported).length) return record;
  return {
    ...record,
    reported: Object.fromEntries(reported),
    reportedVersion: record.reportedVersion + 1,
    tracks: Object.fromEntries(Object.entries(record.tracks).filter(([path]) => !isGone(path))),
  };
}

/** Every key of both, at every depth; where one has an object and the other none, the object, since its keys may have to go. */
function unionOfKeys(a: JsonObject, b: JsonObject): JsonObject {
  const union = new Map(Object.entries(a));
  for (const [key, value] of Object.entries(b)) {
    const before = ownValue(a, key);
    if (isJsonObject(before)) union.set(key, isJsonObject(value) ? unionOfKeys(before, value) : before);
    else union.set(key, value);
  }
  return Object.fromEntries(union);
}
