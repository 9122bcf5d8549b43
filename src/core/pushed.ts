/**
 * What follows from how edgeHub passes reported patches on: it merges what it has taken and sends that to the cloud every 5 s at most,
 * so for a while the cloud shows an older state, and a null that an object follows before it was sent is lost: the cloud then keeps
 * what the removed object held [iothub-mqtt.md 12.2]. Pure. Invariant: knowing nothing is always safe, and costs a repeated patch.
 */
import { applyPatch, isEmpty, isJsonObject, jsonBytes, mergePatches, ownValue } from "./merge-patch.ts";
import type { Json, JsonObject } from "./message.ts";

export interface Pushed {
  /** Patches that edgeHub took lately (module words), oldest first; reads may not show them yet. */
  readonly recent: readonly { readonly patch: JsonObject; readonly atMs: number }[];
  /** Keys of objects that pushes removed or replaced, by path, which the cloud may still hold. Values say nothing. */
  readonly traces: JsonObject;
}

export const NOTHING_PUSHED: Pushed = { recent: [], traces: {} };

/** So long a push may take to show in a read: edgeHub sends to the cloud every 5 s at most [iothub-mqtt.md 12.2]. */
const SETTLE_MS = 16_000;
/** Pushes that follow each other faster are remembered as one. */
const MERGED_MS = 1_000;
/** A leaf that removes ever other objects in a long outage must not fill the memory; a read finds what is forgotten here. */
const MAX_TRACES_BYTES = 16 * 1024;

/** edgeHub has taken `patch` on top of `accepted`. */
export function notePush(pushed: Pushed, accepted: JsonObject, patch: JsonObject, nowMs: number): Pushed {
  const recent = withNewest(unsettled(pushed, nowMs), patch, nowMs);
  const traces = tracesAfter(pushed.traces, accepted, patch);
  return { recent, traces: traces === pushed.traces || jsonBytes(traces) <= MAX_TRACES_BYTES ? traces : {} };
}

function withNewest(recent: Pushed["recent"], patch: JsonObject, nowMs: number): Pushed["recent"] {
  const newest = recent.at(-1);
  if (newest === undefined || nowMs - newest.atMs >= MERGED_MS) return [...recent, { patch, atMs: nowMs }];
  return [...recent.slice(0, -1), { patch: mergePatches(newest.patch, patch), atMs: newest.atMs }];
}

function unsettled({ recent }: Pushed, nowMs: number): Pushed["recent"] {
  return recent.filter(({ atMs }) => nowMs - atMs < SETTLE_MS);
}

function tracesAfter(traces: JsonObject, accepted: JsonObject, patch: JsonObject): JsonObject {
  const changed = new Map<string, Json>();
  for (const [key, value] of Object.entries(patch)) {
    const before = ownValue(accepted, key);
    if (!isJsonObject(before)) continue;
    const known = ownValue(traces, key);
    const trace = isJsonObject(known) ? known : {};
    const after = isJsonObject(value) ? tracesAfter(trace, before, value) : withKeysOf(trace, before);
    if (!isEmpty(after) && after !== known) changed.set(key, after);
  }
  return changed.size === 0 ? traces : Object.fromEntries([...Object.entries(traces), ...changed]);
}

/** Every key of both, at every depth; what is no object is a 0. */
function withKeysOf(trace: JsonObject, object: JsonObject): JsonObject {
  const keys = new Map(Object.entries(trace));
  for (const [key, value] of Object.entries(object)) {
    const known = ownValue(trace, key);
    keys.set(key, isJsonObject(value) ? withKeysOf(isJsonObject(known) ? known : {}, value) : (known ?? 0));
  }
  return Object.fromEntries(keys);
}

/**
 * `patch` with a null for each key that the cloud may still hold where `patch` writes an object and `view`, the whole of what is
 * to be there, has no such key.
 */
export function withVanished(patch: JsonObject, view: JsonObject, traces: JsonObject): JsonObject {
  if (isEmpty(traces)) return patch;
  return Object.fromEntries(
    Object.entries(patch).map(([key, value]): [string, Json] => {
      const [whole, trace] = [ownValue(view, key), ownValue(traces, key)];
      return isJsonObject(value) && isJsonObject(whole) && isJsonObject(trace)
        ? [key, vanishedInside(value, whole, trace)]
        : [key, value];
    }),
  );
}

function vanishedInside(patch: JsonObject, view: JsonObject, trace: JsonObject): JsonObject {
  const gone = Object.keys(trace).filter((key) => !Object.hasOwn(view, key) && !Object.hasOwn(patch, key));
  const nulls = gone.map((key): [string, Json] => [key, null]);
  return Object.fromEntries([...Object.entries(withVanished(patch, view, trace)), ...nulls]);
}

/** What the hub will show once edgeHub has sent everything: a read's part for a leaf with the patches that it may not show yet. */
export function overlaid(slice: JsonObject, pushed: Pushed, readMs: number): JsonObject {
  return unsettled(pushed, readMs).reduce((shown, { patch }) => applyPatch(shown, patch), slice);
}

/** A read from the cloud that shows all that was pushed: what is not in it is gone. */
export function withoutTraces(pushed: Pushed, readMs: number): Pushed {
  return isEmpty(pushed.traces) || unsettled(pushed, readMs).length > 0 ? pushed : { ...pushed, traces: {} };
}

/**
 * `shown` with the empty objects that `accepted` has: whether IoT Hub keeps an object without members is not documented, and one
 * that it drops must not be sent again with each read.
 */
export function withHollow(shown: JsonObject, accepted: JsonObject): JsonObject {
  const added = new Map<string, Json>();
  for (const [key, value] of Object.entries(accepted)) {
    if (!isJsonObject(value)) continue;
    const there = ownValue(shown, key);
    if (there === undefined && isHollow(value)) added.set(key, value);
    if (!isJsonObject(there)) continue;
    const inside = withHollow(there, value);
    if (inside !== there) added.set(key, inside);
  }
  return added.size === 0 ? shown : Object.fromEntries([...Object.entries(shown), ...added]);
}

function isHollow(value: Json): boolean {
  return isJsonObject(value) && Object.values(value).every(isHollow);
}
