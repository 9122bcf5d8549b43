/** JSON in the bytes of a frame. Invariant: reading never throws, and what it returns is never nested deeper than others can walk. */
import type { Json } from "../core/message.ts";

export type JsonBody =
  | { readonly kind: "json"; readonly value: Json }
  | { readonly kind: "bad"; readonly reason: string };

/**
 * `JSON.parse` takes any depth, `JSON.stringify` and every function that walks the value later overflow the stack at some. Twins have
 * 10 levels [iothub-mqtt.md 6.4]; 64 is what .NET's own JSON readers allow by default.
 */
const MAX_DEPTH = 64;

const utf8 = new TextDecoder("utf-8", { fatal: true });

export function parseJsonBody(bytes: Uint8Array): JsonBody {
  let text: string;
  try {
    text = utf8.decode(bytes);
  } catch {
    return { kind: "bad", reason: "the body is not UTF-8" };
  }
  if (isDeeperThan(text, MAX_DEPTH))
    return { kind: "bad", reason: `the body is nested deeper than ${MAX_DEPTH} levels` };
  try {
    return { kind: "json", value: JSON.parse(text) as Json };
  } catch {
    return { kind: "bad", reason: "the body is not JSON" };
  }
}

/** Counts brackets outside strings, so that depth is known before anything is built. */
function isDeeperThan(text: string, levels: number): boolean {
  let depth = 0;
  let inString = false;
  for (let at = 0; at < text.length; at += 1) {
    const char = text[at];
    if (char === '"') inString = !inString;
    else if (inString) at += char === "\\" ? 1 : 0;
    else if (char === "{" || char === "[") depth += 1;
    else if (char === "}" || char === "]") depth -= 1;
    if (depth > levels) return true;
  }
  return false;
}

export function formatJsonBody(value: Json): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(value));
}
