/**
 * IoT Hub's limits of twins as named constants, and what of a patch breaks them: a list of violations, not a boolean, so that the
 * leaf can be told. Invariant: a patch without violations is refused neither by IoT Hub nor by edgeHub for its form; both are
 * strict in places where the other is not. Sources: "Understand and use device twins in IoT Hub"; edgeHub's
 * ReportedPropertiesValidator [iothub-mqtt.md 6.4, 12.2].
 */
import { isJsonObject } from "./merge-patch.ts";
import type { Json, JsonObject } from "./message.ts";
import { utf8Bytes } from "./utf8.ts";

/** Each section, total, as {@link twinBytes} counts. */
export const MAX_TWIN_SECTION_BYTES = 32_768;
/** All leaves together may fill the module's reported section up to here; the rest is room for what IoT Hub counts otherwise. */
export const GATEWAY_REPORTED_CEILING_BYTES = 31_744;
/** Of JSON in one reported patch: well below edgeHub's 32,768, so that names and overhead never matter [iothub-mqtt.md 12.2]. */
export const MAX_PUSH_BYTES = 24 * 1024;
/** The gateway warns from here, 80 % of a section. */
export const SECTION_WARNING_BYTES = Math.floor(MAX_TWIN_SECTION_BYTES * 0.8);
const MAX_KEY_BYTES = 1_024;
const MAX_STRING_BYTES = 4_096;
/** Levels of objects (and, at edgeHub, of arrays) below the root. A plain value may stand one level below the last of them. */
export const MAX_DEPTH = 10;
export const MIN_INTEGER = -4_503_599_627_370_496;
export const MAX_INTEGER = 4_503_599_627_370_495;

/** From here on JSON text has an exponent, and both hubs read a fraction, which has no limit. */
const EXPONENT_FROM = 1e21;
/** What edgeHub adds to IoT Hub's own list: `#` and any Unicode white space, not only the blank. */
const FORBIDDEN_IN_KEY = /[\p{Cc}\p{Z}.$#]/u;
const CONTROL = /\p{Cc}/gu;
/** The service's own, which cost nothing. */
const FREE_KEYS: ReadonlySet<string> = new Set(["$version", "$metadata"]);
const MAX_LISTED = 20;
const MAX_PATH_CHARS = 200;

interface Walk {
  readonly maxDepth: number;
  readonly found: string[];
}

interface Place {
  readonly path: string;
  readonly depth: number;
  readonly inArray: boolean;
}

/**
 * Readable violations with their paths, at most twenty; empty when the hub will take the patch. `maxDepth` is what is left of
 * {@link MAX_DEPTH} where the patch will stand. No deeper level is ever walked, whatever somebody sends.
 */
export function patchViolations(
  patch: JsonObject,
  { maxDepth = MAX_DEPTH }: { readonly maxDepth?: number } = {},
): readonly string[] {
  const walk: Walk = { maxDepth, found: [] };
  visitObject(walk, patch, { path: "", depth: 0, inArray: false });
  return walk.found;
}

function visitObject(walk: Walk, object: JsonObject, { path, depth, inArray }: Place): void {
  for (const [key, value] of Object.entries(object)) {
    if (walk.found.length >= MAX_LISTED) return;
    const at = path === "" ? key : `${path}/${key}`;
    visitKey(walk, key, at);
    visit(walk, value, { path: at, depth: depth + 1, inArray });
  }
}

function visitKey(walk: Walk, key: string, path: string): void {
  if (key === "") violation(walk, path, "a name is empty");
  else if (utf8Bytes(key) > MAX_KEY_BYTES) violation(walk, path, `a name has more than ${MAX_KEY_BYTES} bytes`);
  else if (FORBIDDEN_IN_KEY.test(key))
    violation(walk, path, "a name holds what twins do not allow there (. $ # blank, control)");
  else if (!key.isWellFormed()) violation(walk, path, "a name is no Unicode text");
}

function visit(walk: Walk, value: Json, place: Place): void {
  if (value === null) {
    if (place.inArray) violation(walk, place.path, "null inside an array");
  } else if (typeof value === "string") {
    visitText(walk, value, place.path);
  } else if (typeof value === "number") {
    visitNumber(walk, value, place.path);
  } else if (typeof value !== "boolean") {
    visitNested(walk, value, place);
  }
}

function visitText(walk: Walk, text: string, path: string): void {
  if (utf8Bytes(text) > MAX_STRING_BYTES) violation(walk, path, `a text has more than ${MAX_STRING_BYTES} bytes`);
  else if (!text.isWellFormed()) violation(walk, path, "a text is no Unicode text");
}

function visitNumber(walk: Walk, value: number, path: string): void {
  if (!Number.isFinite(value)) violation(walk, path, "not a number that JSON knows");
  else if (Number.isInteger(value) && Math.abs(value) < EXPONENT_FROM && (value < MIN_INTEGER || value > MAX_INTEGER))
    violation(walk, path, "an integer beyond 2^52");
}

function visitNested(walk: Walk, value: JsonObject | readonly Json[], place: Place): void {
  // Judged before going there: one such patch would make the whole module's patch fail, and no depth may cost us the stack.
  if (place.depth > walk.maxDepth) {
    violation(walk, place.path, `deeper than ${walk.maxDepth} levels`);
  } else if (isJsonObject(value)) {
    visitObject(walk, value, place);
  } else {
    for (const item of value) {
      if (walk.found.length >= MAX_LISTED) return;
      visit(walk, item, { path: place.path, depth: place.depth + 1, inArray: true });
    }
  }
}

function violation({ found }: Walk, path: string, problem: string): void {
  // It goes into a log and an error body: no line breaks, no half characters.
  found.push(`${path.slice(0, MAX_PATH_CHARS).toWellFormed().replaceAll(CONTROL, "?")}: ${problem}`);
}

/** Size of a section as IoT Hub counts: names and values in UTF-8 without control characters, numbers 8, booleans 4. */
export function twinBytes(section: JsonObject): number {
  let bytes = 0;
  for (const [key, value] of Object.entries(section))
    if (!FREE_KEYS.has(key)) bytes += textBytes(key) + valueBytes(value);
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

/**
 * Whether a patch cannot fit into any section, by what it adds at least: names and plain values without texts, nothing for what it
 * removes. Stops as soon as it knows, so that a patch of tens of thousands of names costs no more than one that fits.
 */
export function isBeyondAnySection(patch: JsonObject): boolean {
  return leastBytes(patch, MAX_TWIN_SECTION_BYTES) > MAX_TWIN_SECTION_BYTES;
}

function leastBytes(section: JsonObject, enough: number): number {
  let bytes = 0;
  for (const key in section) {
    if (bytes > enough) break;
    const value = Object.hasOwn(section, key) ? section[key] : null;
    if (value === null || value === undefined) continue;
    // Names with control characters, which would cost less, are refused anyway.
    bytes += key.length;
    if (typeof value === "number") bytes += 8;
    else if (typeof value === "boolean") bytes += 4;
    else if (isJsonObject(value)) bytes += leastBytes(value, enough - bytes);
  }
  return bytes;
}
