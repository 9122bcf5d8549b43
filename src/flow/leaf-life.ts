/** How a leaf ends and begins anew, by an operator's word [design section 4]. */
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

  /** Nulls the leaf's reported part upstream and forgets its cache and queue. Desired properties of it wait for {@link confirm}. */
  async remove(leaf: Leaf): Promise<void> {
    const { budget, cloudToDevice, downstream, leaves, push } = this.#options;
    await downstream.drop(leaf.id, "removed by command");
    await leaf.lane.run(() =>
      leaves.save(
        leaf,
        {
          ...leaf.record,
          removed: true,
          desired: {},
          reported: {},
          reportedVersion: 0,
          tracks: {},
          quarantined: {},
          missed: undefined,
          subscriptions: [],
        },
        cloudToDevice.forget(leaf.id),
      ),
    );
    budget.set(leaf.id, {});
    push.changed(leaf);
  }

  /** A removed leaf may have its desired properties again; it reads its twin because its connection is closed. */
  async confirm(leaf: Leaf): Promise<void> {
    const { apply, downstream, leaves } = this.#options;
    await leaf.lane.run(async () => {
      const record = await apply.firstRecord({ ...leaf.record, removed: false, accepted: {} });
      await leaves.save(leaf, record);
      apply.seen(record);
    });
    await downstream.drop(leaf.id, "confirmed: read your twin");
  }
}
