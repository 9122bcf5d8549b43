/** A wall clock that is set a day forwards or back, while the gateway runs and while it does not: nothing is lost or late (G1, G3, G8). */
import { expect, test, vi } from "vitest";
import type { Clock } from "../../src/flow/ports.ts";
import { systemClock } from "../../src/ops/clock.ts";
import { startRig } from "../support/gateway-rig.ts";
import { NumberedLeaf } from "../support/numbered-leaf.ts";

const DAY_MS = 24 * 3_600_000;
const WAIT = { timeout: 60_000, interval: 50 };

/** The machine's, whose wall clock somebody sets. */
class SetClock implements Clock {
  #jumpMs = 0;
  #steadyJumpMs = 0;
  now(): number {
    return systemClock.now() + this.#jumpMs;
  }

  steady(): number {
    return systemClock.steady() + this.#steadyJumpMs;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return systemClock.sleep(ms, signal);
  }

  jump(ms: number): void {
    this.#jumpMs += ms;
  }

  /** A process that starts takes its steady time from the wall clock. */
  restart(): void {
    this.#steadyJumpMs = this.#jumpMs;
  }
}

test.each([
  { way: "forwards", ms: DAY_MS },
  { way: "back", ms: -DAY_MS },
])("a day $way", async ({ ms }) => {
  const clock = new SetClock();
  // edgeHub's clock is the same machine's, so it takes the gateway's tokens.
  await using rig = await startRig({
    clock,
    hub: { clockSkewMs: 3 * DAY_MS },
  });
  await using leaf = await NumberedLeaf.connect("jumps", rig.plainPort);
  const arrived = (): number[] =>
    rig.eventsOf("jumps").map(({ body }) => (JSON.parse(Buffer.from(body).toString()) as { number: number }).number);
  const numbers = (count: number): number[] => Array.from({ length: count }, (_, at) => at);
  await leaf.send();
  await rig.hub.killEdge("keep");
  for (let n = 0; n < 5; n += 1) await leaf.send();
  clock.jump(ms);
  for (let n = 0; n < 5; n += 1) await leaf.send();
  expect(await leaf.report({ during: 1 })).toMatchObject({ status: 204 });
  await rig.stopGateway();
  clock.restart();
  await rig.startGateway();
  await rig.hub.startEdge();
  await vi.waitFor(() => expect(arrived()).toEqual(expect.arrayContaining(numbers(11))), WAIT);
  await leaf.send();
  rig.hub.cloud.patchDesired(rig.moduleId, { jumps: { __t: "c", target: 5 } });
  await vi.waitFor(() => {
    expect(arrived()).toEqual(expect.arrayContaining(numbers(12)));
    expect([...new Set(arrived())]).toEqual(numbers(12));
    expect(leaf.targets.at(-1)).toBe(5);
    expect(rig.reported("jumps")).toMatchObject({ during: 1 });
  }, WAIT);
  // The second life has taken one message of the leaf, and written what it noted of it all.
  expect(await rig.metric("telemetry_received_bytes_total")).toBeGreaterThan(0);
  expect(await rig.metric("disk_written_bytes")).toBeGreaterThanOrEqual(0);
  expect(await rig.gateway.metricsText()).not.toMatch(/^pnp_gateway_telemetry_dropped_total\{.*\} [1-9]/m);
});
