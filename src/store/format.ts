/**
 * How the store's keys and values look on disk; pure. Invariants: byte order of keys is the order of `seq`; each value carries the
 * version of its encoding and a checksum over key and value, so that damage is seen entry by entry.
 *
 * Key:   one byte for the area, then a leaf id, a name, or `seq` as 8 bytes big-endian.
 * Value: version (1 byte), CRC-32 of key, version and body (4 bytes), body. A body is JSON, or for messages the length of a JSON head
 * (4 bytes), the head, and the raw payload.
 *
 * A later version adds a `case` to {@link unseal} and keeps the older ones: old values stay readable where they are, new ones are
 * written in the new encoding, and the version key of the database keeps an older gateway away.
 */
import { crc32 } from "node:zlib";
import { GatewayError } from "../core/errors.ts";
import type { LeafRecord } from "../core/leaf.ts";
import type { Json, LeafId, OutboxEntry, SetAsideEntry, Telemetry } from "../core/message.ts";
import type { CloudToDeviceEntry, MetaKey } from "../flow/ports.ts";

export const FORMAT_VERSION = 1;

const AREAS = {
  cloudToDevice: 0x63, // c
  damaged: 0x64, // d
  leaf: 0x6c, // l
  meta: 0x6d, // m
  outbox: 0x6f, // o
  retained: 0x72, // r
  setAside: 0x73, // s
  usage: 0x75, // u
  version: 0x76, // v
} as const;
export type Area = keyof typeof AREAS;

/** `gt` and `lt` are exclusive, as LevelDB has them. */
export interface KeyRange {
  readonly gt: Buffer;
  readonly lt: Buffer;
}

export interface OutboxCounters {
  readonly entries: number;
  readonly bytes: number;
  /** The highest `seq` that was ever in a commit; never given out again. */
  readonly lastSeq: number;
  /** No unsettled entry lies below; below are only the tombstones of settled ones. */
  readonly head: number;
}

export type Decoded<T> =
  | { readonly kind: "ok"; readonly value: T }
  | { readonly kind: "damaged"; readonly reason: string };

// ------------------------------------------------------------------------------------------------ keys

export const VERSION_KEY = Buffer.from([AREAS.version]);
export const USAGE_KEY = Buffer.from([AREAS.usage]);

export function areaRange(area: Area): KeyRange {
  return { gt: Buffer.from([AREAS[area]]), lt: Buffer.from([AREAS[area] + 1]) };
}

/** The keys of an area with `seq > after`. */
export function seqRange(area: "outbox" | "retained" | "setAside", after: number): KeyRange {
  return { gt: seqKey(area, Math.max(0, after)), lt: areaRange(area).lt };
}

export function seqKey(area: "outbox" | "retained" | "setAside", seq: number): Buffer {
  return Buffer.concat([Buffer.from([AREAS[area]]), seqBytes(seq)]);
}

/** The `seq` at the end of a key of `outbox`, `retained`, `setAside` or `cloudToDevice`. */
export function keySeq(key: Buffer): number {
  return Number(key.readBigUInt64BE(key.length - 8));
}

export function leafKey(leafId: LeafId): Buffer {
  return Buffer.concat([Buffer.from([AREAS.leaf]), Buffer.from(leafId, "utf8")]);
}

/** The zero byte parts id and number; IoT Hub's alphabet of device ids does not have it. */
export function cloudToDeviceKey(leafId: LeafId, seq: number): Buffer {
  return Buffer.concat([cloudToDevicePrefix(leafId, 0), seqBytes(seq)]);
}

export function cloudToDeviceRange(leafId: LeafId): KeyRange {
  return { gt: cloudToDevicePrefix(leafId, 0), lt: cloudToDevicePrefix(leafId, 1) };
}

export function metaKey(name: MetaKey): Buffer {
  return Buffer.concat([Buffer.from([AREAS.meta]), Buffer.from(name, "utf8")]);
}

/** Where the bytes of an unreadable value are kept for inspection: under their old key. */
export function damagedKey(key: Buffer): Buffer {
  return Buffer.concat([Buffer.from([AREAS.damaged]), key]);
}

export function areaOf(key: Buffer): Area | undefined {
  for (const area of Object.keys(AREAS)) if (isArea(area) && AREAS[area] === key[0]) return area;
  return undefined;
}

function isArea(text: string): text is Area {
  return Object.hasOwn(AREAS, text);
}

function cloudToDevicePrefix(leafId: LeafId, separator: 0 | 1): Buffer {
  return Buffer.concat([Buffer.from([AREAS.cloudToDevice]), Buffer.from(leafId, "utf8"), Buffer.from([separator])]);
}

function seqBytes(seq: number): Buffer {
  if (!Number.isSafeInteger(seq) || seq < 0) throw new GatewayError("INVARIANT", `${seq} cannot be a sequence number`);
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(seq));
  return bytes;
}

// ------------------------------------------------------------------------------------------------ envelope

const HEAD_BYTES = 5;

/** Wraps a body for `key` with version and checksum. */
function seal(key: Buffer, body: Buffer): Buffer {
  const sealed = Buffer.concat([Buffer.alloc(HEAD_BYTES), body]);
  sealed[0] = FORMAT_VERSION;
  sealed.writeUInt32BE(checksum(key, FORMAT_VERSION, body), 1);
  return sealed;
}

/** The body of a sealed value, or why it cannot be trusted. */
export function unseal(key: Buffer, sealed: Buffer): Decoded<Buffer> {
  const version = sealed[0];
  if (version === undefined || sealed.length < HEAD_BYTES) return { kind: "damaged", reason: "cut short" };
  const body = sealed.subarray(HEAD_BYTES);
  if (sealed.readUInt32BE(1) !== checksum(key, version, body)) return { kind: "damaged", reason: "wrong checksum" };
  if (version !== FORMAT_VERSION) return { kind: "damaged", reason: `unknown version ${version}` };
  return { kind: "ok", value: body };
}

function checksum(key: Buffer, version: number, body: Buffer): number {
  return crc32(body, crc32(Buffer.from([version]), crc32(key)));
}

// ------------------------------------------------------------------------------------------------ values

export function encodeVersion(version: number): Buffer {
  return seal(VERSION_KEY, Buffer.from([version]));
}

/** The version of the whole database. Read without trust in anything but the checksum, since a newer version may say more. */
export function decodeVersion(sealed: Buffer): Decoded<number> {
  const body = unseal(VERSION_KEY, sealed);
  if (body.kind === "damaged") return body;
  const version = body.value[0];
  return version === undefined ? { kind: "damaged", reason: "empty" } : { kind: "ok", value: version };
}

export function encodeCounters(counters: OutboxCounters): Buffer {
  return sealJson(USAGE_KEY, [counters.entries, counters.bytes, counters.lastSeq, counters.head]);
}

export function decodeCounters(sealed: Buffer): Decoded<OutboxCounters> {
  return mapDecoded(unsealJson(USAGE_KEY, sealed), (json) => {
    if (!Array.isArray(json)) return undefined;
    const numbers: readonly unknown[] = json;
    const [entries, bytes, lastSeq, head] = numbers;
    if (!isCount(entries) || !isCount(bytes) || !isCount(lastSeq) || !isCount(head)) return undefined;
    return { entries, bytes, lastSeq, head };
  });
}

export function encodeLeaf(key: Buffer, record: LeafRecord): Buffer {
  return sealJson(key, record);
}

/** JSON has no undefined: what may be undefined in a record is put back, so that a record read equals the one written. */
export function decodeLeaf(key: Buffer, sealed: Buffer): Decoded<LeafRecord> {
  return mapDecoded(unsealJson(key, sealed), (json) =>
    isObject(json) && typeof json["leafId"] === "string"
      ? ({ modelId: undefined, missed: undefined, ...json } as unknown as LeafRecord)
      : undefined,
  );
}

export function encodeMeta(key: Buffer, value: Json): Buffer {
  return sealJson(key, value);
}

export function decodeMeta(key: Buffer, sealed: Buffer): Decoded<Json> {
  const json = unsealJson(key, sealed);
  return json.kind === "ok" ? { kind: "ok", value: json.value as Json } : json;
}

export function encodeOutboxEntry(key: Buffer, { leafId, message, enqueuedMs }: OutboxEntry): Buffer {
  return sealMessage(key, { l: leafId, e: enqueuedMs }, message);
}

/** `seq` stands in the key. */
export function decodeOutboxEntry(key: Buffer, sealed: Buffer): Decoded<OutboxEntry> {
  return mapDecoded(unsealMessage(key, sealed), ({ head, message }) => {
    const { l: leafId, e: enqueuedMs } = head;
    if (typeof leafId !== "string" || typeof enqueuedMs !== "number") return undefined;
    return { seq: keySeq(key), leafId: leafId as LeafId, message, enqueuedMs };
  });
}

export function encodeSetAside(key: Buffer, { entry, reason, setAsideMs }: SetAsideEntry): Buffer {
  return sealMessage(key, { l: entry.leafId, e: entry.enqueuedMs, r: reason, a: setAsideMs }, entry.message);
}

export function decodeSetAside(key: Buffer, sealed: Buffer): Decoded<SetAsideEntry> {
  return mapDecoded(unsealMessage(key, sealed), ({ head, message }) => {
    const { l: leafId, e: enqueuedMs, r: reason, a: setAsideMs } = head;
    if (typeof leafId !== "string" || typeof enqueuedMs !== "number") return undefined;
    if (typeof reason !== "string" || typeof setAsideMs !== "number") return undefined;
    return { entry: { seq: keySeq(key), leafId: leafId as LeafId, message, enqueuedMs }, reason, setAsideMs };
  });
}

export function encodeCloudToDevice(key: Buffer, { leafId, message, expiresMs }: CloudToDeviceEntry): Buffer {
  return sealMessage(key, { l: leafId, x: expiresMs }, message);
}

export function decodeCloudToDevice(key: Buffer, sealed: Buffer): Decoded<CloudToDeviceEntry> {
  return mapDecoded(unsealMessage(key, sealed), ({ head, message }) => {
    const { l: leafId, x: expiresMs } = head;
    if (typeof leafId !== "string" || typeof expiresMs !== "number") return undefined;
    return { leafId: leafId as LeafId, seq: keySeq(key), message, expiresMs };
  });
}

// ------------------------------------------------------------------------------------------------ bodies

function sealJson(key: Buffer, value: unknown): Buffer {
  return seal(key, Buffer.from(JSON.stringify(value), "utf8"));
}

function unsealJson(key: Buffer, sealed: Buffer): Decoded<unknown> {
  const body = unseal(key, sealed);
  return body.kind === "ok" ? parseJson(body.value) : body;
}

/** `h`: system properties, `p`: application properties; the payload stays raw bytes. */
function sealMessage(key: Buffer, head: Readonly<Record<string, unknown>>, message: Telemetry): Buffer {
  const json = Buffer.from(JSON.stringify({ ...head, h: message.system, p: message.properties }), "utf8");
  const length = Buffer.alloc(4);
  length.writeUInt32BE(json.length);
  return seal(key, Buffer.concat([length, json, message.payload]));
}

interface MessageBody {
  readonly head: Readonly<Record<string, unknown>>;
  readonly message: Telemetry;
}

function unsealMessage(key: Buffer, sealed: Buffer): Decoded<MessageBody> {
  const body = unseal(key, sealed);
  if (body.kind === "damaged") return body;
  if (body.value.length < 4) return { kind: "damaged", reason: "cut short" };
  const end = 4 + body.value.readUInt32BE(0);
  return mapDecoded(parseJson(body.value.subarray(4, end)), (head) => {
    if (!isObject(head)) return undefined;
    const { h: system, p: properties } = head;
    if (!isObject(system) || !isObject(properties)) return undefined;
    // A copy: the value's buffer belongs to a page that would otherwise live as long as the entry.
    const payload = new Uint8Array(body.value.subarray(end));
    return { head, message: { payload, system: system as Strings, properties: properties as Strings } };
  });
}

type Strings = Readonly<Record<string, string>>;

function parseJson(bytes: Buffer): Decoded<unknown> {
  try {
    return { kind: "ok", value: JSON.parse(bytes.toString("utf8")) };
  } catch {
    return { kind: "damaged", reason: "not JSON" };
  }
}

function mapDecoded<From, To>(decoded: Decoded<From>, map: (value: From) => To | undefined): Decoded<To> {
  if (decoded.kind === "damaged") return decoded;
  const value = map(decoded.value);
  return value === undefined ? { kind: "damaged", reason: "unexpected shape" } : { kind: "ok", value };
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}
