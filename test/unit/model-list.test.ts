import { expect, test } from "vitest";
import { parseModels } from "../../src/core/dtdl.ts";
import { composeFromList } from "../../src/model-list.ts";
import { sha256Hex } from "../../src/sha256-hex.ts";

const CONTROLLER = "dtmi:com:example:Controller;1";
const { models } = parseModels([
  {
    "@id": CONTROLLER,
    "@type": "Interface",
    contents: [{ "@type": "Component", name: "thermostat1", schema: "dtmi:com:example:Thermostat;1" }],
  },
]);
const rules = {
  sha256Hex,
  aliases: { "leaf-2": "pump" },
  maxComponentsPerLeaf: 20,
};

function compose(list: unknown) {
  return composeFromList(typeof list === "string" ? list : JSON.stringify(list), models, rules);
}

test("ids become components as in the gateway, with aliases, and a model's components are there before anybody named them", () => {
  const result = compose([
    { leafId: "leaf1", modelId: CONTROLLER },
    { leafId: "leaf-2", components: { extra: "pump__extra" } },
    { leafId: "gone", removed: true },
  ]);
  if (result.kind === "bad") throw new Error(result.reason);
  const [composed] = result.model.interfaces;
  expect(JSON.parse(JSON.stringify(composed?.["contents"])).map(({ name }: { name: string }) => name)).toEqual([
    "gateway",
    "leaf1",
    "leaf1__thermostat1",
    "pump",
    "pump__extra",
  ]);
});

test("what is no list of leaves is said", () => {
  expect(compose("{")).toMatchObject({ kind: "bad", reason: expect.stringContaining("no JSON list") });
  expect(compose({})).toMatchObject({ kind: "bad" });
  expect(compose([{ leafId: "leaf1" }, { leafId: "a/b" }])).toMatchObject({
    kind: "bad",
    reason: 'item 1 has no "leafId" that IoT Hub would accept',
  });
  expect(compose(["x"])).toMatchObject({ kind: "bad" });
});
