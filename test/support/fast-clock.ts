/** The machine's time, run faster for whoever waits or measures: long durations of the gateway are divided together, in proportion. */
import type { Clock } from "../../src/flow/ports.ts";
import { systemClock } from "../../src/ops/clock.ts";

/** The wall clock stays what it is: tokens and certificates are judged by it. */
export function fastClock(factor: number): Clock {
  const startMs = systemClock.steady();
  return {
    now: () => systemClock.now(),
    steady: () => startMs + (systemClock.steady() - startMs) * factor,
    sleep: (ms, signal) => systemClock.sleep(ms / factor, signal),
  };
}
