/**
 * Takes a leaf's reported patch: the hub's rules, the gateway's budget, one commit, the answer, and the push to the hub.
 * Invariant: a patch answered 204 is on disk, and nothing in it can be refused by the hub later for its form.
 */
import { type LeafRecord, shownReportedVersion } from "../core/leaf.ts";
import { applyPatch, diff, isEmpty, isJsonObject } from "../core/merge-patch.ts";
import type { JsonObject, LeafRequest } from "../core/message.ts";
import { parseModulePath } from "../core/module-path.ts";
import { clampAcknowledgements, isAcknowledgement, trackReported } from "../core/property-ack.ts";
import { isBeyondAnySection, patchViolations } from "../core/twin-limits.ts";
import { componentsIn, learnComponents, moduleView } from "../translate/pnp.ts";
import type { ReportedBudget } from "./budget.ts";
import type { Downlink } from "./downlink.ts";
import type { Leaf, Leaves } from "./leaves.ts";
import type { ModelGuard } from "./model-guard.ts";
import type { Clock, Log, Metrics } from "./ports.ts";

export type ReportedRequest = Extract<LeafRequest, { kind: "reported" }>;

export interface ReportedIntakeOptions {
  readonly leaves: Leaves;
  readonly downlink: Downlink;
  readonly budget: ReportedBudget;
  /** The module twin's version; undefined while the gateway never synchronised. */
  readonly knownVersion: () => number | undefined;
  /** The leaf owes the hub something. */
  readonly changed: (leaf: Leaf) => void;
  readonly maxComponentsPerLeaf: () => number;
  readonly guard: ModelGuard;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Log;
}

interface Refusal {
  readonly status: number;
  readonly reason: string;
}

export class ReportedIntake {
  readonly #options: ReportedIntakeOptions;

  constructor(options: ReportedIntakeOptions) {
    this.#options = options;
  }

  /** Call inside the leaf's lane; resolves when the leaf has its answer on the way. Never rejects. */
  async take(leaf: Leaf, request: ReportedRequest): Promise<void> {
    const { budget, downlink, leaves, log, metrics } = this.#options;
    metrics.count("reported_patches_total");
    const next = this.#judge(leaf, request);
    if ("status" in next) {
      this.#refuse(leaf, request.rid, next);
      return;
    }
    if (next !== leaf.record || leaf.isUnsure) {
      const viewBefore = moduleView(leaf.record, leaf.record.reported);
      try {
        await leaves.save(leaf, next);
      } catch (error) {
        budget.set(leaf.id, viewBefore);
        log.error({ leafId: leaf.id, error: String(error) }, "a reported patch could not be stored");
        this.#refuse(leaf, request.rid, { status: 500, reason: "the gateway could not store the patch" });
        return;
      }
      this.#options.changed(leaf);
    }
    downlink.answer(leaf, {
      kind: "reported-accepted",
      rid: request.rid,
      version: shownReportedVersion(leaf.record),
    });
  }

  /** What the leaf has reported became less without its doing; call inside its lane, once that is stored. */
  shrunk(leaf: Leaf): void {
    this.#options.budget.set(leaf.id, moduleView(leaf.record, leaf.record.reported));
    this.#options.changed(leaf);
  }

  /** The record with the patch in it, the same record when it changes nothing, or why it is refused. */
  #judge(leaf: Leaf, { patch, ifVersion }: ReportedRequest): LeafRecord | Refusal {
    const { record } = leaf;
    const shown = shownReportedVersion(record);
    if (ifVersion !== undefined && ifVersion !== shown) {
      return { status: 412, reason: `version is ${shown}, not ${ifVersion}` };
    }
    if (isBeyondAnySection(patch)) return { status: 403, reason: "the patch alone is larger than a section may be" };
    const violations = this.#violations(record, patch);
    if (violations.length > 0) return { status: 400, reason: violations.slice(0, 3).join("; ") };
    const { leaves, maxComponentsPerLeaf } = this.#options;
    const { naming, refused } = learnComponents(record, componentsIn(patch), leaves.sha256Hex, maxComponentsPerLeaf());
    if (refused.length > 0)
      return { status: 400, reason: `more than ${maxComponentsPerLeaf()} components: ${refused[0]}` };
    return this.#change(leaf, { ...record, components: naming.components }, patch);
  }

  #change(leaf: Leaf, record: LeafRecord, patch: JsonObject): LeafRecord | Refusal {
    const { budget, clock, guard, knownVersion } = this.#options;
    const components = new Set(Object.keys(record.components));
    const version = knownVersion();
    const said = version === undefined ? patch : clampAcknowledgements(patch, components, version);
    const reported = applyPatch(record.reported, said);
    const tracks = trackReported(record.tracks, said, components, clock.now());
    if (reported === record.reported && components.size === Object.keys(leaf.record.components).length) {
      // An equal report costs neither the disk nor the hub anything; SDKs send many.
      leaf.record = { ...leaf.record, tracks };
      return leaf.record;
    }
    const disagreement = guard.reported(record, said, reported);
    if (disagreement !== undefined) return { status: 400, reason: disagreement };
    const view = moduleView(record, reported);
    const room = budget.take(leaf.id, view, isOnlyAcknowledgements(said));
    if (room.kind === "refused") return { status: 403, reason: room.reason };
    const quarantined = stillQuarantined(record, diff(moduleView(record, record.reported), view));
    return { ...record, reported, reportedVersion: record.reportedVersion + 1, tracks, quarantined };
  }

  /** A leaf has one level less than IoT Hub's 10: its default component is a level of its own upstream. */
  #violations(record: LeafRecord, patch: JsonObject): readonly string[] {
    const marked = new Set([...componentsIn(patch), ...Object.keys(record.components)]);
    const inComponents = Object.fromEntries(
      Object.entries(patch).filter(([key, value]) => marked.has(key) && isJsonObject(value)),
    );
    const inRoot = Object.fromEntries(Object.entries(patch).filter(([key]) => !Object.hasOwn(inComponents, key)));
    return [...patchViolations(inRoot, { maxDepth: 9 }), ...patchViolations(inComponents, { maxDepth: 10 })];
  }

  #refuse(leaf: Leaf, rid: string, { status, reason }: Refusal): void {
    const { downlink, log, metrics } = this.#options;
    metrics.count("reported_refused_total", { status: String(status) });
    log.warn({ leafId: leaf.id, reason: String(status), detail: reason }, "a reported patch was refused");
    downlink.refuse(leaf, rid, status, reason);
  }
}

/** A value that the hub refused is tried again when it changes. */
function stillQuarantined(record: LeafRecord, changes: JsonObject): Readonly<Record<string, string>> {
  if (isEmpty(record.quarantined)) return record.quarantined;
  return Object.fromEntries(
    Object.entries(record.quarantined).filter(([path]) => {
      const [component, property] = parseModulePath(path);
      const change = Object.hasOwn(changes, component) ? changes[component] : undefined;
      if (change === undefined) return true;
      return isJsonObject(change) && property !== undefined && !Object.hasOwn(change, property);
    }),
  );
}

function isOnlyAcknowledgements(patch: JsonObject): boolean {
  return Object.entries(patch).every(
    ([key, value]) =>
      key === "__t" ||
      isAcknowledgement(value) ||
      (isJsonObject(value) && Object.hasOwn(value, "__t") && isOnlyAcknowledgements(value)),
  );
}
