/**
 * From the twin caches to the leaves: desired changes, twin answers, and what a leaf missed while it was away.
 * Invariant: what a leaf hears was committed before, and in the order of the commits.
 */

import type { LeafRecord } from "../core/leaf.ts";
import { isEmpty } from "../core/merge-patch.ts";
import type { LeafNotice } from "../core/message.ts";
import { trackDelivered } from "../core/property-ack.ts";
import { catchUpPatch, type DesiredNotice } from "../core/reconcile.ts";
import type { Dialect } from "../translate/dialect.ts";
import type { Leaf, Leaves } from "./leaves.ts";
import type { Clock, Downstream, Log, Metrics } from "./ports.ts";

export interface DownlinkOptions {
  readonly downstream: Downstream;
  readonly leaves: Leaves;
  readonly dialectOf: (record: LeafRecord) => Dialect;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Log;
}

export class Downlink {
  readonly #options: DownlinkOptions;

  constructor(options: DownlinkOptions) {
    this.#options = options;
  }

  /** Hands a notice to the leaf's connection; notices of one leaf keep the order of the calls. */
  tell(leaf: Leaf, notice: LeafNotice): Promise<"delivered" | "offline"> {
    const { dialectOf, downstream } = this.#options;
    return downstream.deliver(leaf.id, [dialectOf(leaf.record).format(leaf.id, notice)]);
  }

  /** As {@link tell}, when nobody waits for the result: an answer to a leaf that has gone is of no use to anybody. */
  answer(leaf: Leaf, notice: LeafNotice): void {
    this.tell(leaf, notice).catch((error: unknown) =>
      this.#options.log.error({ leafId: leaf.id, error: String(error) }, "an answer could not be delivered"),
    );
  }

  /** Tells the leaf why its twin request failed. */
  refuse(leaf: Leaf, rid: string, status: number, reason: string): void {
    const timestampUtc = new Date(this.#options.clock.now()).toISOString();
    this.answer(leaf, { kind: "twin-refused", rid, status, reason, timestampUtc });
  }

  /** Sends a committed desired change if the leaf listens; it stays noted as missed until the leaf shows that it is alive. */
  notify(leaf: Leaf, notice: DesiredNotice): void {
    const { leaves, clock, log, metrics } = this.#options;
    if (!leaves.isReady(leaf, "desired")) return;
    this.tell(leaf, { kind: "desired", ...notice }).then(
      (result) => {
        if (result === "offline") return;
        metrics.count("desired_notices_total");
        leaf.record = { ...leaf.record, tracks: trackDelivered(leaf.record.tracks, notice.version, clock.now()) };
        leaf.toldVersion = notice.version;
      },
      (error: unknown) =>
        log.error({ leafId: leaf.id, error: String(error) }, "a desired change could not be delivered"),
    );
  }

  /** A leaf that kept its session and listens again: what it missed, as one patch with the newest version. */
  catchUp(leaf: Leaf): void {
    const patch = catchUpPatch(leaf.record);
    if (!isEmpty(patch)) this.notify(leaf, { patch, version: leaf.record.desiredVersion });
  }

  /** Anything that the leaf sends after a notice shows that its connection took the notice. */
  heardFrom(leaf: Leaf): void {
    const { record } = leaf;
    if (leaf.toldVersion === undefined) return;
    if (record.missed !== undefined && leaf.toldVersion >= record.desiredVersion)
      leaf.record = { ...record, missed: undefined };
    leaf.toldVersion = undefined;
  }

  /** The whole twin from the cache; with it the leaf has seen everything. */
  answerGet(leaf: Leaf, rid: string): void {
    const { record } = leaf;
    this.answer(leaf, {
      kind: "twin",
      rid,
      desired: record.desired,
      // Every answer carries a version: a leaf without one of its own has the first.
      desiredVersion: Math.max(record.desiredVersion, 1),
      reported: record.reported,
      reportedVersion: Math.max(record.reportedVersion, 1),
    });
    leaf.record = {
      ...record,
      missed: undefined,
      tracks: trackDelivered(record.tracks, record.desiredVersion, this.#options.clock.now()),
    };
  }
}
