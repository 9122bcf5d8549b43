/**
 * Leaf words <-> module words: which component of the module's twin, which `$.sub` and which command name stand for a leaf's own
 * [design section 5]. Alone in knowing both. Invariants: pure; what one leaf says never names another leaf's component; translating
 * a desired patch and applying it is the same as applying it and translating.
 */
import { isLegalComponentName, splitComponentName, subComponentName } from "../core/component-name.ts";
import type { LeafNaming } from "../core/leaf.ts";
import { isJsonObject } from "../core/merge-patch.ts";
import type { Json, JsonObject } from "../core/message.ts";

/** Marks a component in a twin [PnP conventions]. */
const MARKER = "__t";
/** The longest name that any DTDL version allows [DTDL v3, names]; longer ones would only fill the registry. */
const MAX_LEAF_COMPONENT_CHARS = 512;
/** What `subComponentName` appends to a name that it had to change: the true name cannot be told from it. */
const HASHED = /_[0-9a-f]{8}$/;

type Sha256Hex = (text: string) => string;

/** Leaves choose the keys: `__proto__` and `constructor` are keys like any other. */
export function own<Value>(record: Readonly<Record<string, Value>>, key: string): Value | undefined {
  return Object.hasOwn(record, key) ? record[key] : undefined;
}

// ------------------------------------------------------------------------------------------------ names

export interface Learned {
  /** The same reference when nothing is new. */
  readonly naming: LeafNaming;
  /** Too many, too long, empty, or meant by another of the leaf's names already. */
  readonly refused: readonly string[];
}

/** Remembers component names of a leaf (its own words), at most `maxComponents` in all. */
export function learnComponents(
  naming: LeafNaming,
  names: Iterable<string>,
  sha256Hex: Sha256Hex,
  maxComponents: number,
): Learned {
  const known = new Map(Object.entries(naming.components));
  const taken = new Set(known.values());
  const refused: string[] = [];
  for (const name of names) {
    if (known.has(name)) continue;
    const isPossible = name !== "" && name.length <= MAX_LEAF_COMPONENT_CHARS && known.size < maxComponents;
    const component = isPossible ? subComponentName(naming.component, name, sha256Hex) : undefined;
    if (component === undefined || taken.has(component)) {
      refused.push(name);
      continue;
    }
    known.set(name, component);
    taken.add(component);
  }
  if (known.size === Object.keys(naming.components).length) return { naming, refused };
  return { naming: { component: naming.component, components: Object.fromEntries(known) }, refused };
}

/** The names that a leaf's section or patch marks as components. */
export function componentsIn(section: JsonObject): string[] {
  return Object.entries(section)
    .filter(([, value]) => isJsonObject(value) && own(value, MARKER) === "c")
    .map(([name]) => name);
}

/** The leaf's own name of a module component that no registry knows; undefined where it cannot be told (another leaf's, changed, hashed). */
function nameFromModule(naming: LeafNaming, moduleComponent: string): string | undefined {
  const { component, sub } = splitComponentName(moduleComponent);
  if (component !== naming.component || sub === undefined || !isLegalComponentName(moduleComponent)) return undefined;
  return isLegalComponentName(sub) && !sub.includes("__") && !HASHED.test(sub) ? sub : undefined;
}

/** The leaf's names of those of its components in a module section that are not remembered yet. A hashed one waits until the leaf names it. */
export function unknownComponents(naming: LeafNaming, moduleSection: JsonObject): string[] {
  const known = new Set<string>(Object.values(naming.components));
  return Object.entries(moduleSection)
    .filter(([name, value]) => isJsonObject(value) && !known.has(name))
    .map(([name]) => nameFromModule(naming, name))
    .filter((name) => name !== undefined);
}

/** Which component of the leaf (undefined: its default one) a module component stands for; undefined when none that can be told. */
export function leafComponentOf(
  naming: LeafNaming,
  moduleComponent: string,
): { readonly component: string | undefined } | undefined {
  if (moduleComponent === naming.component) return { component: undefined };
  const known = Object.entries(naming.components).find(([, component]) => component === moduleComponent);
  // A command may be the first that anybody says of a component.
  const name = known?.[0] ?? nameFromModule(naming, moduleComponent);
  return name === undefined ? undefined : { component: name };
}

/** `component*command`, or `command` alone. */
export function parseCommandName(name: string): { readonly component: string | undefined; readonly command: string } {
  const at = name.indexOf("*");
  return at < 0
    ? { component: undefined, command: name }
    : { component: name.slice(0, at), command: name.slice(at + 1) };
}

export function formatCommandName(leafComponent: string | undefined, command: string): string {
  return leafComponent === undefined ? command : `${leafComponent}*${command}`;
}

// ------------------------------------------------------------------------------------------------ reported

function withoutMarker(properties: JsonObject): [string, Json][] {
  return Object.entries(properties).filter(([key]) => key !== MARKER);
}

/** A component with its marker, first: some clients look at the first key only. */
function marked(properties: JsonObject): JsonObject {
  return Object.fromEntries([[MARKER, "c"], ...withoutMarker(properties)]);
}

/**
 * The module's reported section for this leaf, from the leaf's whole reported section. A remembered component is one with or without
 * marker, as long as its value is an object; anything else of that name is a property of the default component.
 */
export function moduleView(naming: LeafNaming, reported: JsonObject): JsonObject {
  const root: [string, Json][] = [];
  const parts: [string, Json][] = [];
  for (const [name, value] of Object.entries(reported)) {
    const component = own(naming.components, name);
    if (component !== undefined && isJsonObject(value)) parts.push([component, marked(value)]);
    else if (name !== MARKER) root.push([name, value]);
  }
  if (root.length > 0) parts.unshift([naming.component, marked(Object.fromEntries(root))]);
  return Object.fromEntries(parts);
}

/** What the gateway knows to be this leaf's in a section of the module's twin. */
export function moduleSlice(naming: LeafNaming, section: JsonObject): JsonObject {
  const mine = new Set<string>([naming.component, ...Object.values(naming.components)]);
  return Object.fromEntries(Object.entries(section).filter(([name]) => mine.has(name)));
}

/** The reverse of {@link moduleView}, for a lost disk; every component comes back with its marker. */
export function leafReported(naming: LeafNaming, slice: JsonObject): JsonObject {
  return Object.fromEntries([...rootOf(naming, slice), ...componentsOf(naming, slice)]);
}

function rootOf(naming: LeafNaming, section: JsonObject): [string, Json][] {
  const root = own(section, naming.component);
  return isJsonObject(root) ? withoutMarker(root) : [];
}

/** Components by the leaf's names; a value that is no object is no component. */
function componentsOf(naming: LeafNaming, section: JsonObject): [string, Json][] {
  return Object.entries(naming.components).flatMap(([name, component]): [string, Json][] => {
    const value = own(section, component);
    return isJsonObject(value) ? [[name, marked(value)]] : [];
  });
}

// ------------------------------------------------------------------------------------------------ desired

/**
 * The leaf's desired section in its own words. A property of the default component that bears a component's name is kept from the
 * leaf: no model has both, and the leaf would take it for the component.
 */
export function leafDesired(naming: LeafNaming, moduleDesired: JsonObject): JsonObject {
  return Object.fromEntries([...visibleRoot(naming, moduleDesired), ...componentsOf(naming, moduleDesired)]);
}

function visibleRoot(naming: LeafNaming, section: JsonObject): [string, Json][] {
  return rootOf(naming, section).filter(([name]) => !Object.hasOwn(naming.components, name));
}

/**
 * A module's desired patch (without `$version`) in the leaf's words; empty when it does not touch the leaf. `cached` is the leaf's
 * desired section before it: what a removed component held has to be named key by key.
 */
export function leafDesiredPatch(naming: LeafNaming, patch: JsonObject, cached: JsonObject): JsonObject {
  const entries = rootPatch(naming, patch, cached);
  for (const [name, component] of Object.entries(naming.components)) {
    const value = own(patch, component);
    const isThere = isJsonObject(own(cached, name));
    if (!isJsonObject(value)) {
      if (value !== undefined && isThere) entries.push([name, null]);
    } else if (!isThere || withoutMarker(value).length > 0) {
      entries.push([name, marked(value)]);
    }
  }
  return Object.fromEntries(entries);
}

function rootPatch(naming: LeafNaming, patch: JsonObject, cached: JsonObject): [string, Json][] {
  const root = own(patch, naming.component);
  if (root === undefined) return [];
  if (isJsonObject(root)) return visibleRoot(naming, patch);
  return Object.keys(cached)
    .filter((name) => !Object.hasOwn(naming.components, name))
    .map((name) => [name, null]);
}
