/** What the relay says of itself: figures for operators, as a document and as gauges. Reads only. */
import type { JsonObject } from "../core/message.ts";
import { SECTION_WARNING_BYTES, twinBytes } from "../core/twin-limits.ts";
import type { ReportedBudget } from "./budget.ts";
import type { Forwarder } from "./forwarder.ts";
import type { Leaves } from "./leaves.ts";
import type { Clock, Log, Metrics } from "./ports.ts";
import type { ReportedPush } from "./reported-push.ts";
import type { TwinApply } from "./twin-apply.ts";

export interface RelayReportOptions {
  readonly leaves: Leaves;
  readonly forwarder: Forwarder;
  readonly push: ReportedPush;
  readonly apply: TwinApply;
  readonly budget: ReportedBudget;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Log;
}

export class RelayReport {
  readonly #options: RelayReportOptions;
  #isNearlyFull = false;

  constructor(options: RelayReportOptions) {
    this.#options = options;
  }

  diagnostics(): JsonObject {
    const { apply, budget, forwarder, leaves, push } = this.#options;
    return {
      twinVersion: apply.known?.version ?? null,
      leaves: leaves.size,
      leavesConnected: this.#connected(),
      leavesOwing: push.owing,
      outboxEntries: forwarder.depth,
      outboxBytesOnDisk: forwarder.diskBytes,
      outboxOldestAgeSecs: Math.round(this.#oldestAgeSecs()),
      reportedBytes: budget.totalBytes,
      desiredBytes: twinBytes(apply.known?.desired ?? {}),
    };
  }

  gauges(): void {
    const { apply, budget, forwarder, leaves, log, metrics, push } = this.#options;
    const desiredBytes = twinBytes(apply.known?.desired ?? {});
    metrics.gauge("leaves_connected", this.#connected());
    metrics.gauge("leaves_known", leaves.size);
    metrics.gauge("reported_owed_leaves", push.owing);
    metrics.gauge("outbox_in_flight", forwarder.inFlight);
    metrics.gauge("outbox_entries", forwarder.depth);
    metrics.gauge("outbox_oldest_age_seconds", this.#oldestAgeSecs());
    metrics.gauge("twin_bytes", budget.totalBytes, { section: "reported" });
    metrics.gauge("twin_bytes", desiredBytes, { section: "desired" });
    const isNearlyFull = Math.max(desiredBytes, budget.totalBytes) > SECTION_WARNING_BYTES;
    if (isNearlyFull && !this.#isNearlyFull) {
      log.warn({ desiredBytes, reportedBytes: budget.totalBytes }, "the module twin is nearly full");
    }
    this.#isNearlyFull = isNearlyFull;
  }

  #connected(): number {
    let connected = 0;
    for (const leaf of this.#options.leaves.all()) if (leaf.connected) connected += 1;
    return connected;
  }

  #oldestAgeSecs(): number {
    const { clock, forwarder } = this.#options;
    return forwarder.oldestMs === undefined ? 0 : Math.max(0, (clock.steady() - forwarder.oldestMs) / 1000);
  }
}
