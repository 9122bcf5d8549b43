/** Every refusal there is: what the leaf is told, that it is counted, and that it is logged once per leaf (or address), reason and minute. */
import { connect, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { beforeAll, describe, expect, test } from "vitest";
import { parseLeafId } from "../../src/core/message.ts";
import type { CertificateSource } from "../../src/downstream/listeners.ts";
import { REFUSAL_REASONS, type RefusalReason } from "../../src/downstream/refusals.ts";
import type { Authentication, LeafAuthenticator } from "../../src/flow/ports.ts";
import { LeafBrokerRig, type RigOptions, until } from "../support/leaf-broker-rig.ts";
import { type ConnectFields, connectPacket, events, publishPacket, RawLeaf, userName } from "../support/leaf-client.ts";
import { makeAuthority } from "../support/test-certificates.ts";

interface Scenario {
  readonly options?: RigOptions;
  /** Does it once, to the end of it. What the leaf heard of it. */
  readonly provoke: (rig: LeafBrokerRig, round: number) => Promise<Heard>;
  readonly heard: Heard;
}

/** Nothing before the connection closed; a CONNACK's code; what a SUBACK grants; or nothing at all, since the leaf has gone. */
type Heard = "closed" | `connack ${number}` | "suback 128" | "nothing";

const GOOD = "leaf-1";
const listeners = { plain: { host: "127.0.0.1", port: 0 } };

function answering(authentication: Authentication): LeafAuthenticator {
  return { authenticate: async () => authentication };
}

async function closing(leaf: RawLeaf): Promise<Heard> {
  await leaf.closed;
  const [first] = leaf.packets;
  if (first?.cmd === "connack") return `connack ${first.returnCode ?? -1}`;
  return leaf.packets.length === 0 ? "closed" : "nothing";
}

async function connack(rig: LeafBrokerRig, fields: ConnectFields = {}): Promise<Heard> {
  const leaf = RawLeaf.over(rig.broker);
  leaf.sendConnect(fields.leafId ?? GOOD, fields);
  return closing(leaf);
}

/** Let in, after whatever penalty it has earned before. */
async function join(rig: LeafBrokerRig, fields: ConnectFields = {}): Promise<RawLeaf> {
  const leaf = RawLeaf.over(rig.broker);
  leaf.sendConnect(GOOD, fields);
  for (let turn = 0; !leaf.packets.some(({ cmd }) => cmd === "connack"); turn += 1) {
    await rig.clock.settle();
    if (turn % 50 === 49) await rig.clock.advance(500);
  }
  expect((await leaf.next("connack")).returnCode).toBe(0);
  return leaf;
}

async function saying(rig: LeafBrokerRig, bytes: Uint8Array): Promise<Heard> {
  const leaf = await join(rig);
  leaf.sendBytes(bytes);
  return closing(leaf);
}

async function subscribing(rig: LeafBrokerRig, ...filters: readonly string[]): Promise<Heard> {
  const leaf = await join(rig);
  const granted = await leaf.subscribe(...filters);
  await leaf.disconnect();
  await until(() => rig.broker.load.leaves === 0);
  return granted.at(-1) === 128 ? "suback 128" : "nothing";
}

async function dial(port: number | undefined): Promise<Socket> {
  const socket = connect(port ?? 0, "127.0.0.1");
  socket.on("error", () => undefined);
  await new Promise((resolve) => socket.once("connect", resolve));
  return socket.resume();
}

/** As many as are needed to have one more than may be; the one that is closed heard nothing. */
async function dialing(rig: LeafBrokerRig, round: number, mayBe: number, reason: RefusalReason): Promise<Heard> {
  const before = rig.refused(reason);
  for (let at = round === 0 ? 0 : mayBe; at <= mayBe; at += 1) await dial(rig.broker.ports.plain);
  await until(() => rig.refused(reason) === before + 1, reason);
  return "closed";
}

let certificates: CertificateSource;
beforeAll(async () => {
  const authority = await makeAuthority("Edge CA");
  const { key, pem } = await authority.issue("CN=localhost", { dnsNames: ["localhost"] });
  const current = [{ serverName: "localhost", chain: pem, privateKey: key }];
  certificates = { current: () => current, onChange: () => undefined };
});

const SCENARIOS: Readonly<Record<RefusalReason, () => Scenario>> = {
  connections: () => ({
    options: { listeners, limits: { maxConnections: 1 } },
    provoke: (rig, round) => dialing(rig, round, 2, "connections"),
    heard: "closed",
  }),
  "connections-per-address": () => ({
    options: { listeners, limits: { maxConnectionsPerAddress: 1 } },
    provoke: (rig, round) => dialing(rig, round, 1, "connections-per-address"),
    heard: "closed",
  }),
  tls: () => ({
    options: { listeners: { tls: { host: "127.0.0.1", port: 0, certificates } } },
    provoke: async (rig) => {
      const socket = await dial(rig.broker.ports.tls);
      socket.write("no handshake");
      await new Promise((resolve) => socket.once("close", resolve));
      return "closed";
    },
    heard: "closed",
  }),
  "web-socket": () => ({
    options: { listeners: { webSocket: { host: "127.0.0.1", port: 0, certificates } } },
    provoke: async (rig) => {
      const { webSocket = 0 } = rig.broker.ports;
      const socket = connectTls({ host: "127.0.0.1", port: webSocket, rejectUnauthorized: false });
      socket.on("error", () => undefined);
      socket.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
      await new Promise((resolve) => socket.resume().once("close", resolve));
      return "closed";
    },
    heard: "closed",
  }),
  "connect-timeout": () => ({
    options: { limits: { connectTimeoutMs: 20 } },
    provoke: (rig) => closing(RawLeaf.over(rig.broker)),
    heard: "closed",
  }),
  "not-connect": () => ({
    provoke: (rig) => {
      const leaf = RawLeaf.over(rig.broker);
      leaf.send({ cmd: "pingreq" });
      return closing(leaf);
    },
    heard: "closed",
  }),
  "protocol-version": () => ({ provoke: (rig) => connack(rig, { protocolVersion: 5 }), heard: "connack 1" }),
  identity: () => ({ provoke: (rig) => connack(rig, { username: userName("leaf-2") }), heard: "connack 5" }),
  credentials: () => ({
    options: { authenticator: answering({ kind: "refused", code: 5, reason: "wrong" }) },
    provoke: (rig) => connack(rig),
    heard: "connack 5",
  }),
  "not-ready": () => ({
    options: { authenticator: answering({ kind: "refused", code: 3, reason: "the clock is not set" }) },
    provoke: (rig) => connack(rig),
    heard: "connack 3",
  }),
  overloaded: () => ({
    options: { limits: { maxConnections: 1 } },
    provoke: async (rig, round) => {
      if (round === 0) await join(rig);
      return connack(rig, { leafId: "leaf-2", clientId: "leaf-2", username: userName("leaf-2") });
    },
    heard: "connack 3",
  }),
  crowded: () => ({
    provoke: async (rig, round) => {
      // One inside, sixteen that wait, and one too many.
      if (round === 0) {
        // Whoever is inside waits for the clock, so that it leaves when the rig is done.
        rig.handler.onAdmit = async () => {
          await rig.clock.sleep(3_600_000);
          return { kind: "refused", code: 3, reason: "late" };
        };
        for (let at = 0; at < 17; at += 1) RawLeaf.over(rig.broker).sendConnect(GOOD);
        await until(() => rig.handler.calls.length === 1);
      }
      return connack(rig);
    },
    heard: "connack 3",
  }),
  admission: () => ({
    provoke: (rig) => {
      rig.handler.onAdmit = () => ({ kind: "refused", code: 3, reason: "as many leaves as may be" });
      return connack(rig);
    },
    heard: "connack 3",
  }),
  defect: () => ({
    options: { authenticator: { authenticate: () => Promise.reject(new Error("a defect")) } },
    provoke: (rig) => connack(rig),
    heard: "connack 3",
  }),
  "second-connect": () => ({
    provoke: async (rig) => {
      const leaf = await join(rig);
      leaf.send(connectPacket(GOOD));
      return closing(leaf);
    },
    heard: "closed",
  }),
  "packet-too-large": () => ({
    provoke: (rig) => saying(rig, Buffer.from([0x30, 0x81, 0x80, 0x10])),
    heard: "closed",
  }),
  "topic-too-long": () => ({
    options: { limits: { maxTopicBytes: 100 } },
    provoke: async (rig) => {
      const leaf = await join(rig);
      leaf.publish(`${events(GOOD)}${"a=1&".repeat(20)}`, "x");
      return closing(leaf);
    },
    heard: "closed",
  }),
  "qos-2": () => ({
    provoke: (rig) => saying(rig, Buffer.from([0x34, 0x05, 0x00, 0x01, 0x61, 0x00, 0x01])),
    heard: "closed",
  }),
  "unexpected-packet": () => ({
    provoke: (rig) => saying(rig, Buffer.from([0x62, 0x02, 0x00, 0x01])),
    heard: "closed",
  }),
  "malformed-packet": () => ({ provoke: (rig) => saying(rig, Buffer.from([0x80, 0x00])), heard: "closed" }),
  "frame-refused": () => ({
    provoke: async (rig) => {
      rig.handler.onReceived = () => ({ kind: "close", reason: "no topic that leaves publish to" });
      const leaf = await join(rig);
      leaf.publish("hello", "x");
      return closing(leaf);
    },
    heard: "closed",
  }),
  subscription: () => ({ provoke: (rig) => subscribing(rig, "#"), heard: "suback 128" }),
  subscriptions: () => ({
    options: { limits: { maxSubscriptions: 1 } },
    provoke: (rig) => subscribing(rig, "$iothub/twin/res/#", "$iothub/methods/POST/#"),
    heard: "suback 128",
  }),
  "will-topic": () => ({
    provoke: async (rig) => {
      const will = { topic: events("leaf-2"), payload: Buffer.from("x"), qos: 0 as const, retain: false };
      const leaf = await join(rig, { will });
      leaf.cut();
      await until(() => rig.broker.load.leaves === 0);
      expect(rig.handler.frames).toEqual([]);
      return "nothing";
    },
    heard: "nothing",
  }),
  rate: () => ({
    options: { limits: { maxMessagesPerSec: 1 } },
    provoke: async (rig) => {
      const leaf = await join(rig);
      for (let at = 0; at < 50; at += 1) leaf.send({ cmd: "pingreq" });
      await leaf.closed;
      return leaf.packets.every(({ cmd }) => cmd === "pingresp") ? "closed" : "nothing";
    },
    heard: "closed",
  }),
  "held-too-long": () => ({
    options: { limits: { maxHeld: 1 } },
    provoke: async (rig) => {
      rig.handler.onReceived = () => new Promise(() => undefined);
      const leaf = await join(rig);
      leaf.send(...[1, 2].map((messageId) => publishPacket(events(GOOD), "x", { messageId })));
      await until(() => rig.clock.sleeping > 0);
      await rig.clock.advance(10_000);
      return closing(leaf);
    },
    heard: "closed",
  }),
  "slow-leaf": () => ({
    options: { limits: { maxDeliveries: 1 } },
    provoke: async (rig) => {
      const leaf = await join(rig);
      const id = parseLeafId(GOOD);
      if (id === undefined) throw new Error("no leaf id");
      const frame = { topic: `devices/${GOOD}/messages/devicebound/a=1`, payload: Buffer.from("x"), qos: 1 as const };
      const outcomes = Promise.all([rig.broker.deliver(id, [frame]), rig.broker.deliver(id, [frame])]);
      await leaf.closed;
      expect(await outcomes).toEqual(["unacknowledged", "offline"]);
      await until(() => rig.broker.load.leaves === 0);
      return leaf.packets.every(({ cmd }) => cmd === "publish") ? "closed" : "nothing";
    },
    heard: "closed",
  }),
  "keep-alive": () => ({
    provoke: async (rig) => closing(await join(rig, { keepalive: 1 })),
    heard: "closed",
  }),
};

describe("a refusal for", () => {
  test.each(REFUSAL_REASONS)("%s", async (reason) => {
    const { heard, options = {}, provoke } = SCENARIOS[reason]();
    await using rig = await LeafBrokerRig.start(options);
    const lines = () => rig.log.lines.filter(({ fields }) => fields["reason"] === reason);

    expect(await provoke(rig, 0)).toBe(heard);
    await until(() => rig.refused(reason) === 1, "the first to be counted");
    expect(lines()).toHaveLength(1);
    expect(lines()[0]).toMatchObject({ level: "warn", event: "a leaf was refused" });

    expect(await provoke(rig, 1)).toBe(heard);
    await until(() => rig.refused(reason) === 2, "the second to be counted");
    expect(lines()).toHaveLength(1);

    await rig.clock.advance(60_000);
    expect(await provoke(rig, 2)).toBe(heard);
    await until(() => rig.refused(reason) === 3, "the third to be counted");
    expect(lines()).toHaveLength(2);
    expect(rig.metrics.value("defects_total")).toBe(0);
    await rig.clock.advance(3_600_000);
  });
});
