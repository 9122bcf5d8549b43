/**
 * From the twin caches to the leaves: desired changes, twin answers, and what a leaf missed while it was away.
 * Invariant: what a leaf hears was committed before, and in the order of the commits.
 */

import { type LeafRecord, type MissedDesired, shownReportedVersion } from "../core/leaf.ts";
import { isEmpty } from "../core/merge-patch.ts";
import type { LeafNotice } from "../core/message.ts";
import { trackDelivered } from "../core/property-ack.ts";
import { catchUpPatch, type DesiredNotice, withShown } from "../core/reconcile.ts";
import type { Dialect } from "../translate/dialect.ts";
import type { Leaf, Leaves } from "./leaves.ts";
import type { Clock, Delivered, Downstream, Log, Metrics } from "./ports.ts";

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
  tell(leaf: Leaf, notice: LeafNotice): Promise<Delivered> {
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
    const { leaves, metrics } = this.#options;
    if (leaf.record.removed || !leaves.isReady(leaf, "desired")) return;
    metrics.count("desired_notices_total");
    this.#deliver(leaf, { kind: "desired", ...notice }, notice.version);
  }

  /**
   * A leaf that kept its session and listens again: what it missed, as one patch with the newest version. Not what this very
   * connection was told already, as the answer to a GET that came before the SUBSCRIBE.
   */
  catchUp(leaf: Leaf): void {
    if (leaf.told !== undefined && leaf.told === leaf.record.missed) return;
    const patch = catchUpPatch(leaf.record);
    if (!isEmpty(patch)) this.notify(leaf, { patch, version: leaf.record.desiredVersion });
  }

  /** Anything that arrives from the leaf, a ping too, after a notice was written shows that its connection took it; `heard` is that notice. */
  heardFrom(leaf: Leaf, heard: MissedDesired | undefined): void {
    if (heard === undefined) return;
    // What was noted after that notice (perhaps in another life of the twin, with a lower version) is still to be told.
    if (heard === leaf.record.missed) leaf.record = { ...leaf.record, missed: undefined };
    if (heard === leaf.told) leaf.told = undefined;
  }

  /** The whole twin from the cache; once the leaf is heard from again, it has seen everything. */
  answerGet(leaf: Leaf, rid: string): void {
    const { desired, desiredVersion, reported } = leaf.record;
    // Every section of a hub's answer carries a version, from 1.
    const versions = {
      desiredVersion: Math.max(desiredVersion, 1),
      reportedVersion: shownReportedVersion(leaf.record),
    };
    this.#deliver(leaf, { kind: "twin", rid, desired, reported, ...versions }, desiredVersion);
  }

  /** A notice that tells the leaf of its desired properties; written is not heard, so what it says stays noted for now. */
  #deliver(leaf: Leaf, notice: LeafNotice, version: number): void {
    const { clock, log } = this.#options;
    // Before it is written: a connection that breaks meanwhile may have brought it all the same.
    leaf.record = withShown(leaf.record);
    const { missed } = leaf.record;
    this.tell(leaf, notice).then(
      (result) => {
        if (result !== "delivered") return;
        leaf.record = { ...leaf.record, tracks: trackDelivered(leaf.record.tracks, version, clock.now()) };
        leaf.told = missed;
      },
      (error: unknown) =>
        log.error({ leafId: leaf.id, error: String(error) }, "desired properties could not be delivered"),
    );
  }
}
