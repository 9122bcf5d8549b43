import { describe, expect, test } from "vitest";
import type { LeafNaming } from "../../../src/core/leaf.ts";
import type { ComponentName } from "../../../src/core/message.ts";
import { sha256Hex } from "../../../src/sha256-hex.ts";
import {
  componentsIn,
  formatCommandName,
  leafComponentOf,
  leafDesired,
  leafDesiredPatch,
  leafReported,
  learnComponents,
  moduleSlice,
  moduleView,
  parseCommandName,
  unknownComponents,
} from "../../../src/translate/pnp.ts";

const bare: LeafNaming = { component: "leaf1" as ComponentName, components: {} };

function naming(...names: string[]): LeafNaming {
  return learnComponents(bare, names, sha256Hex, 100).naming;
}

const hashed = naming("zone 1").components["zone 1"] ?? "";

describe("learning components", () => {
  test("a legal name stays readable, another gets a hash", () => {
    expect(naming("thermostat1").components).toEqual({ thermostat1: "leaf1__thermostat1" });
    expect(hashed).toMatch(/^leaf1__zone_1_[0-9a-f]{8}$/);
  });

  test("what is known already leaves the naming as it is", () => {
    const known = naming("thermostat1");
    expect(learnComponents(known, ["thermostat1"], sha256Hex, 1)).toEqual({ naming: known, refused: [] });
    expect(learnComponents(known, ["thermostat1"], sha256Hex, 1).naming).toBe(known);
    expect(learnComponents(known, [], sha256Hex, 1).naming).toBe(known);
  });

  test("one component too many is refused, those before it are learned", () => {
    const { naming: learned, refused } = learnComponents(bare, ["a", "b", "a", "c"], sha256Hex, 2);
    expect(Object.keys(learned.components)).toEqual(["a", "b"]);
    expect(refused).toEqual(["c"]);
  });

  test("a name that is empty, or longer than DTDL knows, is refused", () => {
    expect(learnComponents(bare, ["", "x".repeat(513)], sha256Hex, 9).refused).toHaveLength(2);
    expect(learnComponents(bare, ["x".repeat(512)], sha256Hex, 9).refused).toEqual([]);
  });

  test("a name that means another one's component is refused: no two share one", () => {
    const known = naming("zone 1");
    const impostor = hashed.slice("leaf1__".length);
    expect(learnComponents(known, [impostor], sha256Hex, 9)).toEqual({ naming: known, refused: [impostor] });
  });

  test("names that JavaScript's own objects have are names like any other", () => {
    const learned = naming("__proto__", "constructor");
    expect(Object.keys(learned.components)).toEqual(["__proto__", "constructor"]);
    expect(moduleView(bare, { constructor: { a: 1 } })).toEqual({ leaf1: { __t: "c", constructor: { a: 1 } } });
  });

  test("the marker alone makes a component, at the top level only", () => {
    const section = {
      a: { __t: "c" },
      b: { __t: "x" },
      c: {},
      d: "c",
      e: { f: { __t: "c" } },
      g: null,
      h: [{ __t: "c" }],
    };
    expect(componentsIn(section)).toEqual(["a"]);
    expect(componentsIn({ a: Object.create({ __t: "c" }) })).toEqual([]);
  });
});

describe("components of the module that no registry knows", () => {
  test("the leaf's name is what stands behind the double underscore", () => {
    expect(
      unknownComponents(bare, { leaf1: {}, leaf1__a: {}, leaf1__b: { __t: "c" }, leaf2__c: {}, gateway: {} }),
    ).toEqual(["a", "b"]);
  });

  test("known ones, removed ones and values that are no component teach nothing", () => {
    expect(unknownComponents(naming("a"), { leaf1__a: {}, leaf1__b: null, leaf1__c: 1 })).toEqual([]);
  });

  test("a hashed name, or one that we would never give, waits until the leaf names it", () => {
    expect(
      unknownComponents(bare, {
        [hashed]: {},
        leaf1__a__b: {},
        leaf1__: {},
        "leaf1__a b": {},
        [`leaf1__${"x".repeat(58)}`]: {},
      }),
    ).toEqual([]);
    expect(unknownComponents(naming("zone 1"), { [hashed]: {} })).toEqual([]);
  });
});

describe("command names", () => {
  test.each([
    ["leaf1*reboot", { component: "leaf1", command: "reboot" }],
    ["leaf1__thermostat1*getMaxMinReport", { component: "leaf1__thermostat1", command: "getMaxMinReport" }],
    ["reboot", { component: undefined, command: "reboot" }],
    ["a*b*c", { component: "a", command: "b*c" }],
    ["*x", { component: "", command: "x" }],
  ])("%s", (name, meaning) => {
    expect(parseCommandName(name)).toEqual(meaning);
    expect(formatCommandName(meaning.component, meaning.command)).toBe(name);
  });

  test("a module component leads to the leaf's own", () => {
    const known = naming("zone 1", "thermostat1");
    expect(leafComponentOf(known, "leaf1")).toEqual({ component: undefined });
    expect(leafComponentOf(known, "leaf1__thermostat1")).toEqual({ component: "thermostat1" });
    expect(leafComponentOf(known, hashed)).toEqual({ component: "zone 1" });
  });

  test("a command may be the first that anybody says of a component", () => {
    expect(leafComponentOf(bare, "leaf1__thermostat1")).toEqual({ component: "thermostat1" });
  });

  test.each([hashed, "leaf1__a__b", "leaf2", "leaf2__a", "leaf11", "leaf1__"])("%s leads nowhere", (component) => {
    expect(leafComponentOf(bare, component)).toBeUndefined();
  });
});

describe("reported", () => {
  test("root keys become the leaf's component, marked first", () => {
    const view = moduleView(bare, { a: 1, b: { c: 2 } });
    expect(view).toEqual({ leaf1: { __t: "c", a: 1, b: { c: 2 } } });
    expect(JSON.stringify(view)).toBe('{"leaf1":{"__t":"c","a":1,"b":{"c":2}}}');
  });

  test("components become components, with or without marker", () => {
    const view = moduleView(naming("x", "y"), { y: { b: 2, __t: "c" }, a: 1, x: { __t: "c" } });
    expect(JSON.stringify(view)).toBe(
      '{"leaf1":{"__t":"c","a":1},"leaf1__y":{"__t":"c","b":2},"leaf1__x":{"__t":"c"}}',
    );
  });

  test("a component's name with a value that is no object stays a property", () => {
    expect(moduleView(naming("x", "y"), { x: 5, y: [1] })).toEqual({ leaf1: { __t: "c", x: 5, y: [1] } });
  });

  test("nothing in the root, no component for it", () => {
    expect(moduleView(naming("x"), { x: { a: 1 } })).toEqual({ leaf1__x: { __t: "c", a: 1 } });
    expect(moduleView(bare, {})).toEqual({});
    expect(moduleView(bare, { __t: "c" })).toEqual({});
  });

  test("the slice holds what is known to be the leaf's, the reverse brings it back with markers", () => {
    const known = naming("x");
    const section = {
      leaf1: { __t: "c", a: 1 },
      leaf1__x: { b: 2 },
      [hashed]: { c: 3 },
      leaf2: { d: 4 },
      leaf11__x: {},
    };
    const slice = moduleSlice(known, section);
    expect(Object.keys(slice)).toEqual(["leaf1", "leaf1__x"]);
    expect(leafReported(known, slice)).toEqual({ a: 1, x: { __t: "c", b: 2 } });
  });

  test("a component is stronger than an old property of its name, what is no object is nothing", () => {
    const known = naming("x");
    expect(leafReported(known, { leaf1: { x: 5 }, leaf1__x: { b: 2 } })).toEqual({ x: { __t: "c", b: 2 } });
    expect(leafReported(known, { leaf1: 7, leaf1__x: 8 })).toEqual({});
  });
});

describe("desired", () => {
  const known = naming("x");

  test("the whole section in the leaf's words, each component marked first", () => {
    const desired = leafDesired(known, { leaf1: { __t: "c", a: 1 }, leaf1__x: { b: 2 }, leaf2: { c: 3 }, $version: 4 });
    expect(JSON.stringify(desired)).toBe('{"a":1,"x":{"__t":"c","b":2}}');
  });

  test("what is no object is absent", () => {
    expect(leafDesired(known, { leaf1: "x", leaf1__x: [1] })).toEqual({});
  });

  test("a property that bears a component's name is kept from the leaf", () => {
    expect(leafDesired(known, { leaf1: { x: 1, a: 2 } })).toEqual({ a: 2 });
    expect(leafDesiredPatch(known, { leaf1: { x: 1, a: 2 } }, {})).toEqual({ a: 2 });
  });

  test("a property, a component, both, with one version each", () => {
    expect(leafDesiredPatch(known, { leaf1: { __t: "c", a: 1 } }, {})).toEqual({ a: 1 });
    expect(leafDesiredPatch(known, { leaf1__x: { b: null } }, {})).toEqual({ x: { __t: "c", b: null } });
    expect(JSON.stringify(leafDesiredPatch(known, { leaf1__x: { b: 1, __t: "c" } }, {}))).toBe(
      '{"x":{"__t":"c","b":1}}',
    );
  });

  test("the root component removed, or replaced by what is none: null for each key the cache had", () => {
    const cached = { a: 1, b: { c: 2 }, x: { __t: "c", d: 3 } };
    expect(leafDesiredPatch(known, { leaf1: null }, cached)).toEqual({ a: null, b: null });
    expect(leafDesiredPatch(known, { leaf1: 5 }, cached)).toEqual({ a: null, b: null });
  });

  test("a component removed, or replaced by what is none: null for it, if the leaf had it", () => {
    const cached = { a: 1, x: { __t: "c", d: 3 } };
    expect(leafDesiredPatch(known, { leaf1__x: null }, cached)).toEqual({ x: null });
    expect(leafDesiredPatch(known, { leaf1__x: [] }, cached)).toEqual({ x: null });
    expect(leafDesiredPatch(known, { leaf1__x: null }, { a: 1 })).toEqual({});
  });

  test("a patch that does not touch the leaf is empty", () => {
    expect(leafDesiredPatch(known, { leaf2: { a: 1 }, leaf11: { a: 1 }, leaf1__y: { a: 1 } }, { a: 1 })).toEqual({});
    expect(leafDesiredPatch(known, { leaf1: { __t: "c" }, leaf1__x: { __t: "c" } }, { x: { __t: "c" } })).toEqual({});
  });

  test("a component that is made empty is there", () => {
    expect(leafDesiredPatch(known, { leaf1__x: { __t: "c" } }, {})).toEqual({ x: { __t: "c" } });
  });
});
