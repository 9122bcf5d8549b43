/** A clock that moves by hand. Sleepers wake in the order of their time, and everything a sleeper sets off settles before the next. */
import type { Clock } from "../../src/flow/ports.ts";

interface Sleeper {
  readonly atMs: number;
  readonly wake: () => void;
}

export class ManualClock implements Clock {
  #steadyMs: number;
  /** What the wall clock shows beyond the steady one. */
  #jumpMs = 0;
  #sleepers: Sleeper[] = [];

  constructor(startMs = Date.UTC(2026, 0, 1)) {
    this.#steadyMs = startMs;
  }

  now(): number {
    return this.#steadyMs + this.#jumpMs;
  }

  steady(): number {
    return this.#steadyMs;
  }

  /** The number of sleeps under way. */
  get sleeping(): number {
    return this.#sleepers.length;
  }

  /** Somebody sets the wall clock; the steady one goes on as if nothing was. */
  jump(ms: number): void {
    this.#jumpMs += ms;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) {
        reject(signal.reason);
        return;
      }
      const leave = (): void => {
        this.#sleepers = this.#sleepers.filter((other) => other !== sleeper);
        signal?.removeEventListener("abort", abort);
      };
      const abort = (): void => {
        leave();
        reject(signal?.reason);
      };
      const sleeper: Sleeper = {
        atMs: this.#steadyMs + Math.max(0, ms),
        wake: () => {
          leave();
          resolve();
        },
      };
      this.#insert(sleeper);
      signal?.addEventListener("abort", abort, { once: true });
    });
  }

  /** Lets `ms` pass: wakes whoever is due, one after the other, also those who fall asleep meanwhile. */
  async advance(ms: number): Promise<void> {
    const untilMs = this.#steadyMs + ms;
    await this.settle();
    for (let next = this.#sleepers[0]; next !== undefined && next.atMs <= untilMs; next = this.#sleepers[0]) {
      this.#steadyMs = Math.max(this.#steadyMs, next.atMs);
      next.wake();
      await this.settle();
    }
    this.#steadyMs = Math.max(this.#steadyMs, untilMs);
  }

  /** Every chain of promises that waits for no timer and no I/O has come to its end afterwards. */
  async settle(): Promise<void> {
    await new Promise<void>((resolve) => setImmediate(resolve));
  }

  /** Behind those of the same time: who slept first wakes first. */
  #insert(sleeper: Sleeper): void {
    const at = this.#sleepers.findIndex((other) => other.atMs > sleeper.atMs);
    this.#sleepers.splice(at < 0 ? this.#sleepers.length : at, 0, sleeper);
  }
}
