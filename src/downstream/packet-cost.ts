/**
 * What a packet costs the leaf that sends it, in messages. Size says little about work: 8 KB can be thousands of filters, 60 KB of
 * topic thousands of properties, and each piece takes its time of the one event loop that all leaves share. Pure.
 */
import type { PacketName } from "./packet-reader.ts";

/** A filter of an SDK takes 25 to 60 bytes. */
const BYTES_PER_FILTER = 40;
/** Properties of a message, or elements of JSON, that come with a message for nothing; each further so many cost one more. */
const PIECES_PER_MESSAGE = 32;

const AMPERSAND = "&".charCodeAt(0);
const COMMA = ",".charCodeAt(0);
const BRACE = "{".charCodeAt(0);
const BRACKET = "[".charCodeAt(0);
/** Telemetry, whose payload nobody looks into. */
const DEVICES = Buffer.from("devices/");

export function packetCost(name: PacketName, bytes: Buffer): number {
  if (name === "subscribe" || name === "unsubscribe") return Math.ceil(bytes.length / BYTES_PER_FILTER);
  return name === "publish" ? 1 + Math.floor(pieces(bytes) / PIECES_PER_MESSAGE) : 1;
}

function pieces(publish: Buffer): number {
  const topicAt = bodyAt(publish) + 2;
  if (topicAt > publish.length) return 0;
  const topicEnd = topicAt + publish.readUInt16BE(topicAt - 2);
  const isTelemetry = publish.subarray(topicAt, topicAt + DEVICES.length).equals(DEVICES);
  let count = 0;
  if (isTelemetry) {
    for (let at = topicAt; at < topicEnd; at += 1) if (publish[at] === AMPERSAND) count += 1;
    return count;
  }
  for (let at = topicEnd; at < publish.length; at += 1) {
    const byte = publish[at];
    if (byte === COMMA || byte === BRACE || byte === BRACKET) count += 1;
  }
  return count;
}

/** Behind the type and one to four bytes of length. */
function bodyAt(packet: Buffer): number {
  let at = 1;
  while ((packet[at] ?? 0) >= 0x80) at += 1;
  return at + 1;
}
