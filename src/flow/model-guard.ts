/**
 * Holds what leaves say, and what they are told to do, against their models. Invariant: with policy `off`, or for a leaf whose model is
 * not among those that the operator gave, nothing is judged and nothing is parsed.
 */
import type { Models } from "../core/dtdl.ts";
import type { LeafRecord } from "../core/leaf.ts";
import type { Json, JsonObject, Telemetry } from "../core/message.ts";
import { checkCommand, checkReported, checkTelemetry, type ModelViolation } from "../core/model-check.ts";
import { parseJsonBody } from "../translate/json-body.ts";
import type { Log, Metrics } from "./ports.ts";

/** `warn`: passed on, counted, and said once for each leaf and problem; `enforce`: refused. */
export type ModelPolicy = "off" | "warn" | "enforce";

export interface ModelGuardOptions {
  readonly models: Models;
  readonly policy: () => ModelPolicy;
  readonly metrics: Metrics;
  readonly log: Log;
}

/** Problems that were said; leaves choose the names in them, so there is an end to it, and then it begins anew. */
const MAX_REMEMBERED = 2_000;
const MAX_LISTED = 3;
const MAX_NOTED = 20;

export class ModelGuard {
  readonly #options: ModelGuardOptions;
  readonly #said = new Set<string>();

  constructor(options: ModelGuardOptions) {
    this.#options = options;
  }

  /** The names of a model's components; none where the model is not known. */
  componentsOf(modelId: string | undefined): Iterable<string> {
    const model = modelId === undefined ? undefined : this.#options.models.get(modelId);
    return model === undefined ? [] : model.components.keys();
  }

  /** Components that a leaf's new model no longer has; none where one of the two is not known. */
  vanished(before: string | undefined, after: string | undefined): readonly string[] {
    const { models } = this.#options;
    if (before === after || before === undefined || after === undefined || !models.has(after)) return [];
    const there = new Set(this.componentsOf(after));
    return [...this.componentsOf(before)].filter((name) => !there.has(name));
  }

  /** Why the message is refused; undefined: it may pass. Only JSON bodies are looked at. */
  telemetry(record: LeafRecord, telemetry: Telemetry): string | undefined {
    const modelId = this.#judged(record);
    if (modelId === undefined) return undefined;
    const body = parseJsonBody(telemetry.payload);
    if (body.kind === "bad") return undefined;
    const component = telemetry.system["sub"];
    return this.#verdict(
      record,
      checkTelemetry(this.#options.models, modelId, component === "" ? undefined : component, body.value),
    );
  }

  /** `reported`: the leaf's section with the patch in it. Why the patch is refused; undefined: it may pass. */
  reported(record: LeafRecord, patch: JsonObject, reported: JsonObject): string | undefined {
    const modelId = this.#judged(record);
    if (modelId === undefined) return undefined;
    return this.#verdict(record, checkReported(this.#options.models, modelId, patch, reported));
  }

  /** Why the call does not reach the leaf; undefined: it may. */
  command(record: LeafRecord, component: string | undefined, command: string, payload: Json): string | undefined {
    const modelId = this.#judged(record);
    if (modelId === undefined) return undefined;
    return this.#verdict(record, checkCommand(this.#options.models, modelId, component, command, payload));
  }

  #judged({ modelId }: LeafRecord): string | undefined {
    const { models, policy } = this.#options;
    return modelId !== undefined && models.has(modelId) && policy() !== "off" ? modelId : undefined;
  }

  #verdict(record: LeafRecord, violations: readonly ModelViolation[]): string | undefined {
    // A message may have thousands of names that no model knows.
    for (const violation of violations.slice(0, MAX_NOTED)) this.#note(record, violation);
    if (violations.length === 0 || this.#options.policy() !== "enforce") return undefined;
    return violations
      .slice(0, MAX_LISTED)
      .map(({ problem }) => problem)
      .join("; ");
  }

  #note({ leafId, modelId }: LeafRecord, { problem, rule }: ModelViolation): void {
    const { log, metrics } = this.#options;
    metrics.count("model_violations_total", { rule });
    const said = `${leafId} ${problem}`;
    if (this.#said.has(said)) return;
    if (this.#said.size >= MAX_REMEMBERED) this.#said.clear();
    this.#said.add(said);
    log.warn({ leafId, modelId, rule, problem }, "a leaf and its model disagree");
  }
}
