/**
 * JSON merge patches as IoT Hub merges twins: objects merge, null deletes, everything else replaces [iothub-mqtt.md 6.4].
 * Invariant: keys are data. `__proto__` and `constructor` are keys like any other; no prototype is ever followed.
 */
import type { Json, JsonObject } from "./message.ts";

export function isJsonObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function isEmpty(object: JsonObject): boolean {
  for (const key in object) if (Object.hasOwn(object, key)) return false;
  return true;
}

function own(object: JsonObject, key: string): Json | undefined {
  return Object.hasOwn(object, key) ? object[key] : undefined;
}

/** The target with the patch merged in; the same reference when nothing changes. */
export function applyPatch(target: JsonObject, patch: JsonObject): JsonObject {
  const changes = new Map<string, Json | undefined>();
  for (const [key, value] of Object.entries(patch)) {
    const before = own(target, key);
    if (value === null) {
      if (before !== undefined) changes.set(key, undefined);
      continue;
    }
    const after = isJsonObject(value) ? applyPatch(isJsonObject(before) ? before : {}, value) : value;
    if (before === undefined || !deepEqual(before, after)) changes.set(key, after);
  }
  if (changes.size === 0) return target;
  const entries: [string, Json][] = Object.entries(target).filter(
    ([key]) => !changes.has(key) || changes.get(key) !== undefined,
  );
  const result = new Map(entries);
  for (const [key, value] of changes) if (value !== undefined) result.set(key, value);
  return Object.fromEntries(result);
}

export function deepEqual(a: Json, b: Json): boolean {
  if (a === b) return true;
  if (Array.isArray(a) || Array.isArray(b)) {
    if (!Array.isArray(a) || !Array.isArray(b) || a.length !== b.length) return false;
    return a.every((item, at) => deepEqual(item, b[at] as Json));
  }
  if (!isJsonObject(a) || !isJsonObject(b)) return false;
  const keys = Object.keys(a);
  return (
    keys.length === Object.keys(b).length &&
    keys.every((key) => Object.hasOwn(b, key) && deepEqual(a[key] as Json, b[key] as Json))
  );
}

/** The smallest patch that makes `to` of `from`; vanished keys are explicit nulls at every level. */
export function diff(from: JsonObject, to: JsonObject, equal: (a: Json, b: Json) => boolean = deepEqual): JsonObject {
  const patch: [string, Json][] = [];
  for (const key of Object.keys(from)) if (!Object.hasOwn(to, key)) patch.push([key, null]);
  for (const [key, value] of Object.entries(to)) {
    const before = own(from, key);
    if (before !== undefined && equal(before, value)) continue;
    if (isJsonObject(before) && isJsonObject(value)) {
      const inner = diff(before, value, equal);
      if (!isEmpty(inner)) patch.push([key, inner]);
    } else {
      patch.push([key, value]);
    }
  }
  return Object.fromEntries(patch);
}

/** One patch with the effect of the first and then the second, on whatever target. */
export function mergePatches(first: JsonObject, second: JsonObject): JsonObject {
  const result = new Map(Object.entries(first));
  for (const [key, value] of Object.entries(second)) {
    const before = own(first, key);
    if (isJsonObject(before) && isJsonObject(value)) result.set(key, mergePatches(before, value));
    else result.set(key, value);
  }
  return Object.fromEntries(result);
}

/** UTF-8 length of a string. */
export function utf8Bytes(text: string): number {
  let bytes = 0;
  for (let at = 0; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    if (code < 0x80) bytes += 1;
    else if (code < 0x800) bytes += 2;
    else if (code >= 0xd800 && code < 0xdc00 && at + 1 < text.length) {
      bytes += 4;
      at += 1;
    } else bytes += 3;
  }
  return bytes;
}

/** Bytes of the value as JSON text. */
export function jsonBytes(value: Json): number {
  return utf8Bytes(JSON.stringify(value));
}

export interface SplitPatch {
  readonly parts: readonly JsonObject[];
  /** Paths (`component` or `component/property`) that are over the limit by themselves. */
  readonly tooLarge: readonly string[];
}

/**
 * Splits a module patch (`{component: {property: value}}`) so that no part has more than `maxBytes` of JSON, whatever order the
 * parts are applied in. Each piece of a component keeps its `__t` marker.
 */
export function splitPatch(patch: JsonObject, maxBytes: number): SplitPatch {
  const parts: JsonObject[] = [];
  const tooLarge: string[] = [];
  let part: JsonObject = {};
  let bytes = 2;
  const add = (component: string, value: Json): void => {
    const cost = jsonBytes({ [component]: value });
    if (bytes + cost > maxBytes && !isEmpty(part)) {
      parts.push(part);
      part = {};
      bytes = 2;
    }
    const before = own(part, component);
    const merged = isJsonObject(before) && isJsonObject(value) ? mergePatches(before, value) : value;
    part = Object.fromEntries([...Object.entries(part).filter(([name]) => name !== component), [component, merged]]);
    bytes += cost;
  };
  for (const [component, value] of Object.entries(patch)) {
    if (jsonBytes({ [component]: value }) + 2 <= maxBytes) {
      add(component, value);
      continue;
    }
    if (!isJsonObject(value)) {
      tooLarge.push(component);
      continue;
    }
    const marker: [string, Json][] = Object.hasOwn(value, "__t") ? [["__t", value["__t"] ?? null]] : [];
    for (const [property, inner] of Object.entries(value)) {
      if (property === "__t") continue;
      const piece = Object.fromEntries([...marker, [property, inner]]);
      if (jsonBytes({ [component]: piece }) + 2 <= maxBytes) add(component, piece);
      else tooLarge.push(`${component}/${property}`);
    }
  }
  if (!isEmpty(part)) parts.push(part);
  return { parts, tooLarge };
}
