/**
 * The model that describes the gateway as the cloud sees it: its own component and one for each of the leaves', in DTDL for a model
 * repository. Invariant: no component of it has components itself [DTDL v2]; each interface that it refers to and that was made here is
 * in the result.
 */
import { GATEWAY_COMPONENT } from "./component-name.ts";
import { type InterfaceDefinition, type Models, withoutComponents } from "./dtdl.ts";
import type { LeafNaming } from "./leaf.ts";
import type { JsonObject } from "./message.ts";

export interface ComposableLeaf extends LeafNaming {
  readonly modelId: string | undefined;
}

export interface ComposedModel {
  /** The composed interface first, then those made for it. */
  readonly interfaces: readonly JsonObject[];
  /** What the reader should know: leaves that say no model, models whose document is not there. */
  readonly notes: readonly string[];
}

/** The id of the composed interface unless somebody chooses another. */
export const COMPOSED_ID = "dtmi:iotedgePnpGateway:Composed;1";
const SELF_ID = "dtmi:iotedgePnpGateway:Self;1";
const UNKNOWN_ID = "dtmi:iotedgePnpGateway:Undescribed;1";
/** Refers to interfaces of versions 2 and 3 alike, as no older one may [DTDL v3, interface]. */
const CONTEXT = "dtmi:dtdl:context;3";

export function composeModel(
  leaves: Iterable<ComposableLeaf>,
  models: Models,
  id: string = COMPOSED_ID,
): ComposedModel {
  const contents: JsonObject[] = [component(GATEWAY_COMPONENT, SELF_ID)];
  const made = new Map<string, JsonObject>();
  const notes: string[] = [];
  for (const leaf of leaves) {
    const model = leaf.modelId === undefined ? undefined : models.get(leaf.modelId);
    if (leaf.modelId === undefined) notes.push(`${leaf.component}: the leaf has announced no model`);
    else if (model === undefined)
      notes.push(`${leaf.component}: ${leaf.modelId} is not among the models, its components cannot be told`);
    contents.push(component(leaf.component, rootSchema(leaf, model, made)));
    for (const [name, moduleComponent] of Object.entries(leaf.components)) {
      const schema = model?.components.get(name);
      if (schema === undefined) notes.push(`${moduleComponent}: no model says what it is`);
      contents.push(component(moduleComponent, schema ?? undescribed(made)));
    }
  }
  const composed: JsonObject = { "@context": CONTEXT, "@id": id, "@type": "Interface", contents };
  return { interfaces: [composed, ...made.values()], notes };
}

/** The leaf's own model where it has no components, else a copy of it without them. */
function rootSchema(
  leaf: ComposableLeaf,
  model: InterfaceDefinition | undefined,
  made: Map<string, JsonObject>,
): string {
  if (leaf.modelId === undefined) return undescribed(made);
  if (model === undefined || model.components.size === 0) return leaf.modelId;
  const id = rootId(leaf.modelId);
  made.set(id, withoutComponents(model, id));
  return id;
}

/** `dtmi:com:example:Controller;2` -> `dtmi:com:example:Controller:defaultComponent;2`. */
function rootId(modelId: string): string {
  const at = modelId.lastIndexOf(";");
  return at < 0 ? `${modelId}:defaultComponent` : `${modelId.slice(0, at)}:defaultComponent${modelId.slice(at)}`;
}

function undescribed(made: Map<string, JsonObject>): string {
  made.set(UNKNOWN_ID, { "@context": CONTEXT, "@id": UNKNOWN_ID, "@type": "Interface", contents: [] });
  return UNKNOWN_ID;
}

function component(name: string, schema: string): JsonObject {
  return { "@type": "Component", name, schema };
}
