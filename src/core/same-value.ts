/**
 * Equality after edgeHub's rewriting: it parses what looks like an ISO date with a time and writes it in a spelling of its own, and
 * it respells numbers [iothub-mqtt.md 12.2]. Without this a read would look like a change, and the gateway would send for ever.
 * Invariant: only what edgeHub rewrites is equal; a difference that a leaf could mean stays one.
 */
import { isJsonObject, ownValue } from "./merge-patch.ts";
import type { Json } from "./message.ts";

/**
 * What edgeHub's parser takes for a date: seconds and at most seven digits of their fraction, with or without a zone. Two more digits
 * it takes for a zone's minutes that have no hours, and forgets [Newtonsoft.Json DateTimeParser, ParseZone].
 */
const ISO_DATE =
  /^(\d{4})-(\d{2})-(\d{2})T(\d{2}):(\d{2}):(\d{2})(?:\.(\d{1,7}))?(?:(?<=\.\d{7})\d{2}|([Zz])|([+-])(\d{2}):?(\d{2})?)?$/;
/** The other spelling that .NET's JSON reader takes for a date: milliseconds since 1970, as old .NET programs write them. */
const MILLISECONDS_DATE = /^\/Date\((-?\d{1,15})(?:[+-]\d{4})?\)\/$/;
const FIRST_DATE_MS = -62_135_596_800_000;
const LAST_DATE_MS = 253_402_300_799_999;
const MINUTE_MS = 60_000;
const MONTH_DAYS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] as const;
/** The distance from a double to the next one, relative to it. */
const LAST_PLACE = Number.EPSILON;

/** True when the hub may show `b` where `a` was written. Reflexive and symmetric. */
export function sameValue(a: Json, b: Json): boolean {
  if (typeof a === "string" && typeof b === "string") return sameText(a, b);
  if (typeof a === "number" && typeof b === "number") return sameNumber(a, b);
  if (isJsonObject(a) && isJsonObject(b)) {
    const keys = Object.keys(a);
    return keys.length === Object.keys(b).length && keys.every((key) => sameOwn(ownValue(a, key), ownValue(b, key)));
  }
  if (Array.isArray(a) && Array.isArray(b)) {
    return a.length === b.length && a.every((item, at) => sameOwn(item, b[at]));
  }
  return a === b;
}

function sameOwn(a: Json | undefined, b: Json | undefined): boolean {
  return a !== undefined && b !== undefined && sameValue(a, b);
}

/** Who reads a long fraction and writes it again may be off by one in the last place; integers that twins allow never are. */
function sameNumber(a: number, b: number): boolean {
  return a === b || Math.abs(a - b) <= LAST_PLACE * Math.min(Math.abs(a), Math.abs(b));
}

function sameText(a: string, b: string): boolean {
  if (a === b) return true;
  const instant = instantOf(a);
  return instant !== undefined && instant === instantOf(b);
}

/** One text for all spellings of an instant; times without a zone are apart from those with one. undefined: no date. */
function instantOf(text: string): string | undefined {
  const parts = ISO_DATE.exec(text);
  if (parts === null) return instantOfMilliseconds(MILLISECONDS_DATE.exec(text)?.[1]);
  const at = (index: number): number => Number(parts[index] ?? 0);
  const [year, month, day, hour, minute, second] = [at(1), at(2), at(3), at(4), at(5), at(6)];
  const [offsetHours, offsetMinutes] = [at(10), at(11)];
  if (!isDay(year, month, day) || !isTime(hour, minute, second) || !isTime(offsetHours, offsetMinutes, 0)) {
    return undefined;
  }
  const sign = parts[9] === "-" ? -1 : 1;
  const minutes =
    daysSinceEpoch(year, month, day) * 1440 + hour * 60 + minute - sign * (offsetHours * 60 + offsetMinutes);
  const fraction = (parts[7] ?? "").replace(/0+$/, "");
  const isZoned = parts[8] !== undefined || parts[9] !== undefined;
  return `${minutes}:${second}.${fraction}${isZoned ? "Z" : ""}`;
}

function instantOfMilliseconds(digits: string | undefined): string | undefined {
  const ms = Number(digits ?? Number.NaN);
  if (!(ms >= FIRST_DATE_MS && ms <= LAST_DATE_MS)) return undefined;
  const minutes = Math.floor(ms / MINUTE_MS);
  const rest = ms - minutes * MINUTE_MS;
  const fraction = String(rest % 1_000)
    .padStart(3, "0")
    .replace(/0+$/, "");
  return `${minutes}:${Math.floor(rest / 1_000)}.${fraction}Z`;
}

function isDay(year: number, month: number, day: number): boolean {
  const isLeapYear = year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0);
  const days = month === 2 && isLeapYear ? 29 : (MONTH_DAYS[month - 1] ?? 0);
  return year >= 1 && day >= 1 && day <= days;
}

function isTime(hour: number, minute: number, second: number): boolean {
  return hour < 24 && minute < 60 && second < 60;
}

/** Days since 1970-01-01 in the Gregorian calendar; the year is taken to begin in March, so that a leap day comes last. */
function daysSinceEpoch(year: number, month: number, day: number): number {
  const marchYear = month <= 2 ? year - 1 : year;
  const dayOfYear = Math.floor((153 * ((month + 9) % 12) + 2) / 5) + day - 1;
  const leapDays = Math.floor(marchYear / 4) - Math.floor(marchYear / 100) + Math.floor(marchYear / 400);
  return marchYear * 365 + leapDays + dayOfYear - 719_468;
}
