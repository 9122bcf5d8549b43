/**
 * What the edge side, the cloud side and the command line of the development hub know of each other: plain values and one
 * interface. Nothing here has behaviour.
 */

import type { Json, JsonObject } from "../core/message.ts";

/** A device, or a module of one. */
export interface Identity {
  readonly deviceId: string;
  readonly moduleId?: string;
}

/** A twin without `$version` in its sections. */
export interface CloudTwin {
  readonly desired: JsonObject;
  readonly desiredVersion: number;
  readonly reported: JsonObject;
  readonly reportedVersion: number;
}

export type PatchOutcome =
  | { readonly kind: "accepted"; readonly version: number }
  | { readonly kind: "refused"; readonly status: number; readonly message: string };

export interface D2cMessage {
  readonly deviceId: string;
  readonly moduleId?: string;
  /** By wire key without `$.`: `sub` is what services see as dt-subject. */
  readonly system: Readonly<Record<string, string>>;
  readonly properties: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
  /** The sender's announced model: services see it as dt-dataschema. */
  readonly modelId: string | undefined;
  readonly enqueuedMs: number;
}

export interface MethodCall {
  readonly id: Identity;
  readonly name: string;
  /** Undefined: the caller gave none, and the body stays empty. */
  readonly payload: Json | undefined;
  readonly responseTimeoutMs: number;
  readonly connectTimeoutMs: number;
  readonly signal: AbortSignal;
}

export type MethodOutcome =
  | { readonly kind: "answer"; readonly status: number; readonly payload: Json }
  | { readonly kind: "offline" }
  | { readonly kind: "timeout" };

export interface Cloud {
  ensureModule(id: Identity): void;
  twin(id: Identity): CloudTwin | undefined;
  patchReported(id: Identity, patch: JsonObject): PatchOutcome;
  onDesired(listener: (id: Identity, patch: JsonObject, version: number) => void): () => void;
  deliver(message: D2cMessage): void;
  setMethodRoute(route: (call: MethodCall) => Promise<MethodOutcome>): void;
  recreate(id: Identity): void;
  jumpVersion(id: Identity, to: number): void;
}

/** What a back end asks to be changed of a twin; `null` empties a part, an absent part stays as it is. */
export interface TwinChange {
  readonly tags?: JsonObject | null;
  readonly desired?: JsonObject | null;
}

export type TwinUpdate =
  | { readonly kind: "updated" }
  | { readonly kind: "missing" }
  /** The caller's ETag is not the twin's. */
  | { readonly kind: "conflict" }
  | { readonly kind: "refused"; readonly status: number; readonly message: string };

/** What a back end can hear of: messages as they arrive, and accepted changes of twins. */
export type CloudEvent =
  | { readonly kind: "message"; readonly message: D2cMessage; readonly atMs: number }
  | {
      readonly kind: "twin";
      readonly id: Identity;
      readonly operation: "update" | "replace";
      /** The parts that changed, each as the patch that was applied. */
      readonly tags?: JsonObject;
      readonly desired?: { readonly patch: JsonObject; readonly version: number };
      readonly reported?: { readonly patch: JsonObject; readonly version: number };
      /** Of the whole twin. */
      readonly version: number;
      readonly atMs: number;
    };

/** The functions behind `POST /control/<name>`. A rejection is the caller's mistake: its message is the answer. */
export type ControlFunctions = Readonly<Record<string, (args: JsonObject) => Promise<Json>>>;

/**
 * `<state folder>/service.json`, written by the hub when its service API listens, read by the command line:
 * how to be this hub's back end.
 */
export interface ServiceFile {
  /** Where the service API listens, e.g. `https://localhost:18443`; the connection string's HostName resolves nowhere. */
  readonly url: string;
  /** PEM of the root that signed the service API's certificate. */
  readonly caFile: string;
  /** `HostName=...;SharedAccessKeyName=iothubowner;SharedAccessKey=...` */
  readonly connectionString: string;
  /** The module whose twin and commands are meant when none is named: the gateway. */
  readonly deviceId: string;
  readonly moduleId: string;
}
