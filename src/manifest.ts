/**
 * What an IoT Edge deployment manifest says, as far as it concerns the gateway. Pure: takes the parsed JSON. Invariant: whatever the
 * document looks like, parsing ends with a manifest or with the reason why it is none.
 */
import { isJsonObject } from "./core/merge-patch.ts";
import type { Json, JsonObject } from "./core/message.ts";

export interface Finding {
  /** Errors lose data or leave leaves out; warnings cost something. */
  readonly level: "error" | "warning";
  readonly where: string;
  readonly problem: string;
}

export function error(where: string, problem: string): Finding {
  return { level: "error", where, problem };
}

export function warning(where: string, problem: string): Finding {
  return { level: "warning", where, problem };
}

export interface ModuleEntry {
  readonly name: string;
  /** Undefined where a layered deployment changes only parts of it. */
  readonly image: string | undefined;
  /** Values as texts, as the container gets them. */
  readonly env: Readonly<Record<string, string>>;
  /** Docker's create options; undefined where they are no JSON. */
  readonly createOptions: JsonObject | undefined;
  readonly startupOrder: number | undefined;
}

export interface Manifest {
  /** A layer sets single properties over a base deployment; a base deployment replaces whole sections. */
  readonly isLayer: boolean;
  readonly modules: readonly ModuleEntry[];
  readonly edgeHub: ModuleEntry | undefined;
  readonly routes: Readonly<Record<string, string>>;
  /** Undefined where the manifest has no such section. */
  readonly storeAndForward: JsonObject | undefined;
  /** Per module the sections that set desired properties: `properties.desired` or `properties.desired.<name>`. */
  readonly desired: Readonly<Record<string, JsonObject>>;
}

const DESIRED = "properties.desired";

/** A text: what is wrong with it. */
export function parseManifest(document: Json): Manifest | string {
  const outer = isJsonObject(document) ? (document["content"] ?? document) : document;
  const content = isJsonObject(outer) ? outer["modulesContent"] : undefined;
  if (!isJsonObject(content)) return 'it has no "modulesContent"';
  const agent = object(content["$edgeAgent"]);
  const hub = object(content["$edgeHub"]);
  const entries = [
    ...Object.entries(object(object(agent[DESIRED])["modules"])),
    ...prefixed(agent, `${DESIRED}.modules.`),
  ];
  const edgeHub =
    object(object(agent[DESIRED])["systemModules"])["edgeHub"] ?? agent[`${DESIRED}.systemModules.edgeHub`];
  const routes = [...Object.entries(object(object(hub[DESIRED])["routes"])), ...prefixed(hub, `${DESIRED}.routes.`)];
  const others = Object.entries(content).filter(([name]) => !name.startsWith("$"));
  return {
    isLayer: !Object.hasOwn(agent, DESIRED),
    modules: entries.map(([name, value]) => moduleEntry(name, object(value))),
    edgeHub: edgeHub === undefined ? undefined : moduleEntry("edgeHub", object(edgeHub)),
    routes: Object.fromEntries(routes.map(([name, route]) => [name, routeText(route)])),
    storeAndForward: storeAndForward(hub),
    desired: Object.fromEntries(others.map(([name, value]) => [name, object(value)])),
  };
}

function storeAndForward(hub: JsonObject): JsonObject | undefined {
  const name = "storeAndForwardConfiguration";
  const found = object(hub[DESIRED])[name] ?? hub[`${DESIRED}.${name}`];
  return isJsonObject(found) ? found : undefined;
}

function moduleEntry(name: string, value: JsonObject): ModuleEntry {
  const settings = object(value["settings"]);
  const { image } = settings;
  const { startupOrder } = value;
  return {
    name,
    image: typeof image === "string" ? image : undefined,
    env: Object.fromEntries(
      Object.entries(object(value["env"])).map(([key, entry]) => [key, text(object(entry)["value"])]),
    ),
    createOptions: createOptions(settings),
    startupOrder: typeof startupOrder === "number" ? startupOrder : undefined,
  };
}

/** An object in templates; a text, cut into pieces of 512 characters where it is long, in what the service takes. */
function createOptions(settings: JsonObject): JsonObject | undefined {
  const whole = settings["createOptions"];
  if (whole === undefined) return {};
  if (isJsonObject(whole)) return whole;
  const pieces = Object.keys(settings)
    .filter((key) => /^createOptions\d\d$/.test(key))
    .toSorted();
  const json = [whole, ...pieces.map((key) => settings[key])].map(text).join("");
  if (json.trim() === "") return {};
  try {
    const parsed = JSON.parse(json) as Json;
    return isJsonObject(parsed) ? parsed : undefined;
  } catch {
    return undefined;
  }
}

/** Schema 1.1 also has routes as objects, with a priority. */
function routeText(route: Json): string {
  return isJsonObject(route) ? text(route["route"]) : text(route);
}

function prefixed(from: JsonObject, prefix: string): [string, Json][] {
  return Object.entries(from)
    .filter(([key]) => key.startsWith(prefix))
    .map(([key, value]) => [key.slice(prefix.length), value]);
}

function object(value: Json | undefined): JsonObject {
  return isJsonObject(value) ? value : {};
}

function text(value: Json | undefined): string {
  if (value === undefined) return "";
  return typeof value === "string" ? value : JSON.stringify(value);
}
