/** Telemetry of the PnP conventions, from the unmodified device SDK to what a back end sees. */

import azureIotDevice from "azure-iot-device";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type GatewayRig, startRig, WITHIN } from "../support/gateway-rig.ts";

const { Message } = azureIotDevice;
const MODEL_ID = "dtmi:com:example:TemperatureController;2";

let rig: GatewayRig;

beforeAll(async () => {
  rig = await startRig();
});
afterAll(() => rig[Symbol.asyncDispose]());

function json(body: unknown): InstanceType<typeof Message> {
  const message = new Message(JSON.stringify(body));
  message.contentType = "application/json";
  message.contentEncoding = "utf-8";
  return message;
}

describe("telemetry of SDK leaves", () => {
  it("of the default component arrives under the leaf's component, with its id, model, a message id and a creation time", async () => {
    const leaf = await rig.connectLeaf("telemetry1", { modelId: MODEL_ID });
    const message = json({ workingSet: 17 });
    message.properties.add("room", "3 + 4 & more");
    await leaf.sendEvent(message);
    await expect.poll(() => rig.eventsOf("telemetry1").length, WITHIN).toBe(1);
    const [event] = rig.eventsOf("telemetry1");
    expect(Buffer.from(event?.body ?? []).toString()).toBe('{"workingSet":17}');
    expect(event).toMatchObject({
      deviceId: rig.moduleId.deviceId,
      moduleId: rig.moduleId.moduleId,
      system: { sub: "telemetry1", ct: "application/json", ce: "utf-8", mid: expect.stringMatching(/^[0-9a-f-]{36}$/) },
      properties: {
        room: "3 + 4 & more",
        leafId: "telemetry1",
        leafModelId: MODEL_ID,
        "iothub-creation-time-utc": expect.stringMatching(/^\d{4}-\d\d-\d\dT/),
      },
    });
  });

  it("of a component arrives under the leaf's component of that name, and the leaf's message id stays", async () => {
    const leaf = await rig.connectLeaf("telemetry2");
    const message = json({ temperature: 21.5 });
    message.messageId = "from the leaf";
    message.properties.add("$.sub", "thermostat1");
    await leaf.sendEvent(message);
    await expect.poll(() => rig.eventsOf("telemetry2").length, WITHIN).toBe(1);
    expect(rig.eventsOf("telemetry2")[0]).toMatchObject({
      system: { sub: "telemetry2__thermostat1", mid: "from the leaf" },
    });
  });

  it("of two leaves at once keeps each one's order and bears each one's name", async () => {
    const names = ["telemetry3", "telemetry4"];
    const leaves = await Promise.all(names.map((name) => rig.connectLeaf(name)));
    await Promise.all(
      leaves.flatMap((leaf, at) => Array.from({ length: 20 }, (_, n) => leaf.sendEvent(json([at, n])))),
    );
    for (const [at, name] of names.entries()) {
      const bodies = () => rig.eventsOf(name).map(({ body }) => JSON.parse(Buffer.from(body).toString()) as unknown);
      await expect.poll(bodies, WITHIN).toEqual(Array.from({ length: 20 }, (_, n) => [at, n]));
    }
  });
});
