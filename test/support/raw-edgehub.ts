/** An edgeHub of few words: TLS and MQTT packets, and whatever a test wants to say that no honest hub would. */
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { createServer, type TLSSocket } from "node:tls";
import mqttPacket, { type IConnectPacket, type IPublishPacket, type Packet } from "mqtt-packet";
import { openCertificateAuthority } from "../../src/devhub/certificates.ts";
import { connectionStringCredentials, type ModuleCredentials } from "../../src/upstream/credentials.ts";

export interface RawConnection {
  readonly socket: TLSSocket;
  send(packet: Packet): void;
  publish(topic: string, payload: string | Buffer): void;
}

export interface RawScript {
  /** Return true when the packet was dealt with. */
  packet?(connection: RawConnection, packet: Packet): boolean;
  /** A QoS 0 request on a twin topic; `rid` is its request id. */
  twin?(
    connection: RawConnection,
    request: { readonly method: "GET" | "PATCH"; readonly rid: string; readonly body: string },
  ): void;
  /** Milliseconds after the handshake in which everything received is lost, as edgeHub with DotNetty 0.6 loses it. */
  deafAfterTlsMs?: number;
}

export interface RawEdgeHub extends AsyncDisposable {
  readonly credentials: ModuleCredentials;
  readonly connects: IConnectPacket[];
  readonly published: IPublishPacket[];
  readonly connections: Set<RawConnection>;
  script: RawScript;
}

const TWIN_REQUEST = /^\$iothub\/twin\/(GET|PATCH)\/.*\$rid=(.+)$/;

export async function startRawEdgeHub(script: RawScript = {}): Promise<RawEdgeHub> {
  const authority = await openCertificateAuthority(undefined);
  const certificate = await authority.issue(["localhost"], 3_600_000, "ec");
  const connections = new Set<RawConnection>();
  const connects: IConnectPacket[] = [];
  const published: IPublishPacket[] = [];

  const server = createServer({ cert: certificate.chainPem, key: certificate.privateKeyPem }, (socket) => {
    const parser = mqttPacket.parser({ protocolVersion: 4 });
    const connection: RawConnection = {
      socket,
      send: (packet) => void (socket.writable && socket.write(mqttPacket.generate(packet))),
      publish: (topic, payload) =>
        connection.send({ cmd: "publish", topic, payload, qos: 0, dup: false, retain: false } as IPublishPacket),
    };
    connections.add(connection);
    const openMs = performance.now();
    socket.on("error", () => undefined);
    socket.on("close", () => connections.delete(connection));
    socket.on("data", (chunk) => {
      if (performance.now() - openMs >= (hub.script.deafAfterTlsMs ?? 0)) parser.parse(chunk);
    });
    parser.on("packet", (packet: Packet) => {
      if (hub.script.packet?.(connection, packet) !== true) answer(connection, packet);
    });
  });

  function answer(connection: RawConnection, packet: Packet): void {
    if (packet.cmd === "connect") {
      connects.push(packet);
      connection.send({ cmd: "connack", returnCode: 0, sessionPresent: false });
    } else if (packet.cmd === "subscribe") {
      connection.send({
        cmd: "suback",
        messageId: packet.messageId ?? 0,
        granted: packet.subscriptions.map(({ qos }) => qos),
      });
    } else if (packet.cmd === "pingreq") {
      connection.send({ cmd: "pingresp" });
    } else if (packet.cmd === "publish") {
      published.push(packet);
      if (packet.qos === 1) connection.send({ cmd: "puback", messageId: packet.messageId ?? 0 });
      const [, method, rid] = TWIN_REQUEST.exec(packet.topic) ?? [];
      if (method !== undefined && rid !== undefined) {
        hub.script.twin?.(connection, {
          method: method === "GET" ? "GET" : "PATCH",
          rid,
          body: packet.payload.toString(),
        });
      }
    }
  }

  server.on("tlsClientError", () => undefined);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const key = Buffer.from("a key that nobody checks").toString("base64");
  const hub: RawEdgeHub = {
    credentials: connectionStringCredentials(
      `HostName=hub.example;DeviceId=edge1;ModuleId=gw;SharedAccessKey=${key};GatewayHostName=localhost:${port}`,
      { ca: authority.rootPem },
    ),
    connects,
    published,
    connections,
    script,
    async [Symbol.asyncDispose]() {
      const closed = once(server, "close");
      server.close();
      for (const { socket } of connections) socket.destroy();
      await closed;
    },
  };
  return hub;
}
