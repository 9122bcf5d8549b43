/**
 * Core telemetry <-> the SDK's message, pure. Invariants: what leaves here fits edgeHub's limits, every key and value is
 * percent-encoded on the wire, and no application property of a leaf can pass for a system property.
 */
import { isUtf8 } from "node:buffer";
import type { Telemetry } from "../core/message.ts";

/** What the SDK needs of a message: payload, and properties in the order in which they stand in the topic. */
export interface Envelope {
  /** A string where the bytes are UTF-8: the SDK handles Buffers at ten times the cost [azure-iot-device.md 0/17]. */
  readonly data: string | Buffer;
  readonly properties: readonly (readonly [key: string, value: string])[];
}

export type Sealed =
  | { readonly kind: "sealed"; readonly envelope: Envelope }
  /** It can never be sent. */
  | { readonly kind: "unsendable"; readonly reason: string };

/**
 * Payload and encoded topic together. edgeHub closes the connection at 262,144 bytes of packet and drops, after PUBACK,
 * what grows past 256 KiB with the sender's ids [iothub-mqtt.md 2.3].
 */
export const MAX_MESSAGE_BYTES = 252 * 1024;
/** A topic is an MQTT string [MQTT-1.5.3]. */
const MAX_TOPIC_BYTES = 65_535;
/** `devices/{d}/modules/{m}/messages/events/` with two ids of 128 characters. */
const TOPIC_PREFIX_BYTES = 300;

/** Keys that the SDK turns into the component's name; a leaf's own property of that name must not [mqtt.js DT_SUBJECT]. */
const SUBJECT_ALIAS = "dt-subject";

/** edgeHub drops an empty key after PUBACK, and `$.x` or `dt-subject` would become system properties: they get a prefix. */
function applicationKey(key: string): string {
  return key === "" || key === SUBJECT_ALIAS || key.startsWith("$.") ? `leaf-${key}` : key;
}

/**
 * `$.on` is the output's, given to the SDK apart. `$.ctime` in any but one spelling makes edgeHub lose the message after PUBACK,
 * so the time travels as an application property [iothub-mqtt.md 12.3].
 */
function wireProperties(message: Telemetry): [string, string][] {
  const { on: _output, ctime, ...system } = message.system;
  const properties = Object.entries(message.properties).map(([key, value]): [string, string] => [
    applicationKey(key),
    value,
  ]);
  if (ctime !== undefined && !Object.hasOwn(message.properties, "iothub-creation-time-utc")) {
    properties.push(["iothub-creation-time-utc", ctime]);
  }
  for (const [key, value] of Object.entries(system)) properties.push([`$.${key}`, value]);
  return properties;
}

/** The message as the SDK takes it for `output`, or why it can never go. */
export function seal(output: string, message: Telemetry): Sealed {
  const properties = wireProperties(message);
  // Encoding every property only to measure it costs more than all else here, and nearly every message is far from the limits.
  const problem = isFarBelow(output, message.payload, properties)
    ? undefined
    : exactProblem(output, message.payload, properties);
  if (problem !== undefined) return { kind: "unsendable", reason: problem };
  const bytes = Buffer.from(message.payload.buffer, message.payload.byteOffset, message.payload.byteLength);
  return { kind: "sealed", envelope: { data: isUtf8(bytes) ? bytes.toString("utf8") : bytes, properties } };
}

type Properties = Envelope["properties"];

/** One UTF-16 unit takes at most three bytes of UTF-8, each of them `%XX`. */
const MAX_ENCODED_PER_UNIT = 9;

/** Whether the message would fit if every character of its properties took as much as a character can. */
function isFarBelow(output: string, payload: Uint8Array, properties: Properties): boolean {
  let units = "$.on".length + output.length + 2;
  for (const [key, value] of properties) {
    if (!key.isWellFormed() || !value.isWellFormed()) return false;
    units += key.length + value.length + 2;
  }
  const topicBytes = TOPIC_PREFIX_BYTES + units * MAX_ENCODED_PER_UNIT;
  return topicBytes <= MAX_TOPIC_BYTES && topicBytes + payload.length <= MAX_MESSAGE_BYTES;
}

function exactProblem(output: string, payload: Uint8Array, properties: Properties): string | undefined {
  let topicBytes = TOPIC_PREFIX_BYTES + encodedLength("$.on", output);
  try {
    for (const [key, value] of properties) topicBytes += encodedLength(key, value);
  } catch {
    return "a property holds half a surrogate pair, which has no UTF-8 form";
  }
  if (topicBytes > MAX_TOPIC_BYTES) return `its properties take ${topicBytes} bytes, a topic holds ${MAX_TOPIC_BYTES}`;
  const bytes = topicBytes + payload.length;
  return bytes > MAX_MESSAGE_BYTES ? `it takes ${bytes} bytes, edgeHub takes ${MAX_MESSAGE_BYTES}` : undefined;
}

function encodedLength(key: string, value: string): number {
  return encodeURIComponent(key).length + encodeURIComponent(value).length + 2;
}

/** The fields of the SDK's message that {@link unseal} reads. */
export interface ReceivedMessage {
  readonly messageId: string;
  readonly correlationId: string;
  readonly userId: string;
  readonly to: string;
  readonly expiryTimeUtc: unknown;
  readonly contentType: string | undefined;
  readonly contentEncoding: string | undefined;
  readonly properties: { readonly propertyList: readonly { readonly key: unknown; readonly value: unknown }[] };
  getBytes(): Uint8Array;
}

/** A message at one of the module's inputs in core words: properties whose key starts with `$.` become system properties. */
export function unseal(message: ReceivedMessage): Telemetry {
  const { messageId, correlationId, userId, to, expiryTimeUtc, contentType, contentEncoding } = message;
  const fields: [string, unknown][] = Object.entries({
    mid: messageId,
    cid: correlationId,
    uid: userId,
    to,
    exp: expiryTimeUtc,
    ct: contentType,
    ce: contentEncoding,
  });
  const system = fields.filter((field): field is [string, string] => typeof field[1] === "string" && field[1] !== "");
  const properties: [string, string][] = [];
  for (const { key, value } of message.properties.propertyList) {
    if (typeof key !== "string" || typeof value !== "string") continue;
    if (key.startsWith("$.")) system.push([key.slice(2), value]);
    else properties.push([key, value]);
  }
  return {
    payload: message.getBytes(),
    system: Object.fromEntries(system),
    properties: Object.fromEntries(properties),
  };
}
