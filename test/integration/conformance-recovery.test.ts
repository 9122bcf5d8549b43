/** What unmodified SDK leaves notice of restarts and cuts, which is nothing: their programs are never told to do anything. */

import type { Client as DeviceClient, Twin } from "azure-iot-device";
import azureIotDevice from "azure-iot-device";
import { describe, expect, it } from "vitest";
import type { JsonObject } from "../../src/core/message.ts";
import { type GatewayRig, startRig, WITHIN } from "../support/gateway-rig.ts";

const { Message } = azureIotDevice;

/** A program that does everything once at its start, as the tutorials do: no word in it about reconnecting. */
async function program(rig: GatewayRig, leafId: string) {
  const client: DeviceClient = await rig.connectLeaf(leafId);
  client.onDeviceMethod("run", (_request, response) => void response.send(200, leafId));
  const twin: Twin = await client.getTwin();
  const patches: JsonObject[] = [];
  twin.on("properties.desired", (patch: JsonObject) => patches.push(structuredClone(patch)));
  await expect
    .poll(async () => (await rig.command("gateway*getLeaf", { leafId })).payload, WITHIN)
    .toMatchObject({
      subscriptions: expect.arrayContaining([expect.stringContaining("twin/PATCH/properties/desired")]),
    });
  return { client, twin, patches };
}

/** Whether everything works from end to end now. */
async function works(
  rig: GatewayRig,
  leafId: string,
  { client, twin, patches }: Awaited<ReturnType<typeof program>>,
  mark: string,
) {
  await rig.setDesired({ [leafId]: { __t: "c", target: mark } });
  await expect.poll(() => patches.some((patch) => patch["target"] === mark), WITHIN).toBe(true);
  await client.sendEvent(new Message(mark));
  await expect
    .poll(() => rig.eventsOf(leafId).some(({ body }) => Buffer.from(body).toString() === mark), WITHIN)
    .toBe(true);
  await new Promise<void>((resolve, reject) => {
    twin.properties.reported["update"]({ mark }, (error: Error | null) => (error ? reject(error) : resolve()));
  });
  await expect.poll(() => rig.reported(leafId), WITHIN).toMatchObject({ mark });
  await expect.poll(() => rig.command(`${leafId}*run`, mark), WITHIN).toEqual({ status: 200, payload: leafId });
}

describe("an SDK leaf", () => {
  it("goes on after the gateway was restarted under it", async () => {
    await using rig = await startRig();
    const leaf = await program(rig, "restarted");
    await works(rig, "restarted", leaf, "before");
    await rig.restartGateway();
    await works(rig, "restarted", leaf, "after");
  });

  it("goes on after edgeHub was killed and came back without its store", async () => {
    await using rig = await startRig();
    const leaf = await program(rig, "storeless");
    await works(rig, "storeless", leaf, "before");
    await rig.hub.killEdge("lose");
    await leaf.client.sendEvent(new Message("while edgeHub is away"));
    await rig.hub.startEdge();
    await expect
      .poll(() => rig.eventsOf("storeless").map(({ body }) => Buffer.from(body).toString()), WITHIN)
      .toContain("while edgeHub is away");
    await works(rig, "storeless", leaf, "after");
  });

  it("goes on after the gateway's connection to edgeHub was cut while it sends, and loses nothing that was acknowledged", async () => {
    await using rig = await startRig({ behindProxy: true });
    const leaf = await program(rig, "cut");
    await works(rig, "cut", leaf, "before");
    const sent = Array.from({ length: 30 }, (_, n) => `n${n}`);
    for (const [n, body] of sent.entries()) {
      if (n % 10 === 5) rig.proxy?.reset();
      await leaf.client.sendEvent(new Message(body));
    }
    await expect
      .poll(() => rig.eventsOf("cut").map(({ body }) => Buffer.from(body).toString()), WITHIN)
      .toEqual(expect.arrayContaining(sent));
    await works(rig, "cut", leaf, "after");
  });

  it("gets what was set while it was away when it is opened again", async () => {
    await using rig = await startRig();
    const leaf = await program(rig, "away");
    await works(rig, "away", leaf, "before");
    await rig.closeLeaf(leaf.client);
    await rig.setDesired({ away: { other: 5 } });
    const again = await program(rig, "away");
    await expect.poll(() => again.twin.properties.desired, WITHIN).toMatchObject({ target: "before", other: 5 });
    await works(rig, "away", again, "after");
  });
});
