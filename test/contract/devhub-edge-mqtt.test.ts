/** The MQTT head of the development hub against what was measured on edgeHub [iothub-mqtt.md 1, 2, 12.1]. */

import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect as tlsConnect } from "node:tls";
import mqttPacket, { type Packet } from "mqtt-packet";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { resetBehaviour } from "../../src/devhub/behaviour.ts";
import type { DevHub } from "../../src/devhub/devhub.ts";
import { DESIRED, GW, METHODS, RawModule, startQuickHub, TWIN_ANSWERS, token } from "./devhub-edge-harness.ts";

describe("edgeHub's MQTT head", () => {
  let hub: DevHub;
  beforeAll(async () => {
    hub = await startQuickHub({
      routes: [
        "FROM /messages/modules/gw/outputs/telemetry INTO $upstream",
        'FROM /messages/modules/gw/outputs/loop INTO BrokeredEndpoint("/modules/gw/inputs/in")',
      ],
    });
  });
  afterAll(() => hub[Symbol.asyncDispose]());
  beforeEach(() => {
    resetBehaviour(hub.behaviour);
    hub.cloud.events.length = 0;
  });

  describe("CONNECT", () => {
    test.each([
      ["a token signed with another key", { key: randomBytes(32).toString("base64") }],
      ["an expired token", { expirySecs: -301 }],
      ["a token for another module", { resource: "devhub.azure-devices.net/devices/edge1/modules/other" }],
      ["a token for another hub", { resource: "other.azure-devices.net/devices/edge1/modules/gw" }],
    ])("refuses %s with 5", async (_name, parts) => {
      await expect(RawModule.connect(hub, { password: token(hub, parts) })).rejects.toMatchObject({ code: 5 });
    });

    test("allows five minutes of clock skew", async () => {
      await using module = await RawModule.connect(hub, { password: token(hub, { expirySecs: -290 }) });
      expect(module.client.connected).toBe(true);
    });

    test("verifies a token over sr as it stands, encoded or raw", async () => {
      await using module = await RawModule.connect(hub, { password: token(hub, { encode: (text) => text }) });
      expect(module.client.connected).toBe(true);
      const respelled = token(hub).replace(/sr=[^&]+/, "sr=devhub.azure-devices.net/devices/edge1/modules/gw");
      await expect(RawModule.connect(hub, { password: respelled })).rejects.toMatchObject({ code: 5 });
    });

    test("refuses a client id that is not the user name's, and an unknown identity, with 5", async () => {
      await expect(RawModule.connect(hub, { clientId: "edge1/other" })).rejects.toMatchObject({ code: 5 });
      const username = "devhub.azure-devices.net/edge1/nobody/?api-version=2021-04-12";
      await expect(RawModule.connect(hub, { clientId: "edge1/nobody", username })).rejects.toMatchObject({ code: 5 });
    });

    test("refuses a user name without api-version with 3", async () => {
      const username = "devhub.azure-devices.net/edge1/gw/?DeviceClientType=x";
      await expect(RawModule.connect(hub, { username })).rejects.toMatchObject({ code: 3 });
    });

    test("refuses MQTT 5 with 1", async () => {
      const packets = await talk(hub, [{ ...connectPacket(hub), protocolVersion: 5 }]);
      expect(packets).toMatchObject([{ cmd: "connack", returnCode: 1 }]);
    });

    test("closes at a second CONNECT and at a first packet that is none", async () => {
      const packets = await talk(hub, [connectPacket(hub), connectPacket(hub)]);
      expect(packets.map((packet) => packet.cmd)).toEqual(["connack"]);
      expect(await talk(hub, [{ cmd: "pingreq" }])).toEqual([]);
    });

    test("takes packets that come right behind the CONNECT", async () => {
      const packets = await talk(hub, [connectPacket(hub), { cmd: "pingreq" }, { cmd: "disconnect" }]);
      expect(packets.map((packet) => packet.cmd)).toEqual(["connack", "pingresp"]);
    });

    test("drops a client at the next round after its token has run out", async () => {
      await using strict = await startQuickHub({ reauthenticationIntervalMs: 50, clockSkewMs: 0 });
      await using module = await RawModule.connect(strict, { password: token(strict, { expirySecs: 2 }) });
      await module.closed;
      await using renewed = await RawModule.connect(strict, { password: token(strict) });
      await renewed.telemetry("");
    });

    test("evicts the older connection of the same identity", async () => {
      await using first = await RawModule.connect(hub);
      await using second = await RawModule.connect(hub);
      await first.closed;
      await second.telemetry("%24.on=telemetry");
      expect(hub.connected).toEqual(["edge1/gw"]);
    });

    test("keeps subscriptions with clean session 0 and forgets them with 1", async () => {
      await using clean = await RawModule.connect(hub, { clean: true });
      await clean.subscribe(TWIN_ANSWERS);
      expect((await clean.get()).status).toBe(200);
      await clean[Symbol.asyncDispose]();
      expect(await sessionPresent(hub)).toBe(false);
      {
        await using kept = await RawModule.connect(hub);
        await kept.subscribe(TWIN_ANSWERS);
      }
      expect(await sessionPresent(hub)).toBe(true);
      await using again = await RawModule.connect(hub);
      expect((await again.get()).status).toBe(200);
    });

    test("drops a client that is silent for 1.5 times its keep-alive", async () => {
      const packets = await talk(hub, [{ ...connectPacket(hub), keepalive: 1 }]);
      expect(packets.map((packet) => packet.cmd)).toEqual(["connack"]);
    });
  });

  describe("telemetry", () => {
    test("carries system and application properties, the last of equal keys", async () => {
      await using module = await RawModule.connect(hub);
      await module.telemetry(
        "%24.on=telemetry&%24.sub=c&$.ct=application%2Fjson&a=1&a=%2B2&empty=&%24.exp=x&ack=full/",
        "[1]",
      );
      await expect.poll(() => hub.cloud.events).toHaveLength(1);
      expect(hub.cloud.events[0]).toMatchObject({
        ...GW,
        system: { sub: "c", ct: "application/json" },
        properties: { a: "+2", empty: "" },
      });
      expect(hub.cloud.events[0]?.body.toString()).toBe("[1]");
    });

    test("marks retained messages", async () => {
      await using module = await RawModule.connect(hub);
      const topic = "devices/edge1/modules/gw/messages/events/%24.on=telemetry";
      await module.client.publishAsync(topic, "x", { qos: 1, retain: true });
      await expect.poll(() => hub.cloud.events[0]?.properties).toEqual({ "mqtt-retain": "true" });
    });

    test.each([
      ["no route takes its output", "devices/edge1/modules/gw/messages/events/%24.on=other"],
      ["it has no output", "devices/edge1/modules/gw/messages/events/"],
      ["the topic is unknown", "foo/bar"],
      ["a value holds a raw equals sign", "devices/edge1/modules/gw/messages/events/%24.on=telemetry&a=b=c"],
      ["a part of the bag is empty", "devices/edge1/modules/gw/messages/events/%24.on=telemetry&&a=b"],
      [
        "its creation time has three digits",
        "devices/edge1/modules/gw/messages/events/%24.on=telemetry&%24.ctime=2026-01-02T03%3A04%3A05.000Z",
      ],
      ["the identity in its topic is not in scope", "devices/edge1/modules/nobody/messages/events/%24.on=telemetry"],
    ])("acknowledges and drops a message when %s", async (_name, topic) => {
      await using module = await RawModule.connect(hub);
      const before = hub.drops.length;
      await module.publish(topic, "{}");
      expect(hub.drops.length).toBe(before + 1);
      await module.telemetry("%24.on=telemetry", "after");
      await expect.poll(() => hub.cloud.events.map((event) => event.body.toString())).toEqual(["after"]);
    });

    test("takes a creation time with seven digits and respells it", async () => {
      await using module = await RawModule.connect(hub);
      await module.telemetry("%24.on=telemetry&%24.ctime=2026-01-02T03%3A04%3A05.0000000Z");
      await expect.poll(() => hub.cloud.events[0]?.system).toEqual({ ctime: "2026-01-02T03:04:05.0000000+00:00" });
    });

    test("sends a message in the name that the topic gives, whoever is connected", async () => {
      await using module = await RawModule.connect(hub);
      hub.register({ deviceId: "edge1", moduleId: "neighbour" });
      await module.publish("devices/edge1/modules/neighbour/messages/events/%24.on=telemetry");
      expect(hub.drops.at(-1)?.reason).toBe("no route");
    });

    test.each(["+", "#"])("closes the connection at a raw %s in the topic", async (wildcard) => {
      const topic = `devices/edge1/modules/gw/messages/events/%24.on=telemetry&a=${wildcard}`;
      const packets = await talk(hub, [connectPacket(hub), publishPacket(topic, "x", 1)]);
      expect(packets.map((packet) => packet.cmd)).toEqual(["connack"]);
    });

    test("takes a QoS 2 message and then closes", async () => {
      const topic = "devices/edge1/modules/gw/messages/events/%24.on=telemetry";
      const packets = await talk(hub, [connectPacket(hub), publishPacket(topic, "x", 2)]);
      expect(packets.map((packet) => packet.cmd)).toEqual(["connack"]);
      expect(hub.cloud.events).toHaveLength(1);
    });

    test("closes at a packet over 262144 bytes, and takes one of exactly that", async () => {
      const topic = "devices/edge1/modules/gw/messages/events/%24.on=telemetry";
      const overhead = 1 + 3 + 2 + topic.length + 2;
      await using exact = await RawModule.connect(hub);
      await exact.publish(topic, Buffer.alloc(262_144 - overhead));
      await exact[Symbol.asyncDispose]();
      await using over = await RawModule.connect(hub);
      await expect(over.publish(topic, Buffer.alloc(262_145 - overhead))).rejects.toThrow();
    });

    test("acknowledges and drops a message over 256 KiB with its properties", async () => {
      await using module = await RawModule.connect(hub);
      const before = hub.drops.length;
      await module.telemetry("%24.on=telemetry", Buffer.alloc(262_022 - 13));
      expect(hub.drops.length).toBe(before);
      await module.telemetry("%24.on=telemetry", Buffer.alloc(262_022 - 12));
      expect(hub.drops.at(-1)?.reason).toBe("message over 256 KiB");
    });

    test("publishes the will when the connection breaks, and not after DISCONNECT", async () => {
      const topic = "devices/edge1/modules/gw/messages/events/%24.on=telemetry";
      const will = { topic, payload: Buffer.from("gone"), qos: 1 as const, retain: false };
      await talk(hub, [{ ...connectPacket(hub), will }, { cmd: "disconnect" }]);
      expect(hub.cloud.events).toHaveLength(0);
      await talk(hub, [{ ...connectPacket(hub), will }, connectPacket(hub)]);
      await expect.poll(() => hub.cloud.events[0]?.properties).toEqual({ MessageType: "Will" });
    });

    test("goes to a module's input by a route, one at a time and in order", async () => {
      await using module = await RawModule.connect(hub);
      await module.subscribe("devices/edge1/modules/gw/inputs/#");
      for (const body of ["1", "2", "3"]) await module.telemetry("%24.on=loop&k=v", body);
      await expect.poll(() => module.heard.map(({ text }) => text)).toEqual(["1", "2", "3"]);
      expect(module.heard[0]?.topic).toBe("devices/edge1/modules/gw/inputs/in/k=v&%24.cdid=edge1&%24.cmid=gw");
    });
  });

  describe("requests", () => {
    test("hears no twin answer and no desired change without a subscription", async () => {
      await using module = await RawModule.connect(hub, { clean: true });
      module.client.publish("$iothub/twin/GET/?$rid=1", "");
      hub.cloud.patchDesired(GW, { quiet: true });
      await module.telemetry("%24.on=telemetry");
      expect(module.heard).toEqual([]);
      await module.subscribe(TWIN_ANSWERS, DESIRED);
      expect((await module.get()).status).toBe(200);
    });

    test.each([
      ["a GET without $rid", "$iothub/twin/GET/"],
      ["an unknown twin request", "$iothub/twin/PUT/?$rid=1"],
      ["a duplicate parameter", "$iothub/twin/GET/?$rid=1&$rid=2"],
    ])("closes at %s", async (_name, topic) => {
      await using module = await RawModule.connect(hub);
      await expect(module.publish(topic)).rejects.toThrow("closed before PUBACK");
    });

    test("answers a method call for a connected client that is not subscribed with status 0", async () => {
      await using _module = await RawModule.connect(hub, { clean: true });
      const outcome = await hub.cloud.invoke({ id: GW, name: "x", payload: null });
      expect(outcome).toEqual({ kind: "answer", status: 0, payload: null });
    });

    test("waits the connect time-out for a client that is away, then calls it offline", async () => {
      await expect.poll(() => hub.connected).toEqual([]);
      const call = hub.cloud.invoke({ id: GW, name: "x", payload: null, connectTimeoutMs: 50 });
      expect(await call).toEqual({ kind: "offline" });
      {
        await using module = await RawModule.connect(hub);
        await module.subscribe(METHODS);
      }
      await expect.poll(() => hub.connected).toEqual([]);
      const waiting = hub.cloud.invoke({ id: GW, name: "late", payload: undefined, connectTimeoutMs: 20_000 });
      await using module = await RawModule.connect(hub);
      await expect.poll(() => module.heard[0]?.topic).toMatch(/^\$iothub\/methods\/POST\/late\/\?\$rid=[0-9a-f]{32}$/);
      expect(module.heard[0]?.text).toBe("");
      const rid = module.heard[0]?.topic.split("=")[1];
      await module.publish(`$iothub/methods/res/-3/?$rid=${rid}`, "[1]");
      expect(await waiting).toEqual({ kind: "answer", status: -3, payload: [1] });
      await module.client.unsubscribeAsync(METHODS);
    });

    test("calls a method that is never answered a time-out, and one whose connection ends a failure", async () => {
      await using module = await RawModule.connect(hub, { clean: true });
      await module.subscribe(METHODS);
      const call = { id: GW, name: "x", payload: null };
      expect(await hub.cloud.invoke({ ...call, responseTimeoutMs: 30 })).toEqual({ kind: "timeout" });
      const cut = hub.cloud.invoke(call);
      await expect.poll(() => module.heard).toHaveLength(2);
      hub.cutConnections();
      expect(await cut).toEqual({ kind: "answer", status: 0, payload: null });
    });

    test("gives the cloud 400000 for a status that is no number and 500 for an answer that is no JSON", async () => {
      await using module = await RawModule.connect(hub, { clean: true });
      await module.subscribe(METHODS);
      const answers = [
        ["ok", "{}"],
        ["200", "{"],
      ];
      module.client.on("message", (topic) => {
        const [status, body] = answers.shift() ?? [];
        module.client.publish(`$iothub/methods/res/${status}/?$rid=${topic.split("=")[1]?.toUpperCase()}`, body ?? "");
      });
      const call = { id: GW, name: "x", payload: null };
      expect(await hub.cloud.invoke(call)).toMatchObject({ status: 400_000 });
      expect(await hub.cloud.invoke(call)).toMatchObject({ status: 500 });
    });
  });

  describe("misbehaviour", () => {
    test("refuses connections with a chosen CONNACK or a reset", async () => {
      hub.behaviour.connections = { connack: 3 };
      await expect(RawModule.connect(hub)).rejects.toMatchObject({ code: 3 });
      hub.behaviour.connections = "reset";
      await expect(RawModule.connect(hub)).rejects.toThrow();
    });

    test("keeps PUBACKs back and delays them", async () => {
      await using module = await RawModule.connect(hub);
      hub.behaviour.puback = "drop";
      let acknowledged = false;
      void module.telemetry("%24.on=telemetry").then(
        () => (acknowledged = true),
        () => {},
      );
      await expect.poll(() => hub.cloud.events).toHaveLength(1);
      expect(acknowledged).toBe(false);
      hub.behaviour.puback = { delayMs: 30 };
      await module.telemetry("%24.on=telemetry");
      expect(acknowledged).toBe(false);
    });

    test("answers twin requests with a status and an empty body, or not at all", async () => {
      await using module = await RawModule.connect(hub);
      await module.subscribe(TWIN_ANSWERS);
      hub.behaviour.twinGet = { status: 503 };
      hub.behaviour.twinPatch = { status: 429 };
      expect(await module.get()).toMatchObject({ status: 503, text: "" });
      expect(await module.report({ a: 1 })).toMatchObject({ status: 429, text: "" });
      hub.behaviour.twinGet = "silence";
      const before = module.heard.length;
      await module.publish("$iothub/twin/GET/?$rid=quiet");
      expect(module.heard.length).toBe(before);
    });

    test("swallows every packet while silent and goes on afterwards", async () => {
      await using module = await RawModule.connect(hub);
      hub.behaviour.silent = true;
      const lost = module.telemetry("%24.on=telemetry", "lost").catch(() => "lost");
      await new Promise((resolve) => module.client.stream.write(Buffer.alloc(0), resolve));
      await expect.poll(async () => (await fetch(hub.metricsUrl)).ok).toBe(true);
      hub.behaviour.silent = false;
      await module.telemetry("%24.on=telemetry", "heard");
      expect(hub.cloud.events.map((event) => event.body.toString())).not.toContain("lost");
      await module[Symbol.asyncDispose]();
      expect(await lost).toBe("lost");
    });

    test("dies and comes back on the same port, with its store or without", async () => {
      const instance = await instanceOf(hub);
      await using module = await RawModule.connect(hub);
      await module.subscribe(TWIN_ANSWERS);
      await hub.killEdge("keep");
      await module.closed;
      await expect(RawModule.connect(hub)).rejects.toThrow();
      await hub.startEdge();
      expect(await sessionPresent(hub)).toBe(true);
      expect(await instanceOf(hub)).not.toBe(instance);
      await hub.killEdge("lose");
      await hub.startEdge();
      expect(await sessionPresent(hub)).toBe(false);
    });
  });
});

describe("a hub with a state folder", () => {
  test("keeps keys, certificates, sessions, twins and undelivered messages", async () => {
    const stateFolder = mkdtempSync(join(tmpdir(), "devhub-state-"));
    try {
      const first = await startQuickHub({ stateFolder });
      const { moduleConnectionString, caPem } = first;
      {
        await using module = await RawModule.connect(first);
        await module.subscribe(TWIN_ANSWERS);
        first.wan.cut("silent");
        expect((await module.report({ a: 1 })).status).toBe(204);
        for (const body of ["1", "2", "3"]) await module.telemetry("", body);
      }
      await first[Symbol.asyncDispose]();
      await using second = await startQuickHub({ stateFolder });
      expect(second.caPem).toBe(caPem);
      expect(second.moduleConnectionString.split(";GatewayHostName")[0]).toBe(
        moduleConnectionString.split(";GatewayHostName")[0],
      );
      await expect.poll(() => second.cloud.events.map((event) => event.body.toString())).toEqual(["1", "2", "3"]);
      expect(await sessionPresent(second)).toBe(true);
    } finally {
      rmSync(stateFolder, { recursive: true, force: true });
    }
  });
});

describe("the strict personality", () => {
  let hub: DevHub;
  beforeAll(async () => {
    hub = await startQuickHub({ personality: "iothub" });
  });
  afterAll(() => hub[Symbol.asyncDispose]());

  test("answers a reported patch with its version and refuses a stale base with 412 and a reason", async () => {
    await using module = await RawModule.connect(hub);
    await module.subscribe(TWIN_ANSWERS);
    const { topic, status } = await module.report({ a: 1 });
    expect(status).toBe(204);
    expect(topic).toMatch(/&\$version=2$/);
    const refused = module.answerTo("stale");
    module.client.publish("$iothub/twin/PATCH/properties/reported/?$rid=stale&$version=1", "{}");
    const { status: code, text } = await refused;
    expect(code).toBe(412);
    expect(JSON.parse(text)).toMatchObject({ errorCode: expect.any(Number), message: expect.any(String) });
    expect(JSON.parse((await module.get()).text).reported).toEqual({ a: 1, $version: 2 });
  });

  test.each([
    ["an unknown topic", "foo/bar"],
    ["a malformed bag", "devices/edge1/modules/gw/messages/events/a=b=c"],
    ["another identity's topic", "devices/edge1/messages/events/"],
  ])("closes at %s", async (_name, topic) => {
    await using module = await RawModule.connect(hub);
    await expect(module.publish(topic, "{}")).rejects.toThrow("closed before PUBACK");
  });

  test("is away itself while the line is cut", async () => {
    await using module = await RawModule.connect(hub);
    hub.wan.cut("refused");
    await module.closed;
    await expect(RawModule.connect(hub)).rejects.toThrow();
    hub.wan.restore();
    await using again = await RawModule.connect(hub);
    expect(again.client.connected).toBe(true);
  });
});

async function sessionPresent(hub: DevHub): Promise<boolean> {
  const [connack] = await talk(hub, [connectPacket(hub), { cmd: "disconnect" }]);
  return connack?.cmd === "connack" && connack.sessionPresent;
}

async function instanceOf(hub: DevHub): Promise<string | undefined> {
  return /instance_number="([^"]+)"/.exec(await (await fetch(hub.metricsUrl)).text())?.[1];
}

function connectPacket(hub: DevHub) {
  const username = "devhub.azure-devices.net/edge1/gw/?api-version=2021-04-12";
  const password = Buffer.from(token(hub));
  const who = { clientId: "edge1/gw", username, password };
  return {
    cmd: "connect",
    protocolId: "MQTT",
    protocolVersion: 4 as 4 | 5,
    clean: false,
    keepalive: 60,
    ...who,
  } as const;
}

function publishPacket(topic: string, payload: string, qos: 1 | 2) {
  return { cmd: "publish", topic, payload, qos, messageId: 1, dup: false, retain: false } as const;
}

/** Sends the packets in one write and returns all that came back before the hub closed the connection. */
async function talk(hub: DevHub, packets: readonly Packet[]): Promise<Packet[]> {
  const socket = tlsConnect({ host: "localhost", port: hub.mqttPort, ca: hub.caPem });
  const received: Packet[] = [];
  const parser = mqttPacket.parser({ protocolVersion: 4 });
  parser.on("packet", (packet) => received.push(packet));
  socket.on("data", (chunk) => parser.parse(chunk));
  socket.on("error", () => {});
  await once(socket, "secureConnect");
  socket.write(Buffer.concat(packets.map((packet) => mqttPacket.generate(packet))));
  await once(socket, "close");
  return received;
}
