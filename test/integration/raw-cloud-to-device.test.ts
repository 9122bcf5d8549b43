/** Cloud-to-device messages to leaves that do not acknowledge, that are away, or that asked for QoS 0. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { isJsonObject } from "../../src/core/merge-patch.ts";
import { World } from "./raw-world.ts";

let world: World;
beforeAll(async () => {
  world = await World.start();
});
afterAll(() => world[Symbol.asyncDispose]());

describe("a cloud-to-device message", () => {
  test("comes with the QoS of the subscription: with 0 it needs no PUBACK", async () => {
    const leaf = await world.leaf("qos-c2d");
    expect(await leaf.subscribe(["devices/qos-c2d/messages/devicebound/#", 0])).toEqual([0]);
    await send("qos-c2d", "hello");
    expect((await leaf.next("publish")).qos).toBe(0);
    leaf.cut();
  });

  test("that was not acknowledged comes again at the next connection, and never after its PUBACK", async () => {
    const filter = "devices/c2d/messages/devicebound/#";
    const first = await world.leaf("c2d");
    await first.subscribe(filter);
    await send("c2d", "important");
    const unacknowledged = await first.next("publish");
    expect(unacknowledged).toMatchObject({ qos: 1, dup: false });
    expect(unacknowledged.topic).toMatch(/^devices\/c2d\/messages\/devicebound\/%24\.to=%2Fdevices%2Fc2d%2F/);
    first.cut();

    const second = await world.leaf("c2d");
    const again = await second.next("publish");
    expect(again.payload.toString()).toBe("important");
    expect(again.topic).toBe(unacknowledged.topic);
    second.send({ cmd: "puback", messageId: again.messageId ?? 0 });
    await world.until("an empty queue", async () => (await queued("c2d")) === 0);
    await second.disconnect();

    const third = await world.leaf("c2d");
    await third.ping();
    expect(third.packets).toEqual([]);
    third.cut();
  });

  test("that was not acknowledged ten times is given up, as at IoT Hub, and the one behind it comes", async () => {
    const first = await world.leaf("choker");
    await first.subscribe("devices/choker/messages/devicebound/#");
    await first.disconnect();
    for (const text of ["poison", "good"]) await send("choker", text);
    for (let delivery = 0; delivery < 10; delivery += 1) {
      const leaf = await world.leaf("choker");
      expect((await leaf.next("publish")).payload.toString()).toBe("poison");
      leaf.cut();
    }
    const last = await world.leaf("choker");
    const { messageId = 0, payload } = await last.next("publish");
    expect(payload.toString()).toBe("good");
    last.send({ cmd: "puback", messageId });
    await world.until("an empty queue", async () => (await queued("choker")) === 0);
    expect(await world.metric('cloud_to_device_total{result="undeliverable"}')).toBe(1);
    last.cut();
  });

  test("waits for a leaf that is away, in order, one outstanding at a time", async () => {
    const filter = "devices/sleepy/messages/devicebound/#";
    const first = await world.leaf("sleepy");
    await first.subscribe(filter);
    await first.disconnect();
    for (const text of ["one", "two", "three"]) await send("sleepy", text);
    const leaf = await world.leaf("sleepy");
    const heard: string[] = [];
    while (heard.length < 3) {
      const { messageId = 0, payload } = await leaf.next("publish");
      heard.push(payload.toString());
      await leaf.ping();
      // Nothing comes while this one is unacknowledged.
      expect(leaf.packets).toEqual([]);
      leaf.send({ cmd: "puback", messageId });
    }
    expect(heard).toEqual(["one", "two", "three"]);
    leaf.cut();
  });
});

async function send(leafId: string, text: string): Promise<void> {
  const { payload, status } = await world.command("gateway*sendCloudToDevice", { leafId, payload: text });
  if (status !== 200) throw new Error(JSON.stringify(payload));
}

async function queued(leafId: string): Promise<unknown> {
  const { payload } = await world.command("gateway*getLeaf", { leafId });
  return isJsonObject(payload) ? payload["cloudToDeviceQueued"] : undefined;
}
