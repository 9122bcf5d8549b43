/** The gateway's own DTDL says what the gateway does: compared with the code, so that they cannot come apart. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { CONFIG_KEYS, isLive, mergeConfig } from "../../src/config.ts";
import { parseModels } from "../../src/core/dtdl.ts";
import { misfits } from "../../src/core/dtdl-schema.ts";
import type { Json } from "../../src/core/message.ts";
import { RelayWorld } from "../support/relay-world.ts";

const SELF = "dtmi:iotedgePnpGateway:Self;1";
const read = (name: string): Json =>
  JSON.parse(readFileSync(join(import.meta.dirname, "../../dtdl", name), "utf8")) as Json;
const { models, problems } = parseModels([read("gateway.json"), read("self.json")]);
const self = models.get(SELF);
if (self === undefined) throw new Error("dtdl/self.json holds no interface of that id");

test("both documents are understood in full, and the module's model has the component of that interface", () => {
  expect(problems).toEqual([]);
  const config = mergeConfig({}, {});
  const modelId = config.kind === "ok" ? config.config.modelId : "";
  expect(models.get(modelId)?.components.get("gateway")).toBe(SELF);
});

test("every configuration key that is live is a writable property, with its default in the schema, and no other is", () => {
  const writable = [...self.properties].filter(([, property]) => property.writable).map(([name]) => name);
  const live = CONFIG_KEYS.filter(isLive);
  expect(writable.toSorted()).toEqual([...live].toSorted());
  const config = mergeConfig({}, {});
  if (config.kind === "invalid") throw new Error("the defaults are invalid");
  for (const key of live) {
    const property = self.properties.get(key);
    expect(property === undefined ? ["missing"] : misfits(property.schema, config.config[key] as Json, key)).toEqual(
      [],
    );
  }
});

test("every command of the gateway is in its model, and no other is", async () => {
  await using world = new RelayWorld();
  await world.start();
  world.hub.link("up");
  const answer = await world.hub.command("gateway*noSuchCommand", null);
  const message = JSON.stringify(answer);
  const commands = [...message.matchAll(/gateway\*(\w+)/g)].map(([, name]) => name ?? "");
  expect(commands.length).toBeGreaterThan(5);
  expect([...self.commands.keys()].toSorted()).toEqual(commands.toSorted());
});
