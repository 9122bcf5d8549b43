/**
 * A twin as IoT Hub keeps it, as pure functions: sections with metadata and versions, merge and difference. Written apart
 * from the gateway's own merge on purpose, so that a misreading in one cannot agree with itself. [D-twin]
 */

import type { Json, JsonObject } from "../core/message.ts";
import type { Identity } from "./cloud-types.ts";

export interface Section {
  /** Without `$version` and `$metadata`. */
  readonly properties: JsonObject;
  /** Mirrors the shape of `properties`. */
  readonly metadata: JsonObject;
  readonly version: number;
}

export interface Twin {
  readonly id: Identity;
  readonly tags: JsonObject;
  readonly desired: Section;
  readonly reported: Section;
  /** Grows with every change of any part. */
  readonly version: number;
  /** Grows with what back ends write (tags, desired); the ETag is made of it, so that a device's report spoils nobody's If-Match. */
  readonly revision: number;
  /** As announced with the identity's last message. */
  readonly modelId: string | undefined;
}

export type Mode = "update" | "replace";

const FIRST_VERSION = 1;

/** A twin as it is when its identity has just been made: both sections empty, at version 1. */
export function newTwin(id: Identity, now: string): Twin {
  return {
    id,
    tags: {},
    desired: { properties: {}, metadata: stampOf(now, FIRST_VERSION), version: FIRST_VERSION },
    reported: { properties: {}, metadata: stampOf(now, undefined), version: FIRST_VERSION },
    version: 2,
    revision: 1,
    modelId: undefined,
  };
}

/** The section after an accepted patch: one version on, what the patch names stamped with now. `now` is ISO 8601. */
export function patchSection(section: Section, patch: JsonObject, kind: "desired" | "reported", now: string): Section {
  const version = section.version + 1;
  const mark = stampOf(now, kind === "desired" ? version : undefined);
  return {
    properties: applyPatch(section.properties, patch),
    metadata: stamp(section.metadata, patch, mark),
    version,
  };
}

/** What a write asks for as a patch: itself, or in place of a replacement the difference that leads to it. */
export function patchFor(current: JsonObject, asked: JsonObject | null, mode: Mode): JsonObject {
  return asked === null || mode === "replace" ? differencePatch(current, withoutNulls(asked ?? {})) : asked;
}

/** Objects merge, null deletes, everything else replaces. No null survives, however deep it came in. */
export function applyPatch(base: JsonObject, patch: JsonObject): JsonObject {
  const result = new Map(Object.entries(base));
  for (const [key, value] of Object.entries(patch)) {
    const old = result.get(key);
    if (value === null) result.delete(key);
    else result.set(key, isObject(value) ? applyPatch(isObject(old) ? old : {}, value) : value);
  }
  return Object.fromEntries(result);
}

/** The patch that leads from one document to the other; keys that go are null. */
export function differencePatch(from: JsonObject, to: JsonObject): JsonObject {
  const gone = Object.keys(from).filter((key) => !Object.hasOwn(to, key));
  const changes: [string, Json][] = gone.map((key) => [key, null]);
  for (const [key, value] of Object.entries(to)) {
    const old = Object.hasOwn(from, key) ? from[key] : undefined;
    if (old === undefined || !isSame(old, value)) {
      changes.push([key, isObject(old) && isObject(value) ? differencePatch(old, value) : value]);
    }
  }
  return Object.fromEntries(changes);
}

export function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !isArray(value);
}

export function isArray(value: Json | undefined): value is readonly Json[] {
  return Array.isArray(value);
}

/** Whether two documents are the same to IoT Hub; the order of names does not count. */
export function isSame(a: Json, b: Json): boolean {
  if (isArray(a) && isArray(b)) return a.length === b.length && a.every((item, at) => isSame(item, b[at] ?? null));
  if (!isObject(a) || !isObject(b)) return a === b;
  const names = Object.keys(a);
  if (names.length !== Object.keys(b).length) return false;
  return names.every((name) => Object.hasOwn(b, name) && isSame(a[name] ?? null, b[name] ?? null));
}

function withoutNulls(document: JsonObject): JsonObject {
  return applyPatch({}, document);
}

function stampOf(now: string, version: number | undefined): JsonObject {
  return { $lastUpdated: now, ...(version === undefined ? {} : { $lastUpdatedVersion: version }) };
}

/** A value that replaces an object takes its members' stamps away; an object keeps the stamps of what the patch does not name. */
function stamp(old: Json | undefined, patch: JsonObject, mark: JsonObject): JsonObject {
  const result = new Map(isObject(old) ? Object.entries(old) : []);
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) result.delete(key);
    else result.set(key, isObject(value) ? stamp(result.get(key), value, mark) : mark);
  }
  return { ...Object.fromEntries(result), ...mark };
}
