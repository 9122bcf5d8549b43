/**
 * What goes down to one connection. Invariants: one QoS 1 message is outstanding at a time and only its own PUBACK settles it; QoS 0
 * never waits for it; every delivery is settled, at the latest when the connection ends.
 */
import type { Frame } from "../core/message.ts";
import type { Delivered } from "../flow/ports.ts";

export interface DeliveriesOptions {
  readonly maxWaiting: number;
  /** Writes to this leaf only; resolves when the bytes went to the socket, or when they never will. */
  readonly write: (frame: Frame) => Promise<void>;
  /** More wait than may: the leaf does not read, or does not acknowledge. */
  readonly overflow: () => void;
}

const MAX_PACKET_ID = 65_535;

export class Deliveries {
  readonly #options: DeliveriesOptions;
  #waiting = 0;
  #ended = false;
  #packetId = 0;
  #turn: Promise<unknown> = Promise.resolve();
  #outstanding: ((delivered: Delivered) => void) | undefined;

  constructor(options: DeliveriesOptions) {
    this.#options = options;
  }

  /** Of the QoS 1 message that is outstanding. */
  get packetId(): number {
    return this.#packetId;
  }

  async deliver(frames: readonly Frame[]): Promise<Delivered> {
    if (this.#waiting >= this.#options.maxWaiting) this.#options.overflow();
    this.#waiting += 1;
    try {
      for (const frame of frames) {
        const delivered = await this.#send(frame);
        if (delivered !== "delivered") return delivered;
      }
      return "delivered";
    } finally {
      this.#waiting -= 1;
    }
  }

  acknowledged(packetId: number | undefined): void {
    if (packetId === this.#packetId) this.#outstanding?.("delivered");
  }

  end(): void {
    this.#ended = true;
    this.#outstanding?.("unacknowledged");
  }

  async #send(frame: Frame): Promise<Delivered> {
    if (this.#ended) return "offline";
    if (frame.qos === 1) return this.#inTurn(() => this.#sendAcknowledged(frame));
    await this.#options.write(frame);
    return this.#ended ? "offline" : "delivered";
  }

  #inTurn(work: () => Promise<Delivered>): Promise<Delivered> {
    const mine = this.#turn.then(work);
    this.#turn = mine.catch(() => undefined);
    return mine;
  }

  async #sendAcknowledged(frame: Frame): Promise<Delivered> {
    if (this.#ended) return "offline";
    this.#packetId = (this.#packetId % MAX_PACKET_ID) + 1;
    const { promise, resolve } = Promise.withResolvers<Delivered>();
    this.#outstanding = resolve;
    await this.#options.write(frame);
    const delivered = await promise;
    this.#outstanding = undefined;
    return delivered;
  }
}
