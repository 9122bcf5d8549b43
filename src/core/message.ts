/**
 * The vocabulary of the whole gateway: plain readonly values that rooms hand to each other.
 * Nothing here knows a topic, a socket or an SDK.
 */

export type Json = null | boolean | number | string | readonly Json[] | JsonObject;
export interface JsonObject {
  readonly [key: string]: Json;
}

declare const brand: unique symbol;
/** A downstream device id as IoT Hub allows it, case-sensitive. Made by {@link parseLeafId} only. */
export type LeafId = string & { readonly [brand]: "LeafId" };
/** The name of a component of the module's twin. Made by `component-name.ts` only. */
export type ComponentName = string & { readonly [brand]: "ComponentName" };

/** IoT Hub's alphabet of device ids, at most 128 characters [IoT Hub identity registry]. */
const LEAF_ID = /^[A-Za-z0-9\-:.+%_#*?!(),=@;$']{1,128}$/;

/** The id as a {@link LeafId}, or undefined when IoT Hub would not accept it as a device id. */
export function parseLeafId(text: string): LeafId | undefined {
  return LEAF_ID.test(text) ? (text as LeafId) : undefined;
}

/**
 * One device-to-cloud or cloud-to-device message without its address.
 * `system` holds the system properties by wire key without the leading `$.` (`mid`, `cid`, `ct`, `ce`, `sub`, `ctime` ...);
 * `properties` the application properties. Both are percent-decoded; a key without `=` has the value "".
 */
export interface Telemetry {
  readonly payload: Uint8Array;
  readonly system: Readonly<Record<string, string>>;
  readonly properties: Readonly<Record<string, string>>;
}

/** One MQTT PUBLISH, either way. */
export interface Frame {
  readonly topic: string;
  readonly payload: Uint8Array;
  readonly qos: 0 | 1;
  /** Retain and dup become application properties, as at IoT Hub. */
  readonly retain?: boolean;
  readonly dup?: boolean;
  /** The leaf's last will, published for it because its connection broke. */
  readonly will?: boolean;
}

/** A subscription as a leaf made it. */
export interface Subscription {
  readonly filter: string;
  readonly qos: 0 | 1;
}

/** What a subscription of a leaf is for; `deliver` of each depends on it, except a twin answer. */
export type Channel = "twin-answers" | "commands" | "desired" | "cloud-to-device";

/** What a leaf says, independent of its dialect. */
export type LeafRequest =
  | { readonly kind: "telemetry"; readonly telemetry: Telemetry }
  | { readonly kind: "twin-get"; readonly rid: string }
  | {
      readonly kind: "reported";
      readonly rid: string;
      readonly patch: JsonObject;
      readonly ifVersion: number | undefined;
    }
  | {
      readonly kind: "command-answer";
      readonly rid: string;
      readonly status: number;
      readonly payload: Json;
      /** Why what the leaf said could not be used; status and payload are then the gateway's. */
      readonly reason?: string;
    }
  /** A request that has an address for an answer but no legal content. */
  | { readonly kind: "twin-invalid"; readonly rid: string; readonly status: number; readonly reason: string }
  /** Nothing can be answered: close the connection, as IoT Hub does. */
  | { readonly kind: "close"; readonly reason: string }
  /** Dropped without a word to the leaf, counted and logged. */
  | { readonly kind: "ignored"; readonly reason: string };

/** What a leaf hears, independent of its dialect. */
export type LeafNotice =
  | {
      readonly kind: "twin";
      readonly rid: string;
      readonly desired: JsonObject;
      readonly desiredVersion: number;
      readonly reported: JsonObject;
      readonly reportedVersion: number;
    }
  | { readonly kind: "reported-accepted"; readonly rid: string; readonly version: number }
  | {
      readonly kind: "twin-refused";
      readonly rid: string;
      readonly status: number;
      readonly reason: string;
      /** ISO 8601, for the error body. */
      readonly timestampUtc: string;
    }
  | { readonly kind: "desired"; readonly patch: JsonObject; readonly version: number }
  | { readonly kind: "command"; readonly rid: string; readonly name: string; readonly payload: Json }
  | { readonly kind: "cloud-to-device"; readonly message: Telemetry };

/**
 * The module twin as read. `desiredVersion` undefined means that the answerer knows nothing about this module
 * (edgeHub that never saw the cloud), never that it is empty.
 */
export interface ModuleTwin {
  readonly desired: JsonObject;
  readonly desiredVersion: number | undefined;
  readonly reported: JsonObject;
}

/**
 * The outside failed. `transient`: try again; `throttled`: try again later; `unauthorized`: reopen with new credentials;
 * `rejected`: this very thing will never be taken.
 */
export interface Fault {
  readonly kind: "transient" | "throttled" | "unauthorized" | "rejected";
  readonly reason: string;
}

/** One telemetry message on its way up. `seq` is the order of arrival over all leaves, from 1. */
export interface OutboxEntry {
  readonly seq: number;
  readonly leafId: LeafId;
  /** In module words: `$.sub`, `leafId`, message id and creation time are in it. */
  readonly message: Telemetry;
  /** Milliseconds since 1970 by the steady clock; for the time to live only. */
  readonly enqueuedMs: number;
}

/** An entry that the hub refused while others passed. */
export interface SetAsideEntry {
  readonly entry: OutboxEntry;
  readonly reason: string;
  readonly setAsideMs: number;
}
