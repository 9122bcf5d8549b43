/**
 * One leaf's serial queue: its work is done one piece at a time and in order, and no leaf waits for another.
 * Invariant: a failing piece does not stop the ones behind it.
 */
export class Lane {
  #tail: Promise<unknown> = Promise.resolve();
  #length = 0;

  /** Pieces that wait or run. */
  get length(): number {
    return this.#length;
  }

  /** Runs `work` after everything that was given before; settles as `work` does. */
  run<T>(work: () => Promise<T> | T): Promise<T> {
    this.#length += 1;
    const result = this.#tail.then(work);
    this.#tail = result.then(this.#done, this.#done);
    return result;
  }

  /** Resolves when everything given so far is done. */
  async idle(): Promise<void> {
    await this.#tail;
  }

  readonly #done = (): void => {
    this.#length -= 1;
  };
}

/**
 * Runs `work` while all these lanes stand still, so that one commit can change several leaves.
 * Only one such piece may be under way at a time in a process (twin-sync sees to that): two could wait for each other.
 */
async function together<T>(lanes: readonly Lane[], work: () => Promise<T>): Promise<T> {
  const released = Promise.withResolvers<undefined>();
  const entered = lanes.map(
    (lane) =>
      new Promise<void>((resolve) => {
        lane
          .run(() => {
            resolve();
            return released.promise;
          })
          .catch(resolve);
      }),
  );
  try {
    await Promise.all(entered);
    return await work();
  } finally {
    released.resolve(undefined);
  }
}

/**
 * As {@link together}, for all that `concerned` names. It is asked again once they stand still: who came meanwhile knows nothing of
 * this work, and stands still with the others at the next try. Resolves to those for whom the work was done.
 */
export async function allTogether<T extends { readonly lane: Lane }>(
  concerned: () => ReadonlySet<T>,
  work: (all: readonly T[]) => Promise<void>,
): Promise<readonly T[]> {
  for (;;) {
    const all = concerned();
    const isDone = await together(
      [...all].map(({ lane }) => lane),
      async () => {
        if ([...concerned()].some((one) => !all.has(one))) return false;
        await work([...all]);
        return true;
      },
    );
    if (isDone) return [...all];
  }
}
