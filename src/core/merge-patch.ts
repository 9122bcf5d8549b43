/**
 * IoT Hub's merge of twin sections: objects merge, null deletes, anything else replaces [iothub-mqtt.md 6.4].
 * Invariants: nothing is changed in place; a function whose outcome equals its input returns that very input, so that callers see
 * "nothing changed" by reference. Keys are the leaves' own: `__proto__` and `constructor` are keys like any other.
 * Documents are as deep as twin-limits.ts lets them in, so recursion is bounded.
 */
import type { Json, JsonObject } from "./message.ts";
import { utf8Bytes } from "./utf8.ts";

/** Marks an object of a twin section as a component [PnP conventions]. */
const COMPONENT_MARKER = "__t";
const NOTHING: JsonObject = {};
const BRACES_BYTES = 2;
const COMMA_BYTES = 1;

export function isJsonObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function isEmpty(object: JsonObject): boolean {
  return Object.keys(object).length === 0;
}

/** The object's own value of `key`; never one of its prototypes'. */
export function ownValue(object: JsonObject, key: string): Json | undefined {
  return Object.hasOwn(object, key) ? object[key] : undefined;
}

/** Equal as JSON: the order of keys does not matter, that of array items does. */
export function deepEqual(a: Json, b: Json): boolean {
  if (a === b) return true;
  if (Array.isArray(a))
    return Array.isArray(b) && a.length === b.length && a.every((item, at) => deepEqual(item, b[at]));
  if (!isJsonObject(a) || !isJsonObject(b)) return false;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every((key) => equalOwn(a, b, key));
}

function equalOwn(a: JsonObject, b: JsonObject, key: string): boolean {
  const [left, right] = [ownValue(a, key), ownValue(b, key)];
  return left !== undefined && right !== undefined && deepEqual(left, right);
}

/** `target` with `patch` merged into it. A null that deletes nothing is dropped, also inside objects that are new. */
export function applyPatch(target: JsonObject, patch: JsonObject): JsonObject {
  const changed = new Map<string, Json | undefined>();
  for (const [key, value] of Object.entries(patch)) {
    const before = ownValue(target, key);
    const after = merged(before, value);
    if (after !== before) changed.set(key, after);
  }
  if (changed.size === 0) return target;
  const result = new Map(Object.entries(target));
  for (const [key, after] of changed) {
    if (after === undefined) result.delete(key);
    else result.set(key, after);
  }
  return Object.fromEntries(result);
}

function merged(before: Json | undefined, patch: Json): Json | undefined {
  if (patch === null) return undefined;
  if (isJsonObject(patch)) return applyPatch(isJsonObject(before) ? before : NOTHING, patch);
  return before !== undefined && deepEqual(before, patch) ? before : patch;
}

/**
 * The smallest patch that makes `to` of `from`: changed keys only, null for each that vanished, arrays and changes of kind whole.
 * A null in either document is no value. `equal` decides what needs no change; the outcome is then `to` up to it.
 */
export function diff(from: JsonObject, to: JsonObject, equal: (a: Json, b: Json) => boolean = deepEqual): JsonObject {
  const changes: [string, Json][] = [];
  for (const [key, after] of Object.entries(to)) {
    const change = changeOf(ownValue(from, key) ?? null, after, equal);
    if (change !== undefined) changes.push([key, change]);
  }
  for (const key of Object.keys(from)) if ((ownValue(to, key) ?? null) === null) changes.push([key, null]);
  return Object.fromEntries(changes);
}

/** undefined: none, or a removal, which is not told from here. */
function changeOf(before: Json, after: Json, equal: (a: Json, b: Json) => boolean): Json | undefined {
  if (after === null) return undefined;
  if (isJsonObject(before) && isJsonObject(after)) {
    const inside = diff(before, after, equal);
    return isEmpty(inside) ? undefined : inside;
  }
  return equal(before, after) ? undefined : after;
}

/**
 * The patch that does what `first` and then `second` do. Exact on every target, with one exception that no merge patch can say:
 * where `first` removes an object (or puts a plain value in its place) and `second` puts an object there again, what the removed
 * one held and the new one does not name would survive.
 */
export function mergePatches(first: JsonObject, second: JsonObject): JsonObject {
  const entries = new Map<string, Json>(Object.entries(first));
  for (const [key, value] of Object.entries(second)) {
    const before = entries.get(key);
    entries.set(key, isJsonObject(before) && isJsonObject(value) ? mergePatches(before, value) : value);
  }
  return Object.fromEntries(entries);
}

/** The bytes of `JSON.stringify(value)` in UTF-8. */
export function jsonBytes(value: Json): number {
  return utf8Bytes(JSON.stringify(value));
}

export interface SplitPatch {
  readonly parts: readonly JsonObject[];
  /** `component/property`, or `component` where it is no object: what does not fit into any part. */
  readonly tooLarge: readonly string[];
}

/**
 * A module patch as parts of at most `maxBytes` of JSON. Parts hold different paths, so their order does not matter; components
 * stay whole where they fit, and each piece of one that does not keeps its marker.
 */
export function splitPatch(patch: JsonObject, maxBytes: number): SplitPatch {
  const parts = new Packer(maxBytes);
  const tooLarge: string[] = [];
  for (const [component, value] of Object.entries(patch)) {
    if (parts.add(component, value)) continue;
    if (!isJsonObject(value)) {
      tooLarge.push(component);
      continue;
    }
    // A component of its own costs its name, a colon and the braces around it.
    const pieces = new Packer(maxBytes - jsonBytes({ [component]: NOTHING }) + BRACES_BYTES, markerOf(value));
    for (const [property, inside] of Object.entries(value)) {
      if (property === COMPONENT_MARKER && !isMarkerOnly(value)) continue;
      if (!pieces.add(property, inside)) tooLarge.push(`${component}/${property}`);
    }
    for (const piece of pieces.finish()) parts.add(component, piece);
  }
  return { parts: parts.finish(), tooLarge };
}

function isMarkerOnly(component: JsonObject): boolean {
  return Object.keys(component).every((key) => key === COMPONENT_MARKER);
}

function markerOf(component: JsonObject): readonly [string, Json][] {
  if (isMarkerOnly(component)) return [];
  return Object.entries(component).filter(([key]) => key === COMPONENT_MARKER);
}

/** Fills objects up to a size, each of them beginning with the same entries. */
class Packer {
  readonly #maxBytes: number;
  readonly #head: readonly [string, Json][];
  /** What an object without entries of its own takes. */
  readonly #headBytes: number;
  readonly #full: JsonObject[] = [];
  #entries: [string, Json][] = [];
  #bytes = 0;

  constructor(maxBytes: number, head: readonly [string, Json][] = []) {
    this.#maxBytes = maxBytes;
    this.#head = head;
    this.#headBytes = jsonBytes(Object.fromEntries(head)) + (head.length > 0 ? COMMA_BYTES : 0);
  }

  /** False when the entry does not even fit alone. */
  add(key: string, value: Json): boolean {
    const bytes = jsonBytes({ [key]: value }) - BRACES_BYTES;
    if (this.#headBytes + bytes > this.#maxBytes) return false;
    if (this.#entries.length > 0 && this.#bytes + COMMA_BYTES + bytes > this.#maxBytes) this.#close();
    this.#bytes = this.#entries.length === 0 ? this.#headBytes + bytes : this.#bytes + COMMA_BYTES + bytes;
    this.#entries.push([key, value]);
    return true;
  }

  finish(): readonly JsonObject[] {
    if (this.#entries.length > 0) this.#close();
    return this.#full;
  }

  #close(): void {
    this.#full.push(Object.fromEntries([...this.#head, ...this.#entries]));
    this.#entries = [];
  }
}
