/** The leaf broker's door: who is let in, how refusals look, takeovers, fights over one id, and what never gets through. */
import { describe, expect, test } from "vitest";
import type { LeafId } from "../../src/core/message.ts";
import { parseLeafId } from "../../src/core/message.ts";
import type { Admission, Authentication, LeafAuthenticator, Received } from "../../src/flow/ports.ts";
import { LeafBrokerRig, until } from "../support/leaf-broker-rig.ts";
import { connectPacket, events, publishPacket, RawLeaf, userName } from "../support/leaf-client.ts";

const REFUSE: Received = { kind: "close", reason: "no" };

function leafId(text: string): LeafId {
  const id = parseLeafId(text);
  if (id === undefined) throw new Error(`${text} is no leaf id`);
  return id;
}

function answering(authentication: Authentication): LeafAuthenticator {
  return { authenticate: async () => authentication };
}

/** Advances the clock until the leaf has its CONNACK; the time that took. */
async function connackAfterMs(rig: LeafBrokerRig, leaf: RawLeaf): Promise<number> {
  let waitedMs = 0;
  while (!leaf.packets.some(({ cmd }) => cmd === "connack")) {
    for (let turn = 0; turn < 50; turn += 1) await rig.clock.settle();
    if (leaf.packets.some(({ cmd }) => cmd === "connack")) break;
    await rig.clock.advance(500);
    waitedMs += 500;
    if (waitedMs > 100_000) throw new Error("no CONNACK at all");
  }
  return waitedMs;
}

describe("refusals", () => {
  test.each([3, 5] as const)("what the authenticator refuses with %i gets that code", async (code) => {
    await using rig = await LeafBrokerRig.start({ authenticator: answering({ kind: "refused", code, reason: "x" }) });
    const leaf = RawLeaf.over(rig.broker);
    expect(await leaf.connect("leaf-1")).toEqual({ code, present: false });
    await leaf.closed;
    expect(rig.handler.calls).toEqual([]);
  });

  test("what the handler refuses gets its code", async () => {
    await using rig = await LeafBrokerRig.start();
    rig.handler.onAdmit = () => ({ kind: "refused", code: 3, reason: "full" });
    const leaf = RawLeaf.over(rig.broker);
    expect((await leaf.connect("leaf-1")).code).toBe(3);
    await leaf.closed;
    expect(rig.refused("admission")).toBe(1);
  });

  test("an unknown failure is 3, never 5: nobody is sure of anything", async () => {
    const failing: LeafAuthenticator = { authenticate: () => Promise.reject(new Error("defect")) };
    await using rig = await LeafBrokerRig.start({ authenticator: failing });
    expect((await RawLeaf.over(rig.broker).connect("leaf-1")).code).toBe(3);
    await using other = await LeafBrokerRig.start();
    other.handler.onAdmit = () => {
      throw new Error("defect");
    };
    expect((await RawLeaf.over(other.broker).connect("leaf-1")).code).toBe(3);
  });

  test.each([
    ["a module identity", { clientId: "leaf-1/mod", username: "hub/leaf-1/mod/?api-version=2021-04-12" }, 5],
    ["another id than the user name's", { username: userName("leaf-2") }, 5],
    ["no user name", { username: "" }, 3],
    ["no api-version", { username: "hub/leaf-1/?x=y" }, 3],
    ["an empty client id", { clientId: "", clean: true }, 3],
  ] as const)("%s is refused", async (_what, fields, code) => {
    await using rig = await LeafBrokerRig.start();
    const leaf = RawLeaf.over(rig.broker);
    expect((await leaf.connect("leaf-1", fields)).code).toBe(code);
    await leaf.closed;
    expect(rig.refused("identity")).toBe(1);
  });

  test("the authenticator sees token, certificate and address", async () => {
    const seen: unknown[] = [];
    const authenticator: LeafAuthenticator = {
      authenticate: async (credentials) => {
        seen.push({ ...credentials, password: Buffer.from(credentials.password ?? []).toString() });
        return { kind: "accepted", closeAtMs: undefined };
      },
    };
    await using rig = await LeafBrokerRig.start({ authenticator });
    const certificate = Buffer.from([1, 2, 3]);
    const issuers = [Buffer.from([4, 5])];
    const leaf = RawLeaf.over(rig.broker, { plain: false, remoteAddress: "10.0.0.9", certificate, issuers });
    await leaf.connect("leaf-1", { password: Buffer.from("token") });
    expect(seen).toEqual([
      { leafId: "leaf-1", password: "token", certificate, issuers, remoteAddress: "10.0.0.9", plain: false },
    ]);
  });

  test("more connections than there may be are told 3, not just closed", async () => {
    await using rig = await LeafBrokerRig.start({ limits: { maxConnections: 2 } });
    const leaves = [0, 1, 2].map(() => RawLeaf.over(rig.broker));
    const codes = [];
    for (const [at, leaf] of leaves.entries()) codes.push((await leaf.connect(`leaf-${at}`)).code);
    // The third socket is there before the first CONNECT: whoever connects while three are open is one too many.
    expect(codes).toContain(3);
    expect(rig.refused("overloaded")).toBeGreaterThan(0);
  });

  test("a leaf's token does not get into the log", async () => {
    const token = "SharedAccessSignature sr=a&sig=secret&se=1";
    await using rig = await LeafBrokerRig.start({
      authenticator: answering({ kind: "refused", code: 5, reason: "x" }),
    });
    await RawLeaf.over(rig.broker).connect("leaf-1", { password: Buffer.from(token) });
    expect(JSON.stringify(rig.log.lines)).not.toContain("secret");
  });

  test("a refusal is logged once a minute, and counted each time", async () => {
    await using rig = await LeafBrokerRig.start({
      authenticator: answering({ kind: "refused", code: 5, reason: "x" }),
    });
    for (let round = 0; round < 5; round += 1) await RawLeaf.over(rig.broker).connect("leaf-1");
    expect(rig.log.events("warn")).toHaveLength(1);
    await rig.clock.advance(60_000);
    await RawLeaf.over(rig.broker).connect("leaf-1");
    expect(rig.log.events("warn")).toHaveLength(2);
    expect(rig.refused("credentials")).toBe(6);
  });
});

describe("takeover", () => {
  test("the newer connection wins; the older is gone, and told so, before the newer is admitted", async () => {
    await using rig = await LeafBrokerRig.start();
    const [old, newer] = [RawLeaf.over(rig.broker), RawLeaf.over(rig.broker)];
    await old.connect("leaf-1");
    expect((await newer.connect("leaf-1")).code).toBe(0);
    await old.closed;
    expect(rig.handler.calls).toEqual([
      "admit leaf-1",
      "connected leaf-1",
      "disconnected leaf-1",
      "admit leaf-1",
      "connected leaf-1",
    ]);
    expect(rig.metrics.value("leaf_takeovers_total")).toBe(1);
    await newer.ping();
  });

  test("the newer connection waits until the handler has seen the older go", async () => {
    await using rig = await LeafBrokerRig.start();
    const told = Promise.withResolvers<void>();
    rig.handler.onDisconnected = () => told.promise;
    const [old, newer] = [RawLeaf.over(rig.broker), RawLeaf.over(rig.broker)];
    await old.connect("leaf-1");
    newer.sendConnect("leaf-1");
    await old.closed;
    for (let turn = 0; turn < 20; turn += 1) await rig.clock.settle();
    expect(newer.packets).toEqual([]);
    told.resolve();
    expect((await newer.next("connack")).returnCode).toBe(0);
  });

  test("fifty rounds of five CONNECTs of one id at once leave exactly one connection each", async () => {
    for (let round = 0; round < 50; round += 1) {
      await using rig = await LeafBrokerRig.start();
      const leaves = Array.from({ length: 5 }, () => RawLeaf.over(rig.broker));
      for (const leaf of leaves) leaf.sendConnect("leaf-1");
      let isOver = false;
      const allConnected = Promise.all(leaves.map((leaf) => leaf.next("connack"))).then(() => {
        isOver = true;
      });
      while (!isOver) await rig.clock.advance(1_000);
      await allConnected;
      await until(() => rig.broker.load.connections === 1, "one connection");
      expect(rig.broker.load.leaves).toBe(1);
      expect(rig.handler.online).toEqual(new Map([["leaf-1", 1]]));
      expect(rig.handler.calls.filter((call) => call.startsWith("disconnected"))).toHaveLength(4);
      const [last] = leaves.filter((leaf) => !leaf.isClosed);
      await last?.ping();
    }
  });

  test("two programs that fight over one id are slowed down: 0, 1, 2, 4, ... 20 s", async () => {
    await using rig = await LeafBrokerRig.start();
    await RawLeaf.over(rig.broker).connect("leaf-1");
    const waits: number[] = [];
    for (let round = 0; round < 8; round += 1) {
      const rival = RawLeaf.over(rig.broker);
      rival.sendConnect("leaf-1");
      waits.push(await connackAfterMs(rig, rival));
    }
    expect(waits).toEqual([0, 1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000]);
  });

  test("a fight is forgotten after two quiet minutes", async () => {
    await using rig = await LeafBrokerRig.start();
    for (let round = 0; round < 4; round += 1) {
      const rival = RawLeaf.over(rig.broker);
      rival.sendConnect("leaf-1");
      await connackAfterMs(rig, rival);
    }
    await rig.clock.advance(121_000);
    const rival = RawLeaf.over(rig.broker);
    rival.sendConnect("leaf-1");
    expect(await connackAfterMs(rig, rival)).toBe(0);
  });

  test("while a rival waits, the leaf that is connected goes on working", async () => {
    await using rig = await LeafBrokerRig.start();
    const rivals = [0, 1].map(() => RawLeaf.over(rig.broker));
    for (const rival of rivals) await rival.connect("leaf-1");
    const third = RawLeaf.over(rig.broker);
    third.sendConnect("leaf-1");
    await until(() => rig.clock.sleeping > 0);
    await rivals[1]?.ping();
    third.cut();
    await until(() => rig.broker.load.connections === 1);
    expect(rig.clock.sleeping).toBe(0);
    await rivals[1]?.ping();
  });

  test("too many connects of one id that wait are told 3", async () => {
    await using rig = await LeafBrokerRig.start();
    const store = Promise.withResolvers<Admission>();
    rig.handler.onAdmit = () => store.promise;
    const leaves = Array.from({ length: 20 }, () => RawLeaf.over(rig.broker));
    for (const leaf of leaves) leaf.sendConnect("leaf-1");
    await until(() => rig.refused("crowded") === 3);
    expect(leaves.filter((leaf) => leaf.isClosed).length).toBeLessThanOrEqual(3);
    for (const leaf of leaves) leaf.cut();
    await until(() => rig.broker.load.connections === 0);
    store.resolve({ kind: "accepted", subscriptions: [] });
  });

  test("another leaf does not wait for a fight", async () => {
    await using rig = await LeafBrokerRig.start();
    const store = Promise.withResolvers<Admission>();
    const accepted: Admission = { kind: "accepted", subscriptions: [] };
    rig.handler.onAdmit = ({ leafId: who }) => (who === "leaf-1" ? store.promise : accepted);
    RawLeaf.over(rig.broker).sendConnect("leaf-1");
    expect((await RawLeaf.over(rig.broker).connect("leaf-2")).code).toBe(0);
    store.resolve(accepted);
  });
});

describe("penalties", () => {
  test("a leaf whose frames close its connection comes back later each time", async () => {
    await using rig = await LeafBrokerRig.start();
    rig.handler.onReceived = () => REFUSE;
    const waits: number[] = [];
    for (let round = 0; round < 4; round += 1) {
      const leaf = RawLeaf.over(rig.broker);
      leaf.sendConnect("leaf-1");
      waits.push(await connackAfterMs(rig, leaf));
      leaf.publish(events("leaf-1"), "x");
      await leaf.closed;
    }
    expect(waits).toEqual([0, 1_000, 2_000, 4_000]);
  });

  test("a connection that the gateway drops, or whose leaf leaves, is not punished", async () => {
    await using rig = await LeafBrokerRig.start();
    for (let round = 0; round < 5; round += 1) {
      const leaf = RawLeaf.over(rig.broker);
      expect((await leaf.connect("leaf-1")).code).toBe(0);
      if (round % 2 === 0) await rig.broker.drop(leafId("leaf-1"), "test");
      else leaf.cut();
      await until(() => rig.broker.load.connections === 0);
    }
  });
});

describe("tokens", () => {
  test("a connection is closed when its token's time is over", async () => {
    const rig = await LeafBrokerRig.start({
      authenticator: answering({ kind: "accepted", closeAtMs: Date.UTC(2026, 0, 1) + 5 * 3_600_000 }),
    });
    await using _ = rig;
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1", { keepalive: 0 });
    await until(() => rig.clock.sleeping === 1);
    await rig.clock.advance(5 * 3_600_000 - 1);
    expect(rig.broker.load.leaves).toBe(1);
    await rig.clock.advance(1);
    await leaf.closed;
    expect(rig.metrics.value("leaf_tokens_expired_total")).toBe(1);
  });

  test("the wall clock decides, also when it is set meanwhile", async () => {
    const closeAtMs = Date.UTC(2026, 0, 1) + 5 * 3_600_000;
    await using rig = await LeafBrokerRig.start({ authenticator: answering({ kind: "accepted", closeAtMs }) });
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    rig.clock.jump(10 * 3_600_000);
    await rig.clock.advance(3_600_000);
    await leaf.closed;
  });
});

describe("credentials that are worth nothing any more", () => {
  test("end the connection when they are judged again, and nobody else's", async () => {
    const denied = new Set<string>();
    const passwords: (string | undefined)[] = [];
    const authenticator: LeafAuthenticator = {
      authenticate: async ({ leafId: who, password }) => {
        passwords.push(password === undefined ? undefined : Buffer.from(password).toString());
        return denied.has(who)
          ? { kind: "refused", code: 5, reason: "this leaf is denied" }
          : { kind: "accepted", closeAtMs: undefined };
      },
    };
    await using rig = await LeafBrokerRig.start({ authenticator });
    const [bad, good] = [RawLeaf.over(rig.broker), RawLeaf.over(rig.broker)];
    await bad.connect("leaf-1", { password: Buffer.from("one") });
    await good.connect("leaf-2", { password: Buffer.from("two") });
    await rig.broker.reauthenticate();
    await Promise.all([bad.ping(), good.ping()]);
    denied.add("leaf-1");
    await rig.broker.reauthenticate();
    await bad.closed;
    await good.ping();
    expect(rig.refused("credentials")).toBe(1);
    expect(passwords).toEqual(["one", "two", "one", "two", "one", "two"]);
    expect((await RawLeaf.over(rig.broker).connect("leaf-1", { password: Buffer.from("one") })).code).toBe(5);
  });

  test("that nobody can judge now change nothing", async () => {
    let isReady = true;
    const authenticator: LeafAuthenticator = {
      authenticate: async () =>
        isReady
          ? { kind: "accepted", closeAtMs: undefined }
          : { kind: "refused", code: 3, reason: "the clock is not set" },
    };
    await using rig = await LeafBrokerRig.start({ authenticator });
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    isReady = false;
    await rig.broker.reauthenticate();
    await leaf.ping();
  });
});

describe("what never gets through", () => {
  const big = (bytes: number) => Buffer.alloc(bytes, "x");

  async function violation(rig: LeafBrokerRig, bytes: Uint8Array, connected = true): Promise<RawLeaf> {
    const leaf = RawLeaf.over(rig.broker);
    if (connected) await leaf.connect("leaf-1");
    leaf.sendBytes(bytes);
    await leaf.closed;
    await until(() => rig.broker.load.connections === 0);
    return leaf;
  }

  /** Only the first bytes: the length alone must be enough. */
  function headerOf(first: number, bodyBytes: number): Buffer {
    const digits = [];
    let left = bodyBytes;
    do {
      digits.push((left % 128) | (left >= 128 ? 0x80 : 0));
      left = Math.floor(left / 128);
    } while (left > 0);
    return Buffer.from([first, ...digits]);
  }

  test.each([
    ["packet-too-large", "a PUBLISH above 256 KB, by its header alone", headerOf(0x30, 262_145), true],
    ["packet-too-large", "a CONNECT above 8 KB, by its header alone", headerOf(0x10, 8_193), false],
    ["packet-too-large", "a SUBSCRIBE above 8 KB, by its header alone", headerOf(0x82, 8_193), true],
    ["malformed-packet", "a length of five digits", Buffer.from([0x30, 0xff, 0xff, 0xff, 0xff, 0x01]), true],
    ["malformed-packet", "a SUBSCRIBE with wrong reserved flags", Buffer.from([0x80, 0x00]), true],
    ["qos-2", "a PUBLISH with QoS 2", Buffer.from([0x34, 0x05, 0x00, 0x01, 0x61, 0x00, 0x01]), true],
    ["qos-2", "a PUBLISH with QoS 3", Buffer.from([0x36, 0x05, 0x00, 0x01, 0x61, 0x00, 0x01]), true],
    ["unexpected-packet", "a PUBREL", Buffer.from([0x62, 0x02, 0x00, 0x01]), true],
    ["unexpected-packet", "a CONNACK", Buffer.from([0x20, 0x02, 0x00, 0x00]), true],
    ["unexpected-packet", "packet type 0", Buffer.from([0x00, 0x00]), true],
    ["unexpected-packet", "packet type 15", Buffer.from([0xf0, 0x00]), true],
    ["not-connect", "anything before CONNECT", Buffer.from([0xc0, 0x00]), false],
    ["not-connect", "HTTP", Buffer.from("GET / HTTP/1.1\r\n\r\n"), false],
  ])("%s: %s closes the connection", async (reason, _what, bytes, connected) => {
    await using rig = await LeafBrokerRig.start();
    await violation(rig, bytes, connected);
    expect(rig.refused(reason)).toBe(1);
    expect(rig.handler.frames).toEqual([]);
  });

  test("a second CONNECT closes the connection", async () => {
    await using rig = await LeafBrokerRig.start();
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    leaf.send(connectPacket("leaf-1"));
    await leaf.closed;
    expect(rig.refused("second-connect")).toBe(1);
  });

  test.each([
    ["MQTT 5", { protocolVersion: 5 as const }],
    ["MQTT 3.1", { protocolVersion: 3 as const, protocolId: "MQIsdp" as const }],
  ])("%s is told CONNACK 1, as edgeHub does", async (_what, fields) => {
    await using rig = await LeafBrokerRig.start();
    const leaf = RawLeaf.over(rig.broker);
    expect((await leaf.connect("leaf-1", fields)).code).toBe(1);
    await leaf.closed;
    expect(rig.refused("protocol-version")).toBe(1);
  });

  test("the biggest PUBLISH that may be gets through in any pieces", async () => {
    await using rig = await LeafBrokerRig.start();
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    const topic = events("leaf-1");
    const payload = big(262_144 - topic.length - 4);
    leaf.send({ cmd: "publish", topic, payload, qos: 1, messageId: 3, dup: false, retain: false });
    expect(await leaf.pubacks(1)).toEqual([3]);
    expect(rig.handler.frames[0]?.frame.payload).toHaveLength(payload.length);
  });

  test.each(["a/#", "a/+/b", "", `${"a/".repeat(40)}b`])(
    "publishing to the topic %j closes the connection",
    async (topic) => {
      await using rig = await LeafBrokerRig.start();
      const leaf = RawLeaf.over(rig.broker);
      await leaf.connect("leaf-1");
      const body = Buffer.concat([Buffer.from([0, topic.length]), Buffer.from(topic)]);
      leaf.sendBytes(Buffer.concat([Buffer.from([0x30, body.length]), body]));
      await leaf.closed;
      expect(rig.refused("malformed-packet")).toBe(1);
      expect(rig.handler.frames).toEqual([]);
    },
  );

  test("a connection that says nothing is closed", async () => {
    await using rig = await LeafBrokerRig.start({ limits: { connectTimeoutMs: 20 } });
    const [silent, slow] = [RawLeaf.over(rig.broker), RawLeaf.over(rig.broker)];
    slow.sendBytes(Buffer.from([0x10, 0x20, 0x00]));
    await Promise.all([silent.closed, slow.closed]);
    expect(rig.refused("connect-timeout")).toBe(2);
  });

  test("a leaf that goes silent is closed after one and a half of its keep-alive, and its will is published", async () => {
    await using rig = await LeafBrokerRig.start();
    const leaf = RawLeaf.over(rig.broker);
    const will = { topic: events("leaf-1"), payload: Buffer.from("gone"), qos: 0 as const, retain: false };
    await leaf.connect("leaf-1", { keepalive: 1, will });
    await leaf.closed;
    await until(() => rig.handler.calls.at(-1) === "disconnected leaf-1");
    expect(rig.refused("keep-alive")).toBe(1);
    expect(rig.handler.texts).toEqual(["gone"]);
  });
});

describe("rates", () => {
  const limits = { maxMessagesPerSec: 10, maxHeld: 1_000 };

  test("a leaf above its rate is read more slowly, and nothing is lost", async () => {
    await using rig = await LeafBrokerRig.start({ limits });
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    const ids = Array.from({ length: 100 }, (_, at) => at + 1);
    leaf.send(...ids.map((messageId) => publishPacket(events("leaf-1"), "x", { messageId })));
    await until(() => rig.clock.sleeping > 0);
    for (let turn = 0; turn < 100; turn += 1) await rig.clock.settle();
    // Two seconds' worth at once (CONNECT is one of them), and the one that goes into debt.
    expect(rig.handler.frames.length).toBeLessThanOrEqual(21);
    while (rig.handler.frames.length < 100) await rig.clock.advance(100);
    expect(await leaf.pubacks(100)).toEqual(ids);
  });

  test("a leaf that is above its rate for long is closed and comes back late", async () => {
    await using rig = await LeafBrokerRig.start({ limits });
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    leaf.send(...Array.from({ length: 500 }, () => publishPacket(events("leaf-1"), "x", { qos: 0 })));
    while (!leaf.isClosed) await rig.clock.advance(100);
    expect(rig.refused("rate")).toBe(1);
    const again = RawLeaf.over(rig.broker);
    again.sendConnect("leaf-1");
    expect(await connackAfterMs(rig, again)).toBe(1_000);
  });

  test("bytes count like messages do", async () => {
    await using rig = await LeafBrokerRig.start({ limits: { maxBytesPerSec: 1_000 } });
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    for (let at = 0; at < 10; at += 1) leaf.publish(events("leaf-1"), "x".repeat(1_000), { messageId: at + 1 });
    await until(() => rig.clock.sleeping > 0);
    expect(rig.handler.frames.length).toBeLessThanOrEqual(3);
    while (rig.handler.frames.length < 10) await rig.clock.advance(500);
    expect(await leaf.pubacks(10)).toHaveLength(10);
  });

  test("count over all connections of a leaf: who comes back for another burst waits, and no other leaf does", async () => {
    await using rig = await LeafBrokerRig.start({ limits });
    const fromMs = rig.clock.steady();
    for (let round = 0; round < 5; round += 1) {
      const leaf = RawLeaf.over(rig.broker);
      leaf.sendConnect("leaf-1");
      for (let turn = 0; turn < 50; turn += 1) await rig.clock.settle();
      leaf.send(...Array.from({ length: 19 }, () => publishPacket(events("leaf-1"), "x", { qos: 0 })));
      for (let turn = 0; turn < 50; turn += 1) await rig.clock.settle();
      leaf.cut();
      // What came before the end is still read, at its rate.
      while (rig.broker.load.connections > 0) await rig.clock.advance(100);
    }
    // Two seconds' worth, what the time has brought since, and what goes into debt.
    const allowed = 20 + (rig.clock.steady() - fromMs) / 100 + 1;
    expect(rig.handler.frames.length).toBeLessThanOrEqual(allowed);
    expect((await RawLeaf.over(rig.broker).connect("leaf-2")).code).toBe(0);
  });

  test("a SUBSCRIBE of thousands of filters counts as hundreds of messages", async () => {
    await using rig = await LeafBrokerRig.start({ limits: { maxMessagesPerSec: 10, maxHeld: 1_000 } });
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    const subscriptions = Array.from({ length: 2_000 }, () => ({ topic: "x", qos: 0 as const }));
    leaf.send({ cmd: "subscribe", messageId: 1, subscriptions }, { cmd: "subscribe", messageId: 2, subscriptions });
    leaf.publish(events("leaf-1"), "x");
    await until(() => rig.clock.sleeping > 0);
    for (let turn = 0; turn < 50; turn += 1) await rig.clock.settle();
    expect(rig.handler.frames).toEqual([]);
    while (rig.handler.frames.length === 0) await rig.clock.advance(500);
    await leaf.pubacks(1);
  });

  test("a ping of a leaf in debt is answered at once", async () => {
    await using rig = await LeafBrokerRig.start({ limits });
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    leaf.send(...Array.from({ length: 20 }, () => publishPacket(events("leaf-1"), "x", { qos: 0 })));
    await until(() => rig.handler.frames.length === 20);
    await leaf.ping();
  });

  test("a flood of pings is closed", async () => {
    await using rig = await LeafBrokerRig.start({ limits });
    const leaf = RawLeaf.over(rig.broker);
    await leaf.connect("leaf-1");
    leaf.sendBytes(Buffer.alloc(2 * 1_000, Buffer.from([0xc0, 0x00])));
    await leaf.closed;
    expect(rig.refused("rate")).toBe(1);
  });
});

describe("leaks", () => {
  test("a thousand leaves that come and go leave nothing behind", async () => {
    await using rig = await LeafBrokerRig.start();
    for (let round = 0; round < 10; round += 1) {
      const leaves = Array.from({ length: 100 }, () => RawLeaf.over(rig.broker));
      await Promise.all(leaves.map((leaf, at) => leaf.connect(`leaf-${round}-${at}`)));
      expect(rig.broker.load.leaves).toBe(100);
      for (const [at, leaf] of leaves.entries()) {
        if (at % 2 === 0) leaf.send({ cmd: "disconnect" });
        leaf.stream.end();
      }
      await until(() => rig.broker.load.connections === 0);
    }
    await until(() => rig.broker.load.remembered === 0);
    expect(rig.broker.load).toEqual({ connections: 0, leaves: 0, remembered: 0 });
    expect(rig.handler.online.size).toBe(0);
    expect(rig.clock.sleeping).toBe(0);
    expect(rig.handler.calls.filter((call) => call.startsWith("disconnected"))).toHaveLength(1_000);
  });
});
