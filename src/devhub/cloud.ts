/**
 * IoT Hub behind edgeHub: identities with their twins, messages passed on to whoever listens, commands handed to the edge
 * side. Invariant: what a listener hears of a twin has been accepted and, with a state folder, is on disk.
 */

import { randomBytes } from "node:crypto";
import type { JsonObject } from "../core/message.ts";
import { excessOf, faultOf } from "./cloud-limits.ts";
import { type CloudState, loadCloud, saveCloud } from "./cloud-store.ts";
import { applyPatch, type Mode, newTwin, patchFor, patchSection, type Twin } from "./cloud-twin.ts";
import type {
  Cloud,
  CloudEvent,
  CloudTwin,
  D2cMessage,
  Identity,
  MethodCall,
  MethodOutcome,
  PatchOutcome,
  TwinChange,
  TwinUpdate,
} from "./cloud-types.ts";

type DesiredListener = (id: Identity, patch: JsonObject, version: number) => void;
type TwinEvent = Extract<CloudEvent, { kind: "twin" }>;

/** The access policies of a hub that the service API knows. */
const POLICIES = ["iothubowner", "service"] as const;
/** How many messages {@link IotHubCloud.events} keeps. */
const MAX_EVENTS = 10_000;

export class IotHubCloud implements Cloud {
  /** The last messages, oldest first; whoever must see every one listens with {@link onEvent}. */
  readonly events: D2cMessage[] = [];
  readonly #folder: string | undefined;
  readonly #twins: Map<string, Twin>;
  readonly #policies: ReadonlyMap<string, string>;
  readonly #desiredListeners = new Set<DesiredListener>();
  readonly #listeners = new Set<(event: CloudEvent) => void>();
  #route: (call: MethodCall) => Promise<MethodOutcome> = () => Promise.resolve({ kind: "offline" });

  /** With a folder it goes on where it ended there; without, it lives as long as the process. */
  constructor(folder?: string) {
    this.#folder = folder;
    const state = folder === undefined ? undefined : loadCloud(folder);
    this.#twins = new Map((state?.twins ?? []).map((twin) => [keyOf(twin.id), twin]));
    this.#policies = new Map(Object.entries(state?.policies ?? makePolicies()));
    if (state === undefined) this.#save();
  }

  /** Base64; undefined when the hub has no such policy. */
  policyKey(policy: string): string | undefined {
    return this.#policies.get(policy);
  }

  ensureModule(id: Identity): void {
    if (!this.#twins.has(keyOf(id))) this.recreate(id);
  }

  get identities(): readonly Identity[] {
    return [...this.#twins.values()].map(({ id }) => id);
  }

  twin(id: Identity): CloudTwin | undefined {
    const twin = this.#twins.get(keyOf(id));
    if (twin === undefined) return undefined;
    const { desired, reported } = twin;
    return {
      desired: desired.properties,
      desiredVersion: desired.version,
      reported: reported.properties,
      reportedVersion: reported.version,
    };
  }

  /** With tags, metadata and counters, as back ends see it. */
  fullTwin(id: Identity): Twin | undefined {
    return this.#twins.get(keyOf(id));
  }

  patchReported(id: Identity, patch: JsonObject): PatchOutcome {
    const twin = this.#twins.get(keyOf(id));
    if (twin === undefined)
      return { kind: "refused", status: 404, message: "ErrorCode:DeviceNotFound;no such identity" };
    const fault = faultOf("reported", patch);
    if (fault !== undefined) return { kind: "refused", ...fault };
    const reported = patchSection(twin.reported, patch, "reported", new Date().toISOString());
    const excess = excessOf("reported", reported.properties);
    if (excess !== undefined) return { kind: "refused", ...excess };
    const { version } = reported;
    this.#change({ ...twin, reported }, "update", { reported: { patch, version } });
    return { kind: "accepted", version };
  }

  /**
   * A back end's write. `replace` overwrites the parts given; devices hear of the difference. `ifMatch` is the revision that
   * the writer has seen; undefined writes whatever there is.
   */
  updateTwin(id: Identity, change: TwinChange, mode: Mode, ifMatch?: number): TwinUpdate {
    const twin = this.#twins.get(keyOf(id));
    if (twin === undefined) return { kind: "missing" };
    if (ifMatch !== undefined && ifMatch !== twin.revision) return { kind: "conflict" };
    const fault = faultOf("tags", change.tags ?? {}) ?? faultOf("desired", change.desired ?? {});
    if (fault !== undefined) return { kind: "refused", ...fault };
    const next = applyChange(twin, change, mode);
    const excess = excessOf("tags", next.twin.tags) ?? excessOf("desired", next.twin.desired.properties);
    if (excess !== undefined) return { kind: "refused", ...excess };
    this.#change({ ...next.twin, revision: twin.revision + 1 }, mode, next.changed);
    return { kind: "updated" };
  }

  /** {@link updateTwin} of the desired section alone. */
  patchDesired(id: Identity, patch: JsonObject): TwinUpdate {
    return this.updateTwin(id, { desired: patch }, "update");
  }

  onDesired(listener: DesiredListener): () => void {
    this.#desiredListeners.add(listener);
    return () => this.#desiredListeners.delete(listener);
  }

  onEvent(listener: (event: CloudEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  deliver(message: D2cMessage): void {
    if (this.events.push(message) > MAX_EVENTS) this.events.shift();
    const twin = this.#twins.get(keyOf(message));
    if (twin !== undefined && message.modelId !== undefined && message.modelId !== twin.modelId) {
      this.#put({ ...twin, modelId: message.modelId });
    }
    for (const listener of this.#listeners) listener({ kind: "message", message, atMs: Date.now() });
  }

  setMethodRoute(route: (call: MethodCall) => Promise<MethodOutcome>): void {
    this.#route = route;
  }

  /** A direct method call; waits at most for both time-outs together. */
  invoke(call: Partial<MethodCall> & Pick<MethodCall, "id" | "name" | "payload">): Promise<MethodOutcome> {
    const defaults = { responseTimeoutMs: 30_000, connectTimeoutMs: 0, signal: new AbortController().signal };
    return this.#route({ ...defaults, ...call });
  }

  recreate(id: Identity): void {
    this.#put(newTwin(identityOf(id), new Date().toISOString()));
  }

  jumpVersion(id: Identity, to: number): void {
    const twin = this.#twins.get(keyOf(id));
    if (twin !== undefined) this.#put({ ...twin, desired: { ...twin.desired, version: to } });
  }

  #change(twin: Twin, operation: Mode, changed: Pick<TwinEvent, "tags" | "desired" | "reported">): void {
    const version = twin.version + 1;
    this.#put({ ...twin, version });
    const { desired } = changed;
    if (desired !== undefined) {
      for (const listener of this.#desiredListeners) listener(twin.id, desired.patch, desired.version);
    }
    const event: CloudEvent = { kind: "twin", id: twin.id, operation, ...changed, version, atMs: Date.now() };
    for (const listener of this.#listeners) listener(event);
  }

  #put(twin: Twin): void {
    this.#twins.set(keyOf(twin.id), twin);
    this.#save();
  }

  #save(): void {
    if (this.#folder === undefined) return;
    const state: CloudState = { twins: [...this.#twins.values()], policies: Object.fromEntries(this.#policies) };
    saveCloud(this.#folder, state);
  }
}

/** `{device}` or `{device}/{module}`; neither id can hold a slash. */
function keyOf(id: Identity): string {
  return id.moduleId === undefined ? id.deviceId : `${id.deviceId}/${id.moduleId}`;
}

function identityOf({ deviceId, moduleId }: Identity): Identity {
  return moduleId === undefined ? { deviceId } : { deviceId, moduleId };
}

function makePolicies(): Record<string, string> {
  return Object.fromEntries(POLICIES.map((policy) => [policy, randomBytes(32).toString("base64")]));
}

function applyChange(
  twin: Twin,
  change: TwinChange,
  mode: Mode,
): { twin: Twin; changed: Pick<TwinEvent, "tags" | "desired"> } {
  let next = twin;
  let changed: Pick<TwinEvent, "tags" | "desired"> = {};
  if (change.tags !== undefined) {
    const tags = patchFor(twin.tags, change.tags, mode);
    next = { ...next, tags: applyPatch(twin.tags, tags) };
    changed = { ...changed, tags };
  }
  if (change.desired !== undefined) {
    const patch = patchFor(twin.desired.properties, change.desired, mode);
    const desired = patchSection(twin.desired, patch, "desired", new Date().toISOString());
    next = { ...next, desired };
    changed = { ...changed, desired: { patch, version: desired.version } };
  }
  return { twin: next, changed };
}
