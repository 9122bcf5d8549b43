/**
 * How far each writable property of a leaf has come: pending -> delivered -> in-progress (202) -> done (200, 203) or failed.
 * An acknowledgement counts only for the version it names; the gateway never invents one. [PnP conventions, writable properties]
 */
import { deepEqual, isEmpty, isJsonObject } from "./merge-patch.ts";
import type { Json, JsonObject } from "./message.ts";

export interface PropertyTrack {
  readonly state: "pending" | "delivered" | "in-progress" | "done" | "failed";
  /** The module twin's version at which the desired value was written last. */
  readonly version: number;
  readonly sinceMs: number;
  /** Status code of the acknowledgement that counts. */
  readonly ac?: number;
}

/** By path: `name` or `component/name`. */
export type PropertyTracks = Readonly<Record<string, PropertyTrack>>;

/** A property value that answers a desired one: it has `ac` and `av` of its own. */
export function isAcknowledgement(value: Json | undefined): value is JsonObject {
  return (
    isJsonObject(value) &&
    Object.hasOwn(value, "ac") &&
    Object.hasOwn(value, "av") &&
    typeof value["ac"] === "number" &&
    typeof value["av"] === "number"
  );
}

/** A section's properties by path; one level deeper inside components. */
function* properties(
  section: JsonObject,
  components: ReadonlySet<string>,
): Generator<readonly [path: string, value: Json]> {
  for (const [name, value] of Object.entries(section)) {
    const isComponent =
      isJsonObject(value) && (components.has(name) || (Object.hasOwn(value, "__t") && value["__t"] === "c"));
    if (!isComponent) {
      yield [name, value];
      continue;
    }
    for (const [inner, innerValue] of Object.entries(value))
      if (inner !== "__t") yield [`${name}/${inner}`, innerValue];
  }
}

/** A desired patch was committed: what it writes is pending, what it removes is not tracked any more. */
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

/** The leaf has reported: acknowledgements move the tracks that they are for. A superseded one (`av` too low) never counts. */
export function trackReported(
  tracks: PropertyTracks,
  patch: JsonObject,
  components: ReadonlySet<string>,
  nowMs: number,
): PropertyTracks {
  const acks = new Map<string, JsonObject>();
  for (const [path, value] of properties(patch, components)) if (isAcknowledgement(value)) acks.set(path, value);
  if (acks.size === 0) return tracks;
  return changed(tracks, (track, path) => {
    const ack = acks.get(path);
    if (ack === undefined || Number(ack["av"]) < track.version) return track;
    const ac = Number(ack["ac"]);
    const state = stateOf(ac);
    return state === track.state && ac === track.ac ? track : { ...track, state, ac, sinceMs: nowMs };
  });
}

function stateOf(ac: number): PropertyTrack["state"] {
  if (ac === 202) return "in-progress";
  return ac >= 200 && ac < 300 ? "done" : "failed";
}

/** The module twin was made anew: every desired value there is now waits for its acknowledgement again. */
export function resetTracks(tracks: PropertyTracks, version: number, nowMs: number): PropertyTracks {
  return changed(tracks, () => ({ state: "pending", version, sinceMs: nowMs }));
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

/** Every acknowledgement above `currentVersion` as `ac` 203, `av` 0: no hub of this life has issued that version (G4). */
export function clampAcknowledgements(
  section: JsonObject,
  components: ReadonlySet<string>,
  currentVersion: number,
): JsonObject {
  return rewriteAcknowledgements(section, components, (ack) => Number(ack["av"]) > currentVersion);
}

/** Every acknowledgement as `ac` 203, `av` 0: they answered versions of a life that is over. */
export function resetAcknowledgements(section: JsonObject, components: ReadonlySet<string>): JsonObject {
  return rewriteAcknowledgements(section, components, (ack) => ack["av"] !== 0);
}

function rewriteAcknowledgements(
  section: JsonObject,
  components: ReadonlySet<string>,
  wanted: (ack: JsonObject) => boolean,
): JsonObject {
  const rewrite = (properties: JsonObject, isRoot: boolean): JsonObject =>
    Object.fromEntries(
      Object.entries(properties).map(([name, value]): [string, Json] => {
        if (isAcknowledgement(value)) return [name, wanted(value) ? { ...value, ac: 203, av: 0 } : value];
        const isComponent = isRoot && isJsonObject(value) && (components.has(name) || value["__t"] === "c");
        return [name, isComponent ? rewrite(value, false) : value];
      }),
    );
  const rewritten = rewrite(section, true);
  return deepEqual(rewritten, section) ? section : rewritten;
}
