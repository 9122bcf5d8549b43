/**
 * Store-and-forward policy of the outbox, as decisions. Invariant: what was admitted is given up only by age, by eviction (when the
 * operator asked for it) or because the hub refuses it; each of these is a decision that somebody counts.
 */

import type { OutboxEntry, Telemetry } from "./message.ts";
import { utf8Bytes } from "./utf8.ts";

export interface AdmissionPolicy {
  readonly maxBytes: number;
  /** `reject`: the leaf keeps its message; `drop-oldest`: the oldest messages make room. */
  readonly overflow: "reject" | "drop-oldest";
}

export interface OutboxRoom {
  readonly bytes: number;
  readonly entries: number;
  /** What the leaf in question has in it, and how many leaves have something in it. */
  readonly leafBytes: number;
  readonly leaves: number;
}

export type AdmissionVerdict =
  | { readonly kind: "admit" }
  | { readonly kind: "refuse"; readonly reason: "full" | "leaf-share" }
  | { readonly kind: "evict"; readonly bytesToFree: number };

/** From this fill on a leaf may not hold more than its share: the rest stays free for the others. */
const SHARED_FROM = 0.5;
/** A share is never smaller than this part of the whole, so that many quiet leaves do not starve a normal one. */
const MIN_SHARE = 0.1;

/** Whether an entry of `entryBytes` may be stored. */
export function admit(room: OutboxRoom, entryBytes: number, policy: AdmissionPolicy): AdmissionVerdict {
  const { maxBytes, overflow } = policy;
  if (entryBytes > maxBytes) return { kind: "refuse", reason: "full" };
  const isShared = room.bytes + entryBytes > maxBytes * SHARED_FROM;
  const share = maxBytes * Math.max(MIN_SHARE, SHARED_FROM / Math.max(1, room.leaves));
  if (isShared && room.leaves > 1 && room.leafBytes + entryBytes > share)
    return { kind: "refuse", reason: "leaf-share" };
  const over = room.bytes + entryBytes - maxBytes;
  if (over <= 0) return { kind: "admit" };
  return overflow === "reject" ? { kind: "refuse", reason: "full" } : { kind: "evict", bytesToFree: over };
}

/** `nowMs` by the steady clock. */
export function isExpired(entry: OutboxEntry, nowMs: number, timeToLiveSecs: number): boolean {
  return nowMs - entry.enqueuedMs > timeToLiveSecs * 1000;
}

/** What an entry takes of the quota: its payload, its properties and a little for the rest. */
export function entryBytes(message: Telemetry): number {
  let bytes = 64 + message.payload.length;
  for (const [key, value] of Object.entries(message.system)) bytes += utf8Bytes(key) + utf8Bytes(value);
  for (const [key, value] of Object.entries(message.properties)) bytes += utf8Bytes(key) + utf8Bytes(value);
  return bytes;
}
