/**
 * edgeHub and IoT Hub as a reference model behind the port `Upstream`: thirty lines of truth (twin, versions, telemetry) and the
 * ways in which the real ones hurt: links that break in the middle of a call, notifications that are lost, a twin made anew.
 */
import type { Json, JsonObject, Telemetry } from "../../src/core/message.ts";
import type { WanState } from "../../src/core/wan.ts";
import type {
  Clock,
  CommandAnswer,
  HubHandler,
  Outcome,
  TwinRead,
  Upstream,
  WanHandler,
  WanWatch,
} from "../../src/flow/ports.ts";
import type { ModelEdge } from "./model-edge.ts";

/** The merge of IoT Hub, written again on purpose: a mistake in ours must not agree with itself. */
export function hubMerge(target: JsonObject, patch: JsonObject): JsonObject {
  const result = new Map(Object.entries(target));
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) result.delete(key);
    else if (typeof value === "object" && !Array.isArray(value)) {
      const before = result.get(key);
      const base =
        typeof before === "object" && before !== null && !Array.isArray(before) ? (before as JsonObject) : {};
      result.set(key, hubMerge(base, value as JsonObject));
    } else result.set(key, value);
  }
  return Object.fromEntries(result);
}

/** edgeHub's merge of what it has not sent yet: an object that follows a null takes its place, and the null is lost. */
function pendingMerge(pending: JsonObject, patch: JsonObject): JsonObject {
  const result = new Map(Object.entries(pending));
  for (const [key, value] of Object.entries(patch)) {
    const before = result.get(key);
    result.set(key, isObject(before) && isObject(value) ? pendingMerge(before, value) : value);
  }
  return Object.fromEntries(result);
}

function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A little more than edgeHub takes at most from a patch to its push. */
const PUSH_AFTER_MS = 5_500;

const DOWN: Outcome = { kind: "failed", fault: { kind: "transient", reason: "the link is down" } };

export class ModelHub implements Upstream {
  /** With it, the hub is the cloud and edgeHub stands in front of it. */
  edge: ModelEdge | undefined;
  desired: JsonObject = {};
  version = 1;
  /** What the cloud has; reads show this, and not what edgeHub has yet to send there. */
  reported: JsonObject = {};
  readonly telemetry: Telemetry[] = [];
  /** By component the version of the last desired change that named it, in this life of the twin. */
  readonly writtenAt = new Map<string, number>();
  /** The same by `component/property`, for those that are there, and whose change somebody could have told of. */
  readonly propertyWrittenAt = new Map<string, number>();
  /** An outage of which nobody tells: what is written in it is compared by edgeHub, if at all, and may be hidden. */
  isUnnoticed = false;
  /** How calls end from now on: "lose-answer" does what is asked and then breaks the link before the answer. */
  mode: "good" | "lose-answer" | "refuse" = "good";
  /** Notifications are not sent (a short outage of the WAN). */
  deaf = false;
  /** Answers only when released (a slow hub). */
  slow: boolean | "messages" | "patches" | "reads" = false;
  /** How long edgeHub takes for each thing. */
  latencyMs = 0;
  /** Reads are answered with an error, or (as of then) not at all. */
  readsFail = false;
  reads = 0;
  /** What the cloud makes of a section that it stores. */
  keeps: (reported: JsonObject) => JsonObject = (reported) => reported;
  /** Messages that edgeHub closes the connection for. */
  closesFor: (message: Telemetry) => boolean = () => false;
  /** Patches that edgeHub answers 500. */
  twinFails: (patch: JsonObject) => boolean = () => false;
  /** Messages that are refused for good, and why. */
  refusesMessage: ((message: Telemetry) => string | undefined) | undefined;
  twinRefuses: ((patch: JsonObject) => string | undefined) | undefined;
  /** Patches as they came in. */
  readonly patches: JsonObject[] = [];
  /** What edgeHub has taken and not sent: it goes up some seconds later, all in one. */
  #unsent: JsonObject | undefined;
  readonly #clock: Clock;
  #handler: HubHandler | undefined;
  #up = false;
  #links = 0;
  #slowed: (() => void)[] = [];
  /** A read that hangs: edgeHub answers nothing else on that connection before it. */
  #hanging: PromiseWithResolvers<void> | undefined;
  #commands = new AbortController();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  async open(handler: HubHandler): Promise<void> {
    this.#handler = handler;
  }

  get isUp(): boolean {
    return this.#up;
  }

  link(state: "up" | "down"): void {
    if ((state === "up") === this.#up || this.#handler === undefined) return;
    this.#up = state === "up";
    if (this.#up) this.#links += 1;
    if (!this.#up) {
      this.#commands.abort();
      this.#commands = new AbortController();
      this.#unhang();
      this.release();
    }
    this.#handler.link(state);
  }

  release(): void {
    for (const resolve of this.#slowed.splice(0)) resolve();
  }

  async send(_output: string, message: Telemetry): Promise<Outcome> {
    const reason = this.#up ? this.refusesMessage?.(message) : undefined;
    if (reason !== undefined) return { kind: "failed", fault: { kind: "rejected", reason } };
    if (this.#up && this.closesFor(message)) {
      await Promise.resolve();
      this.link("down");
      return DOWN;
    }
    return this.#call("messages", () => {
      if (this.edge === undefined) this.telemetry.push(message);
      else this.edge.take(message);
      return { kind: "accepted" };
    });
  }

  async patchReported(patch: JsonObject): Promise<Outcome> {
    const reason = this.twinRefuses?.(patch);
    if (reason !== undefined && this.#up) return { kind: "failed", fault: { kind: "rejected", reason } };
    if (this.twinFails(patch) && this.#up)
      return { kind: "failed", fault: { kind: "transient", reason: "status 500" } };
    return this.#call("patches", () => {
      this.patches.push(patch);
      if (this.edge === undefined) this.#take(patch);
      else this.edge.patch(patch);
      return { kind: "accepted" };
    });
  }

  #take(patch: JsonObject): void {
    if (this.#unsent === undefined) this.#sendLater();
    this.#unsent = pendingMerge(this.#unsent ?? {}, patch);
  }

  /** edgeHub's container is made anew: what it had not sent yet is gone. */
  losePending(): void {
    this.#unsent = undefined;
  }

  #sendLater(): void {
    // This clock's sleep without a signal never rejects.
    void this.#clock.sleep(PUSH_AFTER_MS).then(() => {
      if (this.#unsent !== undefined) this.reported = this.keeps(hubMerge(this.reported, this.#unsent));
      this.#unsent = undefined;
    });
  }

  async getTwin(): Promise<TwinRead> {
    this.reads += 1;
    if (this.edge !== undefined) return this.#readThrough(this.edge);
    const read: { twin: TwinRead | undefined } = { twin: undefined };
    const outcome = await this.#call("reads", () => {
      read.twin = {
        kind: "read",
        twin: { desired: this.desired, desiredVersion: this.version, reported: this.reported },
        tookMs: 1,
      };
      return { kind: "accepted" };
    });
    return outcome.kind === "accepted" && !this.readsFail && read.twin !== undefined
      ? read.twin
      : { kind: "failed", fault: { kind: "transient", reason: "no answer" } };
  }

  reopen(): void {
    this.link("down");
  }

  /** The back end changes desired properties. `told`: what the notification says of it. */
  desire(patch: JsonObject, told = patch): void {
    const before = this.desired;
    this.desired = hubMerge(this.desired, patch);
    this.version += 1;
    this.#noteWritten(patch);
    // Nobody has to hear that what was not there is gone.
    for (const [component, change] of Object.entries(patch))
      if (change !== null || Object.hasOwn(before, component)) this.writtenAt.set(component, this.version);
    if (this.deaf) return;
    const { version } = this;
    this.#notify(this.edge === undefined ? { patch: told, version } : this.edge.desired(patch, version));
  }

  #noteWritten(patch: JsonObject): void {
    for (const [component, change] of Object.entries(patch)) {
      if (!isObject(change)) {
        for (const path of this.propertyWrittenAt.keys())
          if (path.startsWith(`${component}/`)) this.propertyWrittenAt.delete(path);
        continue;
      }
      for (const [property, value] of Object.entries(change)) {
        const path = `${component}/${property}`;
        if (value === null || property === "__t") this.propertyWrittenAt.delete(path);
        else if (!this.isUnnoticed) this.propertyWrittenAt.set(path, this.version);
      }
    }
  }

  /** The line between edgeHub and the cloud. */
  wan(state: "cut" | "up"): void {
    if (this.edge === undefined) return;
    if (state === "cut") this.edge.line = "cut";
    else if (this.edge.line === "cut") this.#notify(this.edge.resume());
  }

  #notify(heard: { readonly patch: JsonObject; readonly version: number } | undefined): void {
    if (this.#up && heard !== undefined) this.#handler?.desired(heard.patch, heard.version);
  }

  /** The identity was deleted and made again: everything starts at 1. */
  recreate(): void {
    this.writtenAt.clear();
    this.propertyWrittenAt.clear();
    this.desired = {};
    this.reported = {};
    this.#unsent = undefined;
    this.version = 1;
    this.link("down");
  }

  async command(name: string, payload: Json): Promise<CommandAnswer | "no answer"> {
    if (!this.#up || this.#handler === undefined) return "no answer";
    return this.#handler.command(name, payload, this.#commands.signal);
  }

  async input(name: string, message: Telemetry): Promise<void> {
    await this.#handler?.input(name, message);
  }

  /** The gateway's process is gone: whatever it asks for later comes from a ghost. */
  detach(): void {
    this.#up = false;
    this.#handler = undefined;
    this.#unhang();
    this.release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.link("down");
    this.#handler = undefined;
  }

  async #readThrough(edge: ModelEdge): Promise<TwinRead> {
    const failed: TwinRead = { kind: "failed", fault: { kind: "transient", reason: "no answer" } };
    if ((await this.#call("reads", () => ({ kind: "accepted" }))).kind === "failed") return failed;
    const hanging = Promise.withResolvers<void>();
    this.#hanging = hanging;
    const read: { twin: TwinRead | undefined } = { twin: undefined };
    const answered = edge.read().then(({ tookMs, ...twin }) => {
      read.twin = { kind: "read", twin, tookMs };
    });
    await Promise.race([answered, hanging.promise]);
    if (this.#hanging === hanging) this.#unhang();
    return read.twin ?? failed;
  }

  #unhang(): void {
    this.#hanging?.resolve();
    this.#hanging = undefined;
  }

  async #call(what: "messages" | "patches" | "reads", work: () => Outcome): Promise<Outcome> {
    if (!this.#up) return DOWN;
    const [handler, link] = [this.#handler, this.#links];
    while (this.#hanging !== undefined) {
      await this.#hanging.promise;
      if (!this.#up || this.#links !== link || this.#handler !== handler) return DOWN;
    }
    if (this.mode === "refuse") return { kind: "failed", fault: { kind: "throttled", reason: "told to refuse" } };
    if (this.latencyMs > 0) await this.#clock.sleep(this.latencyMs);
    const outcome = work();
    if (this.mode === "lose-answer") {
      this.mode = "good";
      await Promise.resolve();
      if (this.#handler === handler) this.link("down");
      return DOWN;
    }
    if (this.slow === true || this.slow === what) await new Promise<void>((resolve) => this.#slowed.push(resolve));
    // An answer never comes over another link than its question.
    return this.#up && this.#links === link && this.#handler === handler ? outcome : DOWN;
  }
}

/** A WAN watch that is told what it sees. */
export class ModelWan implements WanWatch {
  handler: WanHandler | undefined;
  reads: number | undefined = 0;
  /** So many reads from now on are answered from edgeHub's store, and its counter stands still. */
  fromStore = 0;
  /** With it, its metrics are what is seen. */
  edge: ModelEdge | undefined;
  readonly #clock: Clock;
  #state: WanState = "unknown";

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  async open(handler: WanHandler): Promise<void> {
    this.handler = handler;
    this.scrape();
    if (this.#state !== "unknown") handler.wan(this.#state);
  }

  tell(state: WanState): void {
    if (state === this.#state) return;
    this.#state = state;
    this.handler?.wan(state);
  }

  /** One look at edgeHub's metrics. */
  scrape(): void {
    if (this.edge === undefined || this.reads === undefined) return;
    this.handler?.edgeHubInstance(String(this.edge.instance));
    this.handler?.backlog(this.edge.backlog, this.#clock.steady());
  }

  async cloudReads(): Promise<number | undefined> {
    if (this.reads === undefined) return undefined;
    if (this.edge !== undefined) {
      this.scrape();
      return this.edge.cloudReads;
    }
    // Asked before and after each read.
    if (this.fromStore > 0) this.fromStore -= 0.5;
    else this.reads += 1;
    return this.reads;
  }

  async look(): Promise<void> {
    this.scrape();
  }

  readTook(): void {}

  heard(): void {}

  async [Symbol.asyncDispose](): Promise<void> {}
}
