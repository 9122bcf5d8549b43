/** Sample values for everything a store keeps, and the real store on a folder of its own. */
import { cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type LeafRecord, newRecord } from "../../src/core/leaf.ts";
import {
  type ComponentName,
  type LeafId,
  type OutboxEntry,
  parseLeafId,
  type Telemetry,
} from "../../src/core/message.ts";
import type { CloudToDeviceEntry, Store, Write } from "../../src/flow/ports.ts";
import { openLevelStore, type StoreSizes } from "../../src/store/level-store.ts";
import { ManualClock } from "./manual-clock.ts";
import { RecordingLog } from "./recording-log.ts";
import { RecordingMetrics } from "./recording-metrics.ts";

export function leafId(text: string): LeafId {
  const parsed = parseLeafId(text);
  if (parsed === undefined) throw new Error(`${text} is no leaf id`);
  return parsed;
}

export function message(text: string, properties: Readonly<Record<string, string>> = {}): Telemetry {
  return { payload: new Uint8Array(Buffer.from(text)), system: { mid: `m-${text}` }, properties };
}

export function entry(seq: number, text = `payload ${seq}`, leaf = "leaf-1"): OutboxEntry {
  return { seq, leafId: leafId(leaf), message: message(text, { leafId: leaf }), enqueuedMs: 1_000 + seq };
}

export function append(seq: number, text?: string): Write {
  return { kind: "append", entry: entry(seq, text) };
}

export function settle(seq: number, retain = false): Write {
  return { kind: "settle", seq, retain: retain ? entry(seq) : undefined };
}

export function cloudToDevice(leaf: string, seq: number): CloudToDeviceEntry {
  return { leafId: leafId(leaf), seq, message: message(`c2d ${seq}`), expiresMs: 5_000 };
}

export function leafRecord(id: string, change: Partial<LeafRecord> = {}): LeafRecord {
  const first = { leafId: leafId(id), component: id as ComponentName, modelId: undefined, dialect: "iothub" };
  return {
    ...newRecord({ ...first, nowMs: 1 }),
    lastSeenMs: 2,
    subscriptions: [{ filter: "$iothub/twin/res/#", qos: 0 }],
    desired: { a: 1 },
    desiredVersion: 3,
    reported: { b: { c: [1, "two", null] } },
    reportedVersion: 4,
    ...change,
  };
}

export async function collect<T>(values: AsyncIterable<T>): Promise<readonly T[]> {
  const all: T[] = [];
  for await (const value of values) all.push(value);
  return all;
}

/** The real store on a folder that goes away with it. */
export class LevelRig implements AsyncDisposable {
  readonly parent: string;
  readonly folder: string;
  readonly clock = new ManualClock();
  readonly log = new RecordingLog();
  readonly metrics = new RecordingMetrics();

  private constructor(parent: string) {
    this.parent = parent;
    this.folder = join(parent, "store");
  }

  static async create(): Promise<LevelRig> {
    return new LevelRig(await mkdtemp(join(tmpdir(), "gateway-store-")));
  }

  /** A rig on a copy of a folder, which is left as it is. */
  static async onCopyOf(folder: string): Promise<LevelRig> {
    const rig = await LevelRig.create();
    await cp(folder, rig.folder, { recursive: true });
    return rig;
  }

  /** Without a reserve when none is asked for: most tests need no room on a full disk. */
  open(sizes: Partial<StoreSizes> = {}): Promise<Store> {
    return openLevelStore(this, { reserveBytes: 0, ...sizes });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.parent, { recursive: true, force: true });
  }
}
