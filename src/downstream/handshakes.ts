/**
 * When TLS handshakes begin. Each costs a millisecond or two of the one thread that serves all leaves, and asks nothing of a stranger:
 * so a socket that says nothing gets none, a few begin in each turn of the event loop, and addresses take turns, so that a flood from
 * one delays the others' by a moment only.
 */
import type { Socket } from "node:net";
import type { Peer } from "./doors.ts";

export interface HandshakesOptions {
  readonly begin: (socket: Socket) => void;
  /** A socket that said nothing for so long is closed. */
  readonly firstByteTimeoutMs: number;
  readonly refused: (socket: Socket, detail: string) => void;
}

/** Some milliseconds of work; what else is there to do waits no longer. */
const PER_TURN = 4;

export class Handshakes {
  readonly #options: HandshakesOptions;
  /** By address, the one whose turn is next first. */
  readonly #waiting = new Map<string, Socket[]>();
  /** Begun and not ended, by {@link keyOf}. */
  readonly #underWay = new Set<string>();
  #isScheduled = false;

  constructor(options: HandshakesOptions) {
    this.#options = options;
  }

  /** Begins the socket's handshake once it has sent something and its turn has come. */
  add(socket: Socket): void {
    const { firstByteTimeoutMs } = this.#options;
    const timer = setTimeout(() => this.#giveUp(socket, "no byte of a handshake came in time"), firstByteTimeoutMs);
    timer.unref();
    socket.once("close", () => clearTimeout(timer));
    socket.once("readable", () => {
      clearTimeout(timer);
      if (socket.destroyed) return;
      // What ends is readable too.
      if (socket.readableLength === 0) this.#giveUp(socket, "it ended before its handshake began");
      else this.#enqueue(socket);
    });
  }

  /** Call when it has succeeded or failed; true the first time, false of one that has closed before. */
  ended(peer: Peer): boolean {
    return this.#underWay.delete(keyOf(peer));
  }

  #begin(socket: Socket): void {
    const key = keyOf(socket);
    this.#underWay.add(key);
    socket.once("close", () => {
      if (this.#underWay.delete(key))
        this.#options.refused(socket, "it left during its handshake, as clients do that do not trust the certificate");
    });
    this.#options.begin(socket);
  }

  #giveUp(socket: Socket, detail: string): void {
    if (socket.destroyed) return;
    this.#options.refused(socket, detail);
    socket.destroy();
  }

  #enqueue(socket: Socket): void {
    const address = socket.remoteAddress ?? "";
    const queue = this.#waiting.get(address);
    if (queue === undefined) this.#waiting.set(address, [socket]);
    else queue.push(socket);
    this.#schedule();
  }

  #schedule(): void {
    if (this.#isScheduled || this.#waiting.size === 0) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      for (let begun = 0; begun < PER_TURN && this.#waiting.size > 0; ) if (this.#next()) begun += 1;
      this.#schedule();
    });
  }

  /** False when the one whose turn it was has gone meanwhile, which costs nothing. */
  #next(): boolean {
    for (const [address, queue] of this.#waiting) {
      const socket = queue.shift();
      this.#waiting.delete(address);
      if (queue.length > 0) this.#waiting.set(address, queue);
      if (socket === undefined || socket.destroyed) return false;
      this.#begin(socket);
      return true;
    }
    return false;
  }
}

function keyOf({ remoteAddress, remotePort }: Peer): string {
  return `${remoteAddress} ${remotePort}`;
}
