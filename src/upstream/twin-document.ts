/** What edgeHub says about the twin, parsed strictly: a document that is no object never reaches the SDK, which would throw on it. */
import type { JsonObject, ModuleTwin } from "../core/message.ts";

/** The JSON value, or undefined when the bytes are none. */
export function parseJson(payload: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(payload));
  } catch {
    return undefined;
  }
}

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function parseVersion(value: unknown): number | undefined {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0 ? value : undefined;
}

/** A full twin document; undefined when it is none. A missing `$version` stays missing: the answerer knows nothing of us. */
export function parseModuleTwin(document: unknown): ModuleTwin | undefined {
  if (!isJsonObject(document)) return undefined;
  const { desired = {}, reported = {} } = document;
  if (!isJsonObject(desired) || !isJsonObject(reported)) return undefined;
  const { $version } = desired;
  return { desired: properties(desired), desiredVersion: parseVersion($version), reported: properties(reported) };
}

/** A desired notification; undefined when it is no object or has no version. */
export function parseDesiredPatch(
  document: unknown,
): { readonly patch: JsonObject; readonly version: number } | undefined {
  if (!isJsonObject(document)) return undefined;
  const version = parseVersion(document["$version"]);
  return version === undefined ? undefined : { patch: properties(document), version };
}

/** The hub's own: its version, and its metadata where somebody passes them on. */
const NO_PROPERTIES: ReadonlySet<string> = new Set(["$version", "$metadata"]);

function properties(section: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(section).filter(([key]) => !NO_PROPERTIES.has(key)));
}
