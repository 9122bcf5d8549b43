/** Random twins, patches and ids for property tests. Keys that trip careless code (`__proto__` and its kin) come often. */
import fc from "fast-check";
import { type LeafRecord, newRecord } from "../../src/core/leaf.ts";
import type { ComponentName, Json, JsonObject, LeafId } from "../../src/core/message.ts";
import { parseLeafId } from "../../src/core/message.ts";

/** Few keys, so that documents meet; some of them are members of every object's prototype. */
export const keys: fc.Arbitrary<string> = fc.constantFrom(
  "a",
  "b",
  "c",
  "température",
  "__proto__",
  "constructor",
  "toString",
  "hasOwnProperty",
);

export const dates: fc.Arbitrary<string> = fc.constantFrom(
  "2026-01-02T03:04:05.000Z",
  "2026-01-02T03:04:05Z",
  "2026-01-02T05:04:05+02:00",
  "2026-01-02T03:04:05",
  "2026-01-02",
);

/** Plain values as a leaf may report them. */
export const plainValues: fc.Arbitrary<Json> = fc.oneof(
  fc.boolean(),
  fc.integer({ min: -3, max: 3 }),
  fc.double({ noNaN: true, noDefaultInfinity: true }),
  fc.string({ maxLength: 6, unit: "binary" }),
  dates,
);

const arrays: fc.Arbitrary<Json> = fc.array(fc.oneof(plainValues, fc.array(plainValues, { maxLength: 2 })), {
  maxLength: 3,
});

/** An object of these values; no key twice, and every key its own, whatever its name. */
export function objects(
  values: fc.Arbitrary<Json>,
  names: fc.Arbitrary<string> = keys,
  maxKeys = 4,
): fc.Arbitrary<JsonObject> {
  return fc
    .uniqueArray(fc.tuple(names, values), { selector: ([name]) => name, maxLength: maxKeys })
    .map((entries) => Object.fromEntries(entries));
}

function nested(leaves: fc.Arbitrary<Json>, depth: number): fc.Arbitrary<Json> {
  return depth === 0 ? leaves : fc.oneof({ arbitrary: leaves, weight: 2 }, objects(nested(leaves, depth - 1)));
}

/** A twin section: nothing in it is null. */
export const documents: fc.Arbitrary<JsonObject> = objects(nested(fc.oneof(plainValues, arrays), 3));

/** A patch of a twin section: nulls delete. */
export const patches: fc.Arbitrary<JsonObject> = objects(nested(fc.oneof(plainValues, arrays, fc.constant(null)), 3));

/** Any JSON at all, however little a twin likes it. */
export const anyJson: fc.Arbitrary<Json> = nested(
  fc.oneof(plainValues, arrays, fc.constant(null), fc.double(), fc.string({ unit: "binary" })),
  4,
);

/** IoT Hub's alphabet of device ids. */
const ID_CHARACTERS = "ABCXYZabcxyz0189-:.+%_#*?!(),=@;$'".split("");

export function leafIdOf(text: string): LeafId {
  const leafId = parseLeafId(text);
  if (leafId === undefined) throw new Error(`no leaf id: ${text}`);
  return leafId;
}

export const leafIds: fc.Arbitrary<LeafId> = fc
  .array(fc.constantFrom(...ID_CHARACTERS), { minLength: 1, maxLength: 128 })
  .map((characters) => leafIdOf(characters.join("")));

/** Components that every record of {@link recordOf} knows. */
export const COMPONENTS = ["thermostat1", "thermostat2"] as const;

const acknowledgements: fc.Arbitrary<Json> = fc.record(
  {
    value: plainValues,
    ac: fc.constantFrom(200, 202, 203, 400, 500),
    av: fc.integer({ min: 0, max: 12 }),
    ad: fc.string({ maxLength: 4 }),
  },
  { requiredKeys: ["value", "ac", "av"], noNullPrototype: true },
);

const properties = (values: fc.Arbitrary<Json>): fc.Arbitrary<JsonObject> =>
  objects(fc.oneof(values, objects(values)), keys, 3);

/** A leaf's section in its own words: properties, and components that bear their marker. */
function sections(values: fc.Arbitrary<Json>): fc.Arbitrary<JsonObject> {
  const component = properties(values).map((inside): JsonObject => ({ __t: "c", ...inside }));
  return fc
    .tuple(properties(values), objects(component, fc.constantFrom(...COMPONENTS), 2))
    .map(([root, components]) => ({ ...root, ...components }));
}

export const leafDesired: fc.Arbitrary<JsonObject> = sections(plainValues);
export const leafReported: fc.Arbitrary<JsonObject> = sections(fc.oneof(plainValues, acknowledgements));

/** A leaf's record as after its very first connect, but for `some`. */
export function recordOf(some: Partial<LeafRecord> = {}): LeafRecord {
  const component = "leaf1" as ComponentName;
  return {
    ...newRecord({ leafId: leafIdOf("leaf1"), component, modelId: undefined, dialect: "iothub", nowMs: 0 }),
    components: Object.fromEntries(COMPONENTS.map((name) => [name, `leaf1__${name}` as ComponentName])),
    ...some,
  };
}
