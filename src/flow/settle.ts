/**
 * What a twin read says of a leaf's reported properties at the hub. Invariants: a push that is too fresh to show in the read still
 * counts; only what the cloud shows is evidence of what it does not take.
 */
import type { LeafRecord } from "../core/leaf.ts";
import type { JsonObject } from "../core/message.ts";
import { parseModulePath, valueAt, withPaths } from "../core/module-path.ts";
import { overlaid, withHollow } from "../core/pushed.ts";
import { heldBackPaths, respelledPaths, settleRead } from "../core/reconcile.ts";
import { moduleView } from "../translate/pnp.ts";
import type { Leaf } from "./leaves.ts";
import type { SilentRefusals } from "./silent-refusals.ts";

export interface ReadContext {
  readonly fromCloud: boolean;
  /** Answered from edgeHub's store, as far as can be told: after a power cut that store may be behind what it once said. */
  readonly mayBeOld: boolean;
  readonly startedMs: number;
  /** Patches of versions that are known may have hidden what was written: as if those versions had been missed. */
  readonly hasGap: boolean;
}

/** The read becomes what the hub has. `slice`: its part that is the leaf's, in module words. Call inside the leaf's lane. */
export function settle(
  leaf: Leaf,
  record: LeafRecord,
  slice: JsonObject,
  context: ReadContext,
  refusals: SilentRefusals,
): LeafRecord {
  const view = moduleView(record, record.reported);
  const shown = withHollow(slice, record.accepted);
  const heldBack = heldBackPaths(record.quarantined);
  // edgeHub has taken a null for these: what the cloud makes of that is not fought over.
  const nulled = heldBack.filter((path) => valueAt(record.accepted, parseModulePath(path)) === undefined);
  const hub = withPaths(overlaid(shown, leaf.pushed, context.startedMs), {}, nulled);
  // What an old store shows tells nothing of what the cloud makes of a value.
  if (!context.mayBeOld) {
    const sent = withPaths(view, {}, heldBack);
    refusals.compared(leaf, { taken: record.accepted, shown, hub, view: sent });
  }
  const expected = withPaths(view, shown, respelledPaths(record.quarantined));
  return settleRead(record, shown, expected, context.fromCloud, hub);
}
