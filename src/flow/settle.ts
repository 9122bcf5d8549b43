/**
 * What a twin read says of a leaf's reported properties at the hub. Invariants: a push that is too fresh to show in the read still
 * counts; a value that the hub does not keep is not sent for ever.
 */
import type { LeafRecord } from "../core/leaf.ts";
import { diff, isJsonObject, ownValue } from "../core/merge-patch.ts";
import type { Json, JsonObject } from "../core/message.ts";
import { overlaid, withHollow } from "../core/pushed.ts";
import { settleRead } from "../core/reconcile.ts";
import { sameValue } from "../core/same-value.ts";
import { moduleView } from "../translate/pnp.ts";
import type { Leaf, Resends } from "./leaves.ts";
import type { Log, Metrics } from "./ports.ts";

export interface ReadContext {
  readonly fromCloud: boolean;
  /** Answered from edgeHub's store, as far as can be told: after a power cut that store may be behind what it once said. */
  readonly mayBeOld: boolean;
  readonly startedMs: number;
}

/** A value that the hub shows otherwise so often after it took it is not sent for ever. */
const MAX_RESENDS = 5;

/** The read becomes what the hub has. `slice`: its part that is the leaf's, in module words. Call inside the leaf's lane. */
export function settle(
  leaf: Leaf,
  record: LeafRecord,
  slice: JsonObject,
  context: ReadContext,
  report: { readonly metrics: Metrics; readonly log: Log },
): LeafRecord {
  const view = moduleView(record, record.reported);
  const shown = withHollow(slice, record.accepted);
  const hub = overlaid(shown, leaf.pushed, context.startedMs);
  const settled = settleRead(record, shown, view, context.fromCloud, hub);
  // What an old store shows tells nothing of what the cloud makes of a value.
  if (context.mayBeOld) return settled;
  const { resends, given } = judgeResends(leaf, record.accepted, hub, view);
  leaf.resends = resends;
  if (given.length === 0) return settled;
  for (const path of given) {
    report.metrics.count("reported_quarantined_total");
    report.log.error(
      { leafId: leaf.id, path },
      "a reported property does not stay at the hub, it is not sent again until it changes",
    );
  }
  const reasons = given.map((path) => [path, "the hub takes it and keeps showing another value"]);
  return { ...settled, quarantined: { ...settled.quarantined, ...Object.fromEntries(reasons) } };
}

/** Which properties edgeHub took and the read shows otherwise, and which of them were sent often enough. */
function judgeResends(
  leaf: Leaf,
  taken: JsonObject,
  hub: JsonObject,
  view: JsonObject,
): { readonly resends: ReadonlyMap<string, Resends>; readonly given: readonly string[] } {
  const resends = new Map<string, Resends>();
  const given: string[] = [];
  for (const [component, properties] of Object.entries(diff(hub, view, sameValue))) {
    for (const property of isJsonObject(properties) ? Object.keys(properties) : []) {
      const value = inside(taken, component, property);
      if (value === undefined || !sameValue(value, inside(view, component, property) ?? null)) continue;
      const path = `${component}/${property}`;
      const last = leaf.resends.get(path);
      const count = last !== undefined && sameValue(last.value, value) ? last.count + 1 : 1;
      if (count > MAX_RESENDS) given.push(path);
      else resends.set(path, { value, count });
    }
  }
  return { resends, given };
}

function inside(section: JsonObject, component: string, property: string): Json | undefined {
  const properties = ownValue(section, component);
  return isJsonObject(properties) ? ownValue(properties, property) : undefined;
}
