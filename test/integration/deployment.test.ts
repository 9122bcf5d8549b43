/** Deployments over a module twin that holds leaves' desired properties, applied as `az iot edge set-modules` does. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import type { JsonObject } from "../../src/core/message.ts";
import { checkManifest } from "../../src/manifest-check.ts";
import { type GatewayRig, startRig, WITHIN } from "../support/gateway-rig.ts";

const LEAVES = { leaf1: { __t: "c", target: 21 }, leaf2: { __t: "c", mode: { fan: "on" } } };
const MODULE_ID = "pnpGateway";

let rig: GatewayRig;
let patches: JsonObject[];

beforeAll(async () => {
  rig = await startRig({ hub: { moduleId: MODULE_ID } });
  patches = [];
  const leaf = await rig.connectLeaf("leaf1");
  const twin = await leaf.getTwin();
  twin.on("properties.desired", (patch: JsonObject) => patches.push(structuredClone(patch)));
  await rig.setDesired({ ...LEAVES, gateway: { __t: "c", spillAfterMs: 150 } });
  await vi.waitUntil(() => patches.some((patch) => patch["target"] === 21), WITHIN);
  await vi.waitUntil(() => rig.gateway.config().spillAfterMs === 150, WITHIN);
});
afterAll(() => rig[Symbol.asyncDispose]());

function manifest(file: string): JsonObject {
  return JSON.parse(readFileSync(join(import.meta.dirname, "../..", file), "utf8")) as JsonObject;
}

async function apply(content: JsonObject): Promise<void> {
  await rig.backEnd.registry.applyConfigurationContentOnDevice(rig.moduleId.deviceId, content);
}

describe("a deployment", () => {
  it("by the template changes nothing of what leaves and gateway are told", async () => {
    const { desired, desiredVersion } = structuredClone(rig.moduleTwin());
    const heard = patches.length;
    await apply(manifest("deployment.template.json"));
    expect(rig.moduleTwin()).toMatchObject({ desired, desiredVersion });
    expect(rig.gateway.config().spillAfterMs).toBe(150);
    expect(patches).toHaveLength(heard);
  });

  it("by the layered example reaches the gateway's configuration, and no leaf", async () => {
    const heard = patches.length;
    const { content } = manifest("deployment.layered.example.json") as { content: JsonObject };
    const { modulesContent } = content as { modulesContent: JsonObject };
    await apply({ modulesContent });
    await expect.poll(() => rig.gateway.config().timeToLiveSecs, WITHIN).toBe(86_400);
    expect(rig.gateway.config().spillAfterMs).toBe(200);
    expect(rig.moduleTwin().desired).toMatchObject(LEAVES);
    await expect
      .poll(() => rig.reported("gateway"), WITHIN)
      .toMatchObject({ timeToLiveSecs: { value: 86_400, ac: 200, av: rig.moduleTwin().desiredVersion } });
    expect(patches).toHaveLength(heard);
  });

  it("with properties.desired for the module is what the check refuses, since it takes every leaf's desired properties away", async () => {
    const { modulesContent } = manifest("deployment.template.json") as { modulesContent: JsonObject };
    const bad = {
      modulesContent: { ...modulesContent, [MODULE_ID]: { "properties.desired": { gateway: { spillAfterMs: 150 } } } },
    };
    expect(checkManifest(bad)).toMatchObject([{ level: "error", where: `${MODULE_ID}.properties.desired` }]);
    await apply(bad);
    expect(Object.keys(rig.moduleTwin().desired)).toEqual(["gateway"]);
    await vi.waitUntil(() => patches.some((patch) => patch["target"] === null), WITHIN);
  });
});
