/**
 * One read of the module twin: when nothing is on its way that would wait for it, and with what can be told of who answered it.
 * Invariants: the send window is empty while edgeHub has the read; a link on which no read is ever answered does not stay.
 */
import type { Fault, ModuleTwin } from "../core/message.ts";
import type { Forwarder } from "./forwarder.ts";
import type { Clock, Log, Metrics, TwinRead, Upstream, WanWatch } from "./ports.ts";

export interface TwinReaderOptions {
  readonly upstream: Upstream;
  readonly wan: WanWatch;
  readonly forwarder: Forwarder;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Log;
}

/** Who has answered a read. */
export type Source = "cloud" | "store" | "unknown";

export interface AnsweredRead {
  readonly twin: ModuleTwin;
  readonly tookMs: number;
  readonly source: Source;
  readonly startedMs: number;
  /** Answered from edgeHub's store, as far as the time that it took tells. */
  readonly wasSlow: boolean;
}

/** A read that took so long was answered from edgeHub's store [iothub-mqtt.md 12.2: 20 to 50 s]. */
const SLOW_READ_MS = 15_000;
/** A read that the link gave up. edgeHub answers after 50 s at the latest: either it is in trouble, or its answers reach nobody. */
const UNANSWERED_MS = 60_000;
/** So many in a row are worth a fresh client, which subscribes to the answers anew. */
const MAX_UNANSWERED = 3;

export class TwinReader {
  readonly #options: TwinReaderOptions;
  /** Reads in a row, on this link, that nobody answered. */
  #unanswered = 0;

  constructor(options: TwinReaderOptions) {
    this.#options = options;
  }

  linkChanged(): void {
    this.#unanswered = 0;
  }

  /** undefined: there was no answer. Tells the WAN watch what follows for it. */
  async read(): Promise<AnsweredRead | undefined> {
    const { clock, metrics, wan } = this.#options;
    const { read, source, startedMs } = await this.#ask();
    metrics.count("twin_reads_total", { result: read.kind });
    if (read.kind === "failed") {
      this.#failed(read.fault, clock.steady() - startedMs);
      return undefined;
    }
    this.#unanswered = 0;
    wan.readTook(read.tookMs);
    if (source === "cloud") wan.heard();
    return { ...read, source, startedMs, wasSlow: read.tookMs > SLOW_READ_MS };
  }

  #failed({ reason }: Fault, tookMs: number): void {
    const { log, upstream, wan } = this.#options;
    log.warn({ reason }, "the module twin could not be read");
    if (tookMs > SLOW_READ_MS) wan.readTook(tookMs);
    this.#unanswered = tookMs > UNANSWERED_MS ? this.#unanswered + 1 : 0;
    if (this.#unanswered >= MAX_UNANSWERED) upstream.reopen(`${MAX_UNANSWERED} twin reads in a row were not answered`);
  }

  /**
   * Who has answered is told by edgeHub's counter of reads that the cloud answered. It also counts edgeHub's own reads of our twin,
   * so an answer that came only after a time-out is from the store, whatever the counter says.
   */
  async #ask(): Promise<{ readonly read: TwinRead; readonly source: Source; readonly startedMs: number }> {
    const { clock, forwarder, upstream, wan } = this.#options;
    const before = await wan.cloudReads();
    await forwarder.pause();
    const startedMs = clock.steady();
    const read = await upstream.getTwin().finally(() => forwarder.resume());
    const after = before === undefined || read.kind === "failed" ? undefined : await wan.cloudReads();
    if (before === undefined || after === undefined || read.kind === "failed")
      return { read, source: "unknown", startedMs };
    return { read, source: after > before && read.tookMs <= SLOW_READ_MS ? "cloud" : "store", startedMs };
  }
}
