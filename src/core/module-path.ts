/**
 * Paths of a section of the module's twin: `component/property`, or `component` alone. A component's name has no `/`; the name of a
 * property may have one.
 */
import { isJsonObject, ownValue } from "./merge-patch.ts";
import type { Json, JsonObject } from "./message.ts";

export type ModulePath = readonly [component: string, property?: string | undefined];

export function parseModulePath(path: string): ModulePath {
  const at = path.indexOf("/");
  return at < 0 ? [path] : [path.slice(0, at), path.slice(at + 1)];
}

export function formatModulePath([component, property]: ModulePath): string {
  return property === undefined ? component : `${component}/${property}`;
}

export function valueAt(section: JsonObject, [component, property]: ModulePath): Json | undefined {
  const value = ownValue(section, component);
  if (property === undefined) return value;
  return value !== undefined && isJsonObject(value) ? ownValue(value, property) : undefined;
}

/** `section` with exactly what `other` has at these paths, which may be nothing. */
export function withPaths(section: JsonObject, other: JsonObject, paths: Iterable<string>): JsonObject {
  let result = section;
  for (const path of paths) {
    const [component, property] = parseModulePath(path);
    const value = valueAt(other, [component, property]);
    if (property === undefined) result = withValue(result, component, value);
    else {
      const inside = ownValue(result, component);
      if (inside === undefined && value === undefined) continue;
      const properties = inside !== undefined && isJsonObject(inside) ? inside : {};
      result = withValue(result, component, withValue(properties, property, value));
    }
  }
  return result;
}

function withValue(object: JsonObject, key: string, value: Json | undefined): JsonObject {
  const entries = new Map(Object.entries(object));
  if (value === undefined) entries.delete(key);
  else entries.set(key, value);
  return Object.fromEntries(entries);
}
