/**
 * Cloud-to-device messages: kept on disk for a sleeping leaf and delivered one at a time, like IoT Hub's own queue (50 messages,
 * a time to live, removed at the leaf's PUBACK). Invariants: a message that was called queued is on disk, and what is not on disk is
 * not delivered.
 */
import type { LeafId, Telemetry } from "../core/message.ts";
import { entryBytes } from "../core/outbox.ts";
import { takeOut } from "../core/take-out.ts";
import type { Downlink } from "./downlink.ts";
import type { Leaf, Leaves } from "./leaves.ts";
import type { Clock, CloudToDeviceEntry, Log, Metrics, Store, Write } from "./ports.ts";

/** [D-c2d, D-quota]: per device. */
const MAX_QUEUED = 50;
export const DEFAULT_TTL_SECS = 3_600;
export const MAX_TTL_SECS = 48 * 3_600;
const MAX_MESSAGE_BYTES = 64 * 1024;
/** [D-c2d]: then it is dead, or one that a leaf cannot bear would hold up all behind it. */
const MAX_DELIVERIES = 10;

export interface CloudToDeviceOptions {
  readonly store: Store;
  readonly leaves: Leaves;
  readonly downlink: Downlink;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Log;
}

export type Queued =
  | { readonly kind: "queued" }
  | { readonly kind: "refused"; readonly status: number; readonly reason: string };

export class CloudToDevice {
  readonly #options: CloudToDeviceOptions;
  readonly #queues = new Map<LeafId, CloudToDeviceEntry[]>();
  /** In a queue already, and not on disk yet. */
  readonly #storing = new Set<CloudToDeviceEntry>();
  /** Leaves with a message outstanding. */
  readonly #pumping = new Set<LeafId>();
  /** How often the leaf did not acknowledge it; since the gateway's start. */
  readonly #failures = new WeakMap<CloudToDeviceEntry, number>();
  #lastSeq = 0;

  constructor(options: CloudToDeviceOptions) {
    this.#options = options;
  }

  async load(): Promise<void> {
    for await (const entry of this.#options.store.cloudToDevice()) {
      this.#lastSeq = Math.max(this.#lastSeq, entry.seq);
      this.#queue(entry.leafId).push(entry);
    }
  }

  queued(leafId: LeafId): number {
    return this.#queues.get(leafId)?.length ?? 0;
  }

  /** Resolves when the message is on disk, or says why it is not. */
  async send(leaf: Leaf, message: Telemetry, ttlSecs: number): Promise<Queued> {
    const { clock, metrics, store } = this.#options;
    if (leaf.record.removed) return { kind: "refused", status: 404, reason: `the leaf ${leaf.id} is removed` };
    if (entryBytes(message) > MAX_MESSAGE_BYTES) return { kind: "refused", status: 413, reason: "larger than 64 KB" };
    if (this.queued(leaf.id) >= MAX_QUEUED) await this.#expire(leaf.id);
    if (this.queued(leaf.id) >= MAX_QUEUED)
      return { kind: "refused", status: 429, reason: `${MAX_QUEUED} messages wait for this leaf already` };
    const entry = { leafId: leaf.id, seq: ++this.#lastSeq, message, expiresMs: clock.steady() + ttlSecs * 1000 };
    // It has its place before the write, so that 60 messages at once are not all let in.
    this.#queue(leaf.id).push(entry);
    this.#storing.add(entry);
    try {
      await store.commit([{ kind: "cloud-to-device", entry }]);
    } catch {
      takeOut(this.#queue(entry.leafId), entry);
      return { kind: "refused", status: 500, reason: "the gateway could not store the message" };
    } finally {
      this.#storing.delete(entry);
    }
    metrics.count("cloud_to_device_total", { result: "queued" });
    this.ready(leaf);
    return { kind: "queued" };
  }

  /** The leaf may listen now: deliver what waits. */
  ready(leaf: Leaf): void {
    if (this.#pumping.has(leaf.id) || !this.#options.leaves.isReady(leaf, "cloud-to-device")) return;
    this.#pumping.add(leaf.id);
    this.#pump(leaf).catch((error: unknown) =>
      this.#options.log.error({ leafId: leaf.id, error: String(error) }, "cloud-to-device delivery failed"),
    );
  }

  /** The leaf is removed: the writes that take its messages away, for the commit that does it. */
  forget(leafId: LeafId): readonly Write[] {
    const queue = this.#queues.get(leafId) ?? [];
    this.#queues.delete(leafId);
    return queue.map(({ seq }) => ({ kind: "cloud-to-device-done", leafId, seq }));
  }

  async #pump(leaf: Leaf): Promise<void> {
    const { downlink, leaves, metrics } = this.#options;
    try {
      await this.#expire(leaf.id);
      for (let entry = this.#queue(leaf.id)[0]; entry !== undefined; entry = this.#queue(leaf.id)[0]) {
        // Who stores it calls again.
        if (this.#storing.has(entry) || !leaves.isReady(leaf, "cloud-to-device")) return;
        const delivered = await downlink.tell(leaf, { kind: "cloud-to-device", message: entry.message });
        // Nothing was written: that the leaf has gone is only not known here yet, and the message has no part in it.
        if (delivered === "offline") return;
        if (delivered === "unacknowledged") {
          if (!this.#isHopeless(entry)) return;
          await this.#done(entry);
          continue;
        }
        metrics.count("cloud_to_device_total", { result: "delivered" });
        await this.#done(entry);
        await this.#expire(leaf.id);
      }
    } finally {
      // In the very step that found nothing to do: who gets ready after it starts again.
      this.#pumping.delete(leaf.id);
    }
  }

  /** One more delivery that was not acknowledged: whether it was the last one that it gets. */
  #isHopeless(entry: CloudToDeviceEntry): boolean {
    const { log, metrics } = this.#options;
    const failures = (this.#failures.get(entry) ?? 0) + 1;
    this.#failures.set(entry, failures);
    if (failures < MAX_DELIVERIES) return false;
    metrics.count("cloud_to_device_total", { result: "undeliverable" });
    log.warn({ leafId: entry.leafId }, "a cloud-to-device message was not acknowledged ten times, it is given up");
    return true;
  }

  /** Wherever it stands in the queue: it would count against the fifty. */
  async #expire(leafId: LeafId): Promise<void> {
    const { clock, log, metrics } = this.#options;
    const isDue = ({ expiresMs }: CloudToDeviceEntry): boolean => expiresMs <= clock.steady();
    for (let entry = this.#queue(leafId).find(isDue); entry !== undefined; entry = this.#queue(leafId).find(isDue)) {
      metrics.count("cloud_to_device_total", { result: "expired" });
      log.warn({ leafId }, "a cloud-to-device message outlived its time to live");
      await this.#done(entry);
    }
  }

  async #done(entry: CloudToDeviceEntry): Promise<void> {
    takeOut(this.#queue(entry.leafId), entry);
    const { leafId, seq } = entry;
    await this.#options.store.commit([{ kind: "cloud-to-device-done", leafId, seq }]).catch((error: unknown) =>
      // The messages behind it must not wait for the disk.
      this.#options.log.error({ leafId, error: String(error) }, "a delivered message comes again after a restart"),
    );
  }

  #queue(leafId: LeafId): CloudToDeviceEntry[] {
    const queue = this.#queues.get(leafId) ?? [];
    this.#queues.set(leafId, queue);
    return queue;
  }
}

const FOR_LEAVES: ReadonlySet<string> = new Set(["mid", "cid", "uid", "ct", "ce"]);

/** System properties that a message at a module input hands on to the leaf. */
export function systemForLeaf(system: Telemetry["system"]): Telemetry["system"] {
  return Object.fromEntries(Object.entries(system).filter(([key]) => FOR_LEAVES.has(key)));
}
