/**
 * What was asked of a connection and is not answered yet. Invariant: each request settles exactly once: by its answer, by its own
 * time limit, or when it is refused because nobody can answer any more.
 */
import { takeOut } from "../core/take-out.ts";
import type { Clock, Outcome } from "../flow/ports.ts";
import { transient } from "./fault.ts";

export type Refusal = Extract<Outcome, { kind: "failed" }>;
export type RequestKind = "message" | "twin";

interface Request {
  readonly kind: RequestKind;
  readonly askedMs: number;
  /** How long twin requests had taken in all when it was asked. */
  readonly twinMs: number;
  readonly refuse: (reason: string) => void;
}

export interface TimeLimit {
  readonly ms: number;
  readonly passed: () => void;
}

export class PendingRequests {
  readonly #clock: Clock;
  /** In the order of asking. Few, and no Set: see `PacketGuard.publish`. */
  readonly #requests: Request[] = [];
  readonly #reads: Stopwatch;
  readonly #twins: Stopwatch;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#reads = new Stopwatch(clock);
    this.#twins = new Stopwatch(clock);
  }

  /** Runs `start`, which hands in the answer once there is one; later answers are ignored. */
  ask<T>(
    kind: RequestKind,
    limit: TimeLimit | undefined,
    start: (settle: (answer: T) => void) => void,
  ): Promise<T | Refusal> {
    return new Promise((resolve) => {
      // Only a time limit needs one; messages have none, and they are many.
      const waiting = limit === undefined ? undefined : new AbortController();
      const settle = (answer: T | Refusal): void => {
        if (!takeOut(this.#requests, request)) return;
        if (kind === "twin") this.#twins.stop();
        waiting?.abort();
        resolve(answer);
      };
      const request: Request = {
        kind,
        askedMs: this.#clock.steady(),
        twinMs: this.#twins.ms(),
        refuse: (reason) => settle(transient(reason)),
      };
      this.#requests.push(request);
      if (kind === "twin") this.#twins.start();
      if (limit !== undefined && waiting !== undefined) this.#limit(request, limit, waiting.signal);
      try {
        start(settle);
      } catch (error) {
        request.refuse(String(error));
      }
    });
  }

  /** Refuses what waits, of one kind or of all. */
  refuse(reason: string, kind?: RequestKind): void {
    const refused = this.#requests.filter((request) => kind === undefined || request.kind === kind);
    for (const request of refused) request.refuse(reason);
  }

  readStarted(): void {
    this.#reads.start();
  }

  readEnded(): void {
    this.#reads.stop();
  }

  /** How long twin reads have taken in all. */
  readMs(): number {
    return this.#reads.ms();
  }

  /**
   * How long the oldest message waits for its PUBACK, not counting the time in which a twin request has no answer; 0 when none waits.
   * edgeHub answers one packet after the other: a read may wait 50 s for the cloud, a patch for the push that is under way.
   */
  oldestMessageMs(): number {
    for (const { kind, askedMs, twinMs } of this.#requests) {
      if (kind === "message") return this.#clock.steady() - askedMs - (this.#twins.ms() - twinMs);
    }
    return 0;
  }

  #limit(request: Request, { ms, passed }: TimeLimit, signal: AbortSignal): void {
    this.#clock.sleep(ms, signal).then(
      () => {
        request.refuse(`no answer within ${ms} ms`);
        passed();
      },
      () => undefined,
    );
  }
}

/** The time in which at least one of the things that it was started for went on. */
class Stopwatch {
  readonly #clock: Clock;
  #running = 0;
  #sinceMs = 0;
  #totalMs = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  start(): void {
    if (this.#running === 0) this.#sinceMs = this.#clock.steady();
    this.#running += 1;
  }

  stop(): void {
    this.#totalMs = this.ms();
    this.#sinceMs = this.#clock.steady();
    this.#running -= 1;
  }

  ms(): number {
    return this.#totalMs + (this.#running === 0 ? 0 : this.#clock.steady() - this.#sinceMs);
  }
}
