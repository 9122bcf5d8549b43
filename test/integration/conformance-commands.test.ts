/** Commands of the PnP conventions and cloud-to-device messages: an unmodified back end calls, an unmodified SDK leaf answers. */

import type { Client as DeviceClient, Message } from "azure-iot-device";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type GatewayRig, startRig, WITHIN } from "../support/gateway-rig.ts";

let rig: GatewayRig;

beforeAll(async () => {
  rig = await startRig({ config: { commandTimeoutSecs: 2 } });
});
afterAll(() => rig[Symbol.asyncDispose]());

interface Heard {
  readonly name: string;
  readonly payload: unknown;
}

/** Answers the command `name` and notes what it was called with. */
function serve(leaf: DeviceClient, name: string, status: number, answer?: unknown): Heard[] {
  const heard: Heard[] = [];
  leaf.onDeviceMethod(name, (request, response) => {
    heard.push({ name: request.methodName, payload: request.payload });
    void response.send(status, answer);
  });
  return heard;
}

/** The SDK subscribes to commands without telling when that is done. */
async function listening(leafId: string): Promise<void> {
  await expect
    .poll(async () => (await rig.command("gateway*getLeaf", { leafId })).payload, WITHIN)
    .toMatchObject({ subscriptions: expect.arrayContaining([expect.stringContaining("methods")]) });
}

function received(leaf: DeviceClient): string[] {
  const bodies: string[] = [];
  leaf.on("message", (message: Message) => {
    bodies.push(message.getBytes().toString("utf8"));
    void leaf.complete(message);
  });
  return bodies;
}

describe("commands to SDK leaves", () => {
  it("of the default component and of a component reach the leaf with their payload, and its answer the caller", async () => {
    const leaf = await rig.connectLeaf("command1");
    const reboot = serve(leaf, "reboot", 200);
    const report = { maxTemp: 38.7, readings: [1, 2.5, null], place: { floor: "2" } };
    const maxMin = serve(leaf, "thermostat1*getMaxMinReport", 201, report);
    await listening("command1");
    expect(await rig.command("command1*reboot", 3)).toEqual({ status: 200, payload: null });
    expect(await rig.command("command1__thermostat1*getMaxMinReport", "2026-01-01T00:00:00Z")).toEqual({
      status: 201,
      payload: report,
    });
    expect(reboot).toEqual([{ name: "reboot", payload: 3 }]);
    expect(maxMin).toEqual([{ name: "thermostat1*getMaxMinReport", payload: "2026-01-01T00:00:00Z" }]);
  });

  it("without a payload and with an object reach the leaf as they are", async () => {
    const leaf = await rig.connectLeaf("command2");
    const heard = serve(leaf, "run", 200, "ran");
    await listening("command2");
    expect(await rig.command("command2*run")).toEqual({ status: 200, payload: "ran" });
    expect(await rig.command("command2*run", { deep: [{ er: true }] })).toEqual({ status: 200, payload: "ran" });
    expect(heard).toHaveLength(2);
    expect(heard[0]?.payload ?? null).toBeNull();
    expect(heard[1]?.payload).toEqual({ deep: [{ er: true }] });
  });

  it("that the leaf answers with an error status give the caller that status", async () => {
    const leaf = await rig.connectLeaf("command3");
    serve(leaf, "fail", 404, { message: "no such command" });
    await listening("command3");
    expect(await rig.command("command3*fail", {})).toEqual({ status: 404, payload: { message: "no such command" } });
  });

  it("for which the program has no handler, or that it leaves unanswered, end with 504", async () => {
    const leaf = await rig.connectLeaf("command4");
    leaf.onDeviceMethod("silent", () => undefined);
    await listening("command4");
    const answers = await Promise.all(["silent", "unheardOf"].map((name) => rig.command(`command4*${name}`, 1)));
    expect(answers).toMatchObject([{ status: 504 }, { status: 504 }]);
  });

  it("to a leaf that is away, never was, or has no such component are answered 404 with a reason", async () => {
    const leaf = await rig.connectLeaf("command5");
    await rig.closeLeaf(leaf);
    for (const name of ["command5*run", "nobody*run", "command5__nothing*run"]) {
      expect(await rig.command(name, 1)).toMatchObject({ status: 404, payload: { message: expect.any(String) } });
    }
  });

  it("run on the leaf that they name only", async () => {
    const names = ["command6", "command7"];
    const heard: Heard[][] = [];
    for (const name of names) {
      heard.push(serve(await rig.connectLeaf(name), "who", 200, name));
      await listening(name);
    }
    const calls = Array.from({ length: 20 }, (_, n) => n);
    const answers = await Promise.all(calls.map((n) => rig.command(`${names[n % 2]}*who`, n)));
    expect(answers.map(({ payload }) => payload)).toEqual(calls.map((n) => names[n % 2]));
    for (const at of [0, 1]) {
      const payloads = heard[at]?.map(({ payload }) => Number(payload)).sort((a, b) => a - b);
      expect(payloads).toEqual(calls.filter((n) => n % 2 === at));
    }
  });
});

describe("cloud-to-device messages to SDK leaves", () => {
  it("sent by the gateway's command arrive with body, properties and message id, and are completed", async () => {
    const leaf = await rig.connectLeaf("message1");
    const messages: Message[] = [];
    leaf.on("message", (message: Message) => {
      messages.push(message);
      void leaf.complete(message);
    });
    const request = { leafId: "message1", payload: { hello: 1 }, properties: { a: "b & c" }, messageId: "m1" };
    expect(await rig.command("gateway*sendCloudToDevice", request)).toMatchObject({ status: 200 });
    await expect.poll(() => messages.length, WITHIN).toBe(1);
    expect(messages[0]?.getBytes().toString("utf8")).toBe('{"hello":1}');
    expect(messages[0]?.messageId).toBe("m1");
    expect(messages[0]?.properties.propertyList).toContainEqual({ key: "a", value: "b & c" });
    await expect
      .poll(async () => (await rig.command("gateway*getLeaf", { leafId: "message1" })).payload, WITHIN)
      .toMatchObject({ cloudToDeviceQueued: 0 });
  });

  it("from another module's output to the input c2d arrive too", async () => {
    const bodies = received(await rig.connectLeaf("message2"));
    const sent = rig.hub.sendInput(rig.moduleId.moduleId, "c2d", {
      body: "from a module",
      properties: { leafId: "message2" },
    });
    await expect.poll(() => bodies, WITHIN).toEqual(["from a module"]);
    expect(await sent).toBe("acknowledged");
  });

  it("wait for a sleeping leaf, in order, through a restart of the gateway", async () => {
    await rig.closeLeaf(await rig.connectLeaf("message3"));
    for (const payload of ["one", "two", "three"]) {
      const answer = await rig.command("gateway*sendCloudToDevice", { leafId: "message3", payload });
      expect(answer).toMatchObject({ status: 200 });
    }
    await rig.restartGateway();
    const bodies = received(await rig.connectLeaf("message3"));
    await expect.poll(() => bodies, WITHIN).toEqual(["one", "two", "three"]);
  });
});
