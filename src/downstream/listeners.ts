/**
 * The sockets that leaves dial: TLS, and plain TCP where it is asked for. Invariants: a client certificate is asked for and never
 * required (SAS leaves have none), who it belongs to is decided later; a renewed server certificate drops nobody.
 */
import { constants } from "node:crypto";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import {
  createSecureContext,
  createServer as createTlsServer,
  type SecureContext,
  type TLSSocket,
  type Server as TlsServer,
} from "node:tls";
import { GatewayError } from "../core/errors.ts";
import type { Log } from "../flow/ports.ts";
import type { Origin } from "./connection.ts";
import { addressOf, Doors, type Endpoint, type Peer } from "./doors.ts";
import { Handshakes } from "./handshakes.ts";
import type { LeafLimits } from "./limits.ts";
import type { Refusals } from "./refusals.ts";
import { webSocketDoor } from "./web-socket.ts";

/** PEM. The first of a source serves clients that name no server, or one that nobody knows (an IP address as SNI). */
export interface ServerCertificate {
  readonly serverName: string;
  /** Leaf first. */
  readonly chain: string;
  readonly privateKey: string;
}

export interface CertificateSource {
  current(): readonly ServerCertificate[];
  /** Called from now on each time that `current` has changed. */
  onChange(listener: () => void): void;
}

export interface ListenerOptions {
  readonly tls?: Endpoint & { readonly certificates: CertificateSource };
  readonly webSocket?: Endpoint & { readonly certificates: CertificateSource };
  /** Without TLS: whoever is on the way reads and writes along. */
  readonly plain?: Endpoint;
  readonly log: Log;
}

export interface Ports {
  readonly tls?: number;
  readonly webSocket?: number;
  readonly plain?: number;
}

export interface Listeners extends AsyncDisposable {
  readonly ports: Ports;
}

type Accept = (socket: Duplex, origin: Origin) => void;

/** Resolves when all are bound; else none is, and the error names the setting. */
export async function openListeners(
  options: ListenerOptions & { readonly limits: LeafLimits },
  accept: Accept,
  refusals: Refusals,
): Promise<Listeners> {
  const doors = new Doors(options.limits, refusals);
  const ports: { tls?: number; webSocket?: number; plain?: number } = {};
  try {
    const { tls, webSocket } = options;
    if (tls !== undefined)
      ports.tls = await doors.open("tls", tls, tlsDoor(tls.certificates, options, accept, doors, refusals));
    if (webSocket !== undefined) {
      const { limits } = options;
      const refused = ({ remoteAddress }: Origin, detail: string): void =>
        refusals.refused("web-socket", { leafId: undefined, remoteAddress }, detail);
      const upgrade = webSocketDoor({ limits, accept, refused });
      const enter = tlsDoor(webSocket.certificates, options, upgrade, doors, refusals);
      ports.webSocket = await doors.open("webSocket", webSocket, enter);
    }
    if (options.plain !== undefined) {
      ports.plain = await doors.open("plain", options.plain, (socket) =>
        accept(socket, { plain: true, remoteAddress: addressOf(socket), letIn: doors.letIn(socket) }),
      );
    }
  } catch (error) {
    await doors[Symbol.asyncDispose]();
    throw error;
  }
  return { ports, [Symbol.asyncDispose]: () => doors[Symbol.asyncDispose]() };
}

/** What to do with a socket that wants TLS: `accept` gets it when that is agreed. */
function tlsDoor(
  certificates: CertificateSource,
  options: { readonly limits: LeafLimits; readonly log: Log },
  accept: Accept,
  doors: Doors,
  refusals: Refusals,
): (socket: Socket) => void {
  const refused = (peer: Peer, detail: string): void =>
    refusals.refused("tls", { leafId: undefined, remoteAddress: addressOf(peer) }, detail);
  const tls = tlsServer(certificates, options, {
    agreed: (socket, origin) => {
      handshakes.ended(socket);
      accept(socket, { ...origin, letIn: doors.letIn(socket) });
    },
    failed: (socket, detail) => {
      // One that has left has no address any more: the socket below it, which had one, tells.
      if (handshakes.ended(socket)) refused(socket, detail);
    },
  });
  const handshakes = new Handshakes({
    begin: (socket) => tls.emit("connection", socket),
    firstByteTimeoutMs: options.limits.tlsHandshakeTimeoutMs,
    refused,
  });
  return (socket) => handshakes.add(socket);
}

interface Outcome {
  readonly agreed: (socket: TLSSocket, origin: Origin) => void;
  readonly failed: (socket: TLSSocket, detail: string) => void;
}

/** Never listens itself: the doors hand it sockets that they have counted. */
function tlsServer(
  certificates: CertificateSource,
  { limits, log }: { readonly limits: LeafLimits; readonly log: Log },
  { agreed, failed }: Outcome,
): TlsServer {
  let contexts = secureContexts(certificates.current());
  const server = createTlsServer({
    ...defaultContext(certificates.current()),
    requestCert: true,
    rejectUnauthorized: false,
    handshakeTimeout: limits.tlsHandshakeTimeoutMs,
    // Without a context the server's own one serves, which is the first.
    SNICallback: (serverName, done) => done(null, contexts.get(serverName.toLowerCase())),
  });
  certificates.onChange(() => {
    try {
      contexts = secureContexts(certificates.current());
      server.setSecureContext(defaultContext(certificates.current()));
    } catch (error) {
      log.error({ error: String(error) }, "the new server certificate cannot be used, the old one stays");
    }
  });
  server.on("tlsClientError", (error, socket) => {
    failed(socket, error.message);
    socket.destroy();
  });
  server.on("secureConnection", (socket) => {
    const [certificate, ...issuers] = chainOf(socket.getPeerCertificate(true));
    agreed(socket, { plain: false, remoteAddress: addressOf(socket), certificate, issuers });
  });
  return server;
}

interface ChainLink {
  readonly raw?: Buffer;
  readonly issuerCertificate?: ChainLink;
}

/** More than any leaf has a reason to send. */
const MAX_CHAIN = 5;

/** Nothing when there is no certificate, and when the socket was destroyed meanwhile: then it is null, whatever the types say. */
function chainOf(peer: ChainLink | null): readonly Buffer[] {
  const chain: Buffer[] = [];
  for (
    let link = peer ?? undefined;
    link?.raw !== undefined && chain.length < MAX_CHAIN;
    link = link.issuerCertificate
  ) {
    chain.push(link.raw);
    // One that has signed itself is its own issuer.
    if (link.issuerCertificate === link) break;
  }
  return chain;
}

const CONTEXT = {
  // Python's SDK speaks TLS 1.2 only [iothub-mqtt.md 1.1].
  minVersion: "TLSv1.2",
  // A resumed session (Java resumes) brings back the leaf's certificate without those that it sent along, and nobody could tell any more
  // who has issued it. Without tickets there is nothing to resume.
  secureOptions: constants.SSL_OP_NO_TICKET,
} as const;

function defaultContext([first]: readonly ServerCertificate[]) {
  if (first === undefined)
    throw new GatewayError("CONFIG_INVALID", "tlsEnabled needs a server certificate, there is none");
  return { ...CONTEXT, cert: first.chain, key: first.privateKey };
}

function secureContexts(certificates: readonly ServerCertificate[]): ReadonlyMap<string, SecureContext> {
  return new Map(
    certificates.map(({ serverName, chain, privateKey }) => [
      serverName.toLowerCase(),
      createSecureContext({ ...CONTEXT, cert: chain, key: privateKey }),
    ]),
  );
}
