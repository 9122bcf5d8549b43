/**
 * The Upstream behind which the SDK lives: one disposable client per connection, made anew for ever. Invariants: at most one session
 * at a time; every end of one, planned or not, leads to the next after a back-off; failures never leave this file as exceptions.
 */
import { fullJitter } from "../core/backoff.ts";
import type { JsonObject, Telemetry } from "../core/message.ts";
import type { Clock, HubHandler, Log, Metrics, Outcome, TwinRead, Upstream } from "../flow/ports.ts";
import type { ModuleCredentials } from "./credentials.ts";
import { describeError, transient } from "./fault.ts";
import { DEFAULT_LINK_LIMITS, type LinkLimits, LinkSession } from "./link-session.ts";
import { createWorkloadClient, type WorkloadClient } from "./workload.ts";

export interface UpstreamLimits extends LinkLimits {
  readonly backoffBaseMs: number;
  /** edgeHub is on the same box: asking often costs nothing. */
  readonly backoffCapMs: number;
  /** A link that held so long starts the back-off afresh; one that dies at once does not. */
  readonly settledMs: number;
  /** How long CONNECT is held back after the TLS handshake, once an edgeHub did not answer one that was not. */
  readonly holdConnectMs: number;
}

const DEFAULT_UPSTREAM_LIMITS: UpstreamLimits = {
  ...DEFAULT_LINK_LIMITS,
  backoffBaseMs: 100,
  backoffCapMs: 3_000,
  settledMs: 2_000,
  holdConnectMs: 250,
};

export interface ModuleUpstreamOptions {
  readonly credentials: ModuleCredentials;
  /** The gateway's own model; goes into CONNECT. */
  readonly modelId: string;
  readonly productInfo: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly random: () => number;
  readonly limits?: Partial<UpstreamLimits>;
}

/** The module's link to edgeHub over azure-iot-device. Nothing happens before `open`. */
export function createModuleUpstream(options: ModuleUpstreamOptions): Upstream {
  return new ModuleUpstream(options);
}

const DOWN = transient("the link is down");
/** A reason for not connecting is said again after so long. */
const REPEAT_WARNING_MS = 300_000;
const UNANSWERED_TO_HINT = 3;
const EDGEHUB_HINT =
  "edgeHub images 1.6.0 and 1.6.1 are known to lose what arrives together with the end of the TLS handshake (iotedge pull request 7539): update edgeHub";

class ModuleUpstream implements Upstream {
  readonly #options: ModuleUpstreamOptions;
  readonly #limits: UpstreamLimits;
  readonly #workload: WorkloadClient | undefined;
  readonly #stopping = new AbortController();
  #running: Promise<void> = Promise.resolve();
  #session: LinkSession | undefined;
  /** Connects in a row that TLS carried and nobody answered. */
  #unanswered = 0;
  #holdConnect = false;
  #said: { readonly reason: string; readonly atMs: number } | undefined;

  constructor(options: ModuleUpstreamOptions) {
    const { credentials, clock } = options;
    this.#options = options;
    this.#limits = { ...DEFAULT_UPSTREAM_LIMITS, ...options.limits };
    this.#workload = credentials.workload === undefined ? undefined : createWorkloadClient(credentials.workload, clock);
  }

  async open(hub: HubHandler): Promise<void> {
    this.#running = this.#run(hub).catch((error: unknown) => {
      if (!this.#stopping.signal.aborted)
        this.#options.log.error({ error: describeError(error) }, "the upstream link stopped for good");
    });
  }

  send(output: string, message: Telemetry): Promise<Outcome> {
    return this.#session?.send(output, message) ?? Promise.resolve(DOWN);
  }

  patchReported(patch: JsonObject): Promise<Outcome> {
    return this.#session?.patchReported(patch) ?? Promise.resolve(DOWN);
  }

  getTwin(): Promise<TwinRead> {
    return this.#session?.getTwin() ?? Promise.resolve(DOWN);
  }

  reopen(reason: string): void {
    this.#session?.end(reason);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort(new Error("the gateway stops"));
    await this.#session?.close();
    await this.#running;
  }

  async #run(hub: HubHandler): Promise<void> {
    const { clock, random } = this.#options;
    const { signal } = this.#stopping;
    const delays = () =>
      fullJitter({ baseMs: this.#limits.backoffBaseMs, capMs: this.#limits.backoffCapMs }, random)[Symbol.iterator]();
    let backoff = delays();
    while (!signal.aborted) {
      const heldMs = await this.#live(hub);
      if (signal.aborted) return;
      if (heldMs >= this.#limits.settledMs) backoff = delays();
      await clock.sleep(backoff.next().value ?? this.#limits.backoffCapMs, signal);
    }
  }

  /** One session from its opening to its end; how long the link was up, in milliseconds. */
  async #live(hub: HubHandler): Promise<number> {
    const { clock, log, metrics } = this.#options;
    const session = new LinkSession({
      ...this.#options,
      hub,
      limits: this.#limits,
      workload: this.#workload,
      holdConnectMs: this.#holdConnect ? this.#limits.holdConnectMs : 0,
    });
    this.#session = session;
    try {
      await session.open();
    } catch (error) {
      metrics.count("link_attempts_total", { outcome: "failed" });
      this.#failed(session, describeError(error));
      return 0;
    }
    metrics.count("link_attempts_total", { outcome: "up" });
    this.#said = undefined;
    const upMs = clock.steady();
    if (this.#unanswered > 0)
      log.warn({ hint: EDGEHUB_HINT }, "edgeHub answers CONNECT only when it is held back after TLS");
    this.#unanswered = 0;
    log.info({}, "link to edgeHub is up");
    await ended(session.over);
    if (!this.#stopping.signal.aborted)
      log.warn({ reason: describeError(session.over.reason) }, "link to edgeHub was lost");
    return clock.steady() - upMs;
  }

  #failed(session: LinkSession, reason: string): void {
    const { clock, log } = this.#options;
    if (this.#stopping.signal.aborted) return;
    this.#unanswered = session.reached === "tls" ? this.#unanswered + 1 : 0;
    if (this.#unanswered > 0) this.#holdConnect = true;
    if (this.#unanswered === UNANSWERED_TO_HINT)
      log.warn({ hint: EDGEHUB_HINT }, "edgeHub completes TLS but does not answer CONNECT");
    const repeated = this.#said?.reason === reason && clock.steady() - this.#said.atMs < REPEAT_WARNING_MS;
    if (repeated) log.debug({ reason }, "edgeHub cannot be reached");
    else {
      this.#said = { reason, atMs: clock.steady() };
      log.warn({ reason }, "edgeHub cannot be reached, trying again");
    }
  }
}

function ended(over: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (over.aborted) resolve();
    else over.addEventListener("abort", () => resolve(), { once: true });
  });
}
