/**
 * What a leaf says held against its model. Invariant: pure, and silent wherever the model is not known: a missing document never makes
 * a leaf wrong. [IoT Plug and Play conventions]
 */
import type { InterfaceDefinition, Models } from "./dtdl.ts";
import { misfits } from "./dtdl-schema.ts";
import { isJsonObject, ownValue } from "./merge-patch.ts";
import type { Json, JsonObject } from "./message.ts";

/** `unknown`: the model has no such name; `schema`: of another type; `acknowledgement`: writable without ac/av; `marker`: no `__t`. */
type ModelRule = "unknown" | "schema" | "acknowledgement" | "marker";

export interface ModelViolation {
  readonly rule: ModelRule;
  /** Readable, with the path in it. */
  readonly problem: string;
}

const MARKER = "__t";
const MAX_NAME_CHARS = 64;

/** The interface of the leaf's default component, or of one that its model names; undefined where nothing can be said. */
function interfaceOf(
  models: Models,
  modelId: string,
  component: string | undefined,
): InterfaceDefinition | ModelViolation | undefined {
  const root = models.get(modelId);
  if (root === undefined || component === undefined) return root;
  const id = root.components.get(component);
  if (id !== undefined) return models.get(id);
  return root.open ? undefined : { rule: "unknown", problem: `${cut(component)} is no component of ${modelId}` };
}

/** The body of a message: an object of telemetry values by name. `component` as in `$.sub`. */
export function checkTelemetry(
  models: Models,
  modelId: string,
  component: string | undefined,
  body: Json,
): readonly ModelViolation[] {
  const definition = interfaceOf(models, modelId, component);
  if (definition === undefined) return [];
  if ("rule" in definition) return [definition];
  if (!isJsonObject(body)) return [{ rule: "schema", problem: "telemetry is a JSON object of values by name" }];
  return Object.entries(body).flatMap(([name, value]) => {
    const schema = definition.telemetry.get(name);
    if (schema === undefined) return unknown(definition, "telemetry", name);
    return misfits(schema, value, cut(name)).map((problem): ModelViolation => ({ rule: "schema", problem }));
  });
}

/**
 * A reported patch, judged by the section that it leads to (a patch may hold a part of an acknowledgement only): of each property that
 * the patch touches, the whole value in `reported`.
 */
export function checkReported(
  models: Models,
  modelId: string,
  patch: JsonObject,
  reported: JsonObject,
): readonly ModelViolation[] {
  const root = models.get(modelId);
  if (root === undefined) return [];
  return Object.entries(patch).flatMap(([name, change]) => {
    const value = ownValue(reported, name);
    const component = root.components.get(name);
    if (component !== undefined) return checkComponent(models.get(component), name, change, value);
    if (isJsonObject(value) && ownValue(value, MARKER) === "c")
      return root.open ? [] : [{ rule: "unknown", problem: `${cut(name)} is no component of ${modelId}` } as const];
    return value === undefined ? [] : checkProperty(root, name, value, cut(name));
  });
}

function checkComponent(
  definition: InterfaceDefinition | undefined,
  name: string,
  change: Json,
  value: Json | undefined,
): readonly ModelViolation[] {
  if (value === undefined) return [];
  if (!isJsonObject(value) || !isJsonObject(change))
    return [{ rule: "schema", problem: `${cut(name)} is a component, its value an object` }];
  const marker: ModelViolation[] =
    ownValue(value, MARKER) === "c" ? [] : [{ rule: "marker", problem: `${cut(name)} has no "__t": "c"` }];
  if (definition === undefined) return marker;
  const inner = Object.keys(change).flatMap((property) => {
    const now = ownValue(value, property);
    if (property === MARKER || now === undefined) return [];
    return checkProperty(definition, property, now, `${cut(name)}.${cut(property)}`);
  });
  return [...marker, ...inner];
}

function checkProperty(
  definition: InterfaceDefinition,
  name: string,
  value: Json,
  path: string,
): readonly ModelViolation[] {
  const property = definition.properties.get(name);
  if (property === undefined) return unknown(definition, "property", name);
  const whole = (problem: string): ModelViolation => ({ rule: "schema", problem });
  if (!property.writable) return misfits(property.schema, value, path).map(whole);
  const isAcknowledged =
    isJsonObject(value) && typeof ownValue(value, "ac") === "number" && typeof ownValue(value, "av") === "number";
  if (!isAcknowledged)
    return [{ rule: "acknowledgement", problem: `${path} is writable: {"value", "ac", "av"} is how it is reported` }];
  const inner = ownValue(value, "value");
  return inner === undefined ? [] : misfits(property.schema, inner, path).map(whole);
}

/** A command for the leaf and its payload (null: none). */
export function checkCommand(
  models: Models,
  modelId: string,
  component: string | undefined,
  command: string,
  payload: Json,
): readonly ModelViolation[] {
  const definition = interfaceOf(models, modelId, component);
  if (definition === undefined) return [];
  if ("rule" in definition) return [definition];
  const known = definition.commands.get(command);
  if (known === undefined) return unknown(definition, "command", command);
  if (known.request === undefined || payload === null) return [];
  return misfits(known.request, payload, `${cut(command)}'s payload`).map(
    (problem): ModelViolation => ({ rule: "schema", problem }),
  );
}

function unknown(definition: InterfaceDefinition, what: string, name: string): readonly ModelViolation[] {
  if (definition.open) return [];
  return [{ rule: "unknown", problem: `${definition.id} has no ${what} ${cut(name)}` }];
}

function cut(name: string): string {
  return name.slice(0, MAX_NAME_CHARS);
}
