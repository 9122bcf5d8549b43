/**
 * Leaf <-> component: the only place that knows both the leaf's words and the module's [design section 5].
 * Invariant: `leafReported` undoes `moduleView`, and translating a desired patch commutes with applying it.
 */
import { splitComponentName, subComponentName } from "../core/component-name.ts";
import type { LeafNaming } from "../core/leaf.ts";
import { isEmpty, isJsonObject } from "../core/merge-patch.ts";
import type { Json, JsonObject } from "../core/message.ts";

/** The marker of a component in a twin [PnP conventions]. */
const MARKER = "__t";

type Hash = (text: string) => string;

function own(object: JsonObject, key: string): Json | undefined {
  return Object.hasOwn(object, key) ? object[key] : undefined;
}

function isMarked(value: Json | undefined): value is JsonObject {
  return isJsonObject(value) && own(value, MARKER) === "c";
}

function unmarked(component: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(component).filter(([key]) => key !== MARKER));
}

/** The marker first, as the services write it. */
function marked(properties: JsonObject): JsonObject {
  return { [MARKER]: "c", ...unmarked(properties) };
}

// ---------------------------------------------------------------- names

/** Names at the top level of a leaf's section that carry the marker. */
export function componentsIn(section: JsonObject): string[] {
  return Object.entries(section)
    .filter(([, value]) => isMarked(value))
    .map(([name]) => name);
}

export interface Learned {
  readonly naming: LeafNaming;
  /** Names that would have been one component too many. */
  readonly refused: readonly string[];
}

/** The naming with these components of the leaf in it; the same reference when all were known. */
export function learnComponents(
  naming: LeafNaming,
  names: Iterable<string>,
  sha256Hex: Hash,
  maxComponents: number,
): Learned {
  const components = new Map(Object.entries(naming.components));
  const refused: string[] = [];
  for (const name of names) {
    if (components.has(name)) continue;
    if (components.size >= maxComponents) refused.push(name);
    else components.set(name, subComponentName(naming.component, name, sha256Hex));
  }
  const isSame = components.size === Object.keys(naming.components).length;
  return {
    naming: isSame ? naming : { component: naming.component, components: Object.fromEntries(components) },
    refused,
  };
}

/** Components of this leaf in a module section that the registry does not know; one with a hash in its name cannot be told. */
export function unknownComponents(naming: LeafNaming, section: JsonObject): string[] {
  const known = new Set<string>(Object.values(naming.components));
  const found: string[] = [];
  for (const name of Object.keys(section)) {
    const { component, sub } = splitComponentName(name);
    if (component === naming.component && sub !== undefined && !known.has(name) && !/_[0-9a-f]{8}$/.test(sub))
      found.push(sub);
  }
  return found;
}

/** What part of the leaf a module component stands for; `component` undefined is its default component. */
export function leafComponentOf(
  naming: LeafNaming,
  moduleComponent: string,
): { readonly component: string | undefined } | undefined {
  if (moduleComponent === naming.component) return { component: undefined };
  for (const [name, component] of Object.entries(naming.components))
    if (component === moduleComponent) return { component: name };
  // A component that the leaf never spoke of: its command still can reach it, the leaf knows what it has.
  const { component, sub } = splitComponentName(moduleComponent);
  return component === naming.component && sub !== undefined ? { component: sub } : undefined;
}

// ---------------------------------------------------------------- commands

/** `component*command`; without `*` the command is the default component's. */
export function parseCommandName(name: string): { readonly component: string | undefined; readonly command: string } {
  const at = name.indexOf("*");
  return at < 0
    ? { component: undefined, command: name }
    : { component: name.slice(0, at), command: name.slice(at + 1) };
}

export function formatCommandName(component: string | undefined, command: string): string {
  return component === undefined ? command : `${component}*${command}`;
}

// ---------------------------------------------------------------- reported

/** The module's reported section for this leaf, from all that the leaf has reported. A remembered component needs no marker. */
export function moduleView(naming: LeafNaming, reported: JsonObject): JsonObject {
  const root: [string, Json][] = [];
  const view: [string, Json][] = [];
  for (const [key, value] of Object.entries(reported)) {
    const component = Object.hasOwn(naming.components, key) ? naming.components[key] : undefined;
    if (component !== undefined && isJsonObject(value)) view.push([component, marked(value)]);
    else if (key !== MARKER) root.push([key, value]);
  }
  if (root.length > 0) view.unshift([naming.component, marked(Object.fromEntries(root))]);
  return Object.fromEntries(view);
}

/** This leaf's own components of a module section. */
export function moduleSlice(naming: LeafNaming, section: JsonObject): JsonObject {
  const names = new Set<string>([naming.component, ...Object.values(naming.components)]);
  return Object.fromEntries(Object.entries(section).filter(([name]) => names.has(name)));
}

/** What the leaf must have reported for the module to show this slice. */
export function leafReported(naming: LeafNaming, slice: JsonObject): JsonObject {
  return toLeaf(naming, slice);
}

// ---------------------------------------------------------------- desired

/** The leaf's whole desired section; what is no object is no component. */
export function leafDesired(naming: LeafNaming, moduleDesired: JsonObject): JsonObject {
  return toLeaf(naming, moduleDesired);
}

/** Components first, so that a root property of a component's name cannot hide it. */
function toLeaf(naming: LeafNaming, section: JsonObject): JsonObject {
  const root = own(section, naming.component);
  const leaf = new Map<string, Json>(isJsonObject(root) ? Object.entries(unmarked(root)) : []);
  for (const [name, component] of Object.entries(naming.components)) {
    const value = own(section, component);
    if (isJsonObject(value)) leaf.set(name, marked(value));
  }
  return Object.fromEntries(leaf);
}

/**
 * What a module desired patch means for this leaf, in its words; empty when it does not touch it. `cached` is the leaf's desired
 * section before: a component that goes as a whole takes its keys with it, each as null.
 */
export function leafDesiredPatch(naming: LeafNaming, patch: JsonObject, cached: JsonObject): JsonObject {
  const leaf = new Map<string, Json>();
  const root = own(patch, naming.component);
  if (isJsonObject(root)) {
    for (const [key, value] of Object.entries(unmarked(root))) leaf.set(key, value);
  } else if (root !== undefined) {
    for (const key of Object.keys(cached)) if (!isComponent(naming, key, cached)) leaf.set(key, null);
  }
  for (const [name, component] of Object.entries(naming.components)) {
    const value = own(patch, component);
    if (value === undefined) continue;
    if (!isJsonObject(value)) {
      if (Object.hasOwn(cached, name)) leaf.set(name, null);
    } else if (!isEmpty(unmarked(value)) || !Object.hasOwn(cached, name)) {
      leaf.set(name, marked(value));
    }
  }
  return Object.fromEntries(leaf);
}

function isComponent(naming: LeafNaming, key: string, section: JsonObject): boolean {
  return Object.hasOwn(naming.components, key) && isMarked(own(section, key));
}
