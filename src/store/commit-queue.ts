/**
 * Group commit: everything that arrives while a flush is running shares the next one. Invariants: one flush at a time; commits take
 * effect in the order of their calls; a commit is never parted between two flushes.
 */
import { GatewayError } from "../core/errors.ts";
import type { Step } from "./batch-plan.ts";

/** The steps of one call of `commit`. */
interface Pending {
  readonly steps: readonly Step[];
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** What is left over goes into the next flush. */
const GROUP_STEPS = 4_096;

export class CommitQueue implements AsyncDisposable {
  readonly #flush: (steps: readonly Step[]) => Promise<void>;
  #waiting: Pending[] = [];
  #flushing: Promise<void> | undefined;
  #isClosed = false;

  constructor(flush: (steps: readonly Step[]) => Promise<void>) {
    this.#flush = flush;
  }

  /** Resolves or rejects with the flush that these steps were part of. */
  enqueue(steps: readonly Step[]): Promise<void> {
    if (this.#isClosed) return Promise.reject(new GatewayError("STORE_FAILED", "the store is closed"));
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#waiting.push({ steps, resolve, reject });
    this.#flushing ??= this.#flushAll();
    return promise;
  }

  /** Everything that was enqueued before is flushed; what comes later is refused. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true;
    await this.#flushing;
  }

  /** Never rejects. */
  async #flushAll(): Promise<void> {
    // Calls of the same turn share a flush too.
    await Promise.resolve();
    while (this.#waiting.length > 0) {
      const group = this.#takeGroup();
      try {
        await this.#flush(group.flatMap(({ steps }) => steps));
        for (const { resolve } of group) resolve();
      } catch (error) {
        for (const { reject } of group) reject(error);
      }
    }
    this.#flushing = undefined;
  }

  #takeGroup(): readonly Pending[] {
    let steps = 0;
    let end = 0;
    for (const pending of this.#waiting) {
      steps += pending.steps.length;
      end += 1;
      if (steps >= GROUP_STEPS) break;
    }
    return this.#waiting.splice(0, end);
  }
}
