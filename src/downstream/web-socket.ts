/**
 * MQTT over WebSocket as IoT Hub offers it: the path `/$iothub/websocket` and the subprotocol `mqtt` [iothub-mqtt.md 1.1]. Invariant:
 * nothing but an upgrade to it is answered, and what a WebSocket adds (fragments, pings, handshakes) has limits as well.
 */
import { createServer, type IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { createWebSocketStream, type WebSocket, WebSocketServer } from "ws";
import type { Origin } from "./connection.ts";
import type { LeafLimits } from "./limits.ts";

export interface WebSocketDoorOptions {
  readonly limits: Pick<LeafLimits, "connectTimeoutMs" | "maxMessageBytes">;
  readonly accept: (socket: Duplex, origin: Origin) => void;
  readonly refused: (origin: Origin, detail: string) => void;
}

const PATH = "/$iothub/websocket";
const PROTOCOL = "mqtt";
const MAX_HEADER_BYTES = 8_192;
const MAX_FRAGMENTS = 64;
/** A pong waits in memory for a leaf that does not read; so few pings are no reason to write more of them. */
const MAX_UNSENT_BYTES = 65_536;
/** One message may hold several packets. */
const PACKETS_PER_MESSAGE = 2;

/** What to do with a socket on which TLS has been agreed. */
export function webSocketDoor({
  accept,
  limits,
  refused,
}: WebSocketDoorOptions): (socket: Duplex, origin: Origin) => void {
  const origins = new WeakMap<Duplex, Origin>();
  const upgrader = new WebSocketServer({
    noServer: true,
    autoPong: false,
    clientTracking: false,
    handleProtocols: (protocols) => mqttAmong(protocols) ?? false,
    maxFragments: MAX_FRAGMENTS,
    maxPayload: PACKETS_PER_MESSAGE * limits.maxMessageBytes,
  });
  const http = createServer({ maxHeaderSize: MAX_HEADER_BYTES });
  const turnAway = (socket: Duplex, status: string, detail: string): void => {
    const origin = origins.get(socket);
    if (origins.delete(socket) && origin !== undefined) refused(origin, detail);
    socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`, () => socket.destroy());
  };
  http.on("request", (request) => turnAway(request.socket, "426 Upgrade Required", "no upgrade to a WebSocket"));
  http.on("clientError", (_error, socket) => turnAway(socket, "400 Bad Request", "no HTTP"));
  http.on("upgrade", (request, socket, head) => {
    const origin = origins.get(socket);
    if (origin === undefined || !isWanted(request)) {
      turnAway(socket, "404 Not Found", "another path or subprotocol than IoT Hub's");
      return;
    }
    origins.delete(socket);
    upgrader.handleUpgrade(request, socket, head, (webSocket) => accept(streamOf(webSocket), origin));
  });
  return (socket, origin) => {
    origins.set(socket, origin);
    // At an upgrade the HTTP server lets go of the socket and of its errors.
    socket.on("error", () => undefined);
    // The server never listens, so that its own timeouts never run.
    const timer = setTimeout(() => {
      if (!origins.delete(socket)) return;
      refused(origin, "no upgrade in time");
      socket.destroy();
    }, limits.connectTimeoutMs);
    timer.unref();
    socket.once("close", () => clearTimeout(timer));
    http.emit("connection", socket);
  };
}

function isWanted({ headers, url = "" }: IncomingMessage): boolean {
  const [path = ""] = url.split("?");
  const protocols = (headers["sec-websocket-protocol"] ?? "").split(",").map((name) => name.trim());
  return path.replaceAll(/%24/g, "$") === PATH && mqttAmong(protocols) !== undefined;
}

/** As the client spells it, since that is what it looks for in the answer: C's SDK writes `MQTT`. */
function mqttAmong(protocols: Iterable<string>): string | undefined {
  return [...protocols].find((name) => name.toLowerCase() === PROTOCOL);
}

function streamOf(webSocket: WebSocket): Duplex {
  webSocket.on("ping", (data) => {
    // Whoever broke it meanwhile: the stream tells.
    if (webSocket.bufferedAmount < MAX_UNSENT_BYTES) webSocket.pong(data, false, () => undefined);
  });
  const stream = createWebSocketStream(webSocket);
  // A frame that is none closes it; that is all there is to know.
  for (const broken of [webSocket, stream]) broken.on("error", () => undefined);
  return stream;
}
