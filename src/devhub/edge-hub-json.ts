/**
 * JSON as edgeHub's .NET code treats it: its merge, its difference, and the two rewritings (dates, numbers) that a value
 * suffers on its way [iothub-mqtt.md 12.2]. Not shared with the gateway on purpose.
 */

import type { Json, JsonObject } from "../core/message.ts";

export function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * [EU JsonEx.Merge] Objects merge, everything else replaces. `nulls` of the patch delete the key or are kept as they are:
 * kept for patches that are still to be sent, where an object then overwrites an earlier null without a trace.
 */
export function merge(base: JsonObject, patch: JsonObject, nulls: "delete" | "keep"): JsonObject {
  const result = new Map(Object.entries(base));
  for (const [key, value] of Object.entries(patch)) {
    const old = result.get(key);
    if (value === null && nulls === "delete") result.delete(key);
    else result.set(key, isObject(old) && isObject(value) ? merge(old, value, nulls) : value);
  }
  return Object.fromEntries(result);
}

/** [EU JsonEx.Diff] The patch that leads from one document to the other; vanished keys as null. */
export function difference(from: JsonObject, to: JsonObject): JsonObject {
  const changes: [string, Json][] = [];
  for (const key of Object.keys(from)) if (!Object.hasOwn(to, key)) changes.push([key, null]);
  for (const [key, value] of Object.entries(to)) {
    const old = Object.hasOwn(from, key) ? from[key] : undefined;
    if (isObject(old) && isObject(value)) {
      const nested = difference(old, value);
      if (Object.keys(nested).length > 0) changes.push([key, nested]);
    } else if (old === undefined || !same(old, value)) changes.push([key, value]);
  }
  return Object.fromEntries(changes);
}

function same(a: Json, b: Json): boolean {
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((item, at) => same(item, b[at]));
  if (isObject(a) && isObject(b)) return Object.keys(difference(a, b)).length === 0;
  return a === b;
}

/** Every text that reads as an ISO date is parsed and written again; keys are left alone. */
export function rewriteDates<T extends Json>(value: T): T;
export function rewriteDates(value: Json): Json {
  if (typeof value === "string") return rewriteDate(value);
  if (isArray(value)) return value.map((item) => rewriteDates(item));
  if (!isObject(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, rewriteDates(item)]));
}

function isArray(value: Json): value is readonly Json[] {
  return Array.isArray(value);
}

/** Eight digits of a fraction, and nine with a zone, are no date to the parser; nine without one are, and the last two go. */
const ISO_DATE =
  /^(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:\.(\d{1,7}))?(?:(?<=\.\d{7})\d{2}|([Zz]|[+-]\d{2}:?\d{2}))?$/;

/** Zeros at the end of the fraction go; an offset becomes the container's zone, which is UTC. */
function rewriteDate(text: string): string {
  const match = ISO_DATE.exec(text);
  if (match === null) return text;
  const [, seconds = "", fraction = "", zone = ""] = match;
  const offset = zone === "" || zone.toUpperCase() === "Z";
  const instant = new Date(`${seconds}${offset ? "Z" : withColon(zone)}`);
  if (Number.isNaN(instant.getTime())) return text;
  const moved = offset ? seconds : instant.toISOString().slice(0, 19);
  const digits = fraction.replace(/0+$/, "");
  return `${moved}${digits === "" ? "" : `.${digits}`}${offset ? zone.toUpperCase() : "+00:00"}`;
}

function withColon(zone: string): string {
  return zone.includes(":") ? zone : `${zone.slice(0, 3)}:${zone.slice(3)}`;
}

/** JSON text with numbers as .NET writes them: `1e21` as `1E+21`, `1.5e-7` as `1.5E-07`. */
export function formatDotnet(value: Json): string {
  if (typeof value === "number") return formatNumber(value);
  if (isArray(value)) return `[${value.map((item) => formatDotnet(item)).join(",")}]`;
  if (!isObject(value)) return JSON.stringify(value);
  const members = Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}:${formatDotnet(item)}`);
  return `{${members.join(",")}}`;
}

function formatNumber(value: number): string {
  const [mantissa, exponent] = String(value).split("e");
  if (exponent === undefined) return String(value);
  const digits = exponent.slice(1).padStart(2, "0");
  return `${mantissa ?? ""}E${exponent.startsWith("-") ? "-" : "+"}${digits}`;
}

/** Undefined when the bytes are no JSON. */
export function parseJson(bytes: Uint8Array | string): Json | undefined {
  try {
    const text = typeof bytes === "string" ? bytes : new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    return JSON.parse(text) as Json;
  } catch {
    return undefined;
  }
}
