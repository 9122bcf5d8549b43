/** MQTT over WebSocket as IoT Hub offers it, and nothing else over HTTP. */
import { once } from "node:events";
import { connect as connectTls, type TLSSocket } from "node:tls";
import fc from "fast-check";
import mqtt from "mqtt";
import { beforeAll, describe, expect, test } from "vitest";
import { createWebSocketStream, WebSocket } from "ws";
import { parseLeafId } from "../../src/core/message.ts";
import type { ServerCertificate } from "../../src/downstream/listeners.ts";
import type { LeafAuthenticator } from "../../src/flow/ports.ts";
import { LeafBrokerRig, type RigOptions, until } from "../support/leaf-broker-rig.ts";
import { events, RawLeaf, userName } from "../support/leaf-client.ts";
import { type Authority, makeAuthority, selfSigned } from "../support/test-certificates.ts";

const PATH = "/$iothub/websocket";

let authority: Authority;
let current: readonly ServerCertificate[];
beforeAll(async () => {
  authority = await makeAuthority("Edge CA");
  const { key, pem } = await authority.issue("CN=localhost", { dnsNames: ["localhost"] });
  current = [{ serverName: "localhost", chain: pem, privateKey: key }];
});

function start(options: RigOptions = {}): Promise<LeafBrokerRig> {
  const certificates = { current: () => current, onChange: () => undefined };
  return LeafBrokerRig.start({ ...options, listeners: { webSocket: { host: "127.0.0.1", port: 0, certificates } } });
}

async function dial(rig: LeafBrokerRig, path = PATH, protocol = "mqtt", options: object = {}): Promise<WebSocket> {
  const url = `wss://localhost:${rig.broker.ports.webSocket}${path}`;
  const socket = new WebSocket(url, protocol === "" ? [] : [protocol], { ca: authority.pem, ...options });
  await once(socket, "open");
  return socket;
}

async function leafOver(socket: WebSocket): Promise<RawLeaf> {
  return new RawLeaf(createWebSocketStream(socket));
}

function dialTls(rig: LeafBrokerRig): Promise<TLSSocket> {
  const socket = connectTls({
    port: rig.broker.ports.webSocket ?? 0,
    host: "127.0.0.1",
    servername: "localhost",
    ca: authority.pem,
  });
  return new Promise((resolve) => socket.once("secureConnect", () => resolve(socket)));
}

describe("over WebSocket", () => {
  test("mqtt.js, as the SDKs use it, does telemetry and hears what is for it", async () => {
    await using rig = await start();
    const client = mqtt.connect(`wss://localhost:${rig.broker.ports.webSocket}${PATH}`, {
      clientId: "leaf-1",
      username: userName("leaf-1"),
      ca: authority.pem,
      protocolVersion: 4,
      reconnectPeriod: 0,
    });
    await new Promise((resolve) => client.once("connect", resolve));
    await client.publishAsync(events("leaf-1"), "x".repeat(200_000), { qos: 1 });
    expect(rig.handler.frames[0]?.frame.payload).toHaveLength(200_000);
    await client.subscribeAsync("$iothub/methods/POST/#");
    const heard = new Promise((resolve) => client.once("message", resolve));
    const id = parseLeafId("leaf-1");
    if (id === undefined) throw new Error("no leaf id");
    await rig.broker.deliver(id, [{ topic: "$iothub/methods/POST/run/?$rid=1", payload: Buffer.from("{}"), qos: 0 }]);
    expect(await heard).toBe("$iothub/methods/POST/run/?$rid=1");
    await client.endAsync();
    await until(() => rig.handler.online.size === 0);
  });

  test.each(["/%24iothub/websocket", "/$iothub/websocket?iothub-no-client-cert=true"])(
    "%s is the path, too",
    async (path) => {
      await using rig = await start();
      expect((await (await leafOver(await dial(rig, path))).connect("leaf-1")).code).toBe(0);
    },
  );

  test("the subprotocol is answered as it is asked for: C's SDK spells it in capitals", async () => {
    await using rig = await start();
    const socket = await dial(rig, PATH, "MQTT");
    expect(socket.protocol).toBe("MQTT");
    expect((await (await leafOver(socket)).connect("leaf-1")).code).toBe(0);
  });

  test("address and client certificate reach the authenticator", async () => {
    const seen: unknown[] = [];
    const authenticator: LeafAuthenticator = {
      authenticate: async ({ certificate, plain, remoteAddress }) => {
        seen.push([Buffer.from(certificate ?? []).toString("hex"), plain, remoteAddress]);
        return { kind: "accepted", closeAtMs: undefined };
      },
    };
    await using rig = await start({ authenticator });
    const own = await selfSigned("CN=leaf-1");
    const leaf = await leafOver(await dial(rig, PATH, "mqtt", { cert: own.pem, key: own.key }));
    expect((await leaf.connect("leaf-1")).code).toBe(0);
    expect(seen).toEqual([[own.der.toString("hex"), false, "127.0.0.1"]]);
  });

  test("a leaf that is put out sees its socket end", async () => {
    await using rig = await start();
    const leaf = await leafOver(await dial(rig));
    await leaf.connect("leaf-1");
    leaf.sendBytes(Buffer.from([0xf0, 0x00]));
    await leaf.closed;
    await until(() => rig.broker.load.connections === 0);
    expect(rig.refused("unexpected-packet")).toBe(1);
  });

  test("a ping is answered", async () => {
    await using rig = await start();
    const socket = await dial(rig);
    socket.ping("are you there");
    expect(String((await once(socket, "pong"))[0])).toBe("are you there");
    socket.terminate();
  });

  test.each([
    ["another path", "/", "mqtt"],
    ["no subprotocol", PATH, ""],
    ["another subprotocol", PATH, "amqp"],
  ])("%s is turned away", async (_what, path, protocol) => {
    await using rig = await start();
    await expect(dial(rig, path, protocol)).rejects.toThrow("404");
    expect(rig.refused("web-socket")).toBe(1);
    await until(() => rig.broker.load.connections === 0);
  });

  test.each([
    ["a request for a page", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 426"],
    ["what is no HTTP", "\u0010\u0000no http at all\r\n\r\n", "HTTP/1.1 400"],
    // What is not read any more takes the answer with it.
    ["headers without end", `GET / HTTP/1.1\r\nX: ${"x".repeat(20_000)}`, ""],
  ])("%s is turned away", async (_what, said, answer) => {
    await using rig = await start();
    const socket = await dialTls(rig);
    socket.write(said);
    const heard: Buffer[] = [];
    socket.on("data", (chunk: Buffer) => heard.push(chunk));
    await once(socket, "close");
    expect(Buffer.concat(heard).toString()).toContain(answer);
    expect(rig.refused("web-socket")).toBe(1);
  });

  test("whoever is turned away and resets the connection harms nobody", async () => {
    await using rig = await start();
    for (let round = 0; round < 20; round += 1) {
      const socket = await dialTls(rig);
      socket.write(`GET /${round} HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n`);
      await new Promise((resolve) => setImmediate(resolve));
      socket.destroy();
    }
    const leaf = await leafOver(await dial(rig));
    expect((await leaf.connect("leaf-1")).code).toBe(0);
  });

  test("whoever never asks for the upgrade is closed", async () => {
    await using rig = await start({ limits: { connectTimeoutMs: 50 } });
    const socket = await dialTls(rig);
    socket.write("GET / HT");
    socket.resume();
    await once(socket, "close");
    expect(rig.refused("web-socket")).toBe(1);
  });

  test("whatever bytes come before the upgrade or behind it, others work on", async () => {
    await using rig = await start();
    const good = await leafOver(await dial(rig));
    await good.connect("good");
    const upgrade = `GET ${PATH} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n`;
    const opcodes = fc.constantFrom(0x00, 0x01, 0x02, 0x08, 0x09, 0x0a, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8a, 0xc2, 0xff);
    const frame = fc
      .tuple(opcodes, fc.nat(255), fc.uint8Array({ maxLength: 40 }))
      .map(([opcode, length, bytes]) => Buffer.from([opcode, length, ...bytes]));
    await fc.assert(
      fc.asyncProperty(
        fc.boolean(),
        fc.array(frame, { maxLength: 6 }),
        fc.nat(200),
        async (isUpgraded, frames, cut) => {
          const bad = await dialTls(rig);
          bad.on("error", () => undefined).resume();
          bad.write(isUpgraded ? upgrade : upgrade.slice(0, cut));
          bad.write(Buffer.concat(frames));
          await good.ping();
          bad.destroy();
        },
      ),
      { numRuns: 150 },
    );
    await until(() => rig.broker.load.connections === 1);
    expect(rig.metrics.value("defects_total")).toBe(0);
  });

  test("a message of more than may be, or of thousands of fragments, ends the connection", async () => {
    await using rig = await start();
    const [big, fragmented] = [await dial(rig), await dial(rig)];
    for (const socket of [big, fragmented]) socket.on("error", () => undefined);
    big.send(Buffer.alloc(600_000));
    for (let at = 0; at < 100; at += 1) fragmented.send("x", { fin: false });
    await Promise.all([big, fragmented].map((socket) => once(socket, "close")));
    await until(() => rig.broker.load.connections === 0);
    expect(rig.metrics.value("defects_total")).toBe(0);
  });
});
