/** A cloud in memory behind the edge side: twins, messages, methods, without the service API. */

import type { JsonObject } from "../core/message.ts";
import type { Cloud, CloudTwin, D2cMessage, Identity, MethodCall, MethodOutcome, PatchOutcome } from "./cloud-types.ts";
import { merge } from "./edge-hub-json.ts";
import { keyOf } from "./edge-hub-store.ts";

export class MemoryCloud implements Cloud {
  readonly events: D2cMessage[] = [];
  readonly #twins = new Map<string, CloudTwin>();
  readonly #listeners = new Set<(id: Identity, patch: JsonObject, version: number) => void>();
  #route: (call: MethodCall) => Promise<MethodOutcome> = () => Promise.resolve({ kind: "offline" });

  ensureModule(id: Identity): void {
    if (!this.#twins.has(keyOf(id))) this.recreate(id);
  }

  twin(id: Identity): CloudTwin | undefined {
    return this.#twins.get(keyOf(id));
  }

  patchReported(id: Identity, patch: JsonObject): PatchOutcome {
    const twin = this.#twins.get(keyOf(id));
    if (twin === undefined) return { kind: "refused", status: 404, message: "no such identity" };
    const version = twin.reportedVersion + 1;
    this.#twins.set(keyOf(id), { ...twin, reported: merge(twin.reported, patch, "delete"), reportedVersion: version });
    return { kind: "accepted", version };
  }

  /** What a service does: a patch of the desired section. */
  patchDesired(id: Identity, patch: JsonObject): void {
    const twin = this.#twins.get(keyOf(id));
    if (twin === undefined) return;
    const version = twin.desiredVersion + 1;
    this.#twins.set(keyOf(id), { ...twin, desired: merge(twin.desired, patch, "delete"), desiredVersion: version });
    for (const listener of this.#listeners) listener(id, patch, version);
  }

  /** What a service does: a direct method call. */
  invoke(call: Partial<MethodCall> & Pick<MethodCall, "id" | "name" | "payload">): Promise<MethodOutcome> {
    const defaults = { responseTimeoutMs: 30_000, connectTimeoutMs: 0, signal: new AbortController().signal };
    return this.#route({ ...defaults, ...call });
  }

  onDesired(listener: (id: Identity, patch: JsonObject, version: number) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  deliver(message: D2cMessage): void {
    this.events.push(message);
  }

  setMethodRoute(route: (call: MethodCall) => Promise<MethodOutcome>): void {
    this.#route = route;
  }

  recreate(id: Identity): void {
    this.#twins.set(keyOf(id), { desired: {}, desiredVersion: 1, reported: {}, reportedVersion: 1 });
  }

  jumpVersion(id: Identity, to: number): void {
    const twin = this.#twins.get(keyOf(id));
    if (twin !== undefined) this.#twins.set(keyOf(id), { ...twin, desiredVersion: to });
  }
}
