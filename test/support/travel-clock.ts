/**
 * The machine's time with jumps: it runs by itself, so that real sockets and SDKs work beside it, and hours can be made to pass at once.
 * Whoever sleeps until then wakes.
 */
import type { Clock } from "../../src/flow/ports.ts";

interface Sleeper {
  readonly atMs: number;
  readonly wake: () => void;
}

export class TravelClock implements Clock {
  #travelledMs: number;
  readonly #sleepers = new Set<Sleeper>();

  /** `aheadMs` of the machine's time; behind it when negative. */
  constructor(aheadMs = 0) {
    this.#travelledMs = aheadMs;
  }

  now(): number {
    return Date.now() + this.#travelledMs;
  }

  steady(): number {
    return performance.timeOrigin + performance.now() + this.#travelledMs;
  }

  travel(ms: number): void {
    this.#travelledMs += ms;
    const nowMs = this.steady();
    for (const { atMs, wake } of [...this.#sleepers].toSorted((a, b) => a.atMs - b.atMs)) if (atMs <= nowMs) wake();
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) {
        reject(signal.reason);
        return;
      }
      const leave = (): void => {
        clearTimeout(timer);
        this.#sleepers.delete(sleeper);
        signal?.removeEventListener("abort", abort);
      };
      const abort = (): void => {
        leave();
        reject(signal?.reason);
      };
      const wake = (): void => {
        leave();
        resolve();
      };
      const sleeper: Sleeper = { atMs: this.steady() + ms, wake };
      // Whoever sleeps for weeks is woken by travelling only.
      const timer = setTimeout(wake, Math.min(Math.max(0, ms), 2 ** 31 - 1));
      this.#sleepers.add(sleeper);
      signal?.addEventListener("abort", abort, { once: true });
    });
  }
}
