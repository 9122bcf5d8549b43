/** What holds for the leaf broker whatever leaves send, in whatever pieces, and whatever order the safe places are reached in. */
import fc from "fast-check";
import mqttPacket, { type Packet } from "mqtt-packet";
import { expect, test } from "vitest";
import { parseLeafId } from "../../src/core/message.ts";
import type { Received } from "../../src/flow/ports.ts";
import { LeafBrokerRig, until } from "../support/leaf-broker-rig.ts";
import { connectPacket, events, publishPacket, RawLeaf } from "../support/leaf-client.ts";

const RUNS = Number(process.env["FUZZ_RUNS"] ?? 400);
/** Another one each time, unless a run is to be repeated. */
const SEED = Number(process.env["SEED"] ?? Date.now() % 2 ** 31);
/** A watchdog; an input takes some milliseconds. */
const TIMEOUT_MS = 120_000 + 200 * RUNS;

/** Cuts bytes at these places (wrapped to their length). */
function segments(bytes: Buffer, cuts: readonly number[]): readonly Buffer[] {
  const places = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].toSorted((a, b) => a - b);
  return [0, ...places]
    .map((from, at) => bytes.subarray(from, places[at] ?? bytes.length))
    .filter(({ length }) => length > 0);
}

test(
  "PUBACKs leave in the order of arrival, however segments and safe places fall",
  async () => {
    const scenario = fc.record({
      qos: fc.array(fc.constantFrom(0 as const, 1 as const), { minLength: 1, maxLength: 60 }),
      cuts: fc.array(fc.nat(5_000), { maxLength: 20 }),
      picks: fc.array(fc.nat(1_000), { minLength: 60, maxLength: 60 }),
      maxHeld: fc.integer({ min: 1, max: 40 }),
    });
    await fc.assert(
      fc.asyncProperty(scenario, async ({ qos, cuts, picks, maxHeld }) => {
        await using rig = await LeafBrokerRig.start({ limits: { maxHeld } });
        const held: (() => void)[] = [];
        rig.handler.onReceived = () => new Promise<Received>((resolve) => held.push(() => resolve({ kind: "done" })));
        const leaf = RawLeaf.over(rig.broker);
        await leaf.connect("leaf-1");
        const publishes = qos.map((each, at) =>
          publishPacket(events("leaf-1"), String(at), each === 0 ? { qos: 0 } : { qos: 1, messageId: at + 1 }),
        );
        const bytes = Buffer.concat(publishes.map((packet) => mqttPacket.generate(packet)));
        for (const segment of segments(bytes, cuts)) leaf.sendBytes(segment);
        for (let settled = 0; settled < qos.length; settled += 1) {
          await until(() => held.length > 0, "a frame to settle");
          expect(held.length).toBeLessThanOrEqual(maxHeld);
          const [settle] = held.splice((picks[settled] ?? 0) % held.length, 1);
          settle?.();
        }
        const expected = publishes.flatMap((packet) =>
          packet.cmd === "publish" && packet.qos === 1 ? [packet.messageId] : [],
        );
        expect(await leaf.pubacks(expected.length)).toEqual(expected);
        expect(rig.handler.texts).toEqual(qos.map((_, at) => String(at)));
      }),
      { numRuns: RUNS / 4, seed: SEED },
    );
  },
  TIMEOUT_MS,
);

const topics = fc.constantFrom(
  events("leaf-1"),
  events("leaf-2"),
  "$iothub/twin/res/200/?$rid=1",
  "$SYS/a",
  "",
  "a//b",
  "#",
  "\u0000",
  "a/".repeat(120),
);
const packets: fc.Arbitrary<Packet> = fc.oneof(
  fc
    .record({
      topic: topics,
      text: fc.string(),
      qos: fc.constantFrom(0 as const, 1 as const, 2 as const),
      id: fc.nat(65_535),
      retain: fc.boolean(),
    })
    .map(({ topic, text, qos, id, retain }) => publishPacket(topic, text, { qos, messageId: Math.max(1, id), retain })),
  fc.array(topics, { minLength: 1, maxLength: 4 }).map((filters) => ({
    cmd: "subscribe" as const,
    messageId: 5,
    subscriptions: filters.map((topic) => ({ topic: topic === "" ? "x" : topic, qos: 2 as const })),
  })),
  fc.array(topics, { minLength: 1, maxLength: 4 }).map((unsubscriptions) => ({
    cmd: "unsubscribe" as const,
    messageId: 6,
    unsubscriptions,
  })),
  fc.nat(65_535).map((messageId) => ({ cmd: "puback" as const, messageId })),
  fc.constantFrom<Packet>({ cmd: "pingreq" }, { cmd: "disconnect" }, connectPacket("leaf-1"), connectPacket("leaf-2")),
);

function bytesOf(packet: Packet): Buffer {
  try {
    return mqttPacket.generate(packet);
  } catch {
    return Buffer.from([0x30, 0x00]); // not even mqtt-packet writes that
  }
}

/** Packets, some of them with a few bytes changed, and noise between. */
const hostile = fc
  .array(
    fc.oneof(
      { weight: 4, arbitrary: packets.map(bytesOf) },
      {
        weight: 3,
        arbitrary: fc
          .tuple(packets.map(bytesOf), fc.array(fc.tuple(fc.nat(500), fc.nat(255)), { maxLength: 4 }))
          .map(([bytes, changes]) => {
            for (const [at, value] of changes) bytes[at % bytes.length] = value;
            return bytes;
          }),
      },
      { weight: 1, arbitrary: fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes)) },
    ),
    { maxLength: 12 },
  )
  .map((pieces) => Buffer.concat(pieces));

test(
  "whatever one leaf sends, another leaf works on and hears nothing of it",
  async () => {
    // Time stands still here, and with it what a rate allows.
    await using rig = await LeafBrokerRig.start({ limits: { maxMessagesPerSec: 1e6, maxBytesPerSec: 1e12 } });
    const good = RawLeaf.over(rig.broker);
    const id = parseLeafId("good");
    if (id === undefined) throw new Error("no leaf id");
    await good.connect("good");
    await good.subscribe("$iothub/twin/res/#", "$iothub/methods/POST/#");
    let round = 0;
    await fc.assert(
      fc.asyncProperty(
        hostile,
        fc.array(fc.nat(2_000), { maxLength: 5 }),
        fc.boolean(),
        async (bytes, cuts, connects) => {
          round += 1;
          const bad = RawLeaf.over(rig.broker);
          // A new id each time: penalties are another test's matter.
          if (connects) await bad.connect(`leaf-${round}`);
          for (const segment of segments(bytes, cuts)) bad.sendBytes(segment);
          good.publish(events("good"), String(round), { messageId: 1 });
          expect(await good.pubacks(1)).toEqual([1]);
          expect(
            await rig.broker.deliver(id, [
              { topic: "$iothub/twin/res/200/?$rid=1", payload: Buffer.from(String(round)), qos: 0 },
            ]),
          ).toBe("delivered");
          expect((await good.next("publish")).payload.toString()).toBe(String(round));
          expect(good.packets).toEqual([]);
          bad.cut();
          await until(() => rig.broker.load.connections === 1, "the bad leaf's end");
        },
      ),
      { numRuns: RUNS, seed: SEED },
    );
    expect(rig.metrics.value("defects_total")).toBe(0);
    await until(() => rig.handler.online.size === 1);
  },
  TIMEOUT_MS,
);

test(
  "leaves that come, fight, go and break in any order end with one connection each and equal counts",
  async () => {
    const step = fc.record({
      leaf: fc.nat(2),
      act: fc.constantFrom("connect", "disconnect", "cut", "publish", "wait"),
      pick: fc.nat(20),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 25 }), async (steps) => {
        await using rig = await LeafBrokerRig.start();
        const leaves: { readonly leaf: RawLeaf; readonly id: string }[] = [];
        for (const { leaf: number, act, pick } of steps) {
          const id = `leaf-${number}`;
          const chosen = leaves[pick % Math.max(1, leaves.length)];
          if (act === "connect") {
            const leaf = RawLeaf.over(rig.broker);
            leaf.sendConnect(id);
            leaves.push({ leaf, id });
          } else if (act === "wait") await rig.clock.advance(700);
          else if (act === "publish" && chosen?.leaf.isClosed === false) chosen.leaf.publish(events(chosen.id), "x");
          else if (act === "cut") chosen?.leaf.cut();
          else if (chosen?.leaf.isClosed === false) void chosen.leaf.disconnect(); // the end of it is seen below
          await rig.clock.settle();
          for (const [, times] of rig.handler.online) expect(times).toBe(1);
        }
        for (let second = 0; second < 400; second += 1) await rig.clock.advance(1_000);
        const open = leaves.filter(({ leaf }) => !leaf.isClosed);
        expect(new Set(open.map(({ id }) => id)).size).toBe(open.length);
        expect([...rig.handler.online.keys()].toSorted()).toEqual(open.map(({ id }) => id).toSorted());
        expect(rig.broker.load.connections).toBe(open.length);
      }),
      { numRuns: RUNS / 8, seed: SEED },
    );
  },
  TIMEOUT_MS,
);
