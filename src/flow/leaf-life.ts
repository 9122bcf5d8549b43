/** How a leaf ends and begins anew, by an operator's word [design section 4]. */
import { removedRecord, withMissed } from "../core/reconcile.ts";
import type { ReportedBudget } from "./budget.ts";
import type { CloudToDevice } from "./cloud-to-device.ts";
import type { Leaf, Leaves } from "./leaves.ts";
import type { Downstream } from "./ports.ts";
import type { ReportedPush } from "./reported-push.ts";
import type { TwinApply } from "./twin-apply.ts";

export interface LeafLifeOptions {
  readonly downstream: Downstream;
  readonly leaves: Leaves;
  readonly apply: TwinApply;
  readonly cloudToDevice: CloudToDevice;
  readonly push: ReportedPush;
  readonly budget: ReportedBudget;
}

export class LeafLife {
  readonly #options: LeafLifeOptions;

  constructor(options: LeafLifeOptions) {
    this.#options = options;
  }

  /**
   * Nulls the leaf's reported part upstream and forgets its cache and queue. The module cannot delete its desired properties: they
   * wait for {@link confirm}, so that a new device of that id does not get them unasked.
   */
  async remove(leaf: Leaf): Promise<void> {
    const { budget, cloudToDevice, downstream, leaves, push } = this.#options;
    await downstream.drop(leaf.id, "removed by command");
    await leaf.lane.run(async () => {
      if (leaf.record.removed) return;
      await leaves.save(leaf, removedRecord(leaf.record), cloudToDevice.forget(leaf.id));
      budget.set(leaf.id, {});
    });
    push.changed(leaf);
  }

  /** A removed leaf may have its desired properties: it reads them when it comes back, or is told if it never reads again. */
  async confirm(leaf: Leaf): Promise<void> {
    const { apply, downstream, leaves, push } = this.#options;
    const wasRemoved = await leaf.lane.run(async () => {
      const { record } = leaf;
      if (!record.removed) return false;
      const confirmed = await apply.firstRecord({ ...record, removed: false });
      const notice = { patch: confirmed.desired, version: confirmed.desiredVersion };
      await leaves.save(leaf, withMissed(record, confirmed, notice));
      apply.seen(confirmed);
      return true;
    });
    if (!wasRemoved) return;
    // What it reported before it was confirmed.
    push.changed(leaf);
    await downstream.drop(leaf.id, "confirmed: read your twin");
  }
}
