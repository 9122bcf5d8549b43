/**
 * What a model says: DTDL interfaces (versions 2 to 4) read into plain values. Pure and forgiving: what it does not understand judges
 * nothing. Invariant: an interface with a part that could not be read is `open`, so that a name which is unknown here is not called
 * wrong. [DTDL v2-v4 specifications; https://azure.github.io/opendigitaltwins-dtdl]
 */
import { parseSchema, type Schema } from "./dtdl-schema.ts";
import { isJsonObject, ownValue } from "./merge-patch.ts";
import type { Json, JsonObject } from "./message.ts";

interface PropertyDefinition {
  readonly schema: Schema;
  readonly writable: boolean;
}

interface CommandDefinition {
  /** undefined: the command takes no payload, or none that is described. */
  readonly request: Schema | undefined;
  readonly response: Schema | undefined;
}

export interface InterfaceDefinition {
  readonly id: string;
  readonly properties: ReadonlyMap<string, PropertyDefinition>;
  readonly telemetry: ReadonlyMap<string, Schema>;
  readonly commands: ReadonlyMap<string, CommandDefinition>;
  /** The component's name -> the model id of its interface. */
  readonly components: ReadonlyMap<string, string>;
  /** More may be in it than stands here. */
  readonly open: boolean;
  /** As it was read. */
  readonly source: JsonObject;
}

/** Interfaces by model id. */
export type Models = ReadonlyMap<string, InterfaceDefinition>;

export interface ParsedModels {
  readonly models: Models;
  /** What could not be understood, for people. */
  readonly problems: readonly string[];
}

const CONTENT_TYPES = ["Property", "Telemetry", "Command", "Component", "Relationship"] as const;
type ContentType = (typeof CONTENT_TYPES)[number];

interface Draft {
  readonly properties: Map<string, PropertyDefinition>;
  readonly telemetry: Map<string, Schema>;
  readonly commands: Map<string, CommandDefinition>;
  readonly components: Map<string, string>;
  open: boolean;
}

/** Each document is an interface or a list of them, as model repositories keep them. */
export function parseModels(documents: readonly Json[]): ParsedModels {
  const problems: string[] = [];
  const sources = new Map<string, JsonObject>();
  const add = (item: Json): void => {
    if (Array.isArray(item)) {
      for (const each of item) add(each);
      return;
    }
    const id = isJsonObject(item) ? ownValue(item, "@id") : undefined;
    if (!isJsonObject(item) || typeof id !== "string" || !typesOf(item).includes("Interface")) {
      problems.push("a document is no DTDL interface: it needs @id and @type Interface");
    } else if (sources.has(id)) {
      problems.push(`${id} is there twice, the first one counts`);
    } else {
      sources.set(id, item);
      for (const inner of inlineInterfaces(item)) add(inner);
    }
  };
  for (const document of documents) add(document);
  const models = new Map<string, InterfaceDefinition>();
  for (const [id, source] of sources) models.set(id, readInterface(id, source, sources, problems));
  return { models, problems };
}

/** An interface without a component of its own, named `id`: DTDL v2 forbids components in components. */
export function withoutComponents(definition: InterfaceDefinition, id: string): JsonObject {
  const contents = ownValue(definition.source, "contents");
  const kept = (Array.isArray(contents) ? contents : []).filter((item) => contentType(item) !== "Component");
  return { ...definition.source, "@id": id, contents: kept };
}

function readInterface(
  id: string,
  source: JsonObject,
  sources: ReadonlyMap<string, JsonObject>,
  problems: string[],
): InterfaceDefinition {
  const draft: Draft = {
    properties: new Map(),
    telemetry: new Map(),
    commands: new Map(),
    components: new Map(),
    open: false,
  };
  collect(id, source, sources, draft, problems);
  return { id, ...draft, source };
}

/** The interface's own contents and those of all that it extends, however their ways meet or run in a circle. */
function collect(
  id: string,
  source: JsonObject,
  sources: ReadonlyMap<string, JsonObject>,
  draft: Draft,
  problems: string[],
): void {
  const seen = new Set<JsonObject>();
  const waiting = [source];
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    if (seen.has(next)) continue;
    seen.add(next);
    const named = namedSchemas(next);
    for (const content of listOf(ownValue(next, "contents"))) {
      if (readContent(content, named, draft)) continue;
      draft.open = true;
      problems.push(`${id}: one of its contents is not understood, names that it does not list are let pass`);
    }
    for (const parent of listOf(ownValue(next, "extends"))) {
      const found = typeof parent === "string" ? sources.get(parent) : parent;
      if (isJsonObject(found)) {
        waiting.push(found);
        continue;
      }
      draft.open = true;
      problems.push(`${id}: ${JSON.stringify(parent)}, which it extends, is not there`);
    }
  }
}

/** False when it is not understood. */
function readContent(content: Json, named: ReadonlyMap<string, Json>, draft: Draft): boolean {
  const type = contentType(content);
  const name = isJsonObject(content) ? ownValue(content, "name") : undefined;
  if (!isJsonObject(content) || type === undefined || typeof name !== "string") return false;
  const schema = ownValue(content, "schema");
  switch (type) {
    case "Telemetry":
      draft.telemetry.set(name, parseSchema(schema, named));
      return true;
    case "Property":
      draft.properties.set(name, {
        schema: parseSchema(schema, named),
        writable: ownValue(content, "writable") === true,
      });
      return true;
    case "Command":
      draft.commands.set(name, {
        request: payloadSchema(ownValue(content, "request"), named),
        response: payloadSchema(ownValue(content, "response"), named),
      });
      return true;
    case "Component": {
      const id = isJsonObject(schema) ? ownValue(schema, "@id") : schema;
      draft.components.set(name, typeof id === "string" ? id : "");
      return true;
    }
    case "Relationship":
      // Between twins of a service; a device neither says nor hears it.
      return true;
  }
}

function payloadSchema(payload: Json | undefined, named: ReadonlyMap<string, Json>): Schema | undefined {
  return isJsonObject(payload) ? parseSchema(ownValue(payload, "schema"), named) : undefined;
}

/** The type of a content; co-types (units, annotations) stand beside it in a list. */
function contentType(content: Json): ContentType | undefined {
  return isJsonObject(content) ? CONTENT_TYPES.find((type) => typesOf(content).includes(type)) : undefined;
}

function typesOf(item: JsonObject): readonly Json[] {
  return listOf(ownValue(item, "@type"));
}

/** Schemas that an interface gives a name for use in several places [DTDL v2, interface schemas]. */
function namedSchemas(source: JsonObject): ReadonlyMap<string, Json> {
  const named = new Map<string, Json>();
  for (const schema of listOf(ownValue(source, "schemas"))) {
    const id = isJsonObject(schema) ? ownValue(schema, "@id") : undefined;
    if (typeof id === "string") named.set(id, schema);
  }
  return named;
}

/** Interfaces that stand where a component or a parent is named. */
function inlineInterfaces(source: JsonObject): JsonObject[] {
  const places = [
    ...listOf(ownValue(source, "contents")).map((content) =>
      contentType(content) === "Component" && isJsonObject(content) ? ownValue(content, "schema") : undefined,
    ),
    ...listOf(ownValue(source, "extends")),
  ];
  return places.filter(isJsonObject).filter((place) => typeof ownValue(place, "@id") === "string");
}

/** JSON-LD writes a list of one as the one. */
function listOf(value: Json | undefined): readonly Json[] {
  if (value === undefined) return [];
  return Array.isArray(value) ? value : [value];
}
