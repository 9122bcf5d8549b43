import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Models, parseModels } from "../../../src/core/dtdl.ts";
import { misfits, parseSchema } from "../../../src/core/dtdl-schema.ts";
import { applyPatch } from "../../../src/core/merge-patch.ts";
import type { ComponentName, Json, JsonObject } from "../../../src/core/message.ts";
import { checkCommand, checkReported, checkTelemetry } from "../../../src/core/model-check.ts";
import { COMPOSED_ID, composeModel } from "../../../src/core/model-compose.ts";

const THERMOSTAT = "dtmi:com:example:Thermostat;1";
const CONTROLLER = "dtmi:com:example:Controller;2";

const thermostat: JsonObject = {
  "@context": "dtmi:dtdl:context;2",
  "@id": THERMOSTAT,
  "@type": "Interface",
  schemas: [
    {
      "@id": "dtmi:com:example:report;1",
      "@type": "Object",
      fields: [
        { name: "max", schema: "double" },
        { name: "since", schema: "dateTime" },
      ],
    },
  ],
  contents: [
    { "@type": ["Telemetry", "Temperature"], name: "temperature", schema: "double" },
    { "@type": "Property", name: "targetTemperature", schema: "double", writable: true },
    { "@type": "Property", name: "maxTemp", schema: "double" },
    { "@type": "Property", name: "report", schema: "dtmi:com:example:report;1" },
    {
      "@type": "Property",
      name: "mode",
      schema: { "@type": "Enum", valueSchema: "integer", enumValues: [{ name: "off", enumValue: 0 }] },
    },
    { "@type": "Property", name: "labels", schema: { "@type": "Map", mapValue: { name: "text", schema: "string" } } },
    {
      "@type": "Command",
      name: "getReport",
      request: { name: "since", schema: "dateTime" },
      response: { name: "report", schema: "dtmi:com:example:report;1" },
    },
    { "@type": "Command", name: "reset" },
    { "@type": "Relationship", name: "near" },
  ],
};

const controller: JsonObject = {
  "@id": CONTROLLER,
  "@type": "Interface",
  contents: [
    { "@type": "Telemetry", name: "workingSet", schema: "long" },
    { "@type": "Property", name: "serialNumber", schema: "string" },
    { "@type": "Component", name: "thermostat1", schema: THERMOSTAT },
    { "@type": "Component", name: "info", schema: "dtmi:azure:DeviceManagement:DeviceInformation;1" },
  ],
};

const { models } = parseModels([thermostat, controller]);

function said(...found: ReturnType<typeof checkTelemetry>[]): string[] {
  return found.flat().map(({ rule, problem }) => `${rule}: ${problem}`);
}

describe("reading models", () => {
  test("documents may be single interfaces or lists of them, and nothing is wrong with these", () => {
    const read = parseModels([[thermostat, controller]]);
    expect([...read.models.keys()]).toEqual([THERMOSTAT, CONTROLLER]);
    expect(read.problems).toEqual([]);
    expect([...(read.models.get(CONTROLLER)?.components.keys() ?? [])]).toEqual(["thermostat1", "info"]);
  });

  test("what an interface extends is its own, also where the ways meet or run in a circle", () => {
    const base: JsonObject = {
      "@id": "dtmi:a:Base;1",
      "@type": "Interface",
      extends: "dtmi:a:Child;1",
      contents: [{ "@type": "Telemetry", name: "inherited", schema: "integer" }],
    };
    const child: JsonObject = { "@id": "dtmi:a:Child;1", "@type": "Interface", extends: ["dtmi:a:Base;1"] };
    const family = parseModels([base, child]);
    expect(family.problems).toEqual([]);
    expect(checkTelemetry(family.models, "dtmi:a:Child;1", undefined, { inherited: 1 })).toEqual([]);
    expect(said(checkTelemetry(family.models, "dtmi:a:Child;1", undefined, { other: 1 }))).toEqual([
      "unknown: dtmi:a:Child;1 has no telemetry other",
    ]);
  });

  test("an interface that extends what is not there, or holds what is not understood, lets unknown names pass", () => {
    const open = parseModels([
      { "@id": "dtmi:a:Open;1", "@type": "Interface", extends: "dtmi:a:Missing;1" },
      { "@id": "dtmi:a:Odd;1", "@type": "Interface", contents: [{ "@type": "Wonder", name: "x" }] },
    ]);
    expect(open.problems).toHaveLength(2);
    for (const id of open.models.keys()) {
      expect(checkTelemetry(open.models, id, undefined, { any: 1 })).toEqual([]);
      expect(checkTelemetry(open.models, id, "part", { any: 1 })).toEqual([]);
      expect(checkReported(open.models, id, { a: 1, c: { __t: "c" } }, { a: 1, c: { __t: "c" } })).toEqual([]);
      expect(checkCommand(open.models, id, undefined, "any", null)).toEqual([]);
    }
  });

  test("interfaces written in the place of their name are read too", () => {
    const inline = parseModels([
      {
        "@id": "dtmi:a:Whole;1",
        "@type": "Interface",
        extends: { "@id": "dtmi:a:Parent;1", "@type": "Interface", contents: [] },
        contents: [
          {
            "@type": "Component",
            name: "part",
            schema: {
              "@id": "dtmi:a:Part;1",
              "@type": "Interface",
              contents: { "@type": "Telemetry", name: "t", schema: "string" },
            },
          },
          { "@type": "Component", name: "nameless", schema: { "@type": "Interface" } },
        ],
      },
    ]);
    expect(inline.problems).toEqual([]);
    expect(said(checkTelemetry(inline.models, "dtmi:a:Whole;1", "part", { t: 1 }))).toEqual(["schema: t is no string"]);
    expect(checkTelemetry(inline.models, "dtmi:a:Whole;1", "nameless", { t: 1 })).toEqual([]);
  });

  test("what is no interface, and a second one of the same id, is said", () => {
    const { problems } = parseModels([5, { "@id": "dtmi:a:b;1", "@type": "Enum" }, thermostat, thermostat]);
    expect(problems).toEqual([
      expect.stringContaining("no DTDL interface"),
      expect.stringContaining("no DTDL interface"),
      `${THERMOSTAT} is there twice, the first one counts`,
    ]);
  });

  test("no document is too odd to be read, and nothing said is too odd to be judged", () => {
    const odd = fc.letrec<{ json: Json }>((tie) => ({
      json: fc.oneof(
        { maxDepth: 4 },
        fc.constantFrom<Json>(null, 1, "x", "Interface", "Component", "Property", "dtmi:a:b;1", "Object", "Map"),
        fc.array(tie("json"), { maxLength: 3 }),
        fc.dictionary(
          fc.constantFrom("@id", "@type", "contents", "schema", "name", "extends", "schemas", "fields", "__proto__"),
          tie("json"),
          { maxKeys: 5 },
        ),
      ),
    })).json;
    fc.assert(
      fc.property(fc.array(odd, { maxLength: 3 }), odd, (documents, value) => {
        const read = parseModels(documents);
        for (const id of read.models.keys()) {
          checkTelemetry(read.models, id, "x", value);
          checkCommand(read.models, id, undefined, "x", value);
          if (typeof value === "object" && value !== null && !Array.isArray(value))
            checkReported(read.models, id, value as JsonObject, value as JsonObject);
        }
      }),
    );
  });
});

describe("schemas", () => {
  const fitting: readonly (readonly [schema: string, fits: readonly Json[], not: readonly Json[]])[] = [
    ["boolean", [true, false], [0, "true", null]],
    ["byte", [-128, 127], [128, 0.5]],
    ["short", [-32_768], [32_768]],
    ["integer", [2_147_483_647], [2_147_483_648, 1.5, "1"]],
    ["long", [9_007_199_254_740_991], [0.1]],
    ["unsignedByte", [0, 255], [-1, 256]],
    ["unsignedShort", [65_535], [65_536]],
    ["unsignedInteger", [4_294_967_295], [-1]],
    ["unsignedLong", [0], [-1]],
    ["float", [1, 1.5], ["1"]],
    ["double", [1e300], [true]],
    ["decimal", [1.5, "1.5"], [true]],
    ["string", [""], [1]],
    ["bytes", ["AAE="], ["-"]],
    ["date", ["2026-01-02"], ["2026-1-2", 5]],
    ["dateTime", ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.123+02:00"], ["2026-01-02"]],
    ["time", ["03:04:05", "03:04:05.5Z"], ["3:04"]],
    ["duration", ["PT5S", "P1Y2M3DT4H5M6.7S", "P2W"], ["P", "5S", "PT"]],
    ["uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["123"]],
  ];
  test.each(fitting)("%s", (name, fits, not) => {
    const schema = parseSchema(name, new Map());
    for (const value of fits) expect(misfits(schema, value, "v")).toEqual([]);
    for (const value of not) expect(misfits(schema, value, "v")).toEqual([`v is no ${name}`]);
  });

  test("a schema that is not understood fits everything, one that names itself ends", () => {
    for (const odd of ["point", "dtmi:nobody:knows;1", 5, { "@type": "Wonder" }, undefined])
      expect(misfits(parseSchema(odd, new Map()), { any: [1] }, "v")).toEqual([]);
    const named = new Map<string, Json>([["dtmi:a:Loop;1", "dtmi:a:Loop;1"]]);
    expect(misfits(parseSchema("dtmi:a:Loop;1", named), 5, "v")).toEqual([]);
    expect(misfits(parseSchema({ "@type": "Map" }, new Map()), { any: 5 }, "v")).toEqual([]);
    expect(misfits(parseSchema({ "@type": "Object" }, new Map()), {}, "v")).toEqual([]);
    expect(misfits(parseSchema({ "@type": "Object", fields: [5] }, new Map()), {}, "v")).toEqual([]);
    expect(misfits(parseSchema({ "@type": "Enum", enumValues: [5, {}] }, new Map()), null, "v")).toEqual([]);
    expect(misfits(parseSchema({ "@type": "Enum" }, new Map()), 1, "v")).toEqual(["v is none of []"]);
  });

  test("misfits name the place, a handful at most", () => {
    const list = parseSchema({ "@type": "Array", elementSchema: "integer" }, new Map());
    expect(misfits(list, [1, "x"], "v")).toEqual(["v[1] is no integer"]);
    expect(
      misfits(
        list,
        Array.from({ length: 50 }, () => "x"),
        "v",
      ),
    ).toHaveLength(5);
    expect(misfits(list, 5, "v")).toEqual(["v is no array"]);
    const map = parseSchema({ "@type": "Map", mapValue: { schema: "integer" } }, new Map());
    expect(misfits(map, Object.fromEntries(Array.from({ length: 50 }, (_, at) => [`k${at}`, "x"])), "v")).toHaveLength(
      5,
    );
    expect(misfits(map, { gone: null, there: 1 }, "v")).toEqual([]);
  });
});

describe("a leaf's words against its model", () => {
  test("telemetry: known names and types pass, others are told apart", () => {
    expect(checkTelemetry(models, THERMOSTAT, undefined, { temperature: 21.5 })).toEqual([]);
    expect(checkTelemetry(models, CONTROLLER, "thermostat1", { temperature: 21.5 })).toEqual([]);
    expect(checkTelemetry(models, CONTROLLER, "info", { anything: 1 })).toEqual([]);
    expect(checkTelemetry(models, "dtmi:nobody:knows;1", undefined, { x: 1 })).toEqual([]);
    expect(
      said(
        checkTelemetry(models, THERMOSTAT, undefined, { temperature: "warm", humidity: 5 }),
        checkTelemetry(models, CONTROLLER, "thermostat9", {}),
        checkTelemetry(models, THERMOSTAT, undefined, [1]),
      ),
    ).toEqual([
      "schema: temperature is no double",
      `unknown: ${THERMOSTAT} has no telemetry humidity`,
      `unknown: thermostat9 is no component of ${CONTROLLER}`,
      "schema: telemetry is a JSON object of values by name",
    ]);
  });

  function report(modelId: string, patch: JsonObject, before: JsonObject = {}): string[] {
    return said(checkReported(models, modelId, patch, applyPatch(before, patch)));
  }

  test("read-only properties by their schema, writable ones with their acknowledgement", () => {
    const acknowledged = { value: 21, ac: 200, av: 3, ad: "done" };
    expect(report(THERMOSTAT, { maxTemp: 30, targetTemperature: acknowledged, mode: 0, labels: { a: "b" } })).toEqual(
      [],
    );
    expect(report(THERMOSTAT, { report: { max: 1, since: "2026-01-02T03:04:05Z" } })).toEqual([]);
    expect(report(THERMOSTAT, { maxTemp: null, nobodyKnows: null })).toEqual([]);
    expect(report("dtmi:nobody:knows;1", { x: 1 })).toEqual([]);
    expect(
      report(THERMOSTAT, { maxTemp: "x", targetTemperature: 21, mode: 7, labels: 5, report: { min: 1 }, serial: 1 }),
    ).toEqual([
      "schema: maxTemp is no double",
      'acknowledgement: targetTemperature is writable: {"value", "ac", "av"} is how it is reported',
      "schema: mode is none of [0]",
      "schema: labels is no map",
      "schema: report.min is not in the model",
      `unknown: ${THERMOSTAT} has no property serial`,
    ]);
    expect(report(THERMOSTAT, { targetTemperature: { ...acknowledged, value: "x" } })).toEqual([
      "schema: targetTemperature is no double",
    ]);
  });

  test("a part of an acknowledgement is judged by what it leads to, and one without value answers a removal", () => {
    const before = { targetTemperature: { value: 21, ac: 202, av: 3 } };
    expect(report(THERMOSTAT, { targetTemperature: { ac: 200 } }, before)).toEqual([]);
    expect(report(THERMOSTAT, { targetTemperature: { value: null, ac: 200, av: 4 } }, before)).toEqual([]);
    expect(report(THERMOSTAT, { targetTemperature: { ac: 200 } })).toHaveLength(1);
  });

  test("components need their marker once, and hold what their own model says", () => {
    const known = { thermostat1: { __t: "c", maxTemp: 1 } };
    expect(report(CONTROLLER, known)).toEqual([]);
    expect(report(CONTROLLER, { thermostat1: { maxTemp: 2 } }, known)).toEqual([]);
    expect(report(CONTROLLER, { thermostat1: null }, known)).toEqual([]);
    expect(report(CONTROLLER, { thermostat1: { maxTemp: null } }, known)).toEqual([]);
    expect(report(CONTROLLER, { info: { __t: "c", anything: 1 } })).toEqual([]);
    expect(
      [
        report(CONTROLLER, { thermostat1: { maxTemp: "x" } }),
        report(CONTROLLER, { thermostat1: 5 }),
        report(CONTROLLER, { thermostat9: { __t: "c" } }),
        report(CONTROLLER, { serialNumber: 5 }),
      ].flat(),
    ).toEqual([
      'marker: thermostat1 has no "__t": "c"',
      "schema: thermostat1.maxTemp is no double",
      "schema: thermostat1 is a component, its value an object",
      `unknown: thermostat9 is no component of ${CONTROLLER}`,
      "schema: serialNumber is no string",
    ]);
  });

  test("commands by name and payload", () => {
    expect(checkCommand(models, THERMOSTAT, undefined, "getReport", "2026-01-02T03:04:05Z")).toEqual([]);
    expect(checkCommand(models, THERMOSTAT, undefined, "getReport", null)).toEqual([]);
    expect(checkCommand(models, THERMOSTAT, undefined, "reset", { any: 1 })).toEqual([]);
    expect(checkCommand(models, CONTROLLER, "info", "any", null)).toEqual([]);
    expect(
      said(
        checkCommand(models, CONTROLLER, "thermostat1", "getReport", 5),
        checkCommand(models, CONTROLLER, "thermostat1", "explode", null),
        checkCommand(models, CONTROLLER, "thermostat9", "reset", null),
      ),
    ).toEqual([
      "schema: getReport's payload is no dateTime",
      `unknown: ${THERMOSTAT} has no command explode`,
      `unknown: thermostat9 is no component of ${CONTROLLER}`,
    ]);
  });
});

describe("the composed model", () => {
  const leaf = (component: string, modelId: string | undefined, components: Record<string, string> = {}) => ({
    component: component as ComponentName,
    components: components as Record<string, ComponentName>,
    modelId,
  });

  function compose(known: Models) {
    return composeModel(
      [
        leaf("room1", THERMOSTAT),
        leaf("plant", CONTROLLER, { thermostat1: "plant__thermostat1", extra: "plant__extra" }),
        leaf("old", undefined),
        leaf("foreign", "dtmi:nobody:knows;1"),
      ],
      known,
    );
  }

  test("has one component for each component of the module's twin, none of them with components", () => {
    const { interfaces, notes } = compose(models);
    const [composed] = interfaces;
    expect(composed).toMatchObject({ "@id": COMPOSED_ID, "@type": "Interface" });
    expect(composed?.["contents"]).toEqual([
      { "@type": "Component", name: "gateway", schema: "dtmi:iotedgePnpGateway:Self;1" },
      { "@type": "Component", name: "room1", schema: THERMOSTAT },
      { "@type": "Component", name: "plant", schema: "dtmi:com:example:Controller:defaultComponent;2" },
      { "@type": "Component", name: "plant__thermostat1", schema: THERMOSTAT },
      { "@type": "Component", name: "plant__extra", schema: "dtmi:iotedgePnpGateway:Undescribed;1" },
      { "@type": "Component", name: "old", schema: "dtmi:iotedgePnpGateway:Undescribed;1" },
      { "@type": "Component", name: "foreign", schema: "dtmi:nobody:knows;1" },
    ]);
    expect(notes).toEqual([
      "plant__extra: no model says what it is",
      "old: the leaf has announced no model",
      "foreign: dtmi:nobody:knows;1 is not among the models, its components cannot be told",
    ]);
    const read = parseModels(interfaces.slice(1));
    expect([...read.models.values()].map(({ components, id }) => [id, components.size])).toEqual([
      ["dtmi:com:example:Controller:defaultComponent;2", 0],
      ["dtmi:iotedgePnpGateway:Undescribed;1", 0],
    ]);
    expect(read.models.get("dtmi:com:example:Controller:defaultComponent;2")?.properties.has("serialNumber")).toBe(
      true,
    );
  });

  test("an odd model id and an odd interface are no trouble", () => {
    const odd: JsonObject = {
      "@id": "odd",
      "@type": "Interface",
      contents: { "@type": "Component", name: "c", schema: THERMOSTAT },
    };
    const { interfaces } = composeModel([leaf("a", "odd")], parseModels([odd]).models, "dtmi:x:y;1");
    expect(interfaces.map((each) => each["@id"])).toEqual(["dtmi:x:y;1", "odd:defaultComponent"]);
  });
});
