/** The payloads of the gateway's own commands: parsed whole, or refused with what is wrong; and what an answer may hold. */
import { isJsonObject } from "../core/merge-patch.ts";
import { type Json, type JsonObject, type LeafId, parseLeafId, type Telemetry } from "../core/message.ts";
import { DEFAULT_TTL_SECS, MAX_TTL_SECS } from "./cloud-to-device.ts";

/** Of a list in an answer: the whole answer may have 128 KB [IoT Hub direct methods]. */
export const MAX_LIST_BYTES = 100 * 1024;

export interface Problem {
  readonly problem: string;
}

export interface CloudToDeviceRequest {
  readonly message: Telemetry;
  readonly ttlSecs: number;
}

/** `{ "leafId": "..." }` of any command that is about one leaf. */
export function parseLeaf(payload: Json): LeafId | Problem {
  const leafId = isJsonObject(payload) ? text(payload, "leafId") : undefined;
  const parsed = leafId === undefined ? undefined : parseLeafId(leafId);
  return parsed ?? { problem: 'the payload is an object with "leafId", a device id' };
}

/** `{leafId, payload | payloadBase64, properties, messageId, correlationId, ttlSecs}`; a string payload is sent as it is, all else as JSON. */
export function parseCloudToDevice(request: JsonObject, newMessageId: () => string): CloudToDeviceRequest | Problem {
  const properties = parseProperties(own(request, "properties") ?? {});
  if (properties === undefined) return { problem: '"properties" is an object of texts' };
  const ttlSecs = own(request, "ttlSecs") ?? DEFAULT_TTL_SECS;
  if (typeof ttlSecs !== "number" || !Number.isInteger(ttlSecs) || ttlSecs < 1 || ttlSecs > MAX_TTL_SECS) {
    return { problem: `"ttlSecs" is a whole number from 1 to ${MAX_TTL_SECS}` };
  }
  const payload = parseBody(request);
  if (payload === undefined) return { problem: '"payloadBase64" is a text' };
  const correlationId = text(request, "correlationId");
  const system = {
    mid: text(request, "messageId") ?? newMessageId(),
    ...(correlationId === undefined ? {} : { cid: correlationId }),
  };
  return { message: { payload, system, properties }, ttlSecs };
}

function parseProperties(value: Json): Record<string, string> | undefined {
  if (!isJsonObject(value)) return undefined;
  const texts = Object.entries(value).filter(
    (entry): entry is [string, string] => entry[0] !== "" && typeof entry[1] === "string",
  );
  return texts.length === Object.keys(value).length ? Object.fromEntries(texts) : undefined;
}

function parseBody(request: JsonObject): Uint8Array | undefined {
  const base64 = own(request, "payloadBase64");
  if (base64 === undefined) return Buffer.from(bodyOf(own(request, "payload") ?? null), "utf8");
  return typeof base64 === "string" ? Buffer.from(base64, "base64") : undefined;
}

function own(object: JsonObject, key: string): Json | undefined {
  return Object.hasOwn(object, key) ? object[key] : undefined;
}

/** A text of 1 to 128 characters, as ids are. */
export function text(object: JsonObject, key: string): string | undefined {
  const value = own(object, key);
  return typeof value === "string" && value.length > 0 && value.length <= 128 ? value : undefined;
}

function bodyOf(payload: Json): string {
  return typeof payload === "string" ? payload : JSON.stringify(payload);
}
