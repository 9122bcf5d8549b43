/**
 * Frames of one connection between their arrival and their PUBACK. Invariant: acknowledgements leave in the order of arrival
 * [MQTT-4.6.0-2], whatever order the frames reach their safe place in, and none leaves behind a frame that closed the connection.
 */
import type { Received } from "../flow/ports.ts";

interface Held {
  readonly acknowledge: () => void;
  outcome: Received | undefined;
}

export class PubackOrder {
  readonly #close: (reason: string) => void;
  #held: Held[] = [];
  #closed = false;

  /** `close` is called once at most. */
  constructor(close: (reason: string) => void) {
    this.#close = close;
  }

  /** `acknowledge` is called when the outcome of this frame and of all before it is "done"; never when the connection closes first. */
  hold(outcome: Promise<Received>, acknowledge: () => void): void {
    if (this.#closed) return;
    const held: Held = { acknowledge, outcome: undefined };
    this.#held.push(held);
    const settle = (received: Received): void => {
      held.outcome = received;
      this.#release();
    };
    // Both ways are handled; `#release` itself calls nothing that throws.
    outcome.then(settle, (error: unknown) =>
      settle({ kind: "close", reason: `the frame was not handled: ${String(error)}` }),
    );
  }

  /** The connection is gone; nothing is acknowledged any more. */
  end(): void {
    this.#closed = true;
    this.#held = [];
  }

  #release(): void {
    for (let first = this.#held[0]; first?.outcome !== undefined; first = this.#held[0]) {
      if (first.outcome.kind === "close") {
        this.end();
        this.#close(first.outcome.reason);
        return;
      }
      this.#held.shift();
      first.acknowledge();
    }
  }
}
