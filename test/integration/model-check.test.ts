/** Leaves whose model the operator gave: what disagrees with it is said, or refused, as the policy is. */
import { expect, test } from "vitest";
import { parseModels } from "../../src/core/dtdl.ts";
import type { ModelPolicy } from "../../src/flow/model-guard.ts";
import type { Labels, Log, Metrics } from "../../src/flow/ports.ts";
import { RelayWorld } from "../support/relay-world.ts";

const THERMOSTAT = "dtmi:com:example:Thermostat;1";
const CONTROLLER = "dtmi:com:example:Controller;1";
const { models } = parseModels([
  {
    "@id": THERMOSTAT,
    "@type": "Interface",
    contents: [
      { "@type": "Telemetry", name: "temperature", schema: "double" },
      { "@type": "Property", name: "target", schema: "double", writable: true },
      { "@type": "Command", name: "reset" },
    ],
  },
  {
    "@id": CONTROLLER,
    "@type": "Interface",
    contents: [{ "@type": "Component", name: "thermostat1", schema: THERMOSTAT }],
  },
]);

interface Heard {
  readonly counts: Map<string, number>;
  readonly warnings: string[];
}

async function world(modelCheck: ModelPolicy): Promise<RelayWorld & Heard> {
  const counts = new Map<string, number>();
  const warnings: string[] = [];
  const metrics: Metrics = {
    count: (name: string, labels: Labels = {}, by = 1) => {
      const key = [name, ...Object.values(labels)].join(" ");
      counts.set(key, (counts.get(key) ?? 0) + by);
    },
    gauge: () => undefined,
    observe: () => undefined,
  };
  const log: Log = {
    debug: () => undefined,
    info: () => undefined,
    warn: (fields) => void warnings.push(String((fields as { problem?: unknown }).problem)),
    error: () => undefined,
  };
  const made = new RelayWorld({ settings: { modelCheck }, models, metrics, log });
  await made.start();
  made.hub.link("up");
  await made.pass(100);
  return Object.assign(made, { counts, warnings });
}

function telemetryOf(of: RelayWorld, leafId: string): unknown[] {
  return of.hub.telemetry
    .filter(({ properties }) => properties["leafId"] === leafId)
    .map(({ payload }) => JSON.parse(new TextDecoder().decode(payload)));
}

test("warn: everything passes, is counted each time and said once", async () => {
  await using gateway = await world("warn");
  const leaf = gateway.leaves.leaf("leaf1");
  await leaf.connect({ subscribe: true, modelId: THERMOSTAT });
  for (let n = 0; n < 3; n += 1) await leaf.telemetry({ humidity: n });
  expect(await leaf.report({ target: 5 })).toBe(204);
  await gateway.pass(10_000);
  expect(telemetryOf(gateway, "leaf1")).toEqual([{ humidity: 0 }, { humidity: 1 }, { humidity: 2 }]);
  expect(gateway.hub.reported["leaf1"]).toMatchObject({ target: 5 });
  expect(gateway.counts.get("model_violations_total unknown")).toBe(3);
  expect(gateway.counts.get("model_violations_total acknowledgement")).toBe(1);
  expect(gateway.warnings.filter((text) => text.includes("humidity"))).toEqual([
    `${THERMOSTAT} has no telemetry humidity`,
  ]);
});

test("enforce: a report is refused with 400 and its reason, a command with 400, telemetry is dropped, counted and said", async () => {
  await using gateway = await world("enforce");
  const leaf = gateway.leaves.leaf("leaf1");
  await leaf.connect({ subscribe: true, modelId: THERMOSTAT });
  leaf.answerCommands = () => ({ status: 200, payload: null });
  expect(await leaf.telemetry({ humidity: 1 })).toEqual({ kind: "done" });
  expect(await leaf.telemetry({ temperature: 1 })).toEqual({ kind: "done" });
  expect(await leaf.report({ target: 5 })).toBe(400);
  expect(await leaf.report({ target: { value: 5, ac: 203, av: 0 } })).toBe(204);
  const refused = await gateway.hub.command("leaf1*explode", null);
  expect(refused).toEqual({ status: 400, payload: { message: `${THERMOSTAT} has no command explode` } });
  expect(leaf.commands).toEqual([]);
  expect(await gateway.hub.command("leaf1*reset", null)).toEqual({ status: 200, payload: null });
  await gateway.pass(10_000);
  expect(telemetryOf(gateway, "leaf1")).toEqual([{ temperature: 1 }]);
  expect(gateway.hub.reported["leaf1"]).toEqual({ __t: "c", target: { value: 5, ac: 203, av: 0 } });
  expect(gateway.counts.get("telemetry_dropped_total model")).toBe(1);
  expect(gateway.counts.get("frames_refused_total model")).toBe(1);
});

test("off, and a leaf whose model is not among the documents: nobody is judged", async () => {
  await using gateway = await world("off");
  const leaf = gateway.leaves.leaf("leaf1");
  await leaf.connect({ subscribe: true, modelId: THERMOSTAT });
  await leaf.telemetry({ humidity: 1 });
  gateway.settings = { ...gateway.settings, modelCheck: "enforce" };
  const foreign = gateway.leaves.leaf("leaf2");
  await foreign.connect({ subscribe: true, modelId: "dtmi:nobody:knows;1" });
  await foreign.telemetry({ humidity: 2 });
  await gateway.pass(10_000);
  expect([...telemetryOf(gateway, "leaf1"), ...telemetryOf(gateway, "leaf2")]).toEqual([
    { humidity: 1 },
    { humidity: 2 },
  ]);
  expect(gateway.counts.get("model_violations_total unknown")).toBeUndefined();
});

test("a body that is no JSON is nothing that a model could judge", async () => {
  await using gateway = await world("enforce");
  const leaf = gateway.leaves.leaf("leaf1");
  await leaf.connect({ subscribe: true, modelId: THERMOSTAT });
  await leaf.publish("devices/leaf1/messages/events/", new TextEncoder().encode("raw bytes"));
  await gateway.pass(1_000);
  expect(gateway.hub.telemetry.some(({ payload }) => new TextDecoder().decode(payload) === "raw bytes")).toBe(true);
});

test("components of the model are components from the first connection on, with or without marker", async () => {
  await using gateway = await world("warn");
  const leaf = gateway.leaves.leaf("plant");
  await leaf.connect({ subscribe: true, modelId: CONTROLLER });
  expect(await leaf.report({ thermostat1: { target: { value: 1, ac: 203, av: 0 } } })).toBe(204);
  await gateway.pass(10_000);
  expect(gateway.hub.reported["plant__thermostat1"]).toMatchObject({ __t: "c", target: { value: 1 } });
  expect(gateway.hub.reported["plant"]).toBeUndefined();
});

test("a leaf that announces a model later learns its components then", async () => {
  await using gateway = await world("warn");
  const leaf = gateway.leaves.leaf("plant");
  await leaf.connect({ subscribe: true });
  await leaf.disconnect();
  await leaf.connect({ subscribe: false, modelId: CONTROLLER });
  expect(await leaf.report({ thermostat1: { target: { value: 1, ac: 203, av: 0 } } })).toBe(204);
  await gateway.pass(10_000);
  expect(gateway.hub.reported["plant__thermostat1"]).toMatchObject({ __t: "c" });
});

test("gateway*getModel answers with the composed model of the leaves that are there", async () => {
  await using gateway = await world("warn");
  await gateway.leaves.leaf("room").connect({ subscribe: true, modelId: THERMOSTAT });
  await gateway.leaves.leaf("gone").connect({ subscribe: true, modelId: THERMOSTAT });
  await gateway.hub.command("gateway*removeLeaf", { leafId: "gone" });
  const answer = await gateway.hub.command("gateway*getModel", { id: "dtmi:my:plant;3" });
  const composed = {
    interfaces: [
      {
        "@context": "dtmi:dtdl:context;3",
        "@id": "dtmi:my:plant;3",
        "@type": "Interface",
        contents: [
          { "@type": "Component", name: "gateway", schema: "dtmi:iotedgePnpGateway:Self;1" },
          { "@type": "Component", name: "room", schema: THERMOSTAT },
        ],
      },
    ],
    notes: [],
  };
  expect(answer).toEqual({ status: 200, payload: composed });
});

test("what a leaf reported of components that its new model no longer has goes from the hub", async () => {
  await using made = await world("off");
  const { hub, leaves } = made;
  const leaf = leaves.leaf("leaf1");
  await leaf.connect({ subscribe: true, modelId: CONTROLLER });
  await leaf.report({ mine: 1, thermostat1: { __t: "c", serial: 7 } });
  await made.pass(30_000);
  expect(hub.reported).toMatchObject({ leaf1: { mine: 1 }, leaf1__thermostat1: { serial: 7 } });
  await leaf.disconnect();
  // A model that nobody gave says nothing of its components.
  await leaf.connect({ subscribe: false, modelId: "dtmi:com:example:Unknown;1" });
  await made.pass(30_000);
  expect(hub.reported).toMatchObject({ leaf1__thermostat1: { serial: 7 } });
  await leaf.disconnect();
  await leaf.connect({ subscribe: false, modelId: CONTROLLER });
  await leaf.disconnect();
  await leaf.connect({ subscribe: false, modelId: THERMOSTAT });
  await made.pass(30_000);
  expect(hub.reported["leaf1"]).toMatchObject({ mine: 1 });
  expect(Object.keys(hub.reported)).not.toContain("leaf1__thermostat1");
  // It may still come with it again.
  await leaf.report({ thermostat1: { __t: "c", serial: 8 } });
  await made.pass(30_000);
  expect(hub.reported).toMatchObject({ leaf1__thermostat1: { serial: 8 } });
});
