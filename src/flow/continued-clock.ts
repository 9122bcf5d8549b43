/**
 * Ages that go on over a restart. The steady clock of a process begins at the wall clock's time: set forward between two processes,
 * the wall clock would make everything that waits on disk look older than its time to live. As long as the machine has not booted,
 * its uptime tells how long it really was.
 */
import type { Clock, Log, Store } from "./ports.ts";

export interface ContinuedClockOptions {
  readonly store: Store;
  readonly clock: Clock;
  readonly log: Log;
  readonly bootId: string | undefined;
  /** Since the machine has booted; goes on while it sleeps. */
  readonly uptimeMs: () => number;
}

/** What clocks are apart without having been set. */
const TOLERANCE_MS = 2_000;

/** `clock` with a steady time that goes on where the last process of this boot had it. */
export async function continuedClock({ store, clock, log, bootId, uptimeMs }: ContinuedClockOptions): Promise<Clock> {
  if (bootId === undefined) return clock;
  const zeroMs = Math.round(clock.steady() - uptimeMs());
  const before = zeroOf(await store.meta("steady-zero"), bootId);
  if (before === undefined) {
    await store
      .commit([{ kind: "meta", key: "steady-zero", value: { bootId, zeroMs } }])
      .catch((error: unknown) => log.warn({ error: String(error) }, "the clock's beginning could not be noted"));
    return clock;
  }
  const aheadMs = zeroMs - before;
  if (Math.abs(aheadMs) <= TOLERANCE_MS) return clock;
  log.warn({ aheadMs }, "the wall clock was set since this machine has booted: ages are not counted by it");
  return { now: () => clock.now(), steady: () => clock.steady() - aheadMs, sleep: clock.sleep.bind(clock) };
}

function zeroOf(noted: unknown, bootId: string): number | undefined {
  if (typeof noted !== "object" || noted === null || !("bootId" in noted) || !("zeroMs" in noted)) return undefined;
  return noted.bootId === bootId && typeof noted.zeroMs === "number" ? noted.zeroMs : undefined;
}
