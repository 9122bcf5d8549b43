/**
 * Reported properties that edgeHub takes with 204 and the cloud refuses. Nobody is told, and edgeHub merges everything later into the
 * refused patch and sends it again for ever, so one bad property stops all leaves' [iothub-mqtt.md 12.2]. What a read from the cloud
 * keeps not showing is suspect: half of it is taken back with nulls, until the rest passes; then it is tried again, half by half,
 * until the guilty property stands alone. Where the null went through and something shows after the next try, it is what was sent, in
 * a spelling that we do not know: it stays. Invariants: a property is judged by reads that must show it; none is resent for ever.
 */
import type { LeafRecord } from "../core/leaf.ts";
import { diff, isJsonObject } from "../core/merge-patch.ts";
import type { Json, JsonObject } from "../core/message.ts";
import { formatModulePath, parseModulePath, valueAt, withPaths } from "../core/module-path.ts";
import { HELD_BACK, heldBackPaths, REFUSED_SILENTLY, RESPELLED } from "../core/reconcile.ts";
import { sameValue } from "../core/same-value.ts";
import { moduleView } from "../translate/pnp.ts";
import type { Leaf, Leaves } from "./leaves.ts";
import type { Clock, Log, Metrics } from "./ports.ts";

/** A push may fail for other reasons, and goes with the next patch then. */
const MAX_RESENDS = 5;
/** A hub that takes no changes at all for a while (its quota is used up) looks the same, so a quarantine is not for ever. */
const RETRY_AFTER_MS = 24 * 3_600_000;

export interface SilentRefusalsOptions {
  readonly leaves: Leaves;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Log;
  /** The leaf owes the hub something. */
  readonly changed: (leaf: Leaf) => void;
  /** Asks for a read when edgeHub must have pushed what goes up now. */
  readonly compareLater: () => void;
}

interface Suspect {
  readonly leaf: Leaf;
  readonly path: string;
  readonly value: Json;
  /** Reads in a row that did not show it. */
  readonly unshown: number;
  /** It was taken back before and is on its last try; "from-nothing": the cloud had nothing there when that began. */
  readonly tried: "no" | "from-something" | "from-nothing";
}

/** One leaf's part of the module's reported section. */
export interface Comparison {
  /** As edgeHub has taken it. */
  readonly taken: JsonObject;
  /** As the read shows it. */
  readonly shown: JsonObject;
  /** The same with pushes that are too fresh to show. */
  readonly hub: JsonObject;
  /** As it is to be, without what is held back. */
  readonly view: JsonObject;
}

export class SilentRefusals {
  readonly #options: SilentRefusalsOptions;
  readonly #suspects = new Map<string, Suspect>();
  /** What the last read from the cloud showed. */
  readonly #shown = new WeakMap<Leaf, JsonObject>();
  /** Quarantined paths -> since when, as far as this life of the process knows. */
  readonly #refusedMs = new Map<string, number>();

  constructor(options: SilentRefusalsOptions) {
    this.#options = options;
  }

  /** Call for each leaf with what a read shows of it. */
  compared(leaf: Leaf, { hub, shown, taken, view }: Comparison): void {
    this.#shown.set(leaf, shown);
    const notShown = new Set(missingPaths(shown, view));
    for (const [path, suspect] of this.#suspects)
      if (suspect.leaf === leaf && !notShown.has(path)) this.#suspects.delete(path);
    // What is too fresh to show is not missed yet.
    for (const path of missingPaths(hub, view)) {
      const value = valueAt(taken, parseModulePath(path));
      if (leaf.record.quarantined[path] === RESPELLED && this.#showsAnything(leaf, path)) continue;
      if (value === undefined || !sameValue(value, valueAt(view, parseModulePath(path)) ?? null)) continue;
      const before = this.#suspects.get(path);
      const isSame = before !== undefined && sameValue(before.value, value);
      const next: Suspect = isSame
        ? { ...before, unshown: before.unshown + 1 }
        : { leaf, path, value, unshown: 1, tried: "no" };
      this.#suspects.set(path, next);
    }
  }

  #showsAnything(leaf: Leaf, path: string): boolean {
    return valueAt(this.#shown.get(leaf) ?? {}, parseModulePath(path)) !== undefined;
  }

  /** What follows from a read; call when it was taken in. */
  async act(): Promise<void> {
    const suspects = [...this.#suspects.values()];
    const over = suspects.filter(({ unshown }) => unshown > MAX_RESENDS);
    const held = this.#toTry();
    const [first] = over;
    if (first !== undefined && suspects.length === 1) await this.#judge(first);
    else if (first !== undefined)
      for (const suspect of over.slice(0, Math.ceil(over.length / 2))) await this.#takeBack(suspect, HELD_BACK);
    else if (suspects.length === 0)
      for (const [leaf, path] of held.slice(0, Math.ceil(held.length / 2))) await this.#tryAgain(leaf, path);
    if (suspects.length > 0 || held.length > 0) this.#options.compareLater();
  }

  /** It stands alone. A null tells whether the cloud refuses it, or keeps it otherwise. */
  async #judge(suspect: Suspect): Promise<void> {
    if (suspect.tried === "no") await this.#takeBack(suspect, HELD_BACK);
    else if (suspect.tried === "from-nothing" && this.#showsAnything(suspect.leaf, suspect.path))
      await this.#leave(suspect);
    else await this.#takeBack(suspect, REFUSED_SILENTLY);
  }

  async #leave({ leaf, path }: Suspect): Promise<void> {
    const { leaves, log, metrics } = this.#options;
    this.#suspects.delete(path);
    metrics.count("reported_quarantined_total");
    log.warn(
      { leafId: leaf.id, path, reason: RESPELLED },
      "the hub spells a reported property otherwise, it is not sent again until it changes",
    );
    await leaf.lane.run(() =>
      leaves.save(leaf, { ...leaf.record, quarantined: { ...leaf.record.quarantined, [path]: RESPELLED } }),
    );
  }

  /** What is held back, and what was quarantined long ago. */
  #toTry(): (readonly [Leaf, string])[] {
    const nowMs = this.#options.clock.steady();
    const isDue = (leaf: Leaf, path: string): boolean => {
      if (leaf.record.quarantined[path] === HELD_BACK) return true;
      const sinceMs = this.#refusedMs.get(path) ?? nowMs;
      this.#refusedMs.set(path, sinceMs);
      return nowMs - sinceMs >= RETRY_AFTER_MS;
    };
    return [...this.#options.leaves.all()].flatMap((leaf) =>
      heldBackPaths(leaf.record.quarantined)
        .filter((path) => isDue(leaf, path))
        .map((path) => [leaf, path] as const),
    );
  }

  async #takeBack({ leaf, path }: Suspect, reason: string): Promise<void> {
    const { changed, leaves, log, metrics } = this.#options;
    this.#suspects.delete(path);
    if (reason === REFUSED_SILENTLY) {
      metrics.count("reported_quarantined_total");
      log.error(
        { leafId: leaf.id, path, reason },
        "a reported property does not stay at the hub, it is not sent again until it changes",
      );
    } else
      log.warn(
        { leafId: leaf.id, path },
        "reported properties do not reach the hub, some are held back to find out why",
      );
    await leaf.lane.run(() => {
      const { record } = leaf;
      // edgeHub still has it and must be told a null, whatever the cloud shows.
      const accepted = withPaths(record.accepted, moduleView(record, record.reported), [path]);
      return leaves.save(leaf, { ...record, accepted, quarantined: { ...record.quarantined, [path]: reason } });
    });
    changed(leaf);
  }

  async #tryAgain(leaf: Leaf, path: string): Promise<void> {
    const { changed, leaves } = this.#options;
    await leaf.lane.run(() => leaves.save(leaf, released(leaf.record, path)));
    this.#refusedMs.delete(path);
    // It was resent often enough: not to be seen once more condemns it.
    const value = valueAt(moduleView(leaf.record, leaf.record.reported), parseModulePath(path));
    const tried = this.#showsAnything(leaf, path) ? "from-something" : "from-nothing";
    if (value !== undefined) this.#suspects.set(path, { leaf, path, value, unshown: MAX_RESENDS, tried });
    changed(leaf);
  }
}

function released(record: LeafRecord, path: string): LeafRecord {
  return {
    ...record,
    quarantined: Object.fromEntries(Object.entries(record.quarantined).filter(([at]) => at !== path)),
  };
}

function missingPaths(shown: JsonObject, view: JsonObject): string[] {
  return Object.entries(diff(shown, view, sameValue)).flatMap(([component, properties]) =>
    isJsonObject(properties) ? Object.keys(properties).map((property) => formatModulePath([component, property])) : [],
  );
}
