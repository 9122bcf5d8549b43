/**
 * The topics that edgeHub understands on the way in, and what it does with a property bag
 * [iothub-mqtt.md 0, 2.1, 12.1]. Written without a look at the gateway's own reading of the same wire.
 */

import type { Identity } from "./cloud-types.ts";

export type Inbound =
  | { readonly kind: "telemetry"; readonly from: Identity; readonly bag: ReadonlyMap<string, string> }
  | { readonly kind: "twin-get"; readonly rid: string }
  | { readonly kind: "twin-patch"; readonly rid: string | undefined; readonly ifVersion: string | undefined }
  | { readonly kind: "method-answer"; readonly status: string; readonly rid: string }
  /** edgeHub logs it, acknowledges it and forgets it; IoT Hub closes the connection. */
  | { readonly kind: "dropped"; readonly reason: string }
  /** Both close the connection. */
  | { readonly kind: "fatal"; readonly reason: string };

const TELEMETRY = /^devices\/([^/]+)\/(?:modules\/([^/]+)\/)?messages\/events(?:\/([^/]*)\/?)?$/;
const METHOD_ANSWER = /^\$iothub\/methods\/res\/([^/]*)\/\?\$rid=(.*)$/;

export function parseInbound(topic: string): Inbound {
  // DotNetty's decoder refuses wildcards in a topic name before anybody looks at it.
  if (/[+#]/.test(topic)) return { kind: "fatal", reason: "wildcard in a publish topic" };
  const telemetry = TELEMETRY.exec(topic);
  if (telemetry !== null) {
    const [, deviceId = "", moduleId, rawBag = ""] = telemetry;
    const bag = parseBag(rawBag);
    if (bag === undefined) return { kind: "dropped", reason: "malformed property bag" };
    return { kind: "telemetry", from: { deviceId, ...(moduleId === undefined ? {} : { moduleId }) }, bag };
  }
  const answer = METHOD_ANSWER.exec(topic);
  if (answer !== null) return { kind: "method-answer", status: answer[1] ?? "", rid: answer[2] ?? "" };
  if (topic.startsWith("$iothub/twin/")) return parseTwinRequest(topic);
  return { kind: "dropped", reason: "unknown topic" };
}

function parseTwinRequest(topic: string): Inbound {
  const at = topic.indexOf("/?");
  const path = at < 0 ? topic.replace(/\/$/, "") : topic.slice(0, at);
  const text = at < 0 ? "" : topic.slice(at + 2);
  const query = parseBag(text);
  const duplicates = query !== undefined && text !== "" && query.size < text.split("&").length;
  if (query === undefined || duplicates) return { kind: "fatal", reason: "malformed twin request" };
  const rid = query.get("$rid");
  if (path === "$iothub/twin/GET") {
    return rid === undefined ? { kind: "fatal", reason: "twin GET without $rid" } : { kind: "twin-get", rid };
  }
  if (path === "$iothub/twin/PATCH/properties/reported") {
    return { kind: "twin-patch", rid, ifVersion: query.get("$version") };
  }
  return { kind: "fatal", reason: "unknown twin request" };
}

/** Undefined when edgeHub calls it malformed: an empty key, an empty part, a second `=`. The last of equal keys wins. */
export function parseBag(text: string): ReadonlyMap<string, string> | undefined {
  const bag = new Map<string, string>();
  if (text === "") return bag;
  for (const part of text.split("&")) {
    const [key = "", value = "", ...more] = part.split("=");
    if (key === "" || more.length > 0) return undefined;
    bag.set(decode(key), decode(value));
  }
  return bag;
}

/** `%zz` passes as it stands, as in .NET. */
function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Application properties first, then system ones with `%24.`, as edgeHub writes them. */
export function formatBag(
  properties: Readonly<Record<string, string>>,
  system: Readonly<Record<string, string>>,
): string {
  const pairs = [
    ...Object.entries(properties),
    ...Object.entries(system).map(([key, value]): [string, string] => [`$.${key}`, value]),
  ];
  return pairs.map(([key, value]) => `${encodeURIComponent(key)}=${encodeURIComponent(value)}`).join("&");
}

/** What a filter subscribes to, as edgeHub tells it; any other filter is granted and never hears anything. */
export function channelOf(
  filter: string,
): "methods" | "desired" | "twin-answers" | "cloud-to-device" | "inputs" | undefined {
  if (filter.startsWith("$iothub/methods/POST/")) return "methods";
  if (filter.startsWith("$iothub/twin/PATCH/properties/desired/")) return "desired";
  if (filter === "$iothub/twin/res/#") return "twin-answers";
  if (filter.endsWith("messages/devicebound/#")) return "cloud-to-device";
  return /^devices\/.+\/modules\/.+\/#$/.test(filter) ? "inputs" : undefined;
}
