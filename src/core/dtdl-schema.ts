/**
 * DTDL schemas: read from a model, and whether a JSON value fits one. Invariant: a schema that is not understood fits everything.
 * [DTDL v2-v4, schemas]
 */
import { isJsonObject, ownValue } from "./merge-patch.ts";
import type { Json, JsonObject } from "./message.ts";

export type Schema =
  | { readonly kind: "primitive"; readonly name: string; readonly fits: (value: Json) => boolean }
  | { readonly kind: "enum"; readonly values: readonly Json[] }
  | { readonly kind: "object"; readonly fields: ReadonlyMap<string, Schema> }
  | { readonly kind: "map"; readonly value: Schema }
  | { readonly kind: "array"; readonly element: Schema }
  | { readonly kind: "any" };

const ANY: Schema = { kind: "any" };
/** Five levels are legal [DTDL v2, limits]; a schema that names itself must not be followed for ever. */
const MAX_SCHEMA_DEPTH = 12;
const MAX_MISFITS = 5;

const DATE = /^\d{4}-\d{2}-\d{2}$/;
const TIME = /^\d{2}:\d{2}:\d{2}(?:\.\d+)?(?:Z|[+-]\d{2}:\d{2})?$/i;
const DATE_TIME = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d+)?(?:Z|[+-]\d{2}:\d{2})?$/i;
const DURATION = /^-?P(?=\d|T\d)(?:\d+Y)?(?:\d+M)?(?:\d+W)?(?:\d+D)?(?:T(?:\d+H)?(?:\d+M)?(?:\d+(?:\.\d+)?S)?)?$/;
const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/;

function whole(min: number, max: number): (value: Json) => boolean {
  return (value) => typeof value === "number" && Number.isInteger(value) && value >= min && value <= max;
}

function matching(pattern: RegExp): (value: Json) => boolean {
  return (value) => typeof value === "string" && pattern.test(value);
}

const isNumber = (value: Json): boolean => typeof value === "number";
const isString = (value: Json): boolean => typeof value === "string";

/** Numbers of 64 bits are judged as far as JSON's own numbers reach. */
const PRIMITIVES: ReadonlyMap<string, (value: Json) => boolean> = new Map([
  ["boolean", (value: Json): boolean => typeof value === "boolean"],
  ["byte", whole(-128, 127)],
  ["short", whole(-32_768, 32_767)],
  ["integer", whole(-2_147_483_648, 2_147_483_647)],
  ["long", whole(-(2 ** 63), 2 ** 63)],
  ["unsignedByte", whole(0, 255)],
  ["unsignedShort", whole(0, 65_535)],
  ["unsignedInteger", whole(0, 4_294_967_295)],
  ["unsignedLong", whole(0, 2 ** 64)],
  ["float", isNumber],
  ["double", isNumber],
  ["decimal", (value: Json): boolean => isNumber(value) || isString(value)],
  ["string", isString],
  ["bytes", matching(BASE64)],
  ["date", matching(DATE)],
  ["dateTime", matching(DATE_TIME)],
  ["time", matching(TIME)],
  ["duration", matching(DURATION)],
  ["uuid", matching(UUID)],
]);

/** `named`: the interface's own schemas by id. */
export function parseSchema(schema: Json | undefined, named: ReadonlyMap<string, Json>, depth = 0): Schema {
  if (depth > MAX_SCHEMA_DEPTH) return ANY;
  if (typeof schema === "string") {
    const fits = PRIMITIVES.get(schema);
    if (fits !== undefined) return { kind: "primitive", name: schema, fits };
    // Geospatial schemas and those of other documents.
    return named.has(schema) ? parseSchema(named.get(schema), named, depth + 1) : ANY;
  }
  return isJsonObject(schema) ? complexSchema(schema, (inner) => parseSchema(inner, named, depth + 1)) : ANY;
}

function complexSchema(schema: JsonObject, parse: (inner: Json | undefined) => Schema): Schema {
  const types: readonly (Json | undefined)[] = [ownValue(schema, "@type")].flat();
  if (types.includes("Array")) return { kind: "array", element: parse(ownValue(schema, "elementSchema")) };
  if (types.includes("Enum")) return { kind: "enum", values: enumValues(ownValue(schema, "enumValues")) };
  if (types.includes("Map")) {
    const value = ownValue(schema, "mapValue");
    return { kind: "map", value: isJsonObject(value) ? parse(ownValue(value, "schema")) : ANY };
  }
  return types.includes("Object") ? { kind: "object", fields: fieldsOf(schema, parse) } : ANY;
}

function fieldsOf(schema: JsonObject, parse: (inner: Json | undefined) => Schema): ReadonlyMap<string, Schema> {
  const fields = new Map<string, Schema>();
  for (const field of [ownValue(schema, "fields") ?? []].flat()) {
    const name = isJsonObject(field) ? ownValue(field, "name") : undefined;
    if (isJsonObject(field) && typeof name === "string") fields.set(name, parse(ownValue(field, "schema")));
  }
  return fields;
}

function enumValues(list: Json | undefined): readonly Json[] {
  const items: readonly Json[] = [list ?? []].flat();
  return items.flatMap((item) => (isJsonObject(item) ? [ownValue(item, "enumValue") ?? null] : []));
}

/**
 * Where a value does not fit, as readable texts that begin with the path; none when it fits. Fields of objects and entries of maps may
 * be missing or null: a twin's patch removes with null.
 */
export function misfits(schema: Schema, value: Json, path: string): readonly string[] {
  const found: string[] = [];
  walk(schema, value, path, found);
  return found;
}

function walk(schema: Schema, value: Json, path: string, found: string[]): void {
  if (found.length >= MAX_MISFITS) return;
  const problem = misfit(schema, value);
  if (problem !== undefined) {
    found.push(`${path} ${problem}`);
    return;
  }
  if (schema.kind === "array" && Array.isArray(value))
    for (const [at, item] of value.entries()) walk(schema.element, item, `${path}[${at}]`, found);
  if (schema.kind === "map" && isJsonObject(value)) walkEntries(value, () => schema.value, path, found);
  if (schema.kind === "object" && isJsonObject(value))
    walkEntries(value, (name) => schema.fields.get(name), path, found);
}

/** Of the value itself, not of what is in it. */
function misfit(schema: Schema, value: Json): string | undefined {
  switch (schema.kind) {
    case "any":
      return undefined;
    case "primitive":
      return schema.fits(value) ? undefined : `is no ${schema.name}`;
    case "enum":
      return schema.values.includes(value) ? undefined : `is none of ${JSON.stringify(schema.values).slice(0, 100)}`;
    case "array":
      return Array.isArray(value) ? undefined : "is no array";
    case "map":
    case "object":
      return isJsonObject(value) ? undefined : `is no ${schema.kind}`;
  }
}

function walkEntries(
  value: { readonly [key: string]: Json },
  schemaOf: (name: string) => Schema | undefined,
  path: string,
  found: string[],
): void {
  for (const [name, item] of Object.entries(value)) {
    if (item === null) continue;
    const schema = schemaOf(name);
    if (schema === undefined) found.push(`${path}.${name.slice(0, 64)} is not in the model`);
    else walk(schema, item, `${path}.${name.slice(0, 64)}`, found);
    if (found.length >= MAX_MISFITS) return;
  }
}
