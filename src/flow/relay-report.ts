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
  /** The module twin's room has become scarce, or is enough again; also once at the start. */
  readonly roomChanged: (room: TwinRoom) => void;
}

/** "scarce": one of the sections that all leaves share is filled by more than 80 %. */
export type TwinRoom = "enough" | "scarce";

const LOOK_EVERY_MS = 30_000;

export class RelayReport {
  readonly #options: RelayReportOptions;
  readonly #stopping = new AbortController();
  #room: TwinRoom | undefined;

  constructor(options: RelayReportOptions) {
    this.#options = options;
  }

  start(): void {
    this.#lookAtRoom();
    this.#options.clock.sleep(LOOK_EVERY_MS, this.#stopping.signal).then(
      () => this.start(),
      () => undefined,
    );
  }

  stop(): void {
    this.#stopping.abort();
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
      setAsideMessages: forwarder.setAside.size,
      reportedBytes: budget.totalBytes,
      desiredBytes: twinBytes(apply.known?.desired ?? {}),
    };
  }

  gauges(): void {
    const { apply, budget, forwarder, leaves, metrics, push } = this.#options;
    const desiredBytes = twinBytes(apply.known?.desired ?? {});
    metrics.gauge("leaves_connected", this.#connected());
    metrics.gauge("leaves_known", leaves.size);
    metrics.gauge("reported_owed_leaves", push.owing);
    metrics.gauge("outbox_in_flight", forwarder.inFlight);
    metrics.gauge("set_aside_entries", forwarder.setAside.size);
    metrics.gauge("outbox_entries", forwarder.depth);
    metrics.gauge("outbox_oldest_age_seconds", this.#oldestAgeSecs());
    metrics.gauge("twin_bytes", budget.totalBytes, { section: "reported" });
    metrics.gauge("twin_bytes", desiredBytes, { section: "desired" });
  }

  #lookAtRoom(): void {
    const { apply, budget, log, roomChanged } = this.#options;
    const desiredBytes = twinBytes(apply.known?.desired ?? {});
    const reportedBytes = budget.totalBytes;
    const room = Math.max(desiredBytes, reportedBytes) > SECTION_WARNING_BYTES ? "scarce" : "enough";
    if (room === this.#room) return;
    this.#room = room;
    if (room === "scarce") log.warn({ desiredBytes, reportedBytes }, "the module twin is nearly full");
    roomChanged(room);
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
