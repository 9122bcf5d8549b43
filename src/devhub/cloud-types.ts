/** What the edge side and the cloud side of the development hub know of each other: one interface, plain values. */

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
