/**
 * The listening sockets, which count who comes in. Invariant: strangers (sockets whose leaf is not let in yet) never keep anybody out:
 * where there is no room left, the one that has said nothing for longest goes, of the address that has the most of them.
 */
import { createServer, type Server, type Socket } from "node:net";
import { GatewayError } from "../core/errors.ts";
import type { LeafLimits } from "./limits.ts";
import type { Refusals } from "./refusals.ts";

export interface Endpoint {
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
}

/** The other end: what a TLS socket, too, says of the socket below it, until that is closed. */
export interface Peer {
  readonly remoteAddress?: string | undefined;
  readonly remotePort?: number | undefined;
}

/** Beyond `maxConnections` leaves are told CONNACK 3; a socket is only closed when so many of those come that telling costs too much. */
const HARD_LIMIT = 1.25;

export function addressOf({ remoteAddress }: Peer): string {
  return remoteAddress ?? "unknown";
}

export class Doors implements AsyncDisposable {
  readonly #limits: LeafLimits;
  readonly #refusals: Refusals;
  readonly #servers: Server[] = [];
  readonly #sockets = new Set<Socket>();
  readonly #perAddress = new Map<string, number>();
  /** By address, then by port, oldest first. */
  readonly #strangers = new Map<string, Map<number, Socket>>();

  constructor(limits: LeafLimits, refusals: Refusals) {
    this.#limits = limits;
    this.#refusals = refusals;
  }

  async open(
    name: "tls" | "webSocket" | "plain",
    { host, port }: Endpoint,
    enter: (socket: Socket) => void,
  ): Promise<number> {
    const server = createServer({ noDelay: true }, (socket) => {
      if (this.#mayEnter(socket)) enter(socket);
      else socket.destroy();
    });
    await bind(server, name, host, port);
    this.#servers.push(server);
    const address = server.address();
    return typeof address === "object" && address !== null ? address.port : port;
  }

  /** What to call when the leaf at the other end is let in: it is no stranger any more. */
  letIn({ remoteAddress, remotePort }: Peer): () => void {
    return () => this.#meet(remoteAddress, remotePort);
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
    if ((this.#perAddress.get(remoteAddress) ?? 0) >= maxConnectionsPerAddress) {
      this.#refusals.refused("connections-per-address", { leafId: undefined, remoteAddress });
      return false;
    }
    if (this.#sockets.size >= Math.ceil(maxConnections * HARD_LIMIT) && !this.#makeRoom()) {
      this.#refusals.refused("connections", { leafId: undefined, remoteAddress });
      return false;
    }
    this.#count(socket, remoteAddress);
    return true;
  }

  /** False when all that are there are leaves. */
  #makeRoom(): boolean {
    let remoteAddress = "";
    let most: ReadonlyMap<number, Socket> = new Map();
    for (const [address, strangers] of this.#strangers)
      if (strangers.size > most.size) [remoteAddress, most] = [address, strangers];
    const [oldest] = most;
    if (oldest === undefined) return false;
    const [remotePort, socket] = oldest;
    this.#refusals.refused("connections", { leafId: undefined, remoteAddress }, "it makes room for another");
    socket.destroy();
    this.#forget(socket, remoteAddress);
    this.#meet(remoteAddress, remotePort);
    return true;
  }

  #count(socket: Socket, remoteAddress: string): void {
    const { remotePort = 0 } = socket;
    this.#sockets.add(socket);
    this.#perAddress.set(remoteAddress, (this.#perAddress.get(remoteAddress) ?? 0) + 1);
    const strangers = this.#strangers.get(remoteAddress);
    if (strangers === undefined) this.#strangers.set(remoteAddress, new Map([[remotePort, socket]]));
    else strangers.set(remotePort, socket);
    // A broken socket closes too; that is all there is to know of it.
    socket.on("error", () => undefined);
    socket.once("close", () => {
      this.#forget(socket, remoteAddress);
      if (this.#strangers.get(remoteAddress)?.get(remotePort) === socket) this.#meet(remoteAddress, remotePort);
    });
  }

  #forget(socket: Socket, remoteAddress: string): void {
    if (!this.#sockets.delete(socket)) return;
    const left = (this.#perAddress.get(remoteAddress) ?? 1) - 1;
    if (left > 0) this.#perAddress.set(remoteAddress, left);
    else this.#perAddress.delete(remoteAddress);
  }

  #meet(remoteAddress = "unknown", remotePort = 0): void {
    const strangers = this.#strangers.get(remoteAddress);
    strangers?.delete(remotePort);
    if (strangers?.size === 0) this.#strangers.delete(remoteAddress);
  }
}

async function bind(server: Server, name: "tls" | "webSocket" | "plain", host: string, port: number): Promise<void> {
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
