/** A list of leaves as people or `gateway*listLeaves` write it, made into the model of the whole module twin. Pure. */
import { componentOf, type NamingRules } from "./core/component-name.ts";
import type { Models } from "./core/dtdl.ts";
import { isJsonObject, ownValue } from "./core/merge-patch.ts";
import { type Json, type LeafId, parseLeafId } from "./core/message.ts";
import { type ComposableLeaf, type ComposedModel, composeModel } from "./core/model-compose.ts";
import { learnComponents } from "./translate/pnp.ts";

export interface ListRules extends NamingRules {
  readonly maxComponentsPerLeaf: number;
}

export type ComposedList =
  | { readonly kind: "ok"; readonly model: ComposedModel }
  | { readonly kind: "bad"; readonly reason: string };

/** `text`: JSON, a list of `{leafId, modelId?, components?, removed?}`. Components that the model names are there in any case. */
export function composeFromList(text: string, models: Models, rules: ListRules): ComposedList {
  const list = parse(text);
  if (!Array.isArray(list)) return { kind: "bad", reason: 'is no JSON list of { "leafId": "...", "modelId": "..." }' };
  const leaves: ComposableLeaf[] = [];
  for (const [at, item] of list.entries()) {
    const id = isJsonObject(item) ? ownValue(item, "leafId") : undefined;
    const leafId = typeof id === "string" ? parseLeafId(id) : undefined;
    if (!isJsonObject(item) || leafId === undefined)
      return { kind: "bad", reason: `item ${at} has no "leafId" that IoT Hub would accept` };
    if (ownValue(item, "removed") !== true) leaves.push(composable(leafId, item, models, rules));
  }
  return { kind: "ok", model: composeModel(leaves, models) };
}

function composable(
  leafId: LeafId,
  item: { readonly [key: string]: Json },
  models: Models,
  rules: ListRules,
): ComposableLeaf {
  const modelId = ownValue(item, "modelId");
  const seen = ownValue(item, "components");
  const { maxComponentsPerLeaf, sha256Hex } = rules;
  const names = [
    ...(typeof modelId === "string" ? (models.get(modelId)?.components.keys() ?? []) : []),
    ...(isJsonObject(seen) ? Object.keys(seen) : []),
  ];
  const { naming } = learnComponents(
    { component: componentOf(leafId, rules), components: {} },
    names,
    sha256Hex,
    maxComponentsPerLeaf,
  );
  return { ...naming, modelId: typeof modelId === "string" ? modelId : undefined };
}

function parse(text: string): Json | undefined {
  try {
    return JSON.parse(text) as Json;
  } catch {
    return undefined;
  }
}
