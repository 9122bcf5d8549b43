/** Packets are cut out of a stream whole, however it is segmented, and what a leaf may not send is known by its header. */
import fc from "fast-check";
import mqttPacket from "mqtt-packet";
import { describe, expect, test } from "vitest";
import { PacketReader } from "../../../src/downstream/packet-reader.ts";
import { DEFAULT_LIMITS } from "../../support/default-limits.ts";
import { connectPacket, publishPacket } from "../../support/leaf-client.ts";

const CONNECT = mqttPacket.generate(connectPacket("leaf-1"));

function readAll(reader: PacketReader): readonly string[] {
  const read: string[] = [];
  for (let next = reader.peek(); next.kind === "packet"; next = reader.peek()) {
    read.push(next.bytes.toString("hex"));
    reader.take();
  }
  return read;
}

describe("PacketReader", () => {
  test("any segmentation gives the same packets", () => {
    const publish = fc
      .tuple(fc.nat(400), fc.constantFrom(0 as const, 1 as const))
      .map(([length, qos]) => publishPacket("a/b", "x".repeat(length), { qos }));
    fc.assert(
      fc.property(
        fc.array(publish, { maxLength: 10 }),
        fc.array(fc.integer({ min: 1, max: 90 }), { minLength: 1 }),
        (publishes, sizes) => {
          const packets = [CONNECT, ...publishes.map((packet) => mqttPacket.generate(packet))];
          const stream = Buffer.concat(packets);
          const reader = new PacketReader(DEFAULT_LIMITS);
          const read: string[] = [];
          for (let at = 0, turn = 0; at < stream.length; turn += 1) {
            const size = sizes[turn % sizes.length] ?? 1;
            reader.push(Buffer.from(stream.subarray(at, at + size)));
            at += size;
            if (turn % 2 === 0) read.push(...readAll(reader));
          }
          read.push(...readAll(reader));
          expect(read).toEqual(packets.map((packet) => packet.toString("hex")));
          expect(reader.length).toBe(0);
          expect(reader.peek()).toEqual({ kind: "incomplete" });
        },
      ),
    );
  });

  test("never throws, whatever the bytes", () => {
    fc.assert(
      fc.property(fc.boolean(), fc.array(fc.uint8Array({ maxLength: 40 })), (connected, chunks) => {
        const reader = new PacketReader(DEFAULT_LIMITS);
        if (connected) reader.push(CONNECT);
        for (const chunk of chunks) {
          reader.push(Buffer.from(chunk));
          readAll(reader);
        }
      }),
    );
  });

  test("the same packet is shown until it is taken, and counts until then", () => {
    const reader = new PacketReader(DEFAULT_LIMITS);
    reader.push(CONNECT);
    expect(reader.peek()).toBe(reader.peek());
    expect(reader.length).toBe(CONNECT.length);
    reader.take();
    expect(reader.length).toBe(0);
  });

  test("a packet that comes byte by byte is held in few pieces", () => {
    const reader = new PacketReader(DEFAULT_LIMITS);
    reader.push(CONNECT);
    reader.peek();
    reader.take();
    const packet = mqttPacket.generate(publishPacket("t", "x".repeat(100_000)));
    for (const byte of packet) {
      reader.push(Buffer.from([byte]));
      expect(reader.pieces).toBeLessThan(50);
    }
    const next = reader.peek();
    expect(next.kind === "packet" && next.bytes.equals(packet)).toBe(true);
  });

  test("a topic may have so many bytes and no more", () => {
    const read = (topic: string) => {
      const reader = new PacketReader({ ...DEFAULT_LIMITS, maxTopicBytes: 10 });
      reader.push(Buffer.concat([CONNECT, mqttPacket.generate(publishPacket(topic, ""))]));
      reader.peek();
      reader.take();
      return reader.peek();
    };
    expect(read("t".repeat(10))).toMatchObject({ kind: "packet", name: "publish" });
    expect(read("t".repeat(11))).toEqual({ kind: "refused", reason: "topic-too-long" });
  });

  test("a refusal stays, whatever comes behind it", () => {
    const reader = new PacketReader(DEFAULT_LIMITS);
    reader.push(Buffer.from([0xc0, 0x00]));
    expect(reader.peek()).toEqual({ kind: "refused", reason: "not-connect" });
    reader.take();
    reader.push(CONNECT);
    expect(reader.peek()).toEqual({ kind: "refused", reason: "not-connect" });
  });

  test("QoS 2 of a SUBSCRIBE becomes 1, whatever the filters look like", () => {
    const filter = fc.string({ minLength: 1, maxLength: 30 }).filter((text) => Buffer.byteLength(text) > 0);
    const subscription = fc.record({ topic: filter, qos: fc.constantFrom(0 as const, 1 as const, 2 as const) });
    fc.assert(
      fc.property(fc.array(subscription, { minLength: 1, maxLength: 10 }), (subscriptions) => {
        const wanted = subscriptions.map((one) => ({ ...one, qos: one.qos === 2 ? (1 as const) : one.qos }));
        const reader = new PacketReader(DEFAULT_LIMITS);
        reader.push(Buffer.concat([CONNECT, mqttPacket.generate({ cmd: "subscribe", messageId: 515, subscriptions })]));
        reader.peek();
        reader.take();
        const next = reader.peek();
        const expected = mqttPacket.generate({ cmd: "subscribe", messageId: 515, subscriptions: wanted });
        expect(next.kind === "packet" && next.bytes.toString("hex")).toBe(expected.toString("hex"));
      }),
    );
  });
});
