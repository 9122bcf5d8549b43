/**
 * Pushes what the leaves have reported and the hub does not have yet. Reported state is synchronised by state, not by a log of
 * patches: what is owed is computed afresh for each push, so any number of changes made while the hub was away cost one patch.
 * Invariant: a leaf's `accepted` moves only with an answer of edgeHub. A part that the hub refuses for good is narrowed down to the
 * guilty property, which is quarantined; the rest goes on.
 */
import { isEmpty, isJsonObject, jsonBytes, splitPatch } from "../core/merge-patch.ts";
import type { Fault, Json, JsonObject } from "../core/message.ts";
import { formatModulePath, type ModulePath, parseModulePath } from "../core/module-path.ts";
import { notePush, withVanished } from "../core/pushed.ts";
import { acceptPatch, owed } from "../core/reconcile.ts";
import { MAX_PUSH_BYTES } from "../core/twin-limits.ts";
import { moduleView } from "../translate/pnp.ts";
import type { Leaf, Leaves } from "./leaves.ts";
import type { Clock, Log, Metrics, Outcome } from "./ports.ts";

/** Changes that arrive together go together. */
const COALESCE_MS = 20;
const RETRY_AFTER_MS = 2_000;
const THROTTLED_RETRY_AFTER_MS = 10_000;

/** From so many failures in a row on, a leaf's patch goes apart from all others. */
const ALONE_FROM_FAILURES = 3;
/** The gateway's own component, beside the leaves. */
const OWN = "own";
type Source = Leaf | typeof OWN;

interface Group {
  patch: JsonObject;
  readonly from: Source[];
}

export interface ReportedPushOptions {
  readonly leaves: Leaves;
  readonly send: (patch: JsonObject) => Promise<Outcome>;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly intervalMs: () => number;
  /** The gateway's own component, pushed along with the leaves; undefined when nothing is owed. */
  readonly own: { owed(): JsonObject | undefined; accepted(patch: JsonObject): void };
}

export class ReportedPush {
  readonly #options: ReportedPushOptions;
  readonly #stopping = new AbortController();
  readonly #dirty = new Set<Leaf>();
  readonly #failures = new Map<Source, number>();
  #ownDirty = false;
  #allowed = false;
  #running: Promise<void> | undefined;
  #waiting = false;
  #lastPushMs = Number.NEGATIVE_INFINITY;

  constructor(options: ReportedPushOptions) {
    this.#options = options;
  }

  /** Leaves that may owe something. */
  get owing(): number {
    return this.#dirty.size;
  }

  changed(leaf: Leaf): void {
    this.#dirty.add(leaf);
    this.#run();
  }

  ownChanged(): void {
    this.#ownDirty = true;
    this.#run();
  }

  /** Pushing is allowed while the link is up and no read is under way. */
  resume(): void {
    this.#allowed = true;
    this.#run();
  }

  /** Resolves when no push is under way any more. */
  async suspend(): Promise<void> {
    this.#allowed = false;
    await this.#running;
  }

  async close(): Promise<void> {
    this.#stopping.abort();
    await this.suspend();
  }

  #run(): void {
    if (!this.#allowed || this.#running !== undefined || this.#waiting || (this.#dirty.size === 0 && !this.#ownDirty))
      return;
    const { clock, intervalMs, log } = this.#options;
    const dueInMs = Math.max(this.#lastPushMs + intervalMs() - clock.steady(), COALESCE_MS);
    this.#waiting = true;
    clock.sleep(dueInMs, this.#stopping.signal).then(
      () => {
        this.#waiting = false;
        if (!this.#allowed) return;
        this.#running = this.#push()
          .catch((error: unknown) => log.error({ error: String(error) }, "pushing reported properties failed"))
          .finally(() => {
            this.#running = undefined;
            this.#run();
          });
      },
      () => undefined,
    );
  }

  async #push(): Promise<void> {
    let over: Fault | undefined;
    for (const { patch, from } of this.#collect()) {
      this.#lastPushMs = this.#options.clock.steady();
      const fault = over ?? (await this.#sendAll(patch).catch(faultOf));
      for (const each of from) {
        if (fault === undefined) this.#failures.delete(each);
        else if (over === undefined) this.#failures.set(each, (this.#failures.get(each) ?? 0) + 1);
      }
      if (fault === undefined) continue;
      this.#retryLater(from, fault);
      // No other patch would get through either.
      if (!this.#allowed || fault.kind === "throttled") over = fault;
    }
  }

  /**
   * One patch for all, and one for each whose pushes failed again and again: what edgeHub fails on without refusing it (a 500) holds
   * up nobody else.
   */
  #collect(): readonly Group[] {
    const together: Group = { patch: {}, from: [] };
    const alone: Group[] = [];
    let bytes = 0;
    const sources: Source[] = [...this.#dirty];
    if (this.#ownDirty) sources.unshift(OWN);
    for (const from of sources) {
      if (bytes >= MAX_PUSH_BYTES) break;
      this.#clear(from);
      const part = (from === OWN ? this.#options.own.owed() : owedBy(from)) ?? {};
      if (isEmpty(part)) continue;
      bytes += jsonBytes(part);
      if ((this.#failures.get(from) ?? 0) >= ALONE_FROM_FAILURES) alone.push({ patch: part, from: [from] });
      else {
        together.patch = { ...together.patch, ...part };
        together.from.push(from);
      }
    }
    return together.from.length > 0 ? [together, ...alone] : alone;
  }

  #clear(from: Source): void {
    if (from === OWN) this.#ownDirty = false;
    else this.#dirty.delete(from);
  }

  async #sendAll(patch: JsonObject): Promise<Fault | undefined> {
    const { parts, tooLarge } = splitPatch(patch, MAX_PUSH_BYTES);
    for (const path of tooLarge) await this.#quarantine(parseModulePath(path), "larger than one patch may be");
    for (const part of parts) {
      const fault = await this.#send(part);
      if (fault !== undefined) return fault;
    }
    return undefined;
  }

  /** undefined: everything in the part was either accepted or quarantined. */
  async #send(part: JsonObject): Promise<Fault | undefined> {
    const outcome = await this.#options.send(part);
    this.#options.metrics.count("reported_pushes_total", { outcome: outcome.kind });
    if (outcome.kind === "accepted") {
      await this.#accepted(part);
      return undefined;
    }
    if (outcome.fault.kind !== "rejected") return outcome.fault;
    const paths = pathsOf(part);
    const [only] = paths;
    if (paths.length <= 1) {
      if (only !== undefined) await this.#quarantine(only, outcome.fault.reason);
      return undefined;
    }
    const middle = Math.ceil(paths.length / 2);
    return (
      (await this.#send(pick(part, paths.slice(0, middle)))) ?? (await this.#send(pick(part, paths.slice(middle))))
    );
  }

  async #accepted(part: JsonObject): Promise<void> {
    const { leaves, own } = this.#options;
    const perLeaf = new Map<Leaf, Record<string, Json>>();
    for (const [component, value] of Object.entries(part)) {
      const leaf = leaves.ownerOf(component);
      if (leaf === undefined) own.accepted({ [component]: value });
      else perLeaf.set(leaf, { ...perLeaf.get(leaf), [component]: value });
    }
    for (const [leaf, slice] of perLeaf) {
      await leaf.lane.run(() => {
        leaf.pushed = notePush(leaf.pushed, leaf.record.accepted, slice, this.#options.clock.steady());
        leaf.record = acceptPatch(leaf.record, slice);
      });
    }
  }

  async #quarantine(at: ModulePath, reason: string): Promise<void> {
    const { leaves, log, metrics } = this.#options;
    const leaf = leaves.ownerOf(at[0]);
    const path = formatModulePath(at);
    metrics.count("reported_quarantined_total");
    log.error(
      { leafId: leaf?.id, path, reason },
      "the hub refuses a reported property, it is quarantined until it changes",
    );
    if (leaf === undefined) return;
    await leaf.lane.run(() =>
      leaves.save(leaf, { ...leaf.record, quarantined: { ...leaf.record.quarantined, [path]: reason } }),
    );
  }

  #retryLater(from: readonly Source[], fault: Fault): void {
    for (const each of from) {
      if (each === OWN) this.#ownDirty = true;
      else this.#dirty.add(each);
    }
    const { clock, log } = this.#options;
    log.warn({ reason: fault.reason }, "reported properties could not be pushed, they are tried again");
    this.#lastPushMs =
      clock.steady() -
      this.#options.intervalMs() +
      (fault.kind === "throttled" ? THROTTLED_RETRY_AFTER_MS : RETRY_AFTER_MS);
  }
}

/** What the hub does not have yet of a leaf, in module words. */
export function owedBy(leaf: Leaf): JsonObject {
  const { record } = leaf;
  const view = record.removed ? {} : moduleView(record, record.reported);
  return withVanished(owed(view, record.accepted, record.quarantined), view, leaf.pushed.traces);
}

function faultOf(error: unknown): Fault {
  return { kind: "transient", reason: String(error) };
}

function pathsOf(part: JsonObject): ModulePath[] {
  return Object.entries(part).flatMap(([component, value]): ModulePath[] =>
    isJsonObject(value)
      ? Object.keys(value)
          .filter((property) => property !== "__t")
          .map((property): ModulePath => [component, property])
      : [[component]],
  );
}

/** The part of a patch that holds these paths only; a component keeps its marker. */
function pick(part: JsonObject, paths: readonly ModulePath[]): JsonObject {
  let picked: JsonObject = {};
  for (const [component, property] of paths) {
    const value = part[component];
    if (value === undefined) continue;
    if (property === undefined || !isJsonObject(value)) {
      picked = { ...picked, [component]: value };
      continue;
    }
    const before = picked[component];
    const marker = Object.hasOwn(value, "__t") ? { __t: value["__t"] ?? "c" } : {};
    picked = {
      ...picked,
      [component]: { ...marker, ...(isJsonObject(before) ? before : {}), [property]: value[property] ?? null },
    };
  }
  return picked;
}
