/** The listeners of the MQTT head: TLS, and plain TCP for tests that watch the wire. */

import { createServer as createTcpServer, type Server, type Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import type { Behaviour } from "./behaviour.ts";
import type { ServerCertificate } from "./certificates.ts";
import { type ConnectionHandler, EdgeConnection } from "./edge-mqtt-connection.ts";
import type { DevHubSettings } from "./settings.ts";

export interface EdgeMqttServerParts {
  readonly settings: DevHubSettings;
  readonly behaviour: Behaviour;
  readonly handler: ConnectionHandler;
  readonly certificate: ServerCertificate;
  /** False while nobody could get through, whatever the behaviour says. */
  reachable(): boolean;
}

export interface EdgeMqttServer {
  /** The ports bound. */
  readonly port: number;
  readonly plainPort: number | undefined;
  /** Ends every connection, also the ones that have not said who they are, and stops listening. */
  close(): Promise<void>;
}

/** `plain` undefined: no listener without TLS. */
export async function startEdgeMqttServer(
  parts: EdgeMqttServerParts,
  ports: { readonly tls: number; readonly plain: number | undefined },
): Promise<EdgeMqttServer> {
  const { settings, certificate } = parts;
  const sockets = new Set<Socket>();
  const tls = createTlsServer({ key: certificate.privateKeyPem, cert: certificate.chainPem, minVersion: "TLSv1.2" });
  tls.on("connection", (socket: Socket) => admit(parts, sockets, socket));
  tls.on("secureConnection", (socket) => open(parts, socket));
  // A handshake that fails is its client's business.
  tls.on("tlsClientError", (_error, socket) => socket.destroy());
  const plain = ports.plain === undefined ? undefined : createTcpServer();
  plain?.on("connection", (socket) => {
    if (admit(parts, sockets, socket)) open(parts, socket);
  });
  return {
    port: await listen(tls, settings.bind, ports.tls),
    plainPort: plain === undefined ? undefined : await listen(plain, settings.bind, ports.plain ?? 0),
    async close() {
      const servers = plain === undefined ? [tls] : [tls, plain];
      const closed = servers.map((server) => new Promise((resolve) => server.close(resolve)));
      for (const socket of sockets) socket.destroy();
      await Promise.all(closed);
    },
  };
}

/** Whether the TCP connection may live; told to refuse, it is reset before a byte is exchanged. */
function admit(parts: EdgeMqttServerParts, sockets: Set<Socket>, socket: Socket): boolean {
  // Until a connection takes over, nobody else listens for the errors of a broken handshake.
  socket.on("error", () => socket.destroy());
  if (parts.behaviour.connections === "reset" || !parts.reachable()) {
    socket.resetAndDestroy();
    return false;
  }
  sockets.add(socket);
  socket.once("close", () => sockets.delete(socket));
  return true;
}

function open(parts: EdgeMqttServerParts, socket: Socket): void {
  new EdgeConnection(socket, parts.handler, parts.behaviour, parts.settings).start();
}

export function listen(server: Server, host: string, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host, port }, () => {
      const address = server.address();
      resolve(typeof address === "object" && address !== null ? address.port : port);
    });
  });
}
