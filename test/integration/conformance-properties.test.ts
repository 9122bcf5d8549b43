/** Properties of the PnP conventions: an unmodified SDK leaf reports and acknowledges, an unmodified back end sets and reads. */

import type { Client as DeviceClient, Twin } from "azure-iot-device";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { JsonObject } from "../../src/core/message.ts";
import { type GatewayRig, startRig, WITHIN } from "../support/gateway-rig.ts";

let rig: GatewayRig;

beforeAll(async () => {
  rig = await startRig();
});
afterAll(() => rig[Symbol.asyncDispose]());

/** The SDK's twin of a leaf, and every desired patch that it was handed after its first read. */
async function openTwin(leaf: DeviceClient): Promise<{ readonly twin: Twin; readonly patches: JsonObject[] }> {
  const twin = await leaf.getTwin();
  const { promise: first, resolve } = Promise.withResolvers<void>();
  const patches: JsonObject[] = [];
  let isFirst = true;
  // The SDK hands over the whole desired section first when a listener is added, and subscribes meanwhile.
  twin.on("properties.desired", (patch: JsonObject) => {
    if (!isFirst) patches.push(structuredClone(patch));
    isFirst = false;
    resolve();
  });
  await first;
  return { twin, patches };
}

function report(twin: Twin, patch: JsonObject): Promise<void> {
  return new Promise((resolve, reject) => {
    twin.properties.reported["update"](patch, (error: Error | null) => (error ? reject(error) : resolve()));
  });
}

async function leafTwin(leafId: string) {
  const client = await rig.connectLeaf(leafId);
  return { client, ...(await openTwin(client)) };
}

describe("properties that SDK leaves report", () => {
  it("read-only ones of the default component and of a component stand in components of their own", async () => {
    const { twin } = await leafTwin("report1");
    await report(twin, { serialNumber: "SR-1", thermostat1: { __t: "c", maxTempSinceLastReboot: 38.7 } });
    await expect.poll(() => rig.reported("report1"), WITHIN).toEqual({ __t: "c", serialNumber: "SR-1" });
    await expect
      .poll(() => rig.reported("report1__thermostat1"), WITHIN)
      .toEqual({ __t: "c", maxTempSinceLastReboot: 38.7 });
    const { deviceId, moduleId } = rig.moduleId;
    const { responseBody } = await rig.backEnd.registry.getModuleTwin(deviceId, moduleId);
    expect(responseBody.properties.reported).toMatchObject({ report1: { serialNumber: "SR-1" } });
  });

  it("an initial value of a writable property arrives with ac 203 and av 0", async () => {
    const { twin } = await leafTwin("report2");
    const targetTemperature = { value: 21, ac: 203, av: 0, ad: "initialized" };
    await report(twin, { thermostat1: { __t: "c", targetTemperature } });
    await expect.poll(() => rig.reported("report2__thermostat1"), WITHIN).toEqual({ __t: "c", targetTemperature });
  });

  it("one set to null goes away at the hub", async () => {
    const { twin } = await leafTwin("report3");
    await report(twin, { a: 1, b: { c: 2, d: 3 } });
    await expect.poll(() => rig.reported("report3"), WITHIN).toEqual({ __t: "c", a: 1, b: { c: 2, d: 3 } });
    await report(twin, { a: null, b: { c: null } });
    await expect.poll(() => rig.reported("report3"), WITHIN).toEqual({ __t: "c", b: { d: 3 } });
  });

  it("what the hub would refuse is refused to the leaf", async () => {
    const { twin } = await leafTwin("report4");
    await expect(report(twin, { "a.b": 1 })).rejects.toThrow();
    await report(twin, { fine: 1 });
    await expect.poll(() => rig.reported("report4"), WITHIN).toEqual({ __t: "c", fine: 1 });
  });
});

describe("properties that a back end sets", () => {
  it("reach the default component of the leaf, whose acknowledgement reaches the hub", async () => {
    const { patches, twin } = await leafTwin("desired1");
    await rig.setDesired({ desired1: { __t: "c", targetTemperature: 23.5 } });
    await expect.poll(() => patches, WITHIN).toEqual([{ targetTemperature: 23.5, $version: expect.any(Number) }]);
    const av = Number(patches[0]?.["$version"]);
    expect(av).toBe(rig.moduleTwin().desiredVersion);
    const targetTemperature = { value: 23.5, ac: 200, av, ad: "done" };
    await report(twin, { targetTemperature });
    await expect.poll(() => rig.reported("desired1"), WITHIN).toEqual({ __t: "c", targetTemperature });
  });

  it("reach a component of the leaf with its marker and the version last", async () => {
    const { patches, twin } = await leafTwin("desired2");
    await rig.setDesired({ desired2__thermostat1: { targetTemperature: 19 } });
    await expect
      .poll(() => patches, WITHIN)
      .toEqual([{ thermostat1: { __t: "c", targetTemperature: 19 }, $version: expect.any(Number) }]);
    expect(Object.keys(patches[0] ?? {}).at(-1)).toBe("$version");
    const targetTemperature = { value: 19, ac: 200, av: Number(patches[0]?.["$version"]) };
    await report(twin, { thermostat1: { __t: "c", targetTemperature } });
    await expect.poll(() => rig.reported("desired2__thermostat1"), WITHIN).toEqual({ __t: "c", targetTemperature });
  });

  it("that are objects are acknowledged as objects", async () => {
    const { patches, twin } = await leafTwin("desired3");
    const value = { latitude: 47.6, place: { floor: 2, tags: ["a", "b"] } };
    await rig.setDesired({ desired3: { __t: "c", location: value } });
    await expect.poll(() => patches, WITHIN).toEqual([{ location: value, $version: expect.any(Number) }]);
    const location = { value, ac: 200, av: Number(patches[0]?.["$version"]) };
    await report(twin, { location });
    await expect.poll(() => rig.reported("desired3"), WITHIN).toEqual({ __t: "c", location });
  });

  it("in one patch are acknowledged together, or one by one", async () => {
    const { patches, twin } = await leafTwin("desired4");
    await rig.setDesired({ desired4: { __t: "c", a: 1, b: 2 } });
    await expect.poll(() => patches, WITHIN).toEqual([{ a: 1, b: 2, $version: expect.any(Number) }]);
    const av = Number(patches[0]?.["$version"]);
    await report(twin, { a: { value: 1, ac: 200, av }, b: { value: 2, ac: 200, av } });
    await expect
      .poll(() => rig.reported("desired4"), WITHIN)
      .toEqual({ __t: "c", a: { value: 1, ac: 200, av }, b: { value: 2, ac: 200, av } });
    await rig.setDesired({ desired4: { a: 3, b: 4 } });
    await expect.poll(() => patches, WITHIN).toHaveLength(2);
    const next = Number(patches[1]?.["$version"]);
    await report(twin, { a: { value: 3, ac: 200, av: next } });
    await expect.poll(() => rig.reported("desired4"), WITHIN).toMatchObject({ a: { value: 3 }, b: { value: 2, av } });
    await report(twin, { b: { value: 4, ac: 200, av: next } });
    await expect.poll(() => rig.reported("desired4"), WITHIN).toMatchObject({ b: { value: 4, av: next } });
  });

  it("may be in progress with 202 first and done with 200 later", async () => {
    const { patches, twin } = await leafTwin("desired5");
    await rig.setDesired({ desired5: { __t: "c", position: 90 } });
    await expect.poll(() => patches, WITHIN).toHaveLength(1);
    const av = Number(patches[0]?.["$version"]);
    for (const ack of [
      { value: 40, ac: 202, av, ad: "moving" },
      { value: 90, ac: 200, av, ad: "there" },
    ]) {
      await report(twin, { position: ack });
      await expect.poll(() => rig.reported("desired5"), WITHIN).toEqual({ __t: "c", position: ack });
    }
  });

  it("may be refused by the leaf with 400 or 500", async () => {
    const { patches, twin } = await leafTwin("desired6");
    await rig.setDesired({ desired6: { __t: "c", a: "warm", b: "cold" } });
    await expect.poll(() => patches, WITHIN).toHaveLength(1);
    const av = Number(patches[0]?.["$version"]);
    const acks = { a: { value: 21, ac: 400, av, ad: "no number" }, b: { value: 4, ac: 500, av, ad: "broken" } };
    await report(twin, acks);
    await expect.poll(() => rig.reported("desired6"), WITHIN).toEqual({ __t: "c", ...acks });
  });

  it("come as null when they are removed, and so does a whole section", async () => {
    const { patches } = await leafTwin("desired7");
    await rig.setDesired({ desired7: { __t: "c", a: 1, b: 2 } });
    await expect.poll(() => patches, WITHIN).toHaveLength(1);
    await rig.setDesired({ desired7: { a: null } });
    await expect.poll(() => patches[1], WITHIN).toEqual({ a: null, $version: expect.any(Number) });
    await rig.setDesired({ desired7: null });
    await expect.poll(() => patches[2], WITHIN).toEqual({ b: null, $version: expect.any(Number) });
  });

  it("of two leaves in one patch come to each of them alone, with one version", async () => {
    const [one, two] = [await leafTwin("desired8"), await leafTwin("desired9")];
    await rig.setDesired({ desired8: { __t: "c", a: 1 }, desired9: { __t: "c", a: 2 } });
    await expect.poll(() => one.patches, WITHIN).toEqual([{ a: 1, $version: expect.any(Number) }]);
    await expect.poll(() => two.patches, WITHIN).toEqual([{ a: 2, $version: one.patches[0]?.["$version"] }]);
    const fresh = await openTwin(await reconnected("desired8", one.client));
    expect(fresh.twin.properties.desired).toMatchObject({ a: 1, $version: one.patches[0]?.["$version"] });
    expect(JSON.stringify(fresh.twin.properties)).not.toContain("desired9");
  });

  it("while the leaf is away are in the twin that it reads when it comes", async () => {
    const { client } = await leafTwin("desired10");
    await rig.closeLeaf(client);
    await rig.setDesired({ desired10: { __t: "c", a: 7 } });
    const version = rig.moduleTwin().desiredVersion;
    const again = await rig.connectLeaf("desired10");
    await expect
      .poll(async () => (await again.getTwin()).properties.desired, WITHIN)
      .toMatchObject({ a: 7, $version: version });
  });
});

async function reconnected(leafId: string, client: DeviceClient): Promise<DeviceClient> {
  await rig.closeLeaf(client);
  return rig.connectLeaf(leafId);
}
