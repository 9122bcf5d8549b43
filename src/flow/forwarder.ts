/**
 * Sends the outbox to the hub: in order, with a window of unacknowledged messages, again from the oldest after each failure.
 * Invariant: an entry is settled only after the hub accepted it. Nothing is sent while paused (a twin read needs an empty window,
 * since edgeHub answers one connection's packets one after the other).
 */
import { TELEMETRY_OUTPUT } from "../core/endpoints.ts";
import type { LeafId, Telemetry } from "../core/message.ts";
import { afterFailure } from "../core/outbox.ts";
import { takeOut } from "../core/take-out.ts";
import { DurableQueue, type QueueSettings } from "./durable-queue.ts";
import type { Clock, Log, Metrics, Outcome, Store, Upstream } from "./ports.ts";
import { Retention } from "./retention.ts";
import { SetAside } from "./set-aside.ts";
import type { Live, Safe } from "./spool.ts";

export interface ForwarderSettings extends QueueSettings {
  readonly retainAfterAckSecs: number;
}

/** More buys nothing from edgeHub, only latency and duplicates [azure-iot-device.md 10]. */
const WINDOW = 16;
/** From so many failures on a message is sent alone, so that a bad one shows itself and does not drag others along. */
const ALONE_FROM_FAILURES = 2;
const RETRY_AFTER_MS = 1_000;
const SWEEP_MS = 10_000;

/**
 * So long a link must have held before a message that failed again and again is judged by what it does to it: an edgeHub that dies
 * soon after its start dies of something else.
 */
const QUIET_MS = 2_000;

/** One link, until the next one: its status message is the first on it. */
interface Link {
  /** "held": the status message passed, and the link has stood for a while since. */
  proof: "under way" | "given" | "held" | "failed";
  /** Every other link has suspects wait for "held": none may ever get there, and what is no poison must pass all the same. */
  readonly isPatient: boolean;
}

export interface ForwarderOptions {
  readonly store: Store;
  readonly upstream: Upstream;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly settings: () => ForwarderSettings;
  /** The gateway's own message that goes first on each link: it makes a restarted edgeHub move its backlog. */
  readonly statusMessage: () => Telemetry;
  /** Resolves when whatever edgeHub is there now was noticed, and {@link Forwarder.edgeHubRestarted} called if it is another. */
  readonly lookAtEdgeHub: () => Promise<void>;
}

export class Forwarder {
  /** What the hub refused while others passed. */
  readonly setAside: SetAside;
  readonly #options: ForwarderOptions;
  readonly #queue: DurableQueue;
  readonly #stopping = new AbortController();
  /** No Set, here and in the queue: V8 would keep each message until the whole heap is collected, as `PacketGuard.publish` tells. */
  readonly #window: Live[] = [];
  #returned: Live[] = [];
  #linkUp = false;
  #link: Link | undefined;
  /** Who reads the twin and who resends may overlap: each resumes only its own pause. */
  #pauses = 0;
  #blocked = false;
  #emptied: (() => void)[] = [];
  readonly #retention: Retention;

  constructor(options: ForwarderOptions) {
    this.#options = options;
    this.setAside = new SetAside({
      ...options,
      enqueue: ({ leafId, message }) => this.#queue.enqueue(leafId, message),
    });
    this.#queue = new DurableQueue({
      ...options,
      setAside: (entry, reason) => this.setAside.add(entry, reason),
      hubIsPrompt: () => this.#linkUp && this.#pauses === 0 && !this.#blocked,
      available: () => this.#pump(),
    });
    this.#retention = new Retention({ ...options, queuedBytes: () => this.#queue.diskBytes });
  }

  /** Starts on what the store holds. `resend`: what edgeHub may have lost (another boot, another edgeHub) goes up once more. */
  async start(resend: boolean): Promise<void> {
    if (resend) await this.#retention.restore();
    else await this.#retention.load();
    await this.setAside.load();
    this.#queue.start();
    this.#every(SWEEP_MS, () => {
      this.#queue.sweep();
      return this.#retention.forget();
    });
  }

  enqueue(leafId: LeafId, message: Telemetry): Promise<Safe> {
    this.#options.metrics.count("telemetry_received_bytes_total", {}, message.payload.length);
    return this.#queue.enqueue(leafId, message);
  }

  get depth(): number {
    return this.#queue.depth;
  }

  get diskBytes(): number {
    return this.#queue.diskBytes;
  }

  get inFlight(): number {
    return this.#window.length;
  }

  get oldestMs(): number | undefined {
    return this.#queue.oldestMs;
  }

  link(state: "up" | "down"): void {
    this.#linkUp = state === "up";
    if (state === "down") return;
    this.#blocked = false;
    if (!this.#retention.isEmpty) this.#lookFirst();
    this.#link = { proof: "under way", isPatient: this.#link?.isPatient === false };
    this.#prove(this.#link);
    this.#pump();
  }

  /** Sends the status message. What it proves is awaited before a message goes that may be the end of the link. */
  #prove(link: Link): void {
    const { log, statusMessage, upstream } = this.#options;
    upstream
      .send(TELEMETRY_OUTPUT, statusMessage())
      .then(
        (outcome) => {
          link.proof = outcome.kind === "accepted" ? "given" : "failed";
          if (link.proof === "given") this.#awaitQuiet(link);
        },
        (error: unknown) => {
          link.proof = "failed";
          log.error({ error: String(error) }, "the status message failed");
        },
      )
      .finally(() => this.#pump());
  }

  #awaitQuiet(link: Link): void {
    this.#options.clock.sleep(QUIET_MS, this.#stopping.signal).then(
      () => {
        link.proof = "held";
        this.#pump();
      },
      () => undefined,
    );
  }

  #mayTrySuspect(): boolean {
    const { isPatient = false, proof } = this.#link ?? {};
    return this.#window.length === 0 && proof !== "under way" && !(isPatient && proof === "given");
  }

  /** Behind the link may be an edgeHub that has lost what it took: then that goes first, and the order of each leaf holds. */
  #lookFirst(): void {
    this.#pauses += 1;
    this.#options
      .lookAtEdgeHub()
      .catch((error: unknown) => this.#options.log.warn({ error: String(error) }, "edgeHub could not be looked at"))
      .finally(() => this.resume());
  }

  /** Stops sending; resolves when nothing is unacknowledged any more. Each needs a {@link resume}. */
  pause(): Promise<void> {
    this.#pauses += 1;
    if (this.#window.length === 0) return Promise.resolve();
    return new Promise((resolve) => this.#emptied.push(resolve));
  }

  resume(): void {
    this.#pauses -= 1;
    this.#pump();
  }

  /** Messages that edgeHub still held for the cloud at that steady time; zero lets entries go that are retained since before. */
  edgeHubBacklog(messages: number, asOfMs: number): void {
    this.#retention.backlog(messages, asOfMs);
  }

  /** Another edgeHub process: in power-safe all that it may have lost goes up once more. Rejects when the disk is in the way. */
  async edgeHubRestarted(): Promise<void> {
    if (this.#retention.isEmpty) return;
    await this.pause();
    try {
      await this.#queue.restart(() => this.#retention.restore());
    } finally {
      this.resume();
    }
  }

  async close(): Promise<void> {
    this.#pauses += 1;
    this.#stopping.abort();
    await this.#queue.close();
  }

  #pump(): void {
    while (this.#linkUp && this.#pauses === 0 && !this.#blocked && this.#window.length < WINDOW) {
      const [first] = this.#window;
      if (first !== undefined && first.failures >= ALONE_FROM_FAILURES) return;
      const live = this.#queue.take();
      if (live === undefined) return;
      const isSuspect = live.failures >= ALONE_FROM_FAILURES;
      if (isSuspect && !this.#mayTrySuspect()) {
        this.#queue.giveBack([live]);
        return;
      }
      this.#window.push(live);
      this.#send(live).catch((error: unknown) =>
        this.#options.log.error({ error: String(error) }, "sending telemetry failed"),
      );
    }
  }

  async #send(live: Live): Promise<void> {
    const { upstream, metrics } = this.#options;
    const isProven = this.#link?.proof === "held";
    const outcome = await upstream.send(TELEMETRY_OUTPUT, live.entry.message);
    metrics.count("upstream_sends_total", { outcome: outcome.kind });
    if (outcome.kind === "accepted") this.#accepted(live);
    else await this.#failed(live, outcome, isProven);
    takeOut(this.#window, live);
    if (this.#window.length > 0) {
      this.#pump();
      return;
    }
    this.#queue.giveBack(this.#returned.splice(0));
    for (const resolve of this.#emptied.splice(0)) resolve();
    this.#pump();
  }

  #accepted(live: Live): void {
    this.#queue.settle(live);
    this.#options.metrics.count("telemetry_accepted_total");
    if (this.#options.settings().durability === "power-safe") this.#retention.add(live.entry);
  }

  /** `isProven`: another message had passed on that link, and it had held since. It may be gone by now. */
  async #failed(live: Live, outcome: Outcome & { kind: "failed" }, isProven: boolean): Promise<void> {
    live.failures += 1;
    if (afterFailure(live.failures, isProven, outcome.fault) === "set-aside") {
      try {
        await this.#queue.setAside(live, outcome.fault.reason);
        return;
      } catch (error) {
        this.#options.log.error(
          { error: String(error) },
          "a refused message could not be set aside, it is tried again",
        );
      }
    }
    this.#returned.push(live);
    // Later entries of the window may still be accepted; nothing new follows before the oldest has been sent again.
    if (this.#blocked) return;
    this.#blocked = true;
    this.#options.clock
      .sleep(outcome.fault.kind === "throttled" ? RETRY_AFTER_MS * 5 : RETRY_AFTER_MS, this.#stopping.signal)
      .then(
        () => {
          this.#blocked = false;
          this.#pump();
        },
        () => undefined,
      );
  }

  #every(ms: number, work: () => Promise<void>): void {
    const { clock, log } = this.#options;
    const loop = async (): Promise<void> => {
      while (!this.#stopping.signal.aborted) {
        await clock.sleep(ms, this.#stopping.signal);
        await work();
      }
    };
    loop().catch((error: unknown) => {
      if (!this.#stopping.signal.aborted) log.error({ error: String(error) }, "the outbox's housekeeping failed");
    });
  }
}
