/**
 * What a twin read or a desired patch of the module means for each leaf: computed per leaf by core/reconcile.ts, written in one
 * commit, told to the leaves afterwards. Invariant: the module's desired document and the leaves' records never come apart.
 */

import { GATEWAY_COMPONENT } from "../core/component-name.ts";
import type { LeafRecord } from "../core/leaf.ts";
import { applyPatch, deepEqual, isEmpty, isJsonObject } from "../core/merge-patch.ts";
import type { Json, JsonObject, Subscription } from "../core/message.ts";
import { clampAcknowledgements } from "../core/property-ack.ts";
import { NOTHING_PUSHED, withoutTraces } from "../core/pushed.ts";
import {
  adoptReported,
  applyDesiredPatch,
  type DesiredNotice,
  judgeRead,
  type ReadJudgement,
  reconcileDesired,
  withLostSession,
  withMissed,
} from "../core/reconcile.ts";
import { sameValue } from "../core/same-value.ts";
import {
  leafDesired,
  leafDesiredPatch,
  leafReported,
  learnComponents,
  moduleSlice,
  moduleView,
  unknownComponents,
} from "../translate/pnp.ts";
import type { ReportedBudget } from "./budget.ts";
import type { Downlink } from "./downlink.ts";
import { allTogether } from "./lane.ts";
import type { Leaf, Leaves } from "./leaves.ts";
import type { Clock, Downstream, Log, Metrics, Store, Write } from "./ports.ts";
import { type ReadContext, settle } from "./settle.ts";
import type { SilentRefusals } from "./silent-refusals.ts";

/** The module's desired section as last synchronised. */
export interface ModuleDesired {
  readonly desired: JsonObject;
  readonly version: number;
}

/**
 * Judges what is desired of the gateway itself. `memory` is written in the commit that brings it, as `last-good-config`, and `apply`
 * is called afterwards.
 */
export type GatewayDesired = (
  section: JsonObject,
  version: number,
) => { readonly memory: Json; readonly apply: () => void };

export interface TwinApplyOptions {
  readonly leaves: Leaves;
  readonly downlink: Downlink;
  readonly downstream: Downstream;
  readonly store: Store;
  readonly budget: ReportedBudget;
  readonly refusals: SilentRefusals;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly maxComponentsPerLeaf: () => number;
  readonly sessionOf: (record: LeafRecord) => readonly Subscription[];
  readonly onGatewayDesired: GatewayDesired;
  /** What the hub has of the gateway's own reported properties. */
  readonly onGatewayReported: (section: JsonObject) => void;
}

interface Change {
  readonly record: LeafRecord;
  readonly notice: DesiredNotice | undefined;
  readonly drop: boolean;
}

export class TwinApply {
  readonly #options: TwinApplyOptions;
  #known: ModuleDesired | undefined;
  /** While a change is being written: settles, and never rejects, when `#known` is what the disk has. */
  #saving: Promise<void> | undefined;
  /** Components of the module's reported section whose leaf has not been seen (since the disk was lost). */
  #unseen: JsonObject = {};

  constructor(options: TwinApplyOptions) {
    this.#options = options;
  }

  async load(): Promise<void> {
    const { budget, leaves, store } = this.#options;
    for (const leaf of leaves.all()) budget.set(leaf.id, moduleView(leaf.record, leaf.record.reported));
    const known = await store.meta("module-desired");
    if (known === undefined || !isJsonObject(known)) return;
    const { desired, version } = known;
    if (isJsonObject(desired) && typeof version === "number") this.#known = { desired, version };
    const unseen = await store.meta("unseen-reported");
    // A leaf that was seen since owns its part.
    if (isJsonObject(unseen)) this.#setUnseen(this.#unseenIn(unseen));
  }

  get known(): ModuleDesired | undefined {
    return this.#known;
  }

  /**
   * The state of a leaf that connects for the first time, as far as the gateway knows it. Call inside the leaf's lane and save it
   * there, and tell {@link seen}: a change of the twin that is being written did not know of this leaf, later ones wait for its lane.
   */
  async firstRecord(record: LeafRecord): Promise<LeafRecord> {
    while (this.#saving !== undefined) await this.#saving;
    if (this.#known === undefined) return record;
    const named = this.#learn(record, [this.#known.desired, this.#unseen]);
    const slice = moduleSlice(named, this.#unseen);
    const adopted = isEmpty(slice) ? named : adoptReported({ ...named, accepted: slice }, leafReported(named, slice));
    const desired = leafDesired(named, this.#known.desired);
    return applyDesiredPatch(
      { ...adopted, desiredVersion: this.#known.version },
      desired,
      this.#known.version,
      this.#options.clock.now(),
    ).record;
  }

  /** A first record was stored: what the leaf had told the hub before is its own again. */
  seen(record: LeafRecord): void {
    this.#setUnseen(withoutKeys(this.#unseen, Object.keys(moduleSlice(record, this.#unseen))));
    this.#options.budget.set(record.leafId, moduleView(record, record.reported));
  }

  /** Takes a read of the whole module twin in. Resolves to the leaves that owe something; undefined: the read said nothing. */
  async read(
    desired: JsonObject,
    version: number | undefined,
    reported: JsonObject,
    context: ReadContext,
  ): Promise<readonly Leaf[] | undefined> {
    const judgement = this.#judge(version, context);
    if (judgement === undefined || version === undefined) return undefined;
    if (judgement === "recreated")
      this.#options.log.warn({ version, known: this.#known?.version }, "the module twin was made anew");
    const leaves = await allTogether(
      () => new Set(this.#options.leaves.all()),
      (those) =>
        this.#commit(
          desired,
          version,
          those,
          (leaf) => this.#reconciled(leaf, desired, version, reported, judgement, context),
          judgement !== "same",
          this.#unseenIn(reported),
        ),
    );
    const { budget } = this.#options;
    budget.setOther("strangers", strangersIn(reported, leaves));
    for (const leaf of leaves) {
      budget.set(leaf.id, moduleView(leaf.record, leaf.record.reported));
      if (!context.mayBeOld) leaf.pushed = withoutTraces(leaf.pushed, context.startedMs);
    }
    const own = reported[GATEWAY_COMPONENT];
    this.#options.onGatewayReported(isJsonObject(own) ? own : {});
    return leaves;
  }

  /** undefined: it says nothing that could be relied on. */
  #judge(version: number | undefined, context: ReadContext): Exclude<ReadJudgement, "unknown"> | undefined {
    const judged = judgeRead(this.#known?.version, version);
    if (judged === "unknown" || (judged === "recreated" && context.mayBeOld)) return undefined;
    return judged === "same" && context.hasGap ? "advanced" : judged;
  }

  /** Takes one desired patch in, whose version follows the known one. */
  async patch(patch: JsonObject, version: number): Promise<void> {
    if (this.#known === undefined) return;
    const desired = applyPatch(this.#known.desired, patch);
    const isOwn = Object.hasOwn(patch, GATEWAY_COMPONENT);
    await allTogether(
      () => this.#ownersOf(Object.keys(patch)),
      (leaves) => this.#commit(desired, version, leaves, (leaf) => this.#patched(leaf, patch, version), isOwn),
    );
  }

  #patched({ record }: Leaf, patch: JsonObject, version: number): Change {
    if (record.removed) return { record, notice: undefined, drop: false };
    const named = this.#learn(record, [patch]);
    const own = leafDesiredPatch(named, patch, named.desired);
    return { ...applyDesiredPatch(named, own, version, this.#options.clock.now()), drop: false };
  }

  #unseenIn(reported: JsonObject): JsonObject {
    const seen = Object.keys(reported).filter((name) => this.#options.leaves.ownerOf(name) !== undefined);
    return withoutKeys(reported, [...seen, GATEWAY_COMPONENT]);
  }

  /** It takes its part of the room that all leaves share. */
  #setUnseen(unseen: JsonObject): void {
    this.#unseen = unseen;
    this.#options.budget.setOther("strangers", unseen);
  }

  #ownersOf(components: readonly string[]): ReadonlySet<Leaf> {
    const owners = components.map((component) => this.#options.leaves.ownerOf(component));
    return new Set(owners.filter((owner) => owner !== undefined));
  }

  /** All that changes, in one commit; then, and only then, the leaves hear of it. `isOwn`: the gateway's own may have been written. */
  async #commit(
    desired: JsonObject,
    version: number,
    leaves: readonly Leaf[],
    change: (leaf: Leaf) => Change,
    isOwn: boolean,
    unseen = this.#unseen,
  ): Promise<void> {
    const { leaves: table } = this.#options;
    const changes = new Map(leaves.map((leaf) => [leaf, change(leaf)]));
    const records = new Map<Leaf, LeafRecord>();
    for (const [leaf, { record, notice }] of changes) records.set(leaf, withMissed(leaf.record, record, notice));
    const isNews = this.#known?.version !== version || !deepEqual(this.#known.desired, desired);
    const next = isNews || this.#known === undefined ? { desired, version } : this.#known;
    const own = this.#ownNews(desired, version, isOwn);
    const also: Write[] = isNews ? [{ kind: "meta", key: "module-desired", value: { desired, version } }] : [];
    if (own !== undefined) also.push({ kind: "meta", key: "last-good-config", value: own.memory });
    if (!deepEqual(unseen, this.#unseen)) also.push({ kind: "meta", key: "unseen-reported", value: unseen });
    const saved = Promise.withResolvers<void>();
    this.#saving = saved.promise;
    try {
      await table.saveAll(records, also);
    } finally {
      this.#saving = undefined;
      saved.resolve();
    }
    this.#known = next;
    this.#setUnseen(unseen);
    for (const [leaf, change] of changes) this.#tell(leaf, change);
    own?.apply();
  }

  /**
   * Also when nothing differs: who wrote a value once more, or another one and the old one again, waits for an acknowledgement of the
   * newer version, as from a leaf [design section 6].
   */
  #ownNews(desired: JsonObject, version: number, mayBeWritten: boolean): ReturnType<GatewayDesired> | undefined {
    const own = desired[GATEWAY_COMPONENT];
    const section = isJsonObject(own) ? own : {};
    const known = this.#known;
    const isSame = known !== undefined && sameValue(own ?? null, known.desired[GATEWAY_COMPONENT] ?? null);
    if (isSame && (!mayBeWritten || isEmpty(section))) return undefined;
    return this.#options.onGatewayDesired(section, version);
  }

  #tell(leaf: Leaf, { drop, notice }: Change): void {
    const { downlink, downstream, log } = this.#options;
    if (drop) {
      downstream
        .drop(leaf.id, "the module twin, or the leaf's session, was made anew")
        .catch((error: unknown) => log.error({ leafId: leaf.id, error: String(error) }, "a leaf could not be dropped"));
    } else if (notice !== undefined) {
      downlink.notify(leaf, notice);
    }
  }

  #reconciled(
    leaf: Leaf,
    desired: JsonObject,
    version: number,
    reported: JsonObject,
    judgement: Exclude<ReadJudgement, "unknown">,
    context: ReadContext,
  ): Change {
    if (leaf.record.removed) {
      return {
        record: { ...leaf.record, accepted: moduleSlice(leaf.record, reported) },
        notice: undefined,
        drop: false,
      };
    }
    const before = this.#learn(leaf.record, [desired, reported]);
    const slice = moduleSlice(before, reported);
    const isFirstSight = before.desiredVersion === 0 && !isEmpty(slice);
    const based = isFirstSight
      ? adoptReported(before, applyPatch(leafReported(before, slice), before.reported))
      : before;
    const outcome = reconcileDesired(based, leafDesired(based, desired), version, judgement, this.#options.clock.now());
    if (judgement === "recreated") leaf.pushed = NOTHING_PUSHED;
    const components = new Set(Object.keys(outcome.record.components));
    const clamped = clampAcknowledgements(outcome.record.reported, components, version);
    const record = clamped === outcome.record.reported ? outcome.record : { ...outcome.record, reported: clamped };
    const settled = settle(leaf, record, slice, context, this.#options.refusals);
    if (!isFirstSight || !hasLostSession(leaf)) return { ...outcome, record: settled };
    // It comes back to the session that it believes in.
    return {
      record: withLostSession(settled, this.#options.sessionOf(settled)),
      notice: outcome.notice,
      drop: leaf.connected,
    };
  }

  #learn(record: LeafRecord, sections: readonly JsonObject[]): LeafRecord {
    const names = sections.flatMap((section) => unknownComponents(record, section));
    if (names.length === 0) return record;
    const { naming } = learnComponents(
      record,
      names,
      this.#options.leaves.sha256Hex,
      this.#options.maxComponentsPerLeaf(),
    );
    return { ...record, components: naming.components };
  }
}

/** What of the module's reported section is nobody's who is known; a leaf's hashed component may be among it. */
function strangersIn(reported: JsonObject, leaves: readonly Leaf[]): JsonObject {
  const owned = leaves.flatMap(({ record }) => [record.component, ...Object.values(record.components)]);
  return withoutKeys(reported, [GATEWAY_COMPONENT, ...owned]);
}

function withoutKeys(section: JsonObject, names: readonly string[]): JsonObject {
  const gone = new Set(names);
  return Object.fromEntries(Object.entries(section).filter(([name]) => !gone.has(name)));
}

/** A program that starts subscribes itself; one that goes on with its session may do so in part (Java: to answers), or never again. */
function hasLostSession({ channels, isClean }: Leaf): boolean {
  return !isClean && !channels.has("desired");
}
