/**
 * IoT Hub's limits of twins as named constants, and what of a patch breaks them: a list of violations, not a boolean, so that the
 * leaf can be told. Sources: "Understand and use device twins in IoT Hub"; edgeHub's ReportedPropertiesValidator [iothub-mqtt.md 6.4].
 */
import { isJsonObject } from "./merge-patch.ts";
import type { Json, JsonObject } from "./message.ts";
import { utf8Bytes } from "./utf8.ts";

/** Each section, total. */
export const MAX_TWIN_SECTION_BYTES = 32_768;
/** All leaves together may fill the module's reported section up to here; the rest is room for what IoT Hub counts otherwise. */
export const GATEWAY_REPORTED_CEILING_BYTES = 31_744;
/** The gateway warns from here, 80 % of a section. */
export const SECTION_WARNING_BYTES = Math.floor(MAX_TWIN_SECTION_BYTES * 0.8);
export const MAX_KEY_BYTES = 1_024;
export const MAX_STRING_BYTES = 4_096;
/** Levels of objects (and, at edgeHub, arrays); the root's children are level 1. */
export const MAX_DEPTH = 10;
export const MIN_INTEGER = -4_503_599_627_370_496;
export const MAX_INTEGER = 4_503_599_627_370_495;

/** What edgeHub adds to IoT Hub's own list: `#` and any Unicode white space. */
const FORBIDDEN_IN_KEY = /[\p{Cc}.$#\s]/u;
const CONTROL = /\p{Cc}/gu;

interface Walk {
  readonly maxDepth: number;
  readonly found: string[];
}

/** Readable violations with their paths, at most twenty; empty when the hub will take the patch. */
export function patchViolations(
  patch: JsonObject,
  { maxDepth = MAX_DEPTH }: { readonly maxDepth?: number } = {},
): readonly string[] {
  const walk: Walk = { maxDepth, found: [] };
  visitObject(walk, patch, "", 1, false);
  return walk.found;
}

function violation({ found }: Walk, path: string, problem: string): void {
  if (found.length < 20) found.push(`${path === "" ? "the patch" : path.slice(0, 200)}: ${problem}`);
}

function visitObject(walk: Walk, object: JsonObject, path: string, depth: number, insideArray: boolean): void {
  for (const [key, value] of Object.entries(object)) {
    const at = path === "" ? key : `${path}.${key}`;
    if (key === "") violation(walk, at, "a name is empty");
    if (utf8Bytes(key) > MAX_KEY_BYTES) violation(walk, at, `a name has more than ${MAX_KEY_BYTES} bytes`);
    if (FORBIDDEN_IN_KEY.test(key))
      violation(walk, at, "a name holds a character that twins do not allow (. $ # blank, control)");
    visit(walk, value, at, depth, insideArray);
  }
}

function visit(walk: Walk, value: Json, path: string, depth: number, insideArray: boolean): void {
  if (value === null) {
    if (insideArray) violation(walk, path, "null inside an array");
  } else if (typeof value === "string") {
    if (utf8Bytes(value) > MAX_STRING_BYTES) violation(walk, path, `a text has more than ${MAX_STRING_BYTES} bytes`);
  } else if (typeof value === "number") {
    visitNumber(walk, value, path);
  } else if (typeof value === "object") {
    visitNested(walk, value, path, depth, insideArray);
  }
}

function visitNumber(walk: Walk, value: number, path: string): void {
  if (!Number.isFinite(value)) violation(walk, path, "not a number that JSON knows");
  else if (Number.isInteger(value) && (value < MIN_INTEGER || value > MAX_INTEGER))
    violation(walk, path, "an integer beyond 2^52");
}

function visitNested(
  walk: Walk,
  value: JsonObject | readonly Json[],
  path: string,
  depth: number,
  insideArray: boolean,
): void {
  const isList = Array.isArray(value);
  const children: readonly Json[] = isList ? value : Object.values(value as JsonObject);
  const goesDeeper = isList ? children.some((item) => typeof item === "object" && item !== null) : children.length > 0;
  // Judged before going there, so that no depth of a hostile patch is ever walked.
  if (goesDeeper && depth >= walk.maxDepth) {
    violation(walk, path, `deeper than ${walk.maxDepth} levels`);
  } else if (isList) {
    for (const item of children) visit(walk, item, path, depth + 1, true);
  } else {
    visitObject(walk, value as JsonObject, path, depth + 1, insideArray);
  }
}

/** Size of a section as IoT Hub counts: names and values in UTF-8 without control characters, numbers 8, booleans 4. */
export function twinBytes(section: JsonObject): number {
  let bytes = 0;
  for (const [key, value] of Object.entries(section)) bytes += textBytes(key) + valueBytes(value);
  return bytes;
}

function valueBytes(value: Json): number {
  if (value === null) return 0;
  if (typeof value === "string") return textBytes(value);
  if (typeof value === "number") return 8;
  if (typeof value === "boolean") return 4;
  if (isJsonObject(value)) return twinBytes(value);
  let bytes = 0;
  for (const item of value) bytes += valueBytes(item);
  return bytes;
}

function textBytes(text: string): number {
  return utf8Bytes(text.replaceAll(CONTROL, ""));
}
