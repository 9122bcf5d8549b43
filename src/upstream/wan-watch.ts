/**
 * What is known of edgeHub's line to the cloud, from three sources: edgeHub's metrics page, a TCP probe of the hub's host, and how
 * long our own twin reads take. This file asks and listens; what follows from it is decided in core/wan.ts. Invariant: every
 * question has a time limit, and a source that is not there is said once and then left out.
 */
import { INITIAL_WAN, judgeWan, type WanMemory, type WanObservation } from "../core/wan.ts";
import type { Clock, Log, WanHandler, WanWatch } from "../flow/ports.ts";
import { type EdgeHubMetrics, scrapeEdgeHub } from "./edgehub-metrics.ts";
import { describeError } from "./fault.ts";
import { canConnect, type ProbeTarget } from "./probe.ts";

export interface WanWatchOptions {
  /** edgeHub's metrics page, usually `http://edgeHub:9600/metrics`; undefined: not asked. */
  readonly metricsUrl: string | undefined;
  /** Usually the hub's host and port 443; undefined: not probed. */
  readonly probe: ProbeTarget | undefined;
  readonly identity: { readonly deviceId: string; readonly moduleId: string };
  /** Behind a parent edgeHub, what this edgeHub calls upstream is not the cloud: its reads prove nothing. */
  readonly nested: boolean;
  /** Seconds between two probes while all is well; asked before each. */
  readonly wanProbeSecs: () => number;
  readonly clock: Clock;
  readonly log: Log;
  readonly limits?: Partial<WanLimits>;
}

interface WanLimits {
  readonly scrapeEveryMs: number;
  readonly scrapeTimeoutMs: number;
  /** Between two probes while the WAN is away: its return is worth a read at once. */
  readonly probeAwayMs: number;
  readonly probeTimeoutMs: number;
}

const DEFAULT_WAN_LIMITS: WanLimits = {
  scrapeEveryMs: 5_000,
  scrapeTimeoutMs: 4_000,
  probeAwayMs: 2_000,
  probeTimeoutMs: 5_000,
};

/** A watch over the WAN; nothing happens before `open`. */
export function createWanWatch(options: WanWatchOptions): WanWatch {
  return new EdgeHubWanWatch(options);
}

class EdgeHubWanWatch implements WanWatch {
  readonly #options: WanWatchOptions;
  readonly #limits: WanLimits;
  readonly #metricsUrl: URL | undefined;
  readonly #stopping = new AbortController();
  #running: Promise<unknown> = Promise.resolve();
  #handler: WanHandler | undefined;
  #memory: WanMemory = INITIAL_WAN;
  #instance: string | undefined;
  #metricsMissing = false;
  #probeSetAside = false;

  constructor(options: WanWatchOptions) {
    this.#options = options;
    this.#limits = { ...DEFAULT_WAN_LIMITS, ...options.limits };
    this.#metricsUrl = options.metricsUrl === undefined ? undefined : new URL(options.metricsUrl);
  }

  async open(handler: WanHandler): Promise<void> {
    this.#handler = handler;
    this.#running = Promise.all([this.#keep(() => this.#watchMetrics()), this.#keep(() => this.#watchLine())]);
  }

  async look(): Promise<void> {
    await this.#scrape();
  }

  async cloudReads(): Promise<number | undefined> {
    // Telemetry stands still meanwhile: what was not there a few seconds ago is not waited for.
    if (this.#options.nested || this.#metricsMissing) return undefined;
    return (await this.#scrape())?.cloudReads;
  }

  readTook(ms: number): void {
    this.#observe({ kind: "read", atMs: this.#options.clock.steady(), tookMs: ms });
  }

  heard(): void {
    this.#observe({ kind: "heard", atMs: this.#options.clock.steady() });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort(new Error("the gateway stops"));
    await this.#running;
  }

  async #keep(loop: () => Promise<void>): Promise<void> {
    try {
      await loop();
    } catch (error) {
      if (!this.#stopping.signal.aborted)
        this.#options.log.error({ error: describeError(error) }, "a part of the WAN watch stopped");
    }
  }

  async #watchMetrics(): Promise<void> {
    if (this.#metricsUrl === undefined) return;
    for (;;) {
      await this.#scrape();
      await this.#options.clock.sleep(this.#limits.scrapeEveryMs, this.#stopping.signal);
    }
  }

  async #watchLine(): Promise<void> {
    const { probe, clock, wanProbeSecs } = this.#options;
    const { signal } = this.#stopping;
    if (probe === undefined) return;
    for (;;) {
      const reached = await canConnect(probe, this.#limits.probeTimeoutMs, clock, signal);
      signal.throwIfAborted();
      this.#observe({ kind: "probe", atMs: clock.steady(), reached });
      await clock.sleep(this.#memory.state === "away" ? this.#limits.probeAwayMs : wanProbeSecs() * 1_000, signal);
    }
  }

  /** One look at the metrics; undefined when they cannot be had. */
  async #scrape(): Promise<EdgeHubMetrics | undefined> {
    const { clock, log, identity } = this.#options;
    const { signal } = this.#stopping;
    if (this.#metricsUrl === undefined) return undefined;
    const askedMs = clock.steady();
    try {
      const metrics = await scrapeEdgeHub(this.#metricsUrl, identity, this.#limits.scrapeTimeoutMs, clock, signal);
      this.#metricsMissing = false;
      this.#take(metrics, askedMs);
      return metrics;
    } catch (error) {
      if (signal.aborted) return undefined;
      if (!this.#metricsMissing)
        log.warn({ error: describeError(error) }, "edgeHub's metrics cannot be read, its backlog is unknown");
      this.#metricsMissing = true;
      this.#observe({ kind: "metrics-missing", atMs: clock.steady() });
      return undefined;
    }
  }

  #take({ instance, ...figures }: EdgeHubMetrics, askedMs: number): void {
    this.#observe({ kind: "metrics", atMs: this.#options.clock.steady(), ...figures });
    if (instance !== undefined && instance !== this.#instance) {
      this.#instance = instance;
      this.#tell((handler) => handler.edgeHubInstance(instance));
    }
    this.#tell((handler) => handler.backlog(figures.backlog, askedMs));
  }

  #observe(observation: WanObservation): void {
    const before = this.#memory;
    this.#memory = judgeWan(before, observation);
    const { state, probeSetAside } = this.#memory;
    if (probeSetAside && !this.#probeSetAside) {
      this.#options.log.info(
        {},
        "the hub's host cannot be reached from here though edgeHub is online: the probe is set aside",
      );
    }
    this.#probeSetAside = probeSetAside;
    const hasReturned = observation.kind === "probe" && observation.reached && before.probe.reached === false;
    if (state !== before.state || (hasReturned && state === "online")) this.#tell((handler) => handler.wan(state));
  }

  #tell(tell: (handler: WanHandler) => void): void {
    if (this.#handler === undefined || this.#stopping.signal.aborted) return;
    try {
      tell(this.#handler);
    } catch (error) {
      this.#options.log.error({ error: describeError(error) }, "a handler of the WAN watch failed");
    }
  }
}
