/** A leaf broker with nothing real around it: in-memory connections, a fake handler, an authenticator that believes everybody. */
import { createBroker, type LeafBroker } from "../../src/downstream/broker.ts";
import type { LeafLimits } from "../../src/downstream/limits.ts";
import type { ListenerOptions } from "../../src/downstream/listeners.ts";
import type { Clock, LeafAuthenticator } from "../../src/flow/ports.ts";
import { iothub } from "../../src/translate/iothub.ts";
import { DEFAULT_LIMITS } from "./default-limits.ts";
import { FakeLeafHandler } from "./fake-leaf-handler.ts";
import { ManualClock } from "./manual-clock.ts";
import { RecordingLog } from "./recording-log.ts";
import { RecordingMetrics } from "./recording-metrics.ts";

const BELIEVE_ALL: LeafAuthenticator = {
  authenticate: async () => ({ kind: "accepted", closeAtMs: undefined }),
};

export interface RigOptions {
  readonly limits?: Partial<LeafLimits>;
  readonly authenticator?: LeafAuthenticator;
  readonly listeners?: Partial<ListenerOptions>;
  readonly clock?: Clock;
}

export class LeafBrokerRig implements AsyncDisposable {
  readonly broker: LeafBroker;
  readonly handler = new FakeLeafHandler();
  readonly metrics = new RecordingMetrics();
  readonly log = new RecordingLog();
  readonly clock: ManualClock;

  private constructor(options: RigOptions) {
    this.clock = new ManualClock();
    this.broker = createBroker({
      dialects: [iothub],
      authenticator: options.authenticator ?? BELIEVE_ALL,
      limits: { ...DEFAULT_LIMITS, ...options.limits },
      listeners: { log: this.log, ...options.listeners },
      clock: options.clock ?? this.clock,
      metrics: this.metrics,
      log: this.log,
    });
  }

  static async start(options: RigOptions = {}): Promise<LeafBrokerRig> {
    const rig = new LeafBrokerRig(options);
    await rig.broker.listen(rig.handler);
    return rig;
  }

  refused(reason: string): number {
    return this.metrics.value("leaf_refused_total", { reason });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.broker[Symbol.asyncDispose]();
  }
}

/** Waits for something that other parts of this process do; a watchdog, not a measurement. */
export async function until(condition: () => boolean, what = "the condition"): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`${what} was not met within 20 s`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}
