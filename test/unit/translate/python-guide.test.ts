/** The device developer guide's Python helper, rewritten line by line: it takes the FIRST key of a desired patch as the component. */
import { describe, expect, test } from "vitest";
import type { LeafNaming } from "../../../src/core/leaf.ts";
import { applyPatch, isJsonObject } from "../../../src/core/merge-patch.ts";
import type { ComponentName, Json, JsonObject, LeafId } from "../../../src/core/message.ts";
import { iothub } from "../../../src/translate/iothub.ts";
import { leafDesiredPatch, moduleView } from "../../../src/translate/pnp.ts";

const leaf = "leaf1" as LeafId;
const naming: LeafNaming = {
  component: "leaf1" as ComponentName,
  components: { thermostat1: "leaf1__thermostat1" as ComponentName },
};

/** `pnp_helper.create_reported_properties_from_desired`, component part. */
function reportedFromComponentPatch(patch: JsonObject): JsonObject {
  const [componentPrefix = ""] = Object.keys(patch);
  const values = patch[componentPrefix];
  if (!isJsonObject(values)) throw new TypeError(`'${typeof values}' object has no attribute 'items'`);
  const answers = Object.entries(values)
    .filter(([name]) => name !== "__t" && name !== "$version")
    .map(([name, value]): [string, Json] => [
      name,
      { ac: 200, ad: "Successfully executed patch", av: patch["$version"] ?? null, value },
    ]);
  return { [componentPrefix]: Object.fromEntries(answers) };
}

/** The no-component sample: the first key is the property. */
function reportedFromRootPatch(patch: JsonObject): JsonObject {
  const [name = ""] = Object.keys(patch);
  return {
    [name]: { ac: 200, ad: "Successfully executed patch", av: patch["$version"] ?? null, value: patch[name] ?? null },
  };
}

function heard(modulePatch: JsonObject, version: number): JsonObject {
  const frame = iothub.format(leaf, { kind: "desired", patch: leafDesiredPatch(naming, modulePatch, {}), version });
  return JSON.parse(new TextDecoder().decode(frame.payload)) as JsonObject;
}

function said(reported: JsonObject): JsonObject {
  const topic = "$iothub/twin/PATCH/properties/reported/?$rid=1";
  const request = iothub.parse(leaf, { topic, payload: Buffer.from(JSON.stringify(reported)), qos: 1 });
  if (request.kind !== "reported") throw new Error(request.kind);
  return applyPatch({}, request.patch);
}

describe("a leaf built on the Python guide", () => {
  test.each([{ __t: "c", targetTemperature: 47 }, { targetTemperature: 47, __t: "c" }, { targetTemperature: 47 }])(
    "acknowledges a component's property without marker, and the hub gets it with one: %j",
    (desired) => {
      const reported = reportedFromComponentPatch(heard({ leaf1__thermostat1: desired }, 12));
      expect(reported["thermostat1"]).not.toHaveProperty("__t");
      expect(moduleView(naming, said(reported))).toEqual({
        leaf1__thermostat1: {
          __t: "c",
          targetTemperature: { ac: 200, ad: "Successfully executed patch", av: 12, value: 47 },
        },
      });
    },
  );

  test("acknowledges a property of the default component", () => {
    const reported = reportedFromRootPatch(heard({ leaf1: { __t: "c", targetTemperature: 47 } }, 12));
    expect(moduleView(naming, said(reported))).toEqual({
      leaf1: { __t: "c", targetTemperature: { ac: 200, ad: "Successfully executed patch", av: 12, value: 47 } },
    });
  });
});
