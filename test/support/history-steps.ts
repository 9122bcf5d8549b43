/** The steps of which random histories are made, and how they are drawn. */
import fc from "fast-check";
import type { JsonObject } from "../../src/core/message.ts";

export type Step =
  | { readonly kind: "report"; readonly leaf: number; readonly patch: JsonObject }
  | { readonly kind: "telemetry"; readonly leaf: number; readonly count: number }
  | {
      readonly kind: "desire";
      readonly leaf: number;
      readonly part?: boolean;
      readonly patch: JsonObject | null;
      readonly heard: boolean;
      /** Another leaf's properties in the same change. */
      readonly also?: { readonly leaf: number; readonly patch: JsonObject } | undefined;
    }
  | { readonly kind: "acknowledge"; readonly leaf: number }
  | { readonly kind: "connect"; readonly leaf: number; readonly clean?: boolean }
  | { readonly kind: "disconnect"; readonly leaf: number }
  | { readonly kind: "link"; readonly state: "up" | "down" }
  | { readonly kind: "lose-answer" }
  | { readonly kind: "kill"; readonly afterWrites: number }
  | { readonly kind: "disk"; readonly fails: number; readonly how: "fail" | "fail-written" | 30 }
  | { readonly kind: "recreate" }
  | { readonly kind: "wan"; readonly state: "cut" | "up"; readonly told: boolean; readonly routed?: boolean }
  /** From here to the end whoever watches the WAN takes it for away. */
  | { readonly kind: "blind" }
  | { readonly kind: "edge-restart"; readonly lose: boolean | "newest"; readonly toldAfter: boolean }
  | { readonly kind: "remove"; readonly leaf: number; readonly confirm: boolean }
  | { readonly kind: "pass"; readonly ms: number };

/** A legal component name, an illegal one, a reserved one. */
export const LEAVES = ["leaf1", "Leaf-2", "gateway"] as const;

function rarely<T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> {
  return fc.oneof({ weight: 5, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary });
}

const leaf = fc.nat({ max: LEAVES.length - 1 });
const value = fc.oneof(
  fc.integer({ min: 0, max: 3 }),
  fc.constantFrom("x", "2026-01-02T03:04:05.000Z"),
  fc.constant(null),
);
const properties = fc.dictionary(
  fc.constantFrom("a", "b", "c"),
  fc.oneof(value, fc.dictionary(fc.constantFrom("x", "y"), value)),
  { maxKeys: 3 },
);
const leafPatch = fc
  .record({ root: properties, part: fc.option(properties, { nil: undefined }) })
  .map(({ root, part }): JsonObject => (part === undefined ? root : { ...root, part: { __t: "c", ...part } }));
const desiredProperties = fc.dictionary(fc.constantFrom("p", "q"), value, { minKeys: 1, maxKeys: 2 });

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("report" as const), leaf, patch: leafPatch }) },
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant("telemetry" as const), leaf, count: fc.integer({ min: 1, max: 70 }) }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant("desire" as const),
      leaf,
      part: fc.boolean(),
      patch: fc.oneof({ weight: 5, arbitrary: desiredProperties }, fc.constant(null)),
      heard: fc.boolean(),
      also: rarely(fc.record({ leaf, patch: desiredProperties })),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("acknowledge" as const), leaf }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("connect" as const),
      leaf,
      clean: fc.nat({ max: 4 }).map((n) => n === 4),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("disconnect" as const), leaf }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("link" as const),
      state: fc.constantFrom("up" as const, "up" as const, "down" as const),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("lose-answer" as const) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("kill" as const), afterWrites: fc.nat({ max: 3 }) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("disk" as const),
      fails: fc.integer({ min: 1, max: 3 }),
      how: fc.constantFrom("fail" as const, "fail-written" as const, 30 as const),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("recreate" as const) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("wan" as const),
      state: fc.constantFrom("cut" as const, "up" as const, "up" as const),
      told: fc.boolean(),
      routed: fc.boolean(),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("edge-restart" as const),
      lose: fc.constantFrom(false, true, "newest" as const),
      toldAfter: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("remove" as const), leaf, confirm: fc.boolean() }) },
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant("pass" as const),
      ms: fc.constantFrom(0, 1, 60, 250, 3_000, 7_000, 30_000, 130_000),
    }),
  },
);

/** Long enough for several troubles to meet; fast-check would keep arrays to about ten by itself. */
export const history = fc
  .tuple(fc.array(step, { minLength: 1, maxLength: 60, size: "max" }), rarely(fc.nat(60)))
  .map(([steps, blindFrom]): readonly Step[] =>
    blindFrom === undefined ? steps : steps.toSpliced(blindFrom, 0, { kind: "blind" }),
  );
