/**
 * Store-and-forward policy of the outbox, as decisions. Invariant: what was admitted is given up only by age, by eviction (when the
 * operator asked for it) or because the hub refuses it; each of these is a decision that somebody counts.
 */
import type { Fault, OutboxEntry, Telemetry } from "./message.ts";
import { utf8Bytes } from "./utf8.ts";

export interface AdmissionPolicy {
  readonly maxBytes: number;
  /** `reject`: the leaf keeps its message; `drop-oldest`: the oldest messages make room. */
  readonly overflow: "reject" | "drop-oldest";
  /** How much of the room a leaf may take while no other needs any, in percent, above 0 and below 100. */
  readonly leafSharePercent?: number;
}

export interface OutboxRoom {
  readonly bytes: number;
  /** What the leaf in question has of it. */
  readonly leafBytes: number;
}

export type AdmissionVerdict =
  | { readonly kind: "admit" }
  | { readonly kind: "refuse"; readonly reason: "full" | "leaf-share" }
  /** At least so much has to go before the entry may come: the oldest of the leaf's own, or the oldest of all. */
  | { readonly kind: "evict"; readonly bytesToFree: number; readonly whose: "own" | "any" };

const LEAF_SHARE_PERCENT = 90;
/** Sequence number, leaf id, time of arrival and what the database adds; an estimate that small messages need. */
const ENTRY_OVERHEAD_BYTES = 64;

/**
 * Whether an entry of `entryBytes` may be stored. A leaf may hold at most a fixed multiple of what is free, as switches share one
 * buffer among ports (Choudhury and Hahne, dynamic queue length thresholds): alone it gets 90 %; of n greedy leaves each gets
 * 9 parts in 9n + 1; and whoever comes later still finds room, since what the others may hold shrinks with what is free.
 */
export function admit(room: OutboxRoom, entryBytes: number, policy: AdmissionPolicy): AdmissionVerdict {
  const { maxBytes, overflow, leafSharePercent = LEAF_SHARE_PERCENT } = policy;
  // How far a leaf that holds `leafBytes` is above its multiple of what is free, in hundredths: whole numbers round nothing away.
  const excess = (leafBytes: number, freeBytes: number): number =>
    leafBytes * (100 - leafSharePercent) - freeBytes * leafSharePercent;
  if (excess(entryBytes, maxBytes - entryBytes) > 0) return { kind: "refuse", reason: "full" };
  const freeAfter = maxBytes - room.bytes - entryBytes;
  const over = excess(room.leafBytes + entryBytes, freeAfter);
  if (over <= 0) return { kind: "admit" };
  if (overflow === "reject") return { kind: "refuse", reason: freeAfter < 0 ? "full" : "leaf-share" };
  // What a leaf gives up itself counts twice: it holds less, and more is free.
  const ownBytes = Math.ceil(over / 100);
  if (ownBytes <= room.leafBytes) return { kind: "evict", bytesToFree: ownBytes, whose: "own" };
  return { kind: "evict", bytesToFree: Math.min(Math.ceil(over / leafSharePercent), room.bytes), whose: "any" };
}

/** `nowMs` by the steady clock. An entry from a clock that was ahead is kept until its time has come. */
export function isExpired(entry: Pick<OutboxEntry, "enqueuedMs">, nowMs: number, timeToLiveSecs: number): boolean {
  return nowMs - entry.enqueuedMs > timeToLiveSecs * 1000;
}

/** What an entry takes of the quota. */
export function entryBytes(message: Telemetry): number {
  let bytes = ENTRY_OVERHEAD_BYTES + message.payload.length;
  for (const [key, value] of Object.entries(message.system)) bytes += utf8Bytes(key) + utf8Bytes(value);
  for (const [key, value] of Object.entries(message.properties)) bytes += utf8Bytes(key) + utf8Bytes(value);
  return bytes;
}

/** Failures of one message while others pass, after which it is the message and not the line. */
const POISON_FAILURES = 5;

/**
 * What becomes of a message whose `failures`-th send has failed. `othersPassed`: on that very link another message was accepted.
 * Only a refusal, or failing again and again alone where others pass, makes a message the guilty one; a line that breaks under a
 * full window makes none.
 */
export function afterFailure(
  failures: number,
  othersPassed: boolean,
  fault: Fault,
): "retry" | "retry-alone" | "set-aside" {
  switch (fault.kind) {
    case "rejected":
      return "set-aside";
    case "throttled":
    case "unauthorized":
      return "retry";
    case "transient":
      if (failures >= POISON_FAILURES && othersPassed) return "set-aside";
      return failures >= 2 ? "retry-alone" : "retry";
  }
}
