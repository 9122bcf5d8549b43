/**
 * From the template to what IoT Hub takes: `iotedge-pnp-gateway manifest render FILE`. Pure. Invariant: nothing is guessed; a placeholder
 * without a value is listed, not left or emptied.
 */
import { isJsonObject } from "./core/merge-patch.ts";
import type { Json, JsonObject } from "./core/message.ts";

/** A text in a twin may be longer, but the tooling and Edge agent cut create options there [IoT Edge, createOptions01 to 07]. */
const PIECE_CHARACTERS = 512;
const MAX_PIECES = 8;

export type Rendered =
  | { readonly kind: "ok"; readonly manifest: JsonObject }
  | { readonly kind: "missing"; readonly names: readonly string[] }
  | { readonly kind: "invalid"; readonly problem: string };

/** `values` fill `${NAME}` and `$NAME`, but not the `$edgeAgent`, `$edgeHub` and `$upstream` of manifests. */
export function renderManifest(template: Json, values: Readonly<Record<string, string | undefined>>): Rendered {
  if (!isJsonObject(template)) return { kind: "invalid", problem: "it is no JSON object" };
  const missing = new Set<string>();
  const filled = fill(template, (name) => {
    const value = values[name];
    if (value === undefined) missing.add(name);
    return value ?? "";
  });
  if (missing.size > 0) return { kind: "missing", names: [...missing].toSorted() };
  const { "$schema-template": _, ...manifest } = flattened(filled) as JsonObject;
  const tooLong = findTooLong(manifest);
  if (tooLong !== undefined)
    return {
      kind: "invalid",
      problem: `createOptions of about ${tooLong} characters are longer than ${MAX_PIECES * PIECE_CHARACTERS}`,
    };
  return { kind: "ok", manifest };
}

function fill(value: Json, valueOf: (name: string) => string): Json {
  if (typeof value === "string") return value.replaceAll(/\$\{([A-Za-z_]\w*)\}/g, (_, name: string) => valueOf(name));
  if (Array.isArray(value)) return value.map((item: Json) => fill(item, valueOf));
  if (!isJsonObject(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, fill(item, valueOf)]));
}

/** Create options become texts, cut into pieces. */
function flattened(value: Json): Json {
  if (Array.isArray(value)) return value.map((item: Json) => flattened(item));
  if (!isJsonObject(value)) return value;
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, item]) =>
      key === "createOptions" && isJsonObject(item) ? pieces(JSON.stringify(item)) : [[key, flattened(item)]],
    ),
  );
}

function pieces(text: string): [string, Json][] {
  const count = Math.ceil(text.length / PIECE_CHARACTERS);
  return Array.from({ length: count }, (_, index) => [
    index === 0 ? "createOptions" : `createOptions${String(index).padStart(2, "0")}`,
    text.slice(index * PIECE_CHARACTERS, (index + 1) * PIECE_CHARACTERS),
  ]);
}

/** About how many characters there are of create options that Edge agent would not put together again. */
function findTooLong(value: Json): number | undefined {
  if (!isJsonObject(value)) return undefined;
  if (Object.hasOwn(value, `createOptions${String(MAX_PIECES).padStart(2, "0")}`)) {
    return Object.keys(value).filter((key) => key.startsWith("createOptions")).length * PIECE_CHARACTERS;
  }
  for (const item of Object.values(value)) {
    const found = findTooLong(item);
    if (found !== undefined) return found;
  }
  return undefined;
}
