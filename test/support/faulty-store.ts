/** A store with misfortunes: fails chosen commits, delays them, or loses everything after a chosen point as a crash does. */

import { GatewayError } from "../../src/core/errors.ts";
import type { LeafRecord } from "../../src/core/leaf.ts";
import type { Json, OutboxEntry, SetAsideEntry } from "../../src/core/message.ts";
import type { Clock, CloudToDeviceEntry, MetaKey, Store, StoreUsage, Write } from "../../src/flow/ports.ts";

/**
 * "fail": rejects and nothing is written. "fail-written": rejects although it was written, as when the disk's answer is lost.
 * "crash": the process dies before the write; "crash-written": right after it. A number delays the commit by so many milliseconds.
 */
export type Misfortune = "none" | "fail" | "fail-written" | "crash" | "crash-written" | number;

export class FaultyStore implements Store {
  readonly #inner: Store;
  readonly #clock: Clock;
  /** Asked for each commit, counted from 1. */
  readonly #plan: (nth: number, writes: readonly Write[]) => Misfortune;
  /** Commits are performed one after the other: a delayed one holds up those behind it, as in the real store. */
  #before: Promise<void> = Promise.resolve();
  #nth = 0;
  #isCrashed = false;

  constructor(inner: Store, clock: Clock, plan: (nth: number, writes: readonly Write[]) => Misfortune) {
    this.#inner = inner;
    this.#clock = clock;
    this.#plan = plan;
  }

  /** Commits asked for so far. */
  get commits(): number {
    return this.#nth;
  }

  /** From now on nothing is written and no commit ever settles: the process that asked is dead. */
  get isCrashed(): boolean {
    return this.#isCrashed;
  }

  crash(): void {
    this.#isCrashed = true;
  }

  commit(writes: readonly Write[]): Promise<void> {
    this.#nth += 1;
    const misfortune = this.#plan(this.#nth, writes);
    const done = this.#before.then(() => this.#perform(writes, misfortune));
    this.#before = done.catch(() => undefined);
    return done;
  }

  async #perform(writes: readonly Write[], misfortune: Misfortune): Promise<void> {
    if (this.#isCrashed) return never();
    if (typeof misfortune === "number") {
      await this.#clock.sleep(misfortune);
      return this.#isCrashed ? never() : this.#inner.commit(writes);
    }
    switch (misfortune) {
      case "none":
        return this.#inner.commit(writes);
      case "fail":
        throw diskFull();
      case "fail-written":
        await this.#inner.commit(writes);
        throw diskFull();
      case "crash":
        this.#isCrashed = true;
        return never();
      case "crash-written":
        this.#isCrashed = true;
        await this.#inner.commit(writes);
        return never();
    }
  }

  leaves(): AsyncIterable<LeafRecord> {
    return this.#inner.leaves();
  }

  outbox(after: number, limit: number): Promise<readonly OutboxEntry[]> {
    return this.#inner.outbox(after, limit);
  }

  retained(): AsyncIterable<OutboxEntry> {
    return this.#inner.retained();
  }

  setAside(): AsyncIterable<SetAsideEntry> {
    return this.#inner.setAside();
  }

  cloudToDevice(): AsyncIterable<CloudToDeviceEntry> {
    return this.#inner.cloudToDevice();
  }

  meta(key: MetaKey): Promise<Json | undefined> {
    return this.#inner.meta(key);
  }

  usage(): StoreUsage {
    return this.#inner.usage();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isCrashed) return;
    await this.#before;
    await this.#inner[Symbol.asyncDispose]();
  }
}

function diskFull(): GatewayError {
  return new GatewayError("STORE_FAILED", "the disk is full", { cause: new Error("ENOSPC") });
}

function never(): Promise<never> {
  return new Promise(() => undefined);
}
