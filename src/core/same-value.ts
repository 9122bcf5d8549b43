/**
 * Equality after edgeHub's rewriting: it parses ISO dates in twins and writes them in a spelling of its own, and it respells
 * numbers [iothub-mqtt.md 12.2]. Without this a read would look like a change, and the gateway would resend for ever.
 */
import { isJsonObject } from "./merge-patch.ts";
import type { Json } from "./message.ts";

const ISO_DATE = /^(\d{4})-(\d{2})-(\d{2})T(\d{2}):(\d{2}):(\d{2})(?:\.(\d{1,9}))?(Z|[+-]\d{2}:\d{2})?$/;

/** A date with time and zone as its instant, one without zone as it stands; undefined for any other text. */
function instant(text: string): string | undefined {
  const match = ISO_DATE.exec(text);
  if (match === null) return undefined;
  const [, year, month, day, hour, minute, second, fraction = "", zone] = match.map(
    (part) => part as string | undefined,
  );
  const digits = fraction.slice(0, 7).replace(/0+$/, "");
  if (zone === undefined) return `${year}-${month}-${day}T${hour}:${minute}:${second}.${digits}`;
  const offsetMinutes =
    zone === "Z" ? 0 : Number(`${zone[0]}1`) * (Number(zone.slice(1, 3)) * 60 + Number(zone.slice(4, 6)));
  const minutes =
    daysSinceEpoch(Number(year), Number(month), Number(day)) * 1440 +
    Number(hour) * 60 +
    Number(minute) -
    offsetMinutes;
  return `${minutes}:${second}.${digits}Z`;
}

/** Days since 1970-01-01 in the proleptic Gregorian calendar. */
function daysSinceEpoch(year: number, month: number, day: number): number {
  const shifted = month <= 2 ? year - 1 : year;
  const era = Math.floor(shifted / 400);
  const yearOfEra = shifted - era * 400;
  const dayOfYear = Math.floor((153 * (month + (month > 2 ? -3 : 9)) + 2) / 5) + day - 1;
  return (
    era * 146_097 + yearOfEra * 365 + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100) + dayOfYear - 719_468
  );
}

function sameText(a: string, b: string): boolean {
  if (a === b) return true;
  const first = instant(a);
  return first !== undefined && first === instant(b);
}

/** Numbers of more than 15 digits come back rounded. */
function sameNumber(a: number, b: number): boolean {
  return (
    a === b || (Number.isFinite(a) && Number.isFinite(b) && Number(a.toPrecision(15)) === Number(b.toPrecision(15)))
  );
}

/** True when the hub may show `b` for `a`. Reflexive and symmetric. */
export function sameValue(a: Json, b: Json): boolean {
  if (typeof a === "string" && typeof b === "string") return sameText(a, b);
  if (typeof a === "number" && typeof b === "number") return sameNumber(a, b);
  if (Array.isArray(a) && Array.isArray(b)) {
    return a.length === b.length && a.every((item, at) => sameValue(item, b[at] as Json));
  }
  if (isJsonObject(a) && isJsonObject(b)) {
    const keys = Object.keys(a);
    return (
      keys.length === Object.keys(b).length &&
      keys.every((key) => Object.hasOwn(b, key) && sameValue(a[key] as Json, b[key] as Json))
    );
  }
  return a === b;
}
