/**
 * One CONNECT of each leaf at a time. Invariant: between entering and leaving nobody else is inside for the same leaf; a leaf that
 * nobody enters for costs nothing.
 */
import { takeOut } from "../core/take-out.ts";

export class Turnstile {
  readonly #maxWaiting: number;
  readonly #queues = new Map<string, (() => void)[]>();

  constructor(maxWaiting: number) {
    this.#maxWaiting = maxWaiting;
  }

  get size(): number {
    return this.#queues.size;
  }

  /** Resolves with the way out, to be called once; "full" when too many wait, "gone" when the signal aborts first. */
  async enter(who: string, signal: AbortSignal): Promise<(() => void) | "full" | "gone"> {
    if (signal.aborted) return "gone";
    const queue = this.#queues.get(who);
    if (queue === undefined) {
      this.#queues.set(who, []);
      return () => this.#leave(who);
    }
    if (queue.length >= this.#maxWaiting) return "full";
    return new Promise((resolve) => {
      const admit = (): void => {
        signal.removeEventListener("abort", giveUp);
        resolve(() => this.#leave(who));
      };
      const giveUp = (): void => {
        takeOut(queue, admit);
        resolve("gone");
      };
      signal.addEventListener("abort", giveUp, { once: true });
      queue.push(admit);
    });
  }

  #leave(who: string): void {
    const next = this.#queues.get(who)?.shift();
    if (next === undefined) this.#queues.delete(who);
    else next();
  }
}
