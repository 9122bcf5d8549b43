/**
 * The sockets that leaves dial: TLS, and plain TCP where it is asked for. Invariants: a client certificate is asked for and never
 * required (SAS leaves have none), who it belongs to is decided later; a renewed server certificate drops nobody.
 */
import { createServer, type Server, type Socket } from "node:net";
import {
  createSecureContext,
  createServer as createTlsServer,
  type SecureContext,
  type Server as TlsServer,
} from "node:tls";
import { GatewayError } from "../core/errors.ts";
import type { Log } from "../flow/ports.ts";
import type { Origin } from "./connection.ts";
import type { LeafLimits } from "./limits.ts";
import type { Refusals } from "./refusals.ts";

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

interface Endpoint {
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
}

export interface ListenerOptions {
  readonly tls?: Endpoint & { readonly certificates: CertificateSource };
  /** Without TLS: whoever is on the way reads and writes along. */
  readonly plain?: Endpoint;
  readonly log: Log;
}

export interface Ports {
  readonly tls?: number;
  readonly plain?: number;
}

export interface Listeners extends AsyncDisposable {
  readonly ports: Ports;
}

type Accept = (socket: Socket, origin: Origin) => void;

/** Resolves when all are bound; else none is, and the error names the setting. */
export async function openListeners(
  options: ListenerOptions & { readonly limits: LeafLimits },
  accept: Accept,
  refusals: Refusals,
): Promise<Listeners> {
  const doors = new Doors(options.limits, refusals);
  const ports: { tls?: number; plain?: number } = {};
  try {
    if (options.tls !== undefined) {
      const tls = tlsServer(options.tls.certificates, options, accept, refusals);
      ports.tls = await doors.open("tls", options.tls, (socket) => tls.emit("connection", socket));
    }
    if (options.plain !== undefined) {
      const origin = (socket: Socket): Origin => ({ plain: true, remoteAddress: addressOf(socket) });
      ports.plain = await doors.open("plain", options.plain, (socket) => accept(socket, origin(socket)));
    }
  } catch (error) {
    await doors[Symbol.asyncDispose]();
    throw error;
  }
  return { ports, [Symbol.asyncDispose]: () => doors[Symbol.asyncDispose]() };
}

/** Never listens itself: the doors hand it sockets that they have counted. */
function tlsServer(
  certificates: CertificateSource,
  { limits, log }: { readonly limits: LeafLimits; readonly log: Log },
  accept: Accept,
  refusals: Refusals,
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
    refusals.refused("tls", { leafId: undefined, remoteAddress: addressOf(socket) }, error.message);
    socket.destroy();
  });
  server.on("secureConnection", (socket) => {
    const certificate = socket.getPeerCertificate().raw;
    accept(socket, { plain: false, remoteAddress: addressOf(socket), certificate });
  });
  return server;
}

// Python's SDK speaks TLS 1.2 only [iothub-mqtt.md 1.1].
const MIN_VERSION = { minVersion: "TLSv1.2" } as const;

function defaultContext([first]: readonly ServerCertificate[]) {
  if (first === undefined)
    throw new GatewayError("CONFIG_INVALID", "tlsEnabled needs a server certificate, there is none");
  return { ...MIN_VERSION, cert: first.chain, key: first.privateKey };
}

function secureContexts(certificates: readonly ServerCertificate[]): ReadonlyMap<string, SecureContext> {
  return new Map(
    certificates.map(({ serverName, chain, privateKey }) => [
      serverName.toLowerCase(),
      createSecureContext({ ...MIN_VERSION, cert: chain, key: privateKey }),
    ]),
  );
}

function addressOf(socket: { readonly remoteAddress?: string | undefined }): string {
  return socket.remoteAddress ?? "unknown";
}

/** Beyond the limit leaves are told CONNACK 3; a socket is only closed when so many of those come that telling costs too much. */
const HARD_LIMIT = 1.25;

/** The listening sockets, which count who comes in. */
class Doors implements AsyncDisposable {
  readonly #limits: LeafLimits;
  readonly #refusals: Refusals;
  readonly #servers: Server[] = [];
  readonly #sockets = new Set<Socket>();
  readonly #perAddress = new Map<string, number>();

  constructor(limits: LeafLimits, refusals: Refusals) {
    this.#limits = limits;
    this.#refusals = refusals;
  }

  async open(name: "tls" | "plain", { host, port }: Endpoint, enter: (socket: Socket) => void): Promise<number> {
    const server = createServer({ noDelay: true }, (socket) => {
      if (this.#mayEnter(socket)) enter(socket);
      else socket.destroy();
    });
    await bind(server, name, host, port);
    this.#servers.push(server);
    const address = server.address();
    return typeof address === "object" && address !== null ? address.port : port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = this.#servers.map((server) => new Promise<void>((resolve) => server.close(() => resolve())));
    // The broker has ended its connections; what is left is still shaking hands or does not read its last words.
    for (const socket of this.#sockets) socket.destroy();
    await Promise.all(closed);
  }

  #mayEnter(socket: Socket): boolean {
    const { maxConnections, maxConnectionsPerAddress } = this.#limits;
    const remoteAddress = addressOf(socket);
    const fromThere = this.#perAddress.get(remoteAddress) ?? 0;
    const reason =
      this.#sockets.size >= Math.ceil(maxConnections * HARD_LIMIT)
        ? "connections"
        : fromThere >= maxConnectionsPerAddress
          ? "connections-per-address"
          : undefined;
    if (reason !== undefined) {
      this.#refusals.refused(reason, { leafId: undefined, remoteAddress });
      return false;
    }
    this.#count(socket, remoteAddress, fromThere);
    return true;
  }

  #count(socket: Socket, remoteAddress: string, fromThere: number): void {
    this.#sockets.add(socket);
    this.#perAddress.set(remoteAddress, fromThere + 1);
    // A broken socket closes too; that is all there is to know of it.
    socket.on("error", () => undefined);
    socket.once("close", () => {
      this.#sockets.delete(socket);
      const left = (this.#perAddress.get(remoteAddress) ?? 1) - 1;
      if (left > 0) this.#perAddress.set(remoteAddress, left);
      else this.#perAddress.delete(remoteAddress);
    });
  }
}

async function bind(server: Server, name: "tls" | "plain", host: string, port: number): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once("error", (error: NodeJS.ErrnoException) => {
    const where = `${host}:${port} (${name}Bind, ${name}Port)`;
    reject(
      error.code === "EADDRINUSE"
        ? new GatewayError("PORT_TAKEN", `${where} is taken by another program`, { cause: error })
        : new GatewayError("CONFIG_INVALID", `cannot listen on ${where}: ${error.message}`, { cause: error }),
    );
  });
  server.listen({ host, port }, resolve);
  await promise;
  server.removeAllListeners("error");
  // Accepting can fail for want of file descriptors; the next leaf may have more luck.
  server.on("error", () => undefined);
}
