/**
 * Cuts a byte stream into MQTT 3.1.1 packets and says early what must not go on: by the first byte and the length, before the body is
 * there. Pure. Invariant: what comes out is whole packets of kinds and sizes that a leaf may send, CONNECT first and once.
 */
import { type LeafLimits, MAX_CONTROL_BYTES } from "./limits.ts";

/** What a client may send, by the packet type's number [MQTT-2.2.1]; nothing of QoS 2's handshake is among it. */
const NAMES = {
  1: "connect",
  3: "publish",
  4: "puback",
  8: "subscribe",
  10: "unsubscribe",
  12: "pingreq",
  14: "disconnect",
} as const;
export type PacketName = (typeof NAMES)[keyof typeof NAMES];

export type PacketRefusal =
  | "not-connect"
  | "second-connect"
  | "protocol-version"
  | "packet-too-large"
  | "qos-2"
  | "unexpected-packet"
  | "topic-too-long"
  | "malformed-packet";

export type PacketLimits = Pick<LeafLimits, "maxMessageBytes" | "maxTopicBytes">;

export type NextPacket =
  | { readonly kind: "packet"; readonly name: PacketName; readonly bytes: Buffer }
  | { readonly kind: "incomplete" }
  | { readonly kind: "refused"; readonly reason: PacketRefusal };

const INCOMPLETE: NextPacket = { kind: "incomplete" };
/** Type and flags, and at most four bytes of length. */
const MAX_HEADER_BYTES = 5;
/** Smaller pieces are put together as they come: each costs a few hundred bytes, however little is in it. */
const SMALL_BYTES = 4_096;

export class PacketReader {
  readonly #limits: PacketLimits;
  #chunks: Buffer[] = [];
  #length = 0;
  #next: NextPacket = INCOMPLETE;
  #sawConnect = false;

  constructor(limits: PacketLimits) {
    this.#limits = limits;
  }

  /** Pieces that are held; at most a dozen small ones. */
  get pieces(): number {
    return this.#chunks.length;
  }

  /** Bytes that are held, those of the next packet included. */
  get length(): number {
    return this.#length + (this.#next.kind === "packet" ? this.#next.bytes.length : 0);
  }

  push(chunk: Buffer): void {
    this.#length += chunk.length;
    let last = chunk;
    // As in a binary counter: each byte is copied a dozen times at most, whatever pieces it comes in.
    for (let before = this.#chunks.at(-1); before !== undefined; before = this.#chunks.at(-1)) {
      if (before.length > last.length || before.length >= SMALL_BYTES) break;
      this.#chunks.pop();
      last = Buffer.concat([before, last]);
    }
    this.#chunks.push(last);
  }

  /** The first packet that was not taken yet; the same until {@link take}. A refusal stays. */
  peek(): NextPacket {
    if (this.#next.kind === "incomplete") this.#next = this.#read();
    return this.#next;
  }

  take(): void {
    if (this.#next.kind === "packet") this.#next = INCOMPLETE;
  }

  clear(): void {
    this.#chunks = [];
    this.#length = 0;
    this.#next = INCOMPLETE;
  }

  #read(): NextPacket {
    const header = readHeader(this.#head());
    if (header === "incomplete") return INCOMPLETE;
    if (header === "malformed") return { kind: "refused", reason: "malformed-packet" };
    const refusal = refusalOf(header, this.#sawConnect, this.#limits);
    if (refusal !== undefined) return { kind: "refused", reason: refusal };
    const name = nameOf(header.first);
    if (name === undefined || this.#length < header.totalBytes) return INCOMPLETE;
    const bytes = this.#shift(header.totalBytes);
    if (name === "connect") {
      this.#sawConnect = true;
      if (isOtherVersion(bytes, header.bodyAt)) return { kind: "refused", reason: "protocol-version" };
    }
    if (name === "subscribe") lowerQos(bytes, header.bodyAt);
    if (name === "publish" && topicBytes(bytes, header.bodyAt) > this.#limits.maxTopicBytes)
      return { kind: "refused", reason: "topic-too-long" };
    return { kind: "packet", name, bytes };
  }

  #head(): Buffer {
    const [first] = this.#chunks;
    if (first === undefined) return Buffer.alloc(0);
    return first.length >= MAX_HEADER_BYTES ? first : Buffer.concat(this.#chunks.slice(0, MAX_HEADER_BYTES));
  }

  #shift(bytes: number): Buffer {
    const [first] = this.#chunks;
    const all = first !== undefined && first.length >= bytes ? first : Buffer.concat(this.#chunks, this.#length);
    if (all === first) this.#chunks.shift();
    else this.#chunks = [];
    const rest = all.subarray(bytes);
    if (rest.length > 0) this.#chunks.unshift(rest);
    this.#length -= bytes;
    return all.subarray(0, bytes);
  }
}

interface Header {
  readonly first: number;
  readonly bodyAt: number;
  readonly bodyBytes: number;
  readonly totalBytes: number;
}

function readHeader(bytes: Buffer): Header | "incomplete" | "malformed" {
  const first = bytes[0];
  if (first === undefined) return "incomplete";
  let bodyBytes = 0;
  for (let at = 1; at < MAX_HEADER_BYTES; at += 1) {
    const digit = bytes[at];
    if (digit === undefined) return "incomplete";
    bodyBytes += (digit & 0x7f) * 128 ** (at - 1);
    if (digit < 0x80) return { first, bodyAt: at + 1, bodyBytes, totalBytes: at + 1 + bodyBytes };
  }
  return "malformed";
}

function nameOf(first: number): PacketName | undefined {
  const type = first >> 4;
  return Object.hasOwn(NAMES, type) ? NAMES[type as keyof typeof NAMES] : undefined;
}

function refusalOf(
  { first, bodyBytes }: Header,
  sawConnect: boolean,
  { maxMessageBytes }: PacketLimits,
): PacketRefusal | undefined {
  const name = nameOf(first);
  if (sawConnect !== (name !== "connect")) return sawConnect ? "second-connect" : "not-connect"; // [MQTT-3.1.0-1] [MQTT-3.1.0-2]
  if (name === undefined) return "unexpected-packet";
  if (name !== "publish" && (first & 0x0f) !== reservedFlags(name)) return "malformed-packet";
  if (name === "publish" && (first & 0b0100) !== 0) return "qos-2";
  return bodyBytes > (name === "publish" ? maxMessageBytes : MAX_CONTROL_BYTES) ? "packet-too-large" : undefined;
}

function topicBytes(bytes: Buffer, bodyAt: number): number {
  return bytes.length < bodyAt + 2 ? 0 : bytes.readUInt16BE(bodyAt);
}

/** [MQTT-2.2.2-2] */
function reservedFlags(name: PacketName): number {
  return name === "subscribe" || name === "unsubscribe" ? 2 : 0;
}

const MQTT_311 = Buffer.from([0x00, 0x04, 0x4d, 0x51, 0x54, 0x54, 0x04]);

/** Well-formed so far, but no MQTT 3.1.1: that is what CONNACK 1 is for [MQTT-3.1.2-2]. */
function isOtherVersion(bytes: Buffer, bodyAt: number): boolean {
  return bytes.length >= bodyAt + MQTT_311.length && !bytes.subarray(bodyAt, bodyAt + MQTT_311.length).equals(MQTT_311);
}

/** QoS 2 is asked for as QoS 1, which is then what the SUBACK grants, as at IoT Hub; aedes would grant 2. */
function lowerQos(bytes: Buffer, bodyAt: number): void {
  for (let at = bodyAt + 2; at + 2 <= bytes.length; ) {
    const qosAt = at + 2 + bytes.readUInt16BE(at);
    if (bytes[qosAt] === 2) bytes[qosAt] = 1;
    at = qosAt + 1;
  }
}
