/**
 * The store as plain maps: passes the contract suite of the real one. What outlives a process is its `disk`; a store opened on the
 * same disk, or on a copy of it, is the gateway started again.
 */

import { GatewayError } from "../../src/core/errors.ts";
import type { LeafRecord } from "../../src/core/leaf.ts";
import type { Json, LeafId, OutboxEntry, SetAsideEntry } from "../../src/core/message.ts";
import { entryBytes } from "../../src/core/outbox.ts";
import type { CloudToDeviceEntry, MetaKey, Store, StoreUsage, Write } from "../../src/flow/ports.ts";

export interface MemoryDisk {
  readonly leaves: Map<LeafId, LeafRecord>;
  readonly outbox: Map<number, OutboxEntry>;
  readonly retained: Map<number, OutboxEntry>;
  readonly setAside: Map<number, SetAsideEntry>;
  readonly cloudToDevice: Map<string, CloudToDeviceEntry>;
  readonly meta: Map<MetaKey, Json>;
  lastSeq: number;
}

export function emptyDisk(): MemoryDisk {
  return {
    leaves: new Map(),
    outbox: new Map(),
    retained: new Map(),
    setAside: new Map(),
    cloudToDevice: new Map(),
    meta: new Map(),
    lastSeq: 0,
  };
}

export class MemoryStore implements Store {
  readonly disk: MemoryDisk;
  #isClosed = false;

  constructor(disk: MemoryDisk = emptyDisk()) {
    this.disk = disk;
  }

  async commit(writes: readonly Write[]): Promise<void> {
    if (this.#isClosed) throw new GatewayError("STORE_FAILED", "the store is closed");
    for (const write of writes) this.#apply(write);
  }

  async *leaves(): AsyncIterable<LeafRecord> {
    yield* sorted(this.disk.leaves);
  }

  async outbox(after: number, limit: number): Promise<readonly OutboxEntry[]> {
    const seqs = [...this.disk.outbox.keys()].filter((seq) => seq > after).toSorted((a, b) => a - b);
    return seqs.slice(0, limit).flatMap((seq) => this.disk.outbox.get(seq) ?? []);
  }

  async *retained(): AsyncIterable<OutboxEntry> {
    yield* sorted(this.disk.retained);
  }

  async *setAside(): AsyncIterable<SetAsideEntry> {
    yield* sorted(this.disk.setAside);
  }

  async *cloudToDevice(): AsyncIterable<CloudToDeviceEntry> {
    yield* [...this.disk.cloudToDevice.values()].toSorted((a, b) =>
      a.leafId === b.leafId ? a.seq - b.seq : a.leafId < b.leafId ? -1 : 1,
    );
  }

  async meta(key: MetaKey): Promise<Json | undefined> {
    return this.disk.meta.get(key);
  }

  usage(): StoreUsage {
    let bytes = 0;
    for (const entry of this.disk.outbox.values()) bytes += entryBytes(entry.message);
    return { entries: this.disk.outbox.size, bytes, lastSeq: this.disk.lastSeq };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true;
  }

  #apply(write: Write): void {
    const { disk } = this;
    switch (write.kind) {
      case "leaf":
        disk.leaves.set(write.record.leafId, write.record);
        return;
      case "leaf-removed":
        disk.leaves.delete(write.leafId);
        for (const [key, entry] of disk.cloudToDevice)
          if (entry.leafId === write.leafId) disk.cloudToDevice.delete(key);
        return;
      case "append":
        disk.outbox.set(write.entry.seq, write.entry);
        this.#used(write.entry.seq);
        return;
      case "settle":
        disk.outbox.delete(write.seq);
        if (write.retain !== undefined) disk.retained.set(write.retain.seq, write.retain);
        this.#used(write.seq);
        return;
      case "forget":
        for (const seq of disk.retained.keys()) if (seq <= write.upToSeq) disk.retained.delete(seq);
        return;
      case "set-aside":
        disk.setAside.set(write.entry.entry.seq, write.entry);
        this.#used(write.entry.entry.seq);
        return;
      case "set-aside-removed":
        disk.setAside.delete(write.seq);
        return;
      case "cloud-to-device":
        disk.cloudToDevice.set(`${write.entry.leafId} ${write.entry.seq}`, write.entry);
        return;
      case "cloud-to-device-done":
        disk.cloudToDevice.delete(`${write.leafId} ${write.seq}`);
        return;
      case "meta":
        disk.meta.set(write.key, write.value);
        return;
    }
  }

  #used(seq: number): void {
    this.disk.lastSeq = Math.max(this.disk.lastSeq, seq);
  }
}

function sorted<Key extends string | number, Value>(map: ReadonlyMap<Key, Value>): readonly Value[] {
  const keys = [...map.keys()].toSorted((a, b) => (a < b ? -1 : 1));
  return keys.flatMap((key) => map.get(key) ?? []);
}
