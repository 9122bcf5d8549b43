/** What packets cost: what SDKs send costs one message each, what is a lot of work costs a lot. */
import mqttPacket, { type Packet } from "mqtt-packet";
import { describe, expect, test } from "vitest";
import { packetCost } from "../../../src/downstream/packet-cost.ts";
import type { PacketName } from "../../../src/downstream/packet-reader.ts";
import { connectPacket, events, publishPacket } from "../../support/leaf-client.ts";

function costOf(packet: Packet): number {
  return packetCost(packet.cmd as PacketName, mqttPacket.generate(packet));
}

const REPORT = "$iothub/twin/PATCH/properties/reported/?$rid=1";

describe("a message is one, however large, of", () => {
  test.each([
    [
      "telemetry with a few properties",
      publishPacket(`${events("a")}a=1&b=2&%24.mid=1&%24.ct=application%2Fjson`, "{}"),
    ],
    ["telemetry of 256 KB of JSON, which nobody looks into", publishPacket(events("a"), "[1,".repeat(80_000))],
    [
      "a reported patch of twenty properties",
      publishPacket(REPORT, JSON.stringify(Object.fromEntries(Array.from({ length: 20 }, (_, at) => [`p${at}`, at])))),
    ],
    ["a text of 200 KB", publishPacket(REPORT, JSON.stringify({ a: "x".repeat(200_000) }))],
    ["CONNECT", connectPacket("a")],
    ["PINGREQ", { cmd: "pingreq" } as const],
  ])("%s", (_what, packet) => {
    expect(costOf(packet)).toBe(1);
  });
});

describe("the pieces of", () => {
  test("a property bag count", () => {
    expect(costOf(publishPacket(`${events("a")}${"a=1&".repeat(16_000)}`, ""))).toBe(501);
  });

  test("JSON count, in patches and in answers to commands", () => {
    expect(costOf(publishPacket(REPORT, `[${"{},".repeat(3_200)}1]`))).toBe(201);
    expect(costOf(publishPacket("$iothub/methods/res/200/?$rid=1", "[".repeat(3_200)))).toBe(101);
  });

  test("a SUBSCRIBE or UNSUBSCRIBE count by its length; the three filters of an SDK are next to nothing", () => {
    const subscribe = (...filters: readonly string[]): Packet => ({
      cmd: "subscribe",
      messageId: 1,
      subscriptions: filters.map((topic) => ({ topic, qos: 0 })),
    });
    expect(
      costOf(subscribe("$iothub/twin/res/#", "$iothub/methods/POST/#", "devices/a/messages/devicebound/#")),
    ).toBeLessThan(4);
    expect(costOf(subscribe(...Array(2_000).fill("a")))).toBeGreaterThan(190);
    expect(costOf({ cmd: "unsubscribe", messageId: 1, unsubscriptions: Array(2_000).fill("a") })).toBeGreaterThan(140);
  });
});

test("a PUBLISH that ends before its topic costs one", () => {
  expect(packetCost("publish", Buffer.from([0x30, 0x00]))).toBe(1);
  expect(packetCost("publish", Buffer.from([0x30, 0x01, 0x00]))).toBe(1);
  expect(packetCost("publish", Buffer.from([0x30, 0x03, 0x00, 0xff, 0x61]))).toBe(1);
});
