/**
 * How far each writable property of a leaf has come: pending -> delivered -> in-progress (202) -> done (200, 203) or failed.
 * An acknowledgement counts only for the version it names; the gateway never invents one, and lets none up that names a version
 * which no hub of this life has issued (G4). [PnP conventions, writable properties]
 */
import { isEmpty, isJsonObject, ownValue } from "./merge-patch.ts";
import type { Json, JsonObject } from "./message.ts";

export interface PropertyTrack {
  readonly state: "pending" | "delivered" | "in-progress" | "done" | "failed";
  /** The module twin's version at which the desired value was written last. */
  readonly version: number;
  /** Since when the property is in this state. */
  readonly sinceMs: number;
  /** The acknowledgement that counts: its status code, version and description (cut). */
  readonly ac?: number;
  readonly av?: number;
  readonly ad?: string;
}

/** By path: `name` or `component/name`. */
export type PropertyTracks = Readonly<Record<string, PropertyTrack>>;

interface Acknowledgement extends JsonObject {
  readonly ac: number;
  readonly av: number;
}

/** A description is for people; what a leaf writes there must not fill our records. */
const MAX_DESCRIPTION_CHARS = 200;
const BARE_KEYS: ReadonlySet<string> = new Set(["ac", "av", "ad"]);
/** "Set from the device's own default": it answers no version [PnP conventions]. */
const INITIAL = { ac: 203, av: 0 } as const;

/**
 * A property value that answers a desired one: `ac`, `av` and `value` of its own. After a removal `value` is null and so not in the
 * section: then nothing else may be there, since a model's own object (say, of voltages) may have an `ac` too.
 */
export function isAcknowledgement(value: Json | undefined): value is Acknowledgement {
  if (!isJsonObject(value)) return false;
  if (typeof ownValue(value, "ac") !== "number" || typeof ownValue(value, "av") !== "number") return false;
  return Object.hasOwn(value, "value") || Object.keys(value).every((key) => BARE_KEYS.has(key));
}

function isComponent(name: string, value: Json, components: ReadonlySet<string>): value is JsonObject {
  return isJsonObject(value) && (components.has(name) || ownValue(value, "__t") === "c");
}

/** A section's properties by path; one level deeper inside components. */
function* properties(
  section: JsonObject,
  components: ReadonlySet<string>,
): Generator<readonly [path: string, value: Json]> {
  for (const [name, value] of Object.entries(section)) {
    if (!isComponent(name, value, components)) {
      yield [name, value];
      continue;
    }
    for (const [inner, innerValue] of Object.entries(value))
      if (inner !== "__t") yield [`${name}/${inner}`, innerValue];
  }
}

// ---------------------------------------------------------------- tracking

/** A desired patch (leaf words) was committed: what it writes is pending, what it removes is not tracked any more. */
export function trackDesired(
  tracks: PropertyTracks,
  patch: JsonObject,
  components: ReadonlySet<string>,
  version: number,
  nowMs: number,
): PropertyTracks {
  if (isEmpty(patch)) return tracks;
  const next = new Map(Object.entries(tracks));
  for (const [path, value] of properties(patch, components)) {
    if (value !== null) next.set(path, { state: "pending", version, sinceMs: nowMs });
    else
      for (const tracked of next.keys()) if (tracked === path || tracked.startsWith(`${path}/`)) next.delete(tracked);
  }
  return Object.fromEntries(next);
}

/** The leaf was told of everything up to `version`. */
export function trackDelivered(tracks: PropertyTracks, version: number, nowMs: number): PropertyTracks {
  return changed(tracks, (track) =>
    track.state === "pending" && track.version <= version ? { ...track, state: "delivered", sinceMs: nowMs } : track,
  );
}

/**
 * The leaf has reported (leaf words): acknowledgements move the tracks that they are for. One whose `av` is below the track's
 * version is superseded and never counts; so a 203 with `av` 0, a value of the device's own, answers nothing.
 */
export function trackReported(
  tracks: PropertyTracks,
  patch: JsonObject,
  components: ReadonlySet<string>,
  nowMs: number,
): PropertyTracks {
  const acks = new Map<string, Acknowledgement>();
  for (const [path, value] of properties(patch, components)) if (isAcknowledgement(value)) acks.set(path, value);
  if (acks.size === 0) return tracks;
  return changed(tracks, (track, path) => {
    const ack = acks.get(path);
    return ack === undefined || ack.av < track.version ? track : acknowledged(track, ack, nowMs);
  });
}

function acknowledged(track: PropertyTrack, ack: Acknowledgement, nowMs: number): PropertyTrack {
  const { ac, av } = ack;
  const state = stateOf(ac);
  const text = ownValue(ack, "ad");
  const ad = typeof text === "string" ? text.slice(0, MAX_DESCRIPTION_CHARS).toWellFormed() : undefined;
  if (state === track.state && ac === track.ac && av === track.av && ad === track.ad) return track;
  const sinceMs = state === track.state ? track.sinceMs : nowMs;
  return { state, version: track.version, sinceMs, ac, av, ...(ad === undefined ? {} : { ad }) };
}

function stateOf(ac: number): PropertyTrack["state"] {
  if (ac === 202) return "in-progress";
  return ac >= 200 && ac < 300 ? "done" : "failed";
}

/** What has not been acknowledged for good, with its path. */
export function unacknowledged(tracks: PropertyTracks): readonly ({ readonly path: string } & PropertyTrack)[] {
  return Object.entries(tracks)
    .filter(([, { state }]) => state !== "done" && state !== "failed")
    .map(([path, track]) => ({ path, ...track }));
}

function changed(
  tracks: PropertyTracks,
  change: (track: PropertyTrack, path: string) => PropertyTrack,
): PropertyTracks {
  let isSame = true;
  const entries = Object.entries(tracks).map(([path, track]): [string, PropertyTrack] => {
    const next = change(track, path);
    if (next !== track) isSame = false;
    return [path, next];
  });
  return isSame ? tracks : Object.fromEntries(entries);
}

// ---------------------------------------------------------------- versions

/**
 * A reported section or patch (leaf words) in which every acknowledgement of a version that the hub cannot have issued yet is one
 * of the leaf's own value: `ac` 203, `av` 0. The same reference when nothing changes.
 */
export function clampAcknowledgements(
  section: JsonObject,
  components: ReadonlySet<string>,
  currentVersion: number,
): JsonObject {
  return rewrite(section, components, ({ av }) => av > currentVersion || av < 0 || !Number.isInteger(av));
}

/** As {@link clampAcknowledgements} when the module twin was made anew: whatever was acknowledged belongs to a life that is over. */
export function resetAcknowledgements(section: JsonObject, components: ReadonlySet<string>): JsonObject {
  return rewrite(section, components, ({ av }) => av !== 0);
}

function rewrite(
  section: JsonObject,
  components: ReadonlySet<string>,
  isOutdated: (ack: Acknowledgement) => boolean,
): JsonObject {
  let isSame = true;
  const rewritten = (value: Json): Json => {
    if (!isAcknowledgement(value) || !isOutdated(value)) return value;
    isSame = false;
    return { ...value, ...INITIAL };
  };
  const entries = Object.entries(section).map(([name, value]): [string, Json] => {
    if (!isComponent(name, value, components)) return [name, rewritten(value)];
    return [name, Object.fromEntries(Object.entries(value).map(([inner, each]) => [inner, rewritten(each)]))];
  });
  return isSame ? section : Object.fromEntries(entries);
}
