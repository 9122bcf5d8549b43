/** What IoT Hub refuses of a twin, counted its own way [D-twin; iothub-mqtt.md 6.4]. Pure. */

import type { Json, JsonObject } from "../core/message.ts";
import { isArray, isObject } from "./cloud-twin.ts";

export interface Refusal {
  readonly status: number;
  readonly message: string;
}

export type SectionName = "tags" | "desired" | "reported";

const MAX_SECTION_BYTES: Readonly<Record<SectionName, number>> = { tags: 8_192, desired: 32_768, reported: 32_768 };
const MAX_KEY_BYTES = 1_024;
const MAX_TEXT_BYTES = 4_096;
const MAX_INTEGER = 2 ** 52 - 1;
const MIN_INTEGER = -(2 ** 52);
/** Objects inside objects; the root's own children are the first level. Arrays do not count. */
const MAX_DEPTH = 10;
/** Arrays may nest freely for IoT Hub, but not so deep that counting them ends our process. */
const MAX_NESTING = 100;
const CONTROLS = /\p{Cc}/gu;
const FORBIDDEN_IN_KEY = /[\p{Cc}.$ ]/u;

/** What is illegal in a document or patch in itself; undefined: nothing. To be asked first: only then is it safe to walk. */
export function faultOf(section: SectionName, document: JsonObject): Refusal | undefined {
  const fault = faultInObject(document, 0, 0, false);
  return fault === undefined ? undefined : { status: 400, message: `ErrorCode:ArgumentInvalid;${section}: ${fault}` };
}

/** Whether a section would outgrow its limit. */
export function excessOf(section: SectionName, result: JsonObject): Refusal | undefined {
  const bytes = bytesOf(result);
  const limit = MAX_SECTION_BYTES[section];
  if (bytes <= limit) return undefined;
  return { status: 403, message: `ErrorCode:TwinTooLarge;${section} would have ${bytes} bytes; the limit is ${limit}` };
}

/** UTF-8 bytes of keys and values: texts without control characters, numbers 8, booleans 4, null nothing. */
export function bytesOf(value: Json): number {
  if (typeof value === "string") return textBytes(value);
  if (typeof value === "number") return 8;
  if (typeof value === "boolean") return 4;
  if (isArray(value)) return value.reduce<number>((sum, item) => sum + bytesOf(item), 0);
  if (value === null) return 0;
  return Object.entries(value).reduce((sum, [key, item]) => sum + textBytes(key) + bytesOf(item), 0);
}

function textBytes(text: string): number {
  return Buffer.byteLength(text.replaceAll(CONTROLS, ""));
}

function faultInObject(object: JsonObject, depth: number, nesting: number, inArray: boolean): string | undefined {
  if (depth > MAX_DEPTH) return `more than ${MAX_DEPTH} levels of objects`;
  for (const [key, value] of Object.entries(object)) {
    const fault = faultInKey(key) ?? faultInValue(value, depth, nesting + 1, inArray);
    if (fault !== undefined) return fault;
  }
  return undefined;
}

function faultInKey(key: string): string | undefined {
  if (key === "") return "an empty name";
  if (Buffer.byteLength(key) > MAX_KEY_BYTES) return `a name of more than ${MAX_KEY_BYTES} bytes`;
  if (FORBIDDEN_IN_KEY.test(key)) return `the name ${JSON.stringify(key)} has a character that is not allowed`;
  return undefined;
}

function faultInValue(value: Json, depth: number, nesting: number, inArray: boolean): string | undefined {
  if (nesting > MAX_NESTING) return `more than ${MAX_NESTING} levels`;
  if (value === null) return inArray ? "null inside an array" : undefined;
  if (typeof value === "number") return faultInNumber(value);
  if (typeof value === "string") {
    return Buffer.byteLength(value) > MAX_TEXT_BYTES ? `a text of more than ${MAX_TEXT_BYTES} bytes` : undefined;
  }
  if (isArray(value)) return firstFault(value, (item) => faultInValue(item, depth, nesting + 1, true));
  return isObject(value) ? faultInObject(value, depth + 1, nesting, inArray) : undefined;
}

function firstFault(items: readonly Json[], faultIn: (item: Json) => string | undefined): string | undefined {
  for (const item of items) {
    const fault = faultIn(item);
    if (fault !== undefined) return fault;
  }
  return undefined;
}

function faultInNumber(value: number): string | undefined {
  const tooLarge = Number.isInteger(value) && (value > MAX_INTEGER || value < MIN_INTEGER);
  // 1e21 is an integer to JavaScript and a fraction to IoT Hub, which reads it as it is written.
  return tooLarge && !String(value).includes("e") ? "an integer beyond 52 bits" : undefined;
}
