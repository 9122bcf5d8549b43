/**
 * The stream that aedes reads in place of a leaf's socket. Invariants: it hands over one whole packet at a time, none that a leaf may
 * not send, nothing behind CONNECT before the leaf is let in, and no more PUBLISHes than may be held; a leaf above its rate is read more
 * slowly, so that TCP slows it down.
 */
import { Duplex } from "node:stream";
import type { Clock } from "../flow/ports.ts";
import { Allowance, HELD_TIMEOUT_MS, type LeafLimits, MAX_DEBT_MS, MAX_THROTTLED_MS } from "./limits.ts";
import { packetCost } from "./packet-cost.ts";
import { type PacketLimits, type PacketName, PacketReader, type PacketRefusal } from "./packet-reader.ts";

export type GuardRefusal = PacketRefusal | "rate" | "held-too-long" | "slow-leaf";

export interface PacketGuardOptions {
  readonly socket: Duplex;
  readonly limits: Pick<LeafLimits, "maxHeld" | "maxMessagesPerSec" | "maxBytesPerSec"> & PacketLimits;
  readonly clock: Clock;
  /** Called once; the connection is closed right after. */
  readonly refused: (reason: GuardRefusal) => void;
}

const MAX_BUFFERED_BYTES = 65_536;
/** A pause never gets near the shortest keep-alive: aedes would cut the leaf [aedes.md 11]. */
const MAX_PAUSE_MS = 1_000;
const LINGER_MS = 1_000;
const CONNACK_OTHER_VERSION = Buffer.from([0x20, 0x02, 0x00, 0x01]);

export class PacketGuard extends Duplex {
  readonly #options: PacketGuardOptions;
  readonly #reader: PacketReader;
  readonly #ended = new AbortController();
  /** Until it is known whose connection this is, one of its own. */
  #allowance: Allowance;
  /** "shut": CONNECT went through, the leaf is not let in yet. */
  #gate: "connect" | "shut" | "open" = "connect";
  #wanted = false;
  #pausing = false;
  #throttledMs = 0;
  #held = 0;
  #blockedSinceMs: number | undefined;
  #watched = false;
  #socketEnded = false;
  #disconnectSeen = false;

  constructor(options: PacketGuardOptions) {
    // One packet at a time: aedes stops reading while packets of one read are under way, and a ping among them would wait with them.
    super({ readableHighWaterMark: 1, allowHalfOpen: false });
    this.#options = options;
    const { clock, limits, socket } = options;
    this.#reader = new PacketReader(limits);
    this.#allowance = new Allowance(limits, clock.steady());
    socket.on("data", this.#onData);
    socket.once("end", this.#onEnd);
    socket.once("close", this.#onEnd);
    // Whatever broke it: a connection that ends is all there is to know.
    socket.on("error", this.#onEnd);
  }

  /** The leaf said DISCONNECT: its will is not published [MQTT-3.14.4-3]. */
  get disconnectSeen(): boolean {
    return this.#disconnectSeen;
  }

  /** The leaf is let in, with what it may send: what came behind CONNECT may follow. aedes reads on only when CONNACK is written. */
  open(allowance: Allowance): void {
    this.#gate = "open";
    this.#allowance = allowance;
    // The CONNECT, which was nobody's when it came.
    allowance.take(1, 0, this.#options.clock.steady());
    this.#pump();
  }

  /** A PUBLISH that went through has been dealt with. */
  released(): void {
    this.#held -= 1;
    this.#blockedSinceMs = undefined;
    this.#pump();
  }

  override _read(): void {
    this.#wanted = true;
    // Within `read` a push would join the packet that is being read.
    queueMicrotask(() => this.#pump());
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    if (this.#socketEnded) done();
    else this.#options.socket.write(chunk, () => done());
  }

  override _writev(chunks: { chunk: Buffer }[], done: () => void): void {
    this._write(Buffer.concat(chunks.map(({ chunk }) => chunk)), "binary", done);
  }

  override _final(done: () => void): void {
    if (!this.#socketEnded) this.#options.socket.end();
    done();
  }

  override _destroy(error: Error | null, done: (error: null) => void): void {
    // The only error that aedes destroys a connection with without an event.
    if (error?.message === "drain timeout") this.#options.refused("slow-leaf");
    this.#ended.abort();
    this.#reader.clear();
    this.#options.socket.off("data", this.#onData);
    endSoon(this.#options.socket);
    done(null);
  }

  readonly #onData = (chunk: Buffer): void => {
    this.#reader.push(chunk);
    this.#pump();
    // While it is shut reading goes on as long as there is room, or nobody would notice that the leaf has left.
    if (this.#reader.length > MAX_BUFFERED_BYTES && this.#reader.peek().kind === "packet") this.#options.socket.pause();
  };

  readonly #onEnd = (): void => {
    this.#socketEnded = true;
    // What arrived whole before the end is still handled: a leaf may send and leave.
    if (this.#gate === "open") this.#pump();
    else this.destroy();
  };

  #pump(): void {
    if (this.#pausing || this.#gate === "shut" || this.destroyed) return;
    const next = this.#reader.peek();
    if (next.kind === "refused") this.#refuse(next.reason);
    else if (next.kind === "incomplete") this.#wantMore();
    else if (this.#wanted && this.#mayPass(next.name)) this.#pass(next.name, next.bytes);
  }

  #wantMore(): void {
    if (this.#socketEnded) this.destroy();
    else this.#options.socket.resume();
  }

  #mayPass(name: PacketName): boolean {
    if (name === "publish" && this.#held >= this.#options.limits.maxHeld) {
      this.#block();
      return false;
    }
    const waitMs = this.#debtMs();
    if (waitMs > MAX_DEBT_MS && name === "pingreq") this.#refuse("rate");
    else if (waitMs > 0 && name !== "pingreq") this.#pause(Math.min(waitMs, MAX_PAUSE_MS));
    else return true;
    return false;
  }

  #pass(name: PacketName, bytes: Buffer): void {
    const nowMs = this.#options.clock.steady();
    if (this.#allowance.isFull(nowMs)) this.#throttledMs = 0;
    this.#allowance.take(packetCost(name, bytes), bytes.length, nowMs);
    this.#reader.take();
    this.#wanted = false;
    if (name === "connect") this.#gate = "shut";
    if (name === "publish") this.#held += 1;
    if (name === "disconnect") this.#disconnectSeen = true;
    this.push(bytes);
  }

  #debtMs(): number {
    return this.#allowance.waitMs(this.#options.clock.steady());
  }

  #pause(ms: number): void {
    this.#throttledMs += ms;
    if (this.#throttledMs > MAX_THROTTLED_MS) {
      this.#refuse("rate");
      return;
    }
    this.#pausing = true;
    this.#options.clock.sleep(ms, this.#ended.signal).then(
      () => {
        this.#pausing = false;
        this.#pump();
      },
      () => undefined, // the connection is over
    );
  }

  /** As many PUBLISHes are held as may be: wait for one of them, but not for ever. */
  #block(): void {
    this.#blockedSinceMs ??= this.#options.clock.steady();
    if (this.#watched) return;
    this.#watched = true;
    // Ends with the connection; a defect in it closes the connection.
    this.#watchBlock().catch(() => this.destroy());
  }

  async #watchBlock(): Promise<void> {
    const { clock } = this.#options;
    const { signal } = this.#ended;
    while (this.#blockedSinceMs !== undefined && !signal.aborted) {
      const leftMs = this.#blockedSinceMs + HELD_TIMEOUT_MS - clock.steady();
      if (leftMs <= 0) this.#refuse("held-too-long");
      else await clock.sleep(leftMs, signal);
    }
    this.#watched = false;
  }

  #refuse(reason: GuardRefusal): void {
    if (this.destroyed) return;
    if (reason === "protocol-version") this.#options.socket.write(CONNACK_OTHER_VERSION);
    this.#options.refused(reason);
    this.destroy();
  }
}

/** Lets out what was written, then ends the socket; a peer that does not read holds it for a second, not longer. */
function endSoon(socket: Duplex): void {
  if (socket.destroyed) return;
  socket.resume();
  const timer = setTimeout(() => socket.destroy(), LINGER_MS);
  timer.unref();
  socket.once("close", () => clearTimeout(timer));
  socket.end(() => socket.destroy());
}
