/**
 * A PUBLISH on an events topic, from the wire to the routes: what edgeHub takes, what it drops after acknowledging, and
 * what it changes on the way [iothub-mqtt.md 2, 12.1, 12.3].
 */

import type { IPublishPacket } from "mqtt-packet";
import { type IdentityRecord, keyOf, type QueuedMessage } from "./edge-hub-store.ts";
import type { Personality } from "./settings.ts";

export type Accepted =
  | { readonly kind: "message"; readonly message: Omit<QueuedMessage, "seq">; readonly output: string | undefined }
  | { readonly kind: "dropped"; readonly reason: string };

export interface Envelope {
  readonly packet: Pick<IPublishPacket, "payload" | "retain" | "dup">;
  readonly bag: ReadonlyMap<string, string>;
  readonly sender: IdentityRecord;
  readonly modelId: string | undefined;
  readonly will: boolean;
  readonly nowMs: number;
}

/**
 * Body and properties together, the sender's ids included [measured: 262022 bytes pass for `edge1/gw` without properties,
 * 262023 vanish; the 115 bytes between are what edgeHub adds itself].
 */
const MAX_MESSAGE_BYTES = 262_144;
const OWN_PROPERTIES_BYTES = 115;
/** System properties that edgeHub passes on; the others are dropped on the way up. */
const PASSED = new Set(["mid", "cid", "uid", "ct", "ce", "to", "ctime", "schema", "sub"]);
/** The .NET round-trip form: anything else makes the message invalid, and it is lost after its PUBACK. */
const CREATION_TIME = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{7}(?:Z|[+-]\d{2}:\d{2})$/;
const SECURITY_AGENT = "urn:azureiot:Security:SecurityAgent:1";

export function acceptTelemetry(envelope: Envelope, personality: Personality): Accepted {
  const { bag, sender, packet } = envelope;
  const system = new Map<string, string>();
  const properties = new Map<string, string>();
  for (const [key, value] of bag) {
    if (key.startsWith("$.") && !CLIENT_PROPERTIES.has(key)) system.set(key.slice(2), value);
    else properties.set(key, value);
  }
  const output = system.get("on");
  const creation = system.get("ctime");
  if (creation !== undefined && personality === "edgehub" && !CREATION_TIME.test(creation)) {
    return { kind: "dropped", reason: "creation time is not in the round-trip form" };
  }
  addFlags(properties, envelope, personality);
  const body = typeof packet.payload === "string" ? Buffer.from(packet.payload) : packet.payload;
  if (sizeOf(body, bag, sender) > MAX_MESSAGE_BYTES) return { kind: "dropped", reason: "message over 256 KiB" };
  const message = {
    from: sender.identity,
    system: Object.fromEntries(personality === "edgehub" ? passedUp(system) : system),
    properties: Object.fromEntries(properties),
    body: body.toString("base64"),
    modelId: envelope.modelId,
    enqueuedMs: envelope.nowMs,
  };
  return { kind: "message", message, output };
}

/** Nobody can impersonate with these: sent by a client they stay application properties. */
const CLIENT_PROPERTIES = new Set(["$.cdid", "$.cmid"]);

function addFlags(properties: Map<string, string>, envelope: Envelope, personality: Personality): void {
  if (envelope.packet.retain) properties.set("mqtt-retain", "true");
  if (envelope.packet.dup && personality === "edgehub") properties.set("mqtt-dup", "true");
  if (envelope.will) properties.set(personality === "edgehub" ? "MessageType" : "iothub-MessageType", "Will");
  if (personality === "edgehub") properties.delete("ack");
}

function passedUp(system: ReadonlyMap<string, string>): [string, string][] {
  return [...system]
    .filter(([key, value]) => PASSED.has(key) || (key === "ifid" && value === SECURITY_AGENT))
    .map(([key, value]) => [key, key === "ctime" ? value.replace(/Z$/, "+00:00") : value]);
}

function sizeOf(body: Uint8Array, bag: ReadonlyMap<string, string>, sender: IdentityRecord): number {
  let bytes = body.length + OWN_PROPERTIES_BYTES + keyOf(sender.identity).replace("/", "").length;
  for (const [key, value] of bag) bytes += Buffer.byteLength(key) + Buffer.byteLength(value);
  return bytes;
}
