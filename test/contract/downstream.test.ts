/** The leaf broker as a leaf sees it, over in-memory connections: sessions, subscriptions, acknowledgement, delivery, wills. */
import { describe, expect, test } from "vitest";
import type { LeafId, Subscription } from "../../src/core/message.ts";
import { parseLeafId } from "../../src/core/message.ts";
import type { Received } from "../../src/flow/ports.ts";
import { LeafBrokerRig, until } from "../support/leaf-broker-rig.ts";
import { attached, connectPacket, events, mqttLeaf, publishPacket, RawLeaf } from "../support/leaf-client.ts";

const TWIN = "$iothub/twin/res/#";
const COMMANDS = "$iothub/methods/POST/#";
const DESIRED = "$iothub/twin/PATCH/properties/desired/#";
const DONE: Received = { kind: "done" };

function leafId(text: string): LeafId {
  const id = parseLeafId(text);
  if (id === undefined) throw new Error(`${text} is no leaf id`);
  return id;
}

const ONE = leafId("leaf-1");
const TWO = leafId("leaf-2");

function frame(topic: string, text: string, qos: 0 | 1 = 0) {
  return { topic, payload: Buffer.from(text), qos };
}

describe("sessions", () => {
  test("a leaf is admitted, then connected, then heard", async () => {
    await using rig = await LeafBrokerRig.start();
    const leaf = RawLeaf.over(rig.broker, { remoteAddress: "10.1.2.3" });
    expect(await leaf.connect("leaf-1")).toEqual({ code: 0, present: false });
    leaf.publish(events("leaf-1"), "hello");
    expect(await leaf.pubacks(1)).toEqual([1]);
    expect(rig.handler.calls).toEqual(["admit leaf-1", "connected leaf-1", `received leaf-1 ${events("leaf-1")}`]);
    expect(rig.handler.connects).toEqual([
      { leafId: "leaf-1", modelId: undefined, dialect: "iothub", clean: false, remoteAddress: "10.1.2.3" },
    ]);
  });

  test("a kept session is present with its subscriptions, without a SUBSCRIBE", async () => {
    await using rig = await LeafBrokerRig.start();
    const kept: readonly Subscription[] = [
      { filter: TWIN, qos: 1 },
      { filter: DESIRED, qos: 0 },
    ];
    rig.handler.subscriptions.set(ONE, kept);
    const leaf = RawLeaf.over(rig.broker);
    expect(await leaf.connect("leaf-1")).toEqual({ code: 0, present: true });
    await leaf.subscribe(COMMANDS);
    expect(rig.handler.subscriptions.get(ONE)).toEqual([...kept, { filter: COMMANDS, qos: 1 }]);
  });

  test("a clean session starts with nothing, whatever was kept", async () => {
    await using rig = await LeafBrokerRig.start();
    rig.handler.onAdmit = () => ({ kind: "accepted", subscriptions: [{ filter: TWIN, qos: 1 }] });
    const leaf = RawLeaf.over(rig.broker);
    expect(await leaf.connect("leaf-1", { clean: true })).toEqual({ code: 0, present: false });
    await leaf.subscribe(COMMANDS);
    expect(rig.handler.subscriptions.get(ONE)).toEqual([{ filter: COMMANDS, qos: 1 }]);
  });

  test("a kept session without subscriptions is not present", async () => {
    await using rig = await LeafBrokerRig.start();
    expect(await RawLeaf.over(rig.broker).connect("leaf-1")).toEqual({ code: 0, present: false });
  });

  test("subscriptions of another leaf that a record holds by mistake are not restored", async () => {
    await using rig = await LeafBrokerRig.start();
    rig.handler.subscriptions.set(ONE, [{ filter: "devices/leaf-2/messages/devicebound/#", qos: 1 }]);
    expect(await RawLeaf.over(rig.broker).connect("leaf-1")).toEqual({ code: 0, present: false });
  });

  test("what came in one segment with CONNECT is handled after CONNACK, in order", async () => {
    await using rig = await LeafBrokerRig.start();
    const leaf = RawLeaf.over(rig.broker);
    const publishes = Array.from({ length: 60 }, (_, at) =>
      publishPacket(events("leaf-1"), String(at), { messageId: at + 1 }),
    );
    leaf.send(connectPacket("leaf-1"), ...publishes);
    await leaf.next("connack");
    expect(await leaf.pubacks(60)).toEqual(publishes.map((_, at) => at + 1));
    expect(rig.handler.texts).toEqual(publishes.map((_, at) => String(at)));
    expect(rig.handler.calls.slice(0, 2)).toEqual(["admit leaf-1", "connected leaf-1"]);
  });

  test("QoS 0 messages that were sent right before leaving are not lost", async () => {
    await using rig = await LeafBrokerRig.start();
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    const burst = Array.from({ length: 50 }, (_, at) => publishPacket(events("leaf-1"), String(at), { qos: 0 }));
    leaf.send(...burst, { cmd: "disconnect" });
    leaf.stream.end();
    await until(() => rig.handler.calls.includes("disconnected leaf-1"));
    expect(rig.handler.texts).toHaveLength(50);
  });

  test("disconnected follows each connected once, however the connection ends", async () => {
    await using rig = await LeafBrokerRig.start();
    for (const end of [
      (leaf: RawLeaf) => leaf.send({ cmd: "disconnect" }),
      (leaf: RawLeaf) => leaf.cut(),
      (leaf: RawLeaf) => leaf.stream.end(),
    ]) {
      const leaf = RawLeaf.over(rig.broker);
      await leaf.connect("leaf-1");
      end(leaf);
      await until(() => rig.broker.load.leaves === 0);
    }
    const dropped = RawLeaf.over(rig.broker);
    await dropped.connect("leaf-1");
    await rig.broker.drop(ONE, "test");
    await dropped.closed;
    const expected = Array.from({ length: 4 }, () => [
      "admit leaf-1",
      "connected leaf-1",
      "disconnected leaf-1",
    ]).flat();
    expect(rig.handler.calls).toEqual(expected);
  });

  test("dispose ends all connections and waits until the handler knows", async () => {
    const rig = await LeafBrokerRig.start();
    const leaves = Array.from({ length: 5 }, () => RawLeaf.over(rig.broker));
    await Promise.all(leaves.map((leaf, at) => leaf.connect(`leaf-${at}`)));
    let told = 0;
    rig.handler.onDisconnected = async () => {
      await new Promise((resolve) => setImmediate(resolve));
      told += 1;
    };
    await rig.broker[Symbol.asyncDispose]();
    expect(told).toBe(5);
    await Promise.all(leaves.map((leaf) => leaf.closed));
  });

  test("mqtt.js works with it as with any broker", async () => {
    await using rig = await LeafBrokerRig.start();
    const client = mqttLeaf(attached(rig.broker), "leaf-1");
    await new Promise((resolve) => client.once("connect", resolve));
    const heard = new Promise<string>((resolve) =>
      client.once("message", (topic, payload) => resolve(`${topic} ${payload.toString()}`)),
    );
    await client.subscribeAsync([TWIN, COMMANDS], { qos: 1 });
    await client.publishAsync(events("leaf-1"), "up", { qos: 1 });
    await rig.broker.deliver(ONE, [frame("$iothub/twin/res/200/?$rid=1", "{}")]);
    expect(await heard).toBe("$iothub/twin/res/200/?$rid=1 {}");
    await client.endAsync();
    await until(() => rig.handler.calls.includes("disconnected leaf-1"));
  });
});

describe("subscriptions", () => {
  test("SUBACK waits until the subscription is stored", async () => {
    await using rig = await LeafBrokerRig.start();
    const stored = Promise.withResolvers<void>();
    rig.handler.onSubscribed = () => stored.promise;
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    const granted = leaf.subscribe(TWIN);
    await leaf.ping();
    expect(leaf.packets).toEqual([]);
    stored.resolve();
    expect(await granted).toEqual([1]);
  });

  test("all filters of a SUBSCRIBE are stored in one go", async () => {
    await using rig = await LeafBrokerRig.start();
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    expect(await leaf.subscribe([TWIN, 0], [COMMANDS, 0], ["devices/leaf-1/messages/devicebound/#", 1])).toEqual([
      0, 0, 1,
    ]);
    expect(rig.handler.calls.filter((call) => call.startsWith("subscribed"))).toEqual([
      `subscribed leaf-1 ${TWIN}=0 ${COMMANDS}=0 devices/leaf-1/messages/devicebound/#=1`,
    ]);
  });

  test("QoS 2 is granted as QoS 1", async () => {
    await using rig = await LeafBrokerRig.start();
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    expect(await leaf.subscribe([TWIN, 2], [COMMANDS, 0], [DESIRED, 2])).toEqual([1, 0, 1]);
    expect(rig.handler.subscriptions.get(ONE)?.map(({ qos }) => qos)).toEqual([1, 0, 1]);
  });

  test.each(["#", "+/leaf-2/#", "devices/leaf-2/messages/devicebound/#", "$SYS/#", "$iothub/#", "plain/topic"])(
    "%s is not granted, and the connection stays",
    async (filter) => {
      await using rig = await LeafBrokerRig.start();
      const leaf = RawLeaf.over(rig.broker);
      await leaf.connect("leaf-1");
      expect(await leaf.subscribe(filter, TWIN)).toEqual([128, 1]);
      expect(rig.handler.subscriptions.get(ONE)).toEqual([{ filter: TWIN, qos: 1 }]);
      expect(rig.refused("subscription")).toBe(1);
      await leaf.ping();
    },
  );

  test("one leaf cannot subscribe without end, but to the same filter again", async () => {
    await using rig = await LeafBrokerRig.start({ limits: { maxSubscriptions: 3 } });
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    const many = Array.from({ length: 4 }, (_, at) => `$iothub/methods/POST/${at}/#`);
    expect(await leaf.subscribe(...many)).toEqual([1, 1, 1, 128]);
    expect(await leaf.subscribe("$iothub/methods/POST/0/#")).toEqual([1]);
    expect(rig.refused("subscriptions")).toBe(1);
  });

  test("UNSUBSCRIBE is told, the end of a connection is not an UNSUBSCRIBE", async () => {
    await using rig = await LeafBrokerRig.start();
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    await leaf.subscribe(TWIN, COMMANDS);
    leaf.send({ cmd: "unsubscribe", messageId: 9, unsubscriptions: [TWIN] });
    await leaf.next("unsuback");
    await until(() => rig.handler.subscriptions.get(ONE)?.length === 1);
    await leaf.disconnect();
    await until(() => rig.broker.load.leaves === 0);
    expect(rig.handler.subscriptions.get(ONE)).toEqual([{ filter: COMMANDS, qos: 1 }]);
  });

  test("a restored subscription can be given up like any other", async () => {
    await using rig = await LeafBrokerRig.start();
    rig.handler.subscriptions.set(ONE, [
      { filter: TWIN, qos: 1 },
      { filter: COMMANDS, qos: 1 },
    ]);
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    leaf.send({ cmd: "unsubscribe", messageId: 9, unsubscriptions: [TWIN] });
    await leaf.next("unsuback");
    await until(() => rig.handler.subscriptions.get(ONE)?.length === 1);
  });

  test("a subscription that cannot be stored closes the connection instead of being acknowledged", async () => {
    await using rig = await LeafBrokerRig.start();
    rig.handler.onSubscribed = () => Promise.reject(new Error("disk full"));
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    await expect(leaf.subscribe(TWIN)).rejects.toThrow("closed before a suback");
  });
});

describe("acknowledgement", () => {
  test("two PUBLISH in one segment, the first slower: PUBACKs leave in the order of arrival", async () => {
    await using rig = await LeafBrokerRig.start();
    const first = Promise.withResolvers<Received>();
    rig.handler.onReceived = ({ text }) => (text === "1" ? first.promise : DONE);
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    leaf.send(
      publishPacket(events("leaf-1"), "1", { messageId: 11 }),
      publishPacket(events("leaf-1"), "2", { messageId: 12 }),
    );
    await until(() => rig.handler.frames.length === 2);
    await leaf.ping();
    expect(leaf.packets).toEqual([]);
    first.resolve(DONE);
    expect(await leaf.pubacks(2)).toEqual([11, 12]);
  });

  test("pings are answered while frames are held", async () => {
    await using rig = await LeafBrokerRig.start();
    rig.handler.onReceived = () => new Promise(() => undefined);
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    leaf.send(...Array.from({ length: 10 }, (_, at) => publishPacket(events("leaf-1"), "x", { messageId: at + 1 })));
    await leaf.ping();
    await leaf.ping();
    expect(rig.handler.frames).toHaveLength(10);
  });

  test("a ping is told, since it shows that the leaf is there", async () => {
    await using rig = await LeafBrokerRig.start();
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    await leaf.ping();
    expect(rig.handler.calls).toEqual(["admit leaf-1", "connected leaf-1", "pinged leaf-1"]);
  });

  test("a frame that cannot be taken closes the connection without its PUBACK and without later ones", async () => {
    await using rig = await LeafBrokerRig.start();
    const slow = Promise.withResolvers<Received>();
    rig.handler.onReceived = ({ text }) =>
      text === "1" ? slow.promise : text === "2" ? { kind: "close", reason: "no" } : DONE;
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    leaf.send(...[1, 2, 3].map((at) => publishPacket(events("leaf-1"), String(at), { messageId: at })));
    await until(() => rig.handler.frames.length === 3);
    expect(leaf.isClosed).toBe(false);
    slow.resolve(DONE);
    await leaf.closed;
    expect(leaf.packets.filter(({ cmd }) => cmd === "puback").map(({ messageId }) => messageId)).not.toContain(2);
    expect(leaf.packets.filter(({ cmd }) => cmd === "puback").map(({ messageId }) => messageId)).not.toContain(3);
    expect(rig.refused("frame-refused")).toBe(1);
  });

  test("a handler that fails closes that connection alone", async () => {
    await using rig = await LeafBrokerRig.start();
    rig.handler.onReceived = ({ leaf }) => (leaf === ONE ? Promise.reject(new Error("defect")) : DONE);
    const [bad, good] = [RawLeaf.over(rig.broker), RawLeaf.over(rig.broker)];
    await bad.connect("leaf-1");
    await good.connect("leaf-2");
    bad.publish(events("leaf-1"), "x");
    await bad.closed;
    good.publish(events("leaf-2"), "y");
    expect(await good.pubacks(1)).toEqual([1]);
  });

  test("a handler that throws instead of answering closes that connection and nothing else", async () => {
    await using rig = await LeafBrokerRig.start();
    rig.handler.received = () => {
      throw new Error("defect");
    };
    const [bad, good] = [RawLeaf.over(rig.broker), RawLeaf.over(rig.broker)];
    await bad.connect("leaf-1");
    await good.connect("leaf-2");
    bad.publish(events("leaf-1"), "x");
    await bad.closed;
    await good.ping();
  });

  test("a burst of more than may be held is read no faster than it is taken", async () => {
    await using rig = await LeafBrokerRig.start({ limits: { maxHeld: 8 } });
    const waiting: (() => void)[] = [];
    rig.handler.onReceived = () => new Promise((resolve) => waiting.push(() => resolve(DONE)));
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    const ids = Array.from({ length: 40 }, (_, at) => at + 1);
    leaf.send(...ids.map((messageId) => publishPacket(events("leaf-1"), "x", { messageId })));
    let most = 0;
    for (let taken = 0; taken < 40; taken += 1) {
      await until(() => waiting.length > 0);
      most = Math.max(most, waiting.length);
      waiting.shift()?.();
    }
    expect(await leaf.pubacks(40)).toEqual(ids);
    expect(most).toBeLessThanOrEqual(8);
  });

  test("frames that nobody takes for too long end the connection, and the leaf's next CONNACK is late", async () => {
    await using rig = await LeafBrokerRig.start({ limits: { maxHeld: 2 } });
    rig.handler.onReceived = () => new Promise(() => undefined);
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    leaf.send(...[1, 2, 3].map((messageId) => publishPacket(events("leaf-1"), "x", { messageId })));
    await until(() => rig.clock.sleeping > 0);
    await rig.clock.advance(10_000);
    await leaf.closed;
    expect(rig.refused("held-too-long")).toBe(1);
    const again = RawLeaf.over(rig.broker);
    again.sendConnect("leaf-1");
    await until(() => rig.clock.sleeping > 0);
    await rig.clock.advance(999);
    expect(again.packets).toEqual([]);
    await rig.clock.advance(1);
    expect((await again.next("connack")).returnCode).toBe(0);
  });

  test("retain and dup reach the handler, and nothing is retained", async () => {
    await using rig = await LeafBrokerRig.start();
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    leaf.publish(events("leaf-1"), "x", { retain: true, dup: true });
    await leaf.pubacks(1);
    expect(rig.handler.frames[0]?.frame).toMatchObject({ retain: true, dup: true, qos: 1 });
    leaf.publish(DESIRED.replace("#", "x"), "retained", { retain: true, qos: 0 });
    await leaf.subscribe(DESIRED);
    await leaf.ping();
    expect(leaf.packets).toEqual([]);
  });
});

describe("isolation", () => {
  test("nothing that a leaf publishes ever reaches a leaf", async () => {
    await using rig = await LeafBrokerRig.start();
    const [one, two] = [RawLeaf.over(rig.broker), RawLeaf.over(rig.broker)];
    await one.connect("leaf-1");
    await two.connect("leaf-2");
    const c2d = "devices/leaf-2/messages/devicebound/";
    for (const leaf of [one, two]) await leaf.subscribe(TWIN, COMMANDS, DESIRED);
    await two.subscribe(`${c2d}#`);
    const topics = [
      "$iothub/twin/res/200/?$rid=1",
      "$iothub/methods/POST/reboot/?$rid=1",
      `${c2d}x`,
      "$SYS/x/new/clients",
    ];
    for (const [at, topic] of topics.entries()) {
      one.publish(topic, "forged", { messageId: at + 1 });
      one.publish(topic, "forged", { qos: 0, retain: true });
    }
    await one.pubacks(topics.length);
    await one.ping();
    await two.ping();
    expect([...one.packets, ...two.packets]).toEqual([]);
  });

  test("what one leaf is sent no other hears, though both have the same topic", async () => {
    await using rig = await LeafBrokerRig.start();
    const [one, two] = [RawLeaf.over(rig.broker), RawLeaf.over(rig.broker)];
    await one.connect("leaf-1");
    await two.connect("leaf-2");
    for (const leaf of [one, two]) await leaf.subscribe(TWIN);
    expect(await rig.broker.deliver(TWO, [frame("$iothub/twin/res/200/?$rid=1", "two")])).toBe("delivered");
    expect((await two.next("publish")).payload.toString()).toBe("two");
    await one.ping();
    expect(one.packets).toEqual([]);
  });
});

describe("delivery", () => {
  const C2D = "devices/leaf-1/messages/devicebound/%24.to=x";

  test("a leaf that is not there is offline", async () => {
    await using rig = await LeafBrokerRig.start();
    expect(await rig.broker.deliver(ONE, [frame(C2D, "x")])).toBe("offline");
  });

  test("an answer goes to the leaf that asked, subscribed or not", async () => {
    await using rig = await LeafBrokerRig.start();
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    expect(await rig.broker.deliver(ONE, [frame("$iothub/twin/res/200/?$rid=1", "{}")])).toBe("delivered");
    expect(await leaf.next("publish")).toMatchObject({ topic: "$iothub/twin/res/200/?$rid=1", qos: 0, retain: false });
  });

  test("QoS 1 is delivered when the leaf has acknowledged it, one at a time, and QoS 0 does not wait for it", async () => {
    await using rig = await LeafBrokerRig.start();
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    const settled: string[] = [];
    const note = (name: string) => (how: string) => settled.push(`${name} ${how}`);
    const first = rig.broker.deliver(ONE, [frame(C2D, "first", 1)]).then(note("first"));
    const second = rig.broker.deliver(ONE, [frame(C2D, "second", 1)]).then(note("second"));
    const received = await leaf.next("publish");
    expect(received).toMatchObject({ qos: 1, dup: false });
    await rig.broker.deliver(ONE, [frame("$iothub/twin/res/200/?$rid=1", "zero")]).then(note("zero"));
    expect((await leaf.next("publish")).payload.toString()).toBe("zero");
    await leaf.ping();
    expect(leaf.packets).toEqual([]);
    leaf.send({ cmd: "puback", messageId: received.messageId ?? 0 });
    const next = await leaf.next("publish");
    expect(next.payload.toString()).toBe("second");
    leaf.send({ cmd: "puback", messageId: received.messageId ?? 0 }); // again the first's: settles nothing
    await leaf.ping();
    expect(settled).toEqual(["zero delivered", "first delivered"]);
    leaf.send({ cmd: "puback", messageId: next.messageId ?? 0 });
    await Promise.all([first, second]);
    expect(settled).toEqual(["zero delivered", "first delivered", "second delivered"]);
  });

  test("a QoS 1 packet directly followed by a QoS 0 one is not dropped, kept session or not", async () => {
    await using rig = await LeafBrokerRig.start();
    rig.handler.subscriptions.set(ONE, [{ filter: TWIN, qos: 1 }]);
    for (const clean of [false, true]) {
      const leaf = RawLeaf.over(rig.broker);
      await leaf.connect("leaf-1", { clean });
      for (let round = 0; round < 20; round += 1) {
        const one = rig.broker.deliver(ONE, [frame(C2D, "one", 1)]);
        // A little later each round: the moment at which aedes loses one lies somewhere in between.
        for (let turn = 0; turn < round; turn += 1) await Promise.resolve();
        const zero = rig.broker.deliver(ONE, [frame(TWIN.replace("#", "200/?$rid=1"), "zero")]);
        const heard = [await leaf.next("publish"), await leaf.next("publish")];
        expect(heard.map(({ payload }) => payload.toString()).toSorted()).toEqual(["one", "zero"]);
        leaf.send({ cmd: "puback", messageId: heard.find(({ qos }) => qos === 1)?.messageId ?? 0 });
        expect(await Promise.all([one, zero])).toEqual(["delivered", "delivered"]);
      }
      await leaf.disconnect();
      await until(() => rig.broker.load.leaves === 0);
    }
  });

  test("frames of one delivery stay in order", async () => {
    await using rig = await LeafBrokerRig.start();
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    const frames = Array.from({ length: 30 }, (_, at) => frame(`$iothub/twin/res/200/?$rid=${at}`, String(at)));
    expect(await rig.broker.deliver(ONE, frames)).toBe("delivered");
    for (const [at] of frames.entries()) expect((await leaf.next("publish")).payload.toString()).toBe(String(at));
  });

  test("a message without its PUBACK is unacknowledged when the connection ends, those behind it are offline, and none is repeated", async () => {
    await using rig = await LeafBrokerRig.start();
    rig.handler.subscriptions.set(ONE, [{ filter: TWIN, qos: 1 }]);
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    const waiting = [1, 2, 3].map((at) => rig.broker.deliver(ONE, [frame(C2D, String(at), 1)]));
    await leaf.next("publish");
    leaf.cut();
    expect(await Promise.all(waiting)).toEqual(["unacknowledged", "offline", "offline"]);
    const again = RawLeaf.over(rig.broker);
    await again.connect("leaf-1");
    await again.ping();
    expect(again.packets).toEqual([]);
  });

  test("a message goes out with the lower QoS of its own and the subscription's, wildcard or not", async () => {
    await using rig = await LeafBrokerRig.start();
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    await leaf.subscribe(["devices/leaf-1/messages/devicebound/#", 0]);
    expect(await rig.broker.deliver(ONE, [frame(C2D, "x", 1)])).toBe("delivered");
    expect((await leaf.next("publish")).qos).toBe(0);
  });

  test("a leaf that does not read is closed, not waited for", async () => {
    await using rig = await LeafBrokerRig.start({ limits: { maxUnreadBytes: 100_000, maxDeliveries: 50 } });
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    leaf.stream.pause();
    const big = "x".repeat(20_000);
    const sent = Array.from({ length: 200 }, () =>
      rig.broker.deliver(ONE, [frame("$iothub/twin/res/200/?$rid=1", big)]),
    );
    expect(await Promise.all(sent)).toContain("offline");
    expect(rig.refused("slow-leaf")).toBe(1);
    await until(() => rig.broker.load.leaves === 0);
  });
});

describe("wills", () => {
  const will = { topic: `${events("leaf-1")}a=b`, payload: Buffer.from("gone"), qos: 1 as const, retain: true };

  test("a connection that breaks is followed by its will, before disconnected", async () => {
    await using rig = await LeafBrokerRig.start();
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1", { will });
    leaf.cut();
    await until(() => rig.broker.load.leaves === 0);
    expect(rig.handler.calls.slice(-2)).toEqual([`received leaf-1 ${will.topic}`, "disconnected leaf-1"]);
    expect(rig.handler.frames[0]?.frame).toEqual({ ...will, will: true });
  });

  test("DISCONNECT takes the will back", async () => {
    await using rig = await LeafBrokerRig.start();
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1", { will });
    await leaf.disconnect();
    await until(() => rig.broker.load.leaves === 0);
    expect(rig.handler.frames).toEqual([]);
  });

  test.each(["devices/leaf-2/messages/events/", "$iothub/twin/GET/?$rid=1", "#", "foo"])(
    "a will for %s is not published",
    async (topic) => {
      await using rig = await LeafBrokerRig.start();
      const leaf = RawLeaf.over(rig.broker);
      await leaf.connect("leaf-1", { will: { ...will, topic } });
      leaf.cut();
      await until(() => rig.broker.load.leaves === 0);
      expect(rig.handler.frames).toEqual([]);
      expect(rig.refused("will-topic")).toBe(1);
    },
  );

  test("a leaf that was never connected has no will", async () => {
    await using rig = await LeafBrokerRig.start();
    rig.handler.onAdmit = () => ({ kind: "refused", code: 3, reason: "not now" });
    const leaf = RawLeaf.over(rig.broker);
    expect((await leaf.connect("leaf-1", { will })).code).toBe(3);
    await leaf.closed;
    expect(rig.handler.calls).toEqual(["admit leaf-1"]);
  });
});
