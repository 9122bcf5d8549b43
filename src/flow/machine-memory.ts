/**
 * What the gateway remembers of the machine around it: the boot it last ran under, the edgeHub it last talked to, the newest time
 * it saw. Invariant: a change is noted only after what follows from it was done, so that a crash in between repeats it.
 */
import type { Clock, Log, Store } from "./ports.ts";

const HOUR_MS = 3_600_000;
const RETRY_AFTER_MS = 5_000;

export interface MachineMemoryOptions {
  readonly store: Store;
  readonly clock: Clock;
  readonly log: Log;
  readonly clockIsSet: () => boolean;
  readonly bootId: string | undefined;
}

export class MachineMemory {
  readonly #options: MachineMemoryOptions;
  readonly #stopping = new AbortController();
  #edgeHubNoted: Promise<void> = Promise.resolve();
  #seen: string | undefined;
  #noted: string | undefined;

  constructor(options: MachineMemoryOptions) {
    this.#options = options;
  }

  /** Another boot than the one before: a power cut may have taken what edgeHub had not synced. Runs `react` if so. */
  async boot(react: (isAnother: boolean) => Promise<void>): Promise<void> {
    const { bootId, store } = this.#options;
    const before = await store.meta("boot-id");
    await react(bootId !== undefined && before !== undefined && before !== bootId);
    if (bootId !== undefined && before !== bootId)
      await store.commit([{ kind: "meta", key: "boot-id", value: bootId }]);
  }

  /** What follows from the edgeHub that was seen last has been done. */
  get isUpToDate(): boolean {
    return this.#seen === this.#noted;
  }

  /** Resolves when what follows from the edgeHub that was seen last was tried once. */
  get edgeHubNoted(): Promise<void> {
    return this.#edgeHubNoted;
  }

  /**
   * Runs `changed` for another edgeHub than the one that retained messages were sent to, even if it was replaced while the gateway
   * was down; again in a while when it rejects.
   */
  edgeHub(instance: string, changed: () => Promise<void>): void {
    const { clock, log } = this.#options;
    this.#seen = instance;
    this.#edgeHubNoted = this.#edgeHubNoted
      .then(() => this.#note(instance, changed))
      .catch((error: unknown) => {
        log.error({ error: String(error) }, "the resend after a restart of edgeHub failed, it is tried again");
        clock.sleep(RETRY_AFTER_MS, this.#stopping.signal).then(
          () => this.edgeHub(instance, changed),
          () => undefined,
        );
      });
  }

  async #note(instance: string, changed: () => Promise<void>): Promise<void> {
    const { store } = this.#options;
    const before = await store.meta("edgehub-instance");
    if (before !== undefined && before !== instance) await changed();
    if (before !== instance) await store.commit([{ kind: "meta", key: "edgehub-instance", value: instance }]);
    this.#noted = instance;
  }

  start(): void {
    const { clock, log } = this.#options;
    clock.sleep(HOUR_MS, this.#stopping.signal).then(
      () => {
        this.noteTime().catch((error: unknown) => log.warn({ error: String(error) }, "the time could not be noted"));
        this.start();
      },
      () => undefined,
    );
  }

  /** A clock that later shows less than this was set back or never set [design section 8]. */
  async noteTime(): Promise<void> {
    const { clock, clockIsSet, store } = this.#options;
    if (clockIsSet()) await store.commit([{ kind: "meta", key: "last-time", value: clock.now() }]);
  }

  stop(): void {
    this.#stopping.abort();
  }
}
