/** Delays between tries, with full jitter, so that many who lost the same thing do not come back at the same moment. */

export interface Backoff {
  readonly baseMs: number;
  readonly capMs: number;
}

/** Endless; the n-th delay is random between 0 and `baseMs * 2^n`, never above `capMs`. `random` gives [0, 1). */
export function* fullJitter({ baseMs, capMs }: Backoff, random: () => number): Generator<number, never, void> {
  for (let ceilingMs = baseMs; ; ceilingMs = Math.min(capMs, ceilingMs * 2))
    yield Math.min(capMs, ceilingMs) * random();
}
