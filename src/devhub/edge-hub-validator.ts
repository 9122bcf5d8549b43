/** edgeHub's own check of a reported patch [EH ReportedPropertiesValidator; measured limits in iothub-mqtt.md 6.4, 12.2]. */

import type { Json, JsonObject } from "../core/message.ts";
import { isObject } from "./edge-hub-json.ts";

const MAX_PATCH_BYTES = 32_768;
/** Containers below the root: eleven levels of objects pass with the root, twelve do not; arrays count. */
const MAX_DEPTH = 10;
const MAX_KEY_BYTES = 1024;
const MAX_TEXT_BYTES = 4096;
const MIN_INTEGER = -4_503_599_627_370_496;
const MAX_INTEGER = 4_503_599_627_370_495;
/** White space as .NET's `char.IsWhiteSpace` has it: JavaScript's `\s` also holds the byte order mark. */
const ILLEGAL_KEY = /[\p{Cc}\p{Z}.$#]/u;

/** Why edgeHub answers 400, or undefined when it takes the patch. Only the size of the patch counts, not of the section. */
export function refusalOf(patch: JsonObject): string | undefined {
  if (Buffer.byteLength(JSON.stringify(patch)) > MAX_PATCH_BYTES) return "patch over 32768 bytes";
  return refusalOfMembers(patch, 1, false);
}

function refusalOfMembers(object: JsonObject, depth: number, inArray: boolean): string | undefined {
  for (const [key, value] of Object.entries(object)) {
    if (Buffer.byteLength(key) > MAX_KEY_BYTES) return "key over 1024 bytes";
    if (ILLEGAL_KEY.test(key)) return `illegal character in key ${JSON.stringify(key)}`;
    const refusal = refusalOfValue(value, depth, inArray);
    if (refusal !== undefined) return refusal;
  }
  return undefined;
}

function refusalOfValue(value: Json, depth: number, inArray: boolean): string | undefined {
  if (value === null) return inArray ? "null inside an array" : undefined;
  if (typeof value === "string") return Buffer.byteLength(value) > MAX_TEXT_BYTES ? "text over 4096 bytes" : undefined;
  if (typeof value === "number") return isTooLarge(value) ? "integer out of range" : undefined;
  if (typeof value === "boolean") return undefined;
  if (depth > MAX_DEPTH) return "deeper than 10 levels";
  if (isObject(value)) return refusalOfMembers(value, depth + 1, inArray);
  for (const item of value) {
    const refusal = refusalOfValue(item, depth + 1, true);
    if (refusal !== undefined) return refusal;
  }
  return undefined;
}

function isTooLarge(value: number): boolean {
  return Number.isInteger(value) && (value < MIN_INTEGER || value > MAX_INTEGER) && Math.abs(value) < 1e21;
}
