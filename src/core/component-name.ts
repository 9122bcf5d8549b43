/**
 * Leaf id -> component of the module twin, as a pure function: a lost disk cannot swap two leaves, and a back end can compute it.
 * Invariant: every result is a legal DTDL v2 name without `__` in its leaf part; `__` only ever separates. [DTDL v2, names]
 */
import type { ComponentName, LeafId } from "./message.ts";

/** The gateway's own component; no leaf gets it. */
export const GATEWAY_COMPONENT = "gateway";

const LEGAL = /^[a-zA-Z](?:[a-zA-Z0-9_]*[a-zA-Z0-9])?$/;
const MAX_LEAF_CHARS = 40;
const MAX_CHARS = 64;
const CUT_CHARS = 31;
const HASH_CHARS = 8;

/** Whether a twin may have a component of this name [DTDL v2, names]; `__` inside is a matter of who gives it. */
export function isLegalComponentName(text: string): text is ComponentName {
  return text.length <= MAX_CHARS && LEGAL.test(text);
}

/** Whether a leaf's own component may have this name: by its id as it is, or by an alias. */
export function isLeafComponentName(text: string): boolean {
  return LEGAL.test(text) && !text.includes("__") && text.length <= MAX_LEAF_CHARS && text !== GATEWAY_COMPONENT;
}

/** Legal at its beginning and in all its characters; what it lost on the way is kept apart by a hash. */
function readable(text: string): string {
  const collapsed = text.replaceAll(/[^a-zA-Z0-9_]/g, "_").replaceAll(/_+/g, "_");
  return /^[a-zA-Z]/.test(collapsed) ? collapsed : `l${collapsed}`;
}

function cutWithHash(text: string, source: string, chars: number, sha256Hex: (text: string) => string): string {
  // A cut may end in the separator's own character; two of them would separate.
  const cut = text.slice(0, chars).replace(/_+$/, "");
  return `${cut}_${sha256Hex(source).slice(0, HASH_CHARS)}`;
}

/** The component that a leaf's id makes, at most 40 characters. `sha256Hex` gives the hexadecimal SHA-256 of a text's UTF-8. */
export function componentName(leafId: LeafId, sha256Hex: (text: string) => string): ComponentName {
  const name = isLeafComponentName(leafId) ? leafId : cutWithHash(readable(leafId), leafId, CUT_CHARS, sha256Hex);
  return name as string as ComponentName;
}

export interface NamingRules {
  readonly sha256Hex: (text: string) => string;
  /** Leaf id -> component, chosen by the operator; legal names by the configuration's schema. */
  readonly aliases: Readonly<Record<string, string>>;
}

/** The component that stands for a leaf: its alias where it has one, else {@link componentName}. */
export function componentOf(leafId: LeafId, { aliases, sha256Hex }: NamingRules): ComponentName {
  const alias = Object.hasOwn(aliases, leafId) ? aliases[leafId] : undefined;
  return alias === undefined ? componentName(leafId, sha256Hex) : (alias as ComponentName);
}

/** The component that stands for a component of a leaf: `<leaf>__<component>`, the latter cut with a hash of its own when too long or illegal. */
export function subComponentName(
  component: ComponentName,
  leafComponent: string,
  sha256Hex: (text: string) => string,
): ComponentName {
  const whole = `${component}__${leafComponent}`;
  const isPlain = LEGAL.test(leafComponent) && !leafComponent.includes("__") && whole.length <= MAX_CHARS;
  if (isPlain) return whole as ComponentName;
  const room = MAX_CHARS - component.length - 2 - HASH_CHARS - 1;
  return `${component}__${cutWithHash(readable(leafComponent), leafComponent, Math.min(room, CUT_CHARS), sha256Hex)}` as ComponentName;
}

/** The two parts of a module component's name; `sub` is undefined where there is no `__`. */
export function splitComponentName(name: string): { readonly component: string; readonly sub: string | undefined } {
  const at = name.indexOf("__");
  return at < 0 ? { component: name, sub: undefined } : { component: name.slice(0, at), sub: name.slice(at + 2) };
}
