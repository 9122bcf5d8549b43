/** edgeHub's routes, as far as a module's outputs need them: `FROM <source> [WHERE ...] INTO $upstream | BrokeredEndpoint(...)`. */

import type { Identity } from "./cloud-types.ts";

export type Sink =
  | { readonly kind: "upstream" }
  | { readonly kind: "input"; readonly moduleId: string; readonly input: string };

export interface Route {
  /** What the message's source must begin with, lower case; a final `*` adds nothing. */
  readonly prefix: string;
  /** `WHERE NOT IS_DEFINED($connectionModuleId)`: messages of devices only. */
  readonly leavesOnly: boolean;
  readonly sink: Sink;
}

const ROUTE = /^\s*FROM\s+(\S+)\s+(?:WHERE\s+(.+?)\s+)?INTO\s+(.+?)\s*$/i;
const LEAVES_ONLY = /^NOT\s+IS_DEFINED\(\s*\$connectionModuleId\s*\)$/i;
const INPUT = /^BrokeredEndpoint\(\s*["']\/modules\/([^/"']+)\/inputs\/([^"']+)["']\s*\)$/i;

/** Throws for what this stand-in does not know: a route that silently matched nothing would lose messages. */
export function parseRoute(text: string): Route {
  const [, source = "", condition, target = ""] = ROUTE.exec(text) ?? [];
  if (source === "") throw new Error(`not a route: ${text}`);
  const leavesOnly = condition !== undefined && LEAVES_ONLY.test(condition);
  if (condition !== undefined && !leavesOnly) throw new Error(`unknown condition in route: ${text}`);
  return { prefix: source.toLowerCase().replace(/\*$/, ""), leavesOnly, sink: parseSink(target, text) };
}

function parseSink(target: string, route: string): Sink {
  if (target.toLowerCase() === "$upstream") return { kind: "upstream" };
  const [, moduleId, input] = INPUT.exec(target) ?? [];
  if (moduleId === undefined || input === undefined) throw new Error(`unknown sink in route: ${route}`);
  return { kind: "input", moduleId, input };
}

/** Where a message goes; none: it is acknowledged and dropped. */
export function sinksFor(routes: readonly Route[], from: Identity, output: string | undefined): readonly Sink[] {
  const source = sourceOf(from, output).toLowerCase();
  return routes
    .filter((route) => source.startsWith(route.prefix))
    .filter((route) => !route.leavesOnly || from.moduleId === undefined)
    .map((route) => route.sink);
}

/** Without `$.on` the source is the module itself, which `outputs/*` does not match. */
function sourceOf(from: Identity, output: string | undefined): string {
  if (from.moduleId === undefined) return "/messages/";
  const module = `/messages/modules/${from.moduleId}`;
  return output === undefined ? `${module}/` : `${module}/outputs/${output}`;
}
