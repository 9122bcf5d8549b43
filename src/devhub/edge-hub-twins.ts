/**
 * edgeHub's twin manager: answers from the cloud when it can and from its store when it cannot, takes every reported patch
 * that is legal by its own rules, and pushes what is pending when it finds the time. Nobody ever hears that the cloud
 * refused one [iothub-mqtt.md 12.2].
 */

import type { JsonObject } from "../core/message.ts";
import type { Cloud, Identity } from "./cloud-types.ts";
import { difference, formatDotnet, isObject, merge, parseJson, rewriteDates } from "./edge-hub-json.ts";
import { type EdgeStore, keyOf, type StoredTwin } from "./edge-hub-store.ts";
import { refusalOf } from "./edge-hub-validator.ts";
import type { WanLink } from "./edge-hub-wan.ts";
import type { EdgeMetrics } from "./edge-metrics.ts";
import type { DevHubSettings } from "./settings.ts";

/** What goes back under `$iothub/twin/res/{status}/?$rid=...`; `version` becomes `&$version=`. */
export interface TwinReply {
  readonly status: number;
  readonly version?: number;
  readonly body?: string;
}

/** The twin side of either personality. */
export interface Twins {
  get(identity: Identity): Promise<TwinReply>;
  patch(identity: Identity, body: Uint8Array, ifVersion: string | undefined): TwinReply;
  /** The cloud's notification of a desired change. */
  desiredChanged(identity: Identity, patch: JsonObject, version: number): void;
  resumed(): void;
  stop(): void;
}

export interface TwinParts {
  readonly store: EdgeStore;
  readonly wan: WanLink;
  readonly cloud: Cloud;
  readonly metrics: EdgeMetrics;
  readonly settings: DevHubSettings;
  /** The cloud has been told that this client wants to hear of desired changes. */
  isHeard(key: string): boolean;
  /** Sends a desired notification to the client, if it is connected and subscribed. */
  notify(key: string, patch: JsonObject, version: number): void;
}

const UNKNOWN: StoredTwin = {
  desired: {},
  desiredVersion: undefined,
  reported: {},
  reportedVersion: undefined,
  fetchedMs: undefined,
  pending: undefined,
};

interface Push {
  /** When the last push was tried. */
  lastMs: number;
  timer: NodeJS.Timeout | undefined;
}

export class EdgeTwins implements Twins {
  readonly #parts: TwinParts;
  readonly #pushes = new Map<string, Push>();

  constructor(parts: TwinParts) {
    this.#parts = parts;
  }

  /** A section has `$version` only when the cloud has ever been asked. */
  async get(identity: Identity): Promise<TwinReply> {
    const key = keyOf(identity);
    const source = await this.#parts.wan.read();
    const fetched = source === "cloud" ? this.#fetch(identity) : undefined;
    this.#parts.metrics.twinRead(key, fetched === undefined ? "store" : "cloud");
    const twin = fetched ?? this.#stored(key);
    const desired = withVersion(twin.desired, twin.desiredVersion);
    const reported = withVersion(twin.reported, twin.reportedVersion);
    return { status: 200, body: formatDotnet({ desired, reported }) };
  }

  /** 204 at once: on disk, to be pushed. The base version of the request is not looked at. */
  patch(identity: Identity, body: Uint8Array): TwinReply {
    if (body.length === 0) return { status: 400 };
    const patch = parseJson(body);
    if (patch === undefined) return { status: 500 };
    // A text, a number or a list is taken with 204 and does nothing.
    if (!isObject(patch)) return { status: 204 };
    if (refusalOf(patch) !== undefined) return { status: 400 };
    this.#take(identity, rewriteDates(patch));
    return { status: 204 };
  }

  /** The cloud's notification; only heard while the line works. */
  desiredChanged(identity: Identity, patch: JsonObject, version: number): void {
    const key = keyOf(identity);
    if (!this.#parts.wan.connected || !this.#parts.isHeard(key)) return;
    const stored = this.#parts.store.twins.get(key);
    if (stored?.desiredVersion === undefined || stored.desiredVersion + 1 !== version) {
      return this.#synchronise(identity);
    }
    const desired = merge(stored.desired, rewriteDates(patch), "delete");
    this.#parts.store.setTwin(key, { ...stored, desired, desiredVersion: version });
    this.#parts.notify(key, patch, version);
  }

  /** edgeHub is back at the cloud: what is pending goes first; twins are compared only when the last read is long ago. */
  resumed(): void {
    for (const [key, twin] of this.#parts.store.twins) {
      const identity = this.#parts.store.identities.get(key)?.identity;
      if (identity === undefined) continue;
      this.#push(identity);
      const age = twin.fetchedMs === undefined ? undefined : Date.now() - twin.fetchedMs;
      if (age !== undefined && age > this.#parts.settings.minTwinSyncPeriodMs) this.#synchronise(identity);
    }
  }

  stop(): void {
    for (const push of this.#pushes.values()) clearTimeout(push.timer);
    this.#pushes.clear();
  }

  #take(identity: Identity, patch: JsonObject): void {
    const key = keyOf(identity);
    const twin = this.#stored(key);
    // edgeHub merges the pending patches without remembering that a null came before an object: the null is lost.
    const pending = merge(twin.pending ?? {}, patch, "keep");
    this.#parts.store.setTwin(key, { ...twin, reported: merge(twin.reported, patch, "delete"), pending });
    this.#parts.metrics.reportedUpdated("edge_hub", key);
    this.#schedulePush(identity);
  }

  #stored(key: string): StoredTwin {
    return this.#parts.store.twins.get(key) ?? UNKNOWN;
  }

  /** Own writes that are still pending are not in the cloud's twin, and so go missing from the stored one too. */
  #fetch(identity: Identity): StoredTwin | undefined {
    const twin = this.#parts.cloud.twin(identity);
    if (twin === undefined) return undefined;
    const key = keyOf(identity);
    const stored: StoredTwin = {
      desired: rewriteDates(twin.desired),
      desiredVersion: twin.desiredVersion,
      reported: rewriteDates(twin.reported),
      reportedVersion: twin.reportedVersion,
      fetchedMs: Date.now(),
      pending: this.#stored(key).pending,
    };
    this.#parts.store.setTwin(key, stored);
    return stored;
  }

  /** The whole twin is read and the difference to the stored one sent; with nothing stored, nothing is sent. */
  #synchronise(identity: Identity): void {
    const key = keyOf(identity);
    const before = this.#stored(key);
    const after = this.#fetch(identity);
    if (after?.desiredVersion === undefined || before.desiredVersion === undefined) return;
    if (after.desiredVersion === before.desiredVersion) return;
    this.#parts.notify(key, difference(before.desired, after.desired), after.desiredVersion);
  }

  #schedulePush(identity: Identity): void {
    const key = keyOf(identity);
    const push = this.#pushes.get(key) ?? { lastMs: 0, timer: undefined };
    this.#pushes.set(key, push);
    if (push.timer !== undefined) return;
    const waitMs = Math.max(0, push.lastMs + this.#parts.settings.reportedSyncMs - Date.now());
    push.timer = setTimeout(() => this.#push(identity), waitMs);
  }

  /** A push that fails is not repeated by a timer: the next patch or the next resumption tries again. */
  #push(identity: Identity): void {
    const key = keyOf(identity);
    const push = this.#pushes.get(key);
    if (push !== undefined) {
      clearTimeout(push.timer);
      push.timer = undefined;
      push.lastMs = Date.now();
    }
    const twin = this.#stored(key);
    if (twin.pending === undefined) return;
    if (!this.#parts.wan.connected) return this.#parts.wan.noteTraffic();
    const outcome = this.#parts.cloud.patchReported(identity, twin.pending);
    // A refused patch stays, is merged with all later ones, and the client is not told.
    if (outcome.kind !== "accepted") return;
    this.#parts.metrics.reportedUpdated("upstream", key);
    this.#parts.store.setTwin(key, { ...twin, pending: undefined, reportedVersion: outcome.version });
  }
}

function withVersion(section: JsonObject, version: number | undefined): JsonObject {
  return version === undefined ? section : { ...section, $version: version };
}
