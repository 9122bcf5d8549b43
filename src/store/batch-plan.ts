/**
 * Turns the writes of a group of commits into one atomic batch; pure. Invariant: the batch holds the writes in the order of the
 * calls, and the outbox counters as they are after all of them.
 */
import type { LeafId } from "../core/message.ts";
import { entryBytes } from "../core/outbox.ts";
import type { Write } from "../flow/ports.ts";
import {
  cloudToDeviceKey,
  encodeCloudToDevice,
  encodeCounters,
  encodeLeaf,
  encodeMeta,
  encodeOutboxEntry,
  encodeSetAside,
  keySeq,
  leafKey,
  metaKey,
  seqKey,
  USAGE_KEY,
} from "./format.ts";
import type { Operation } from "./level-database.ts";
import type { LedgerDraft } from "./outbox-ledger.ts";

/** A write whose values are encoded already, so that one that cannot be encoded fails its own commit only. */
export type Step =
  | { readonly kind: "plain"; readonly operations: readonly Operation[]; readonly usedSeq: number | undefined }
  | { readonly kind: "append"; readonly seq: number; readonly bytes: number; readonly operation: Operation }
  | { readonly kind: "settle"; readonly seq: number; readonly operations: readonly Operation[] }
  | { readonly kind: "forget"; readonly upToSeq: number }
  | { readonly kind: "leaf-removed"; readonly leafId: LeafId };

/** Takes room for long, and is not the return of what is there already (a resend). */
export function isAddition(writes: readonly Write[]): boolean {
  const has = (wanted: Write["kind"]): boolean => writes.some(({ kind }) => kind === wanted);
  return (has("append") && !has("forget")) || has("cloud-to-device");
}

export function encodeWrite(write: Write): Step {
  switch (write.kind) {
    case "leaf": {
      const key = leafKey(write.record.leafId);
      return plain([{ type: "put", key, value: encodeLeaf(key, write.record) }]);
    }
    case "leaf-removed":
      return write;
    case "append": {
      const { seq, message } = write.entry;
      const key = seqKey("outbox", seq);
      const operation: Operation = { type: "put", key, value: encodeOutboxEntry(key, write.entry) };
      return { kind: "append", seq, bytes: entryBytes(message), operation };
    }
    case "settle":
      return encodeSettle(write);
    case "forget":
      return write;
    case "set-aside": {
      const { seq } = write.entry.entry;
      const key = seqKey("setAside", seq);
      return plain([{ type: "put", key, value: encodeSetAside(key, write.entry) }], seq);
    }
    case "set-aside-removed":
      return plain([{ type: "del", key: seqKey("setAside", write.seq) }]);
    case "cloud-to-device": {
      const key = cloudToDeviceKey(write.entry.leafId, write.entry.seq);
      return plain([{ type: "put", key, value: encodeCloudToDevice(key, write.entry) }]);
    }
    case "cloud-to-device-done":
      return plain([{ type: "del", key: cloudToDeviceKey(write.leafId, write.seq) }]);
    case "meta": {
      const key = metaKey(write.key);
      return plain([{ type: "put", key, value: encodeMeta(key, write.value) }]);
    }
  }
}

function plain(operations: readonly Operation[], usedSeq?: number): Step {
  return { kind: "plain", operations, usedSeq };
}

function encodeSettle({ seq, retain }: Extract<Write, { kind: "settle" }>): Step {
  const operations: Operation[] = [{ type: "del", key: seqKey("outbox", seq) }];
  if (retain !== undefined) {
    const key = seqKey("retained", retain.seq);
    operations.push({ type: "put", key, value: encodeOutboxEntry(key, retain) });
  }
  return { kind: "settle", seq, operations };
}

const RETAINED = seqKey("retained", 0)[0];

/** Keys on disk that range writes take away, as they are before the batch. */
export interface KeysOnDisk {
  /** Retained entries up to the highest `forget` of the group. */
  readonly retained: readonly Buffer[];
  readonly cloudToDevice: ReadonlyMap<LeafId, readonly Buffer[]>;
}

export function planBatch(steps: readonly Step[], onDisk: KeysOnDisk, draft: LedgerDraft): readonly Operation[] {
  const operations: Operation[] = [];
  for (const step of steps) {
    switch (step.kind) {
      case "plain":
        operations.push(...step.operations);
        if (step.usedSeq !== undefined) draft.used(step.usedSeq);
        break;
      case "append":
        operations.push(step.operation);
        draft.append(step.seq, step.bytes);
        break;
      case "settle":
        operations.push(...step.operations);
        draft.remove(step.seq);
        break;
      case "forget":
        planForget(operations, onDisk.retained, step.upToSeq);
        break;
      case "leaf-removed":
        planLeafRemoved(operations, onDisk.cloudToDevice.get(step.leafId) ?? [], step.leafId);
        break;
    }
  }
  if (draft.isChanged) operations.push({ type: "put", key: USAGE_KEY, value: encodeCounters(draft.counters) });
  return operations;
}

function planForget(operations: Operation[], onDisk: readonly Buffer[], upToSeq: number): void {
  const isMeant = (key: Buffer): boolean => key[0] === RETAINED && keySeq(key) <= upToSeq;
  for (const key of onDisk) if (isMeant(key)) operations.push({ type: "del", key });
  forgetPut(operations, isMeant);
}

function planLeafRemoved(operations: Operation[], onDisk: readonly Buffer[], leafId: LeafId): void {
  const prefix = cloudToDeviceKey(leafId, 0).subarray(0, -8);
  operations.push({ type: "del", key: leafKey(leafId) });
  for (const key of onDisk) operations.push({ type: "del", key });
  forgetPut(operations, (key) => key.subarray(0, prefix.length).equals(prefix));
}

/** A range write also takes away what an earlier write of the same batch put there. */
function forgetPut(operations: Operation[], isMeant: (key: Buffer) => boolean): void {
  const put = operations.filter(({ type, key }) => type === "put" && isMeant(key));
  for (const { key } of put) operations.push({ type: "del", key });
}
