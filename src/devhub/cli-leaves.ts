/** From what a user writes (`thermostat1.targetTemperature`) to the component of the module's twin that is meant. Pure. */

import { z } from "zod";
import type { Json, JsonObject } from "../core/message.ts";
import { isObject } from "./cloud-twin.ts";

/** A leaf as the gateway's command `listLeaves` tells it. */
export interface LeafSummary {
  readonly leafId: string;
  /** The module's component that stands for the leaf itself. */
  readonly component: string;
  /** The leaf's own component names -> the module's. */
  readonly components: Readonly<Record<string, string>>;
  readonly modelId: string | null;
  readonly connected: boolean;
}

export type Target =
  | { readonly kind: "found"; readonly component: string; readonly path: readonly string[] }
  | { readonly kind: "unclear"; readonly reason: string };

const Leaves = z.array(
  z.object({
    leafId: z.string(),
    component: z.string(),
    components: z.record(z.string(), z.string()),
    modelId: z.string().nullable().default(null),
    connected: z.boolean(),
    removed: z.boolean().default(false),
  }),
);

const GATEWAY_COMPONENT = "gateway";

/** Without the removed ones, which hear nothing; undefined when it is not what `listLeaves` answers. */
export function parseLeaves(payload: Json): readonly LeafSummary[] | undefined {
  const parsed = Leaves.safeParse(payload);
  return parsed.success ? parsed.data.filter((leaf) => !leaf.removed) : undefined;
}

/**
 * The leaves as far as the module's twin shows them, for when the gateway cannot be asked: `<leaf>__<component>` names both parts.
 * Ids that are no component names, and shortened ones, appear as the component's name. `sections` are desired and reported.
 */
export function leavesOfTwin(sections: readonly JsonObject[]): readonly LeafSummary[] {
  const names = new Set(sections.flatMap((section) => Object.keys(section).filter((key) => isObject(section[key]))));
  names.delete(GATEWAY_COMPONENT);
  const parts = [...names].filter((name) => !name.startsWith("$")).map((name) => ({ name, at: name.indexOf("__") }));
  const leafNames = new Set(parts.map(({ name, at }) => (at < 0 ? name : name.slice(0, at))));
  return [...leafNames].toSorted().map((component) => {
    const own = parts.filter(({ name }) => name.startsWith(`${component}__`));
    const components = Object.fromEntries(own.map(({ name, at }) => [name.slice(at + 2), name]));
    return { leafId: component, component, components, modelId: null, connected: false };
  });
}

/**
 * `text` is `[<leaf>.][<component>.]<property>`, with the module's own component names allowed as well. Without a leaf it must be
 * clear which one is meant. What follows the component comes back as a path of at least one name.
 */
export function resolveTarget(text: string, leaves: readonly LeafSummary[], leafId: string | undefined): Target {
  if (text.split(".").includes("")) return unclear(`${JSON.stringify(text)} has an empty part`);
  if (leafId !== undefined) {
    const leaf = leaves.find((known) => known.leafId === leafId);
    return leaf === undefined ? unclear(`there is no leaf ${leafId}; ${listed(leaves)}`) : withinLeaf(text, leaf);
  }
  return asLeaf(text, leaves) ?? asComponent(text, leaves) ?? guess(text, leaves);
}

/** Leaf ids may hold dots: the longest that fits is meant. */
function asLeaf(text: string, leaves: readonly LeafSummary[]): Target | undefined {
  const named = leaves.filter((leaf) => text.startsWith(`${leaf.leafId}.`));
  const [longest] = named.toSorted((a, b) => b.leafId.length - a.leafId.length);
  return longest === undefined ? undefined : withinLeaf(text.slice(longest.leafId.length + 1), longest);
}

function asComponent(text: string, leaves: readonly LeafSummary[]): Target | undefined {
  const [first = "", ...path] = text.split(".");
  const known = leaves.flatMap((leaf) => [leaf.component, ...Object.values(leaf.components)]);
  const isComponent = first === GATEWAY_COMPONENT || known.includes(first);
  return isComponent && path.length > 0 ? { kind: "found", component: first, path } : undefined;
}

/** No leaf is named: the only one with such a component, or the only one at all. */
function guess(text: string, leaves: readonly LeafSummary[]): Target {
  const [first = "", ...path] = text.split(".");
  const owners = path.length === 0 ? leaves : leaves.filter((leaf) => Object.hasOwn(leaf.components, first));
  const [only, another] = owners.length === 0 ? leaves : owners;
  if (only === undefined) return unclear("no leaf has connected to the gateway yet; start one with: npm run leaf");
  if (another !== undefined) {
    const some = owners.length === 0 ? leaves : owners;
    return unclear(`which leaf? Say --leaf <id>, one of ${some.map((leaf) => leaf.leafId).join(", ")}`);
  }
  return withinLeaf(text, only);
}

function withinLeaf(text: string, leaf: LeafSummary): Target {
  const [first = "", ...path] = text.split(".");
  if (path.length === 0) return { kind: "found", component: leaf.component, path: [first] };
  const component = Object.hasOwn(leaf.components, first) ? leaf.components[first] : undefined;
  if (component !== undefined) return { kind: "found", component, path };
  const names = Object.keys(leaf.components);
  const known = names.length === 0 ? "it has shown none yet" : `it has ${names.join(", ")}`;
  return unclear(
    `leaf ${leaf.leafId} has no component ${first} (${known}). To set a part of an object, give the object as JSON`,
  );
}

function listed(leaves: readonly LeafSummary[]): string {
  return leaves.length === 0
    ? "no leaf has connected yet"
    : `there are ${leaves.map((leaf) => leaf.leafId).join(", ")}`;
}

function unclear(reason: string): Target {
  return { kind: "unclear", reason };
}
