/**
 * One leaf's durable record: registry row, twin cache and subscriptions together, because one commit writes them together.
 * Invariant: `desired` and `reported` are in the leaf's words and carry no `$version`; `accepted` is in module words.
 */
import type { ComponentName, JsonObject, LeafId, Subscription } from "./message.ts";
import type { PropertyTracks } from "./property-ack.ts";

/** Which components of the module's twin a leaf owns. */
export interface LeafNaming {
  /** The component that stands for the leaf's default component (`<leaf>`). */
  readonly component: ComponentName;
  /** The leaf's own component name -> the module's component name (`<leaf>__<component>`). Never forgotten by a later patch. */
  readonly components: Readonly<Record<string, ComponentName>>;
}

/**
 * What a leaf has to hear when it comes back with a kept session (such an SDK does not read its twin again). Which of the notices
 * since it has seen is not known, so both parts are needed: `from` makes the leaf's state right from any of the states it may be in,
 * `touched` lets it acknowledge a change 1 -> 2 -> 1.
 */
export interface MissedDesired {
  /** All keys that any desired section held which was told to the leaf, or which it had seen before. */
  readonly from: JsonObject;
  /** All patches since, merged. */
  readonly touched: JsonObject;
}

export interface LeafRecord extends LeafNaming {
  readonly leafId: LeafId;
  readonly modelId: string | undefined;
  readonly dialect: string;
  readonly firstSeenMs: number;
  readonly lastSeenMs: number;
  /** Of a session with clean session 0; empty after clean session 1. */
  readonly subscriptions: readonly Subscription[];
  readonly desired: JsonObject;
  /** The module twin's version at the last change that touched this leaf; 0 while the gateway never synchronised. */
  readonly desiredVersion: number;
  readonly reported: JsonObject;
  /** Counts this leaf's own accepted changes; {@link shownReportedVersion} is what the leaf sees. */
  readonly reportedVersion: number;
  /** The leaf's components of the module's reported section as far as edgeHub has taken them (its 2xx, or a read). */
  readonly accepted: JsonObject;
  /** The newest `reportedVersion` whose whole state a twin read from the cloud has shown; 0 for none. */
  readonly confirmedVersion: number;
  /** Writable properties and how far their acknowledgement has come, by path (`name` or `component/name`). */
  readonly tracks: PropertyTracks;
  /** Paths of the module's reported section that the hub refuses for good -> why. Never sent until the value changes. */
  readonly quarantined: Readonly<Record<string, string>>;
  /** Changes of `desired` that this leaf may not have seen yet; undefined: it has seen everything. */
  readonly missed: MissedDesired | undefined;
  /** Removed by command: listed for the back end, nothing is delivered before somebody confirms. */
  readonly removed: boolean;
}

/** What is known of a leaf at its very first connect. */
export type FirstSight = Pick<LeafRecord, "leafId" | "component" | "modelId" | "dialect"> & { readonly nowMs: number };

/** The record of a leaf that was never seen. */
export function newRecord({ nowMs, ...known }: FirstSight): LeafRecord {
  return {
    ...known,
    components: {},
    firstSeenMs: nowMs,
    lastSeenMs: nowMs,
    subscriptions: [],
    desired: {},
    desiredVersion: 0,
    reported: {},
    reportedVersion: 0,
    accepted: {},
    confirmedVersion: 0,
    tracks: {},
    quarantined: {},
    missed: undefined,
    removed: false,
  };
}

/** The reported section's `$version` as the leaf sees it: a section starts at 1 and each change adds one [iothub-mqtt.md 6.5]. */
export function shownReportedVersion({ reportedVersion }: LeafRecord): number {
  return reportedVersion + 1;
}

/** Whether a CONNECT changes nothing that is remembered of the leaf. */
export function isSameConnect(a: LeafRecord, b: LeafRecord): boolean {
  return (
    a.modelId === b.modelId &&
    a.dialect === b.dialect &&
    a.components === b.components &&
    a.subscriptions.length === b.subscriptions.length
  );
}

/** Whether both are the same filters with the same QoS, in the same order. */
export function sameSubscriptions(a: readonly Subscription[], b: readonly Subscription[]): boolean {
  return a.length === b.length && a.every(({ filter, qos }, at) => b[at]?.filter === filter && b[at].qos === qos);
}
