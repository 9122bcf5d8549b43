/**
 * What a back end hears, as it would from the hub's event endpoint: one JSON object for each message and each change of a
 * twin [D-msg], streamed as server-sent events. Only what happens while somebody listens is told.
 */

import type { Json, JsonObject } from "../core/message.ts";
import type { CloudEvent, D2cMessage, Identity } from "./cloud-types.ts";

export interface HubEvent {
  /** JSON when the sender said so and it is; else text when it is UTF-8; else base64. */
  readonly body: Json;
  readonly bodyEncoding: "json" | "utf8" | "base64";
  readonly applicationProperties: Readonly<Record<string, string>>;
  /** By the names that services read: `dt-subject`, `iothub-connection-device-id`. */
  readonly systemProperties: Readonly<Record<string, string>>;
}

/** Wire key without `$.` -> what services see [iothub-mqtt.md 2.1]. */
const SERVICE_NAMES: ReadonlyMap<string, string> = new Map([
  ["mid", "message-id"],
  ["cid", "correlation-id"],
  ["uid", "user-id"],
  ["to", "to"],
  ["exp", "absolute-expiry-time"],
  ["ct", "content-type"],
  ["ce", "content-encoding"],
  ["ctime", "iothub-creation-time-utc"],
  ["on", "iothub-outputname"],
  ["sub", "dt-subject"],
  ["ifid", "iothub-interface-id"],
  ["schema", "iothub-message-schema"],
]);

/** `hubName` is the first label of the hub's host name. */
function hubEvent(event: CloudEvent, hubName: string): HubEvent {
  return event.kind === "message" ? messageEvent(event.message, event.atMs) : twinEvent(event, hubName);
}

/** One event on the wire: `event:` is `telemetry` or `twin`, `data:` is the {@link HubEvent}. */
export function formatServerSent(event: CloudEvent, hubName: string): string {
  const name = event.kind === "message" ? "telemetry" : "twin";
  return `event: ${name}\ndata: ${JSON.stringify(hubEvent(event, hubName))}\n\n`;
}

function messageEvent(message: D2cMessage, atMs: number): HubEvent {
  const system = Object.entries(message.system).map(([key, value]) => [SERVICE_NAMES.get(key) ?? `$.${key}`, value]);
  return {
    ...decodeBody(message),
    applicationProperties: message.properties,
    systemProperties: {
      ...Object.fromEntries(system),
      ...stamps(message, "Telemetry", atMs),
      "iothub-connection-auth-method": authMethod(message),
      ...(message.modelId === undefined ? {} : { "dt-dataschema": message.modelId }),
    },
  };
}

function twinEvent(event: Extract<CloudEvent, { kind: "twin" }>, hubName: string): HubEvent {
  const { id, tags, desired, reported, version, atMs } = event;
  const properties: JsonObject = {
    ...(desired === undefined ? {} : { desired: { ...desired.patch, $version: desired.version } }),
    ...(reported === undefined ? {} : { reported: { ...reported.patch, $version: reported.version } }),
  };
  const hasProperties = desired !== undefined || reported !== undefined;
  return {
    body: { version, ...(tags === undefined ? {} : { tags }), ...(hasProperties ? { properties } : {}) },
    bodyEncoding: "json",
    applicationProperties: {
      hubName,
      deviceId: id.deviceId,
      ...(id.moduleId === undefined ? {} : { moduleId: id.moduleId }),
      operationTimestamp: new Date(atMs).toISOString(),
      "iothub-message-schema": "twinChangeNotification",
      opType: event.operation === "update" ? "updateTwin" : "replaceTwin",
    },
    systemProperties: {
      "content-type": "application/json",
      "content-encoding": "utf-8",
      ...stamps(id, "twinChangeEvents", atMs),
    },
  };
}

/** Stamped by the hub: no sender can say otherwise. */
function stamps(id: Identity, source: string, atMs: number): Record<string, string> {
  return {
    "iothub-connection-device-id": id.deviceId,
    ...(id.moduleId === undefined ? {} : { "iothub-connection-module-id": id.moduleId }),
    "iothub-enqueuedtime": new Date(atMs).toISOString(),
    "iothub-message-source": source,
  };
}

function authMethod(id: Identity): string {
  return JSON.stringify({ scope: id.moduleId === undefined ? "device" : "module", type: "sas", issuer: "iothub" });
}

function decodeBody({ body, system }: D2cMessage): Pick<HubEvent, "body" | "bodyEncoding"> {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(body);
  } catch {
    return { body: Buffer.from(body).toString("base64"), bodyEncoding: "base64" };
  }
  const isJson = /^application\/json\b/i.test(Object.hasOwn(system, "ct") ? (system["ct"] ?? "") : "");
  const parsed = isJson ? parseText(text) : undefined;
  return parsed === undefined ? { body: text, bodyEncoding: "utf8" } : { body: parsed, bodyEncoding: "json" };
}

/** Undefined when it is no JSON, whatever the sender said. */
function parseText(text: string): Json | undefined {
  try {
    return JSON.parse(text) as Json;
  } catch {
    return undefined;
  }
}
