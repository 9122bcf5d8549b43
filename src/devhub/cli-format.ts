/** Texts of the command line: what users write, and what they read. Pure. */

import type { Json, JsonObject } from "../core/message.ts";
import type { LeafSummary } from "./cli-leaves.ts";
import { isObject } from "./cloud-twin.ts";

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };

/** `500ms`, `30s`, `2m`, `1h`; without a unit seconds. Undefined when it is none of these, or no time at all. */
export function parseDurationMs(text: string): number | undefined {
  const [, digits, unit = "s"] = /^(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h)?$/.exec(text) ?? [];
  const factor = UNIT_MS[unit];
  const ms = digits === undefined || factor === undefined ? 0 : Math.round(Number(digits) * factor);
  return ms > 0 ? ms : undefined;
}

export type ParsedValue = { readonly kind: "json"; readonly value: Json } | { readonly kind: "invalid" };

/** JSON; or a bare word, which is the text itself, since shells eat quotes. What begins like JSON must be JSON. */
export function parseValue(text: string): ParsedValue {
  try {
    return { kind: "json", value: JSON.parse(text) as Json };
  } catch {
    return /^\s*[{["]/.test(text) ? { kind: "invalid" } : { kind: "json", value: text };
  }
}

/** One line for a message or a change of a twin; `data` is a hub event. */
export function formatEvent(name: string, data: Json): string {
  if (!isObject(data)) return `${name}  ${JSON.stringify(data)}`;
  const system = part(data, "systemProperties");
  const application = part(data, "applicationProperties");
  const time = textAt(system, "iothub-enqueuedtime").slice(11, 23);
  const identity = ["iothub-connection-device-id", "iothub-connection-module-id"].map((key) => textAt(system, key));
  const who = textAt(application, "leafId") || identity.filter((id) => id !== "").join("/");
  const subject = name === "twin" ? "" : textAt(system, "dt-subject");
  const body = JSON.stringify(data["body"] ?? null);
  return [time, name.padEnd(9), who, subject, body].filter((field) => field !== "").join("  ");
}

export function formatLeaves(leaves: readonly LeafSummary[]): readonly string[] {
  if (leaves.length === 0) return ["No leaf has connected to the gateway yet. Start one with: npm run leaf"];
  const rows = leaves.map((leaf) => [
    leaf.leafId,
    leaf.connected ? "connected" : "away",
    [leaf.component, ...Object.values(leaf.components)].join(" "),
    leaf.modelId ?? "-",
  ]);
  return columns([["LEAF", "STATE", "COMPONENTS", "MODEL"], ...rows]);
}

/** The rows with their cells under each other. */
export function columns(rows: readonly (readonly string[])[]): readonly string[] {
  const count = Math.max(0, ...rows.map((row) => row.length));
  const widths = Array.from({ length: count }, (_, at) => Math.max(...rows.map((row) => (row[at] ?? "").length)));
  return rows.map((row) =>
    row
      .map((cell, at) => cell.padEnd(widths[at] ?? 0))
      .join("  ")
      .trimEnd(),
  );
}

function part(object: JsonObject, key: string): JsonObject {
  const value = object[key];
  return isObject(value) ? value : {};
}

function textAt(object: JsonObject, key: string): string {
  const value = Object.hasOwn(object, key) ? object[key] : undefined;
  return typeof value === "string" ? value : "";
}
