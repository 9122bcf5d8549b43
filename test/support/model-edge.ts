/**
 * edgeHub between the gateway and the cloud, as a model with the ways in which the real one surprises: it takes reported patches
 * and pushes them later and merged (losing a null under a later object), shows the cloud's older state meanwhile, answers from its
 * store in an outage, forgets desired notifications of a short one, spells dates its own way [iothub-mqtt.md 12.2, 12.3].
 */
import type { Json, JsonObject, Telemetry } from "../../src/core/message.ts";
import type { Clock } from "../../src/flow/ports.ts";
import { hubMerge } from "./model-hub.ts";

/** The cloud's side of it: the truth that is compared at the end. */
export interface ModelCloud {
  desired: JsonObject;
  version: number;
  reported: JsonObject;
  readonly telemetry: Telemetry[];
}

interface Stored {
  readonly desired: JsonObject;
  /** undefined: never read from the cloud. */
  readonly version: number | undefined;
  readonly reported: JsonObject;
  readonly fetchedMs: number;
}
const NEVER_FETCHED: Stored = { desired: {}, version: undefined, reported: {}, fetchedMs: 0 };

export interface EdgeRead {
  readonly desired: JsonObject;
  readonly desiredVersion: number | undefined;
  readonly reported: JsonObject;
  readonly tookMs: number;
}

const PUSH_EVERY_MS = 5_000;
const READ_IN_OUTAGE_MS = 20_000;
/** Without a route, or a name, and without a connection to the cloud yet. */
const READ_WITHOUT_ROUTE_MS = 1_000;
/** What a power cut takes of a disk that nobody syncs. */
const UNSYNCED_MS = 30_000;
const MAX_WRITTEN = 1_000;
const MIN_TWIN_SYNC_MS = 120_000;

export class ModelEdge {
  line: "up" | "cut" = "up";
  /** The cut line fails at once. */
  hasRoute = true;
  /** Reads that the cloud answered, as edgeHub's metrics count them. */
  cloudReads = 0;
  /** Another one for each process. */
  instance = 1;
  /** The cloud refuses a patch for this reason; nobody is told. */
  refuses: ((patch: JsonObject) => boolean) | undefined;
  readonly #cloud: ModelCloud;
  readonly #clock: Clock;
  #queue: Telemetry[] = [];
  #pending: JsonObject | undefined;
  #stored: Stored | undefined;
  /** What was on its disk when; it does not sync. */
  #written: { readonly atMs: number; readonly stored: Stored | undefined; readonly pending: JsonObject | undefined }[] =
    [];
  #lastPushMs = Number.NEGATIVE_INFINITY;
  #isPushPlanned = false;

  constructor(cloud: ModelCloud, clock: Clock) {
    this.#cloud = cloud;
    this.#clock = clock;
  }

  /** Messages that wait for the cloud. */
  get backlog(): number {
    return this.#queue.length;
  }

  take(message: Telemetry): void {
    if (this.line === "up") this.#cloud.telemetry.push(message);
    else this.#queue.push(message);
  }

  patch(patch: JsonObject): void {
    const spelled = respelled(patch);
    this.#pending = mergePending(this.#pending ?? {}, spelled);
    const stored = this.#stored ?? NEVER_FETCHED;
    this.#stored = { ...stored, reported: hubMerge(stored.reported, spelled) };
    this.#write();
    this.#planPush();
  }

  async read(): Promise<EdgeRead> {
    if (this.line === "cut") {
      const tookMs = this.hasRoute ? READ_IN_OUTAGE_MS : READ_WITHOUT_ROUTE_MS;
      await this.#clock.sleep(tookMs);
      // What was pending at the last read from the cloud went missing here too.
      const { desired, reported, version } = this.#stored ?? NEVER_FETCHED;
      return { desired, desiredVersion: version, reported, tookMs };
    }
    this.cloudReads += 1;
    const { desired, reported, version } = this.#fetch();
    return { desired, desiredVersion: version, reported, tookMs: 1 };
  }

  /** The cloud's notification of a change; what the client hears of it, undefined: nothing. */
  desired(patch: JsonObject, version: number): { readonly patch: JsonObject; readonly version: number } | undefined {
    if (this.line === "cut") return undefined;
    const stored = this.#stored;
    if (stored?.version === undefined || stored.version + 1 !== version) return this.#synchronise();
    this.#stored = { ...stored, desired: hubMerge(stored.desired, respelled(patch)), version };
    this.#write();
    return { patch, version };
  }

  /** The line is back and edgeHub has noticed: what is pending goes first; twins are compared only after a long time. */
  resume(): { readonly patch: JsonObject; readonly version: number } | undefined {
    this.line = "up";
    this.#cloud.telemetry.push(...this.#queue.splice(0));
    this.#push();
    if (this.#stored?.version === undefined || this.#clock.steady() - this.#stored.fetchedMs < MIN_TWIN_SYNC_MS)
      return undefined;
    return this.#synchronise();
  }

  /**
   * Another process: on the same folder, on one that a power cut has set back, or on an empty one. The queue of telemetry may be kept
   * all the same.
   */
  restart(lose: "nothing" | "newest" | "twins", queue: "keep" | "lose"): void {
    this.instance += 1;
    if (queue === "lose") this.#queue = [];
    if (lose === "nothing") return;
    const synced = this.#written.findLast(({ atMs }) => atMs <= this.#clock.steady() - UNSYNCED_MS);
    this.#pending = lose === "newest" ? synced?.pending : undefined;
    this.#stored = lose === "newest" ? synced?.stored : undefined;
    this.#write();
  }

  #write(): void {
    this.#written.push({ atMs: this.#clock.steady(), stored: this.#stored, pending: this.#pending });
    if (this.#written.length > MAX_WRITTEN) this.#written = this.#written.slice(MAX_WRITTEN / 2);
  }

  #planPush(): void {
    if (this.#isPushPlanned) return;
    this.#isPushPlanned = true;
    const dueInMs = Math.max(this.#lastPushMs + PUSH_EVERY_MS - this.#clock.steady(), 0);
    void this.#clock.sleep(dueInMs).then(() => {
      this.#isPushPlanned = false;
      this.#push();
    });
  }

  /** One that fails is not repeated: what is pending goes with the next patch or when the line is back. */
  #push(): void {
    if (this.#pending === undefined) return;
    this.#lastPushMs = this.#clock.steady();
    if (this.line === "cut" || this.refuses?.(this.#pending) === true) return;
    this.#cloud.reported = hubMerge(this.#cloud.reported, this.#pending);
    this.#pending = undefined;
    this.#write();
  }

  #fetch(): Stored & { readonly version: number } {
    const { desired, reported, version } = this.#cloud;
    const fetchedMs = this.#clock.steady();
    const fetched = { desired: respelled(desired), version, reported: respelled(reported), fetchedMs };
    this.#stored = fetched;
    this.#write();
    return fetched;
  }

  #synchronise(): { readonly patch: JsonObject; readonly version: number } | undefined {
    const before = this.#stored;
    const { desired, version } = this.#fetch();
    // With nothing stored nothing is sent.
    if (before?.version === undefined || before.version === version) return undefined;
    return { patch: difference(before.desired, desired), version };
  }
}

/** Nulls are kept, and one under a later object is lost. */
function mergePending(pending: JsonObject, patch: JsonObject): JsonObject {
  const merged = new Map(Object.entries(pending));
  for (const [key, value] of Object.entries(patch)) {
    const before = merged.get(key);
    merged.set(key, isObject(before) && isObject(value) ? mergePending(before, value) : value);
  }
  return Object.fromEntries(merged);
}

function difference(from: JsonObject, to: JsonObject): JsonObject {
  const changes: [string, Json][] = Object.keys(from)
    .filter((key) => !Object.hasOwn(to, key))
    .map((key) => [key, null]);
  for (const [key, value] of Object.entries(to)) {
    const before = Object.hasOwn(from, key) ? from[key] : undefined;
    if (isObject(before) && isObject(value)) {
      const inside = difference(before, value);
      if (Object.keys(inside).length > 0) changes.push([key, inside]);
    } else if (JSON.stringify(before) !== JSON.stringify(value)) changes.push([key, value]);
  }
  return Object.fromEntries(changes);
}

/** Trailing zeros of a date's fraction go. */
export function respelled<T extends Json>(value: T): T {
  return JSON.parse(JSON.stringify(value).replaceAll(/(T\d{2}:\d{2}:\d{2})\.0+Z"/g, '$1Z"')) as T;
}

function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
