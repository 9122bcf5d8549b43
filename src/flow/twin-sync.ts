/**
 * Keeps the caches and the module twin together: when to read, what to hold back meanwhile, when to push [design section 6].
 * Invariants: a read happens with an empty send window and with no push under way; desired patches that arrive during a read wait
 * for it; while the WAN is taken for away reads on the timer are rare, and when it returns one read happens at once.
 */
import { isEmpty, isJsonObject } from "../core/merge-patch.ts";
import type { JsonObject } from "../core/message.ts";
import { judgePatch, type PatchJudgement } from "../core/reconcile.ts";
import type { WanState } from "../core/wan.ts";
import type { Leaf } from "./leaves.ts";
import type { ReportedPush } from "./reported-push.ts";
import type { SilentRefusals } from "./silent-refusals.ts";
import type { TwinApply } from "./twin-apply.ts";
import { type AnsweredRead, type Source, TwinReader, type TwinReaderOptions } from "./twin-reader.ts";

export interface TwinSyncOptions extends TwinReaderOptions {
  readonly push: ReportedPush;
  readonly apply: TwinApply;
  readonly refusals: SilentRefusals;
  readonly random: () => number;
  readonly readIntervalSecs: () => number;
  /** The caches were synchronised; the first time, held answers can go out. */
  readonly synchronised: () => void;
}

const READ_RETRY_MS = 5_000;
const READ_AGAIN_MS = 500;
const MAX_READS_FROM_STORE = 5;
/**
 * Where nobody can tell who answers, a lower version than the known one is believed once all reads of so long have shown one: after a
 * power cut edgeHub, which does not sync, may come up behind what it once said.
 */
const BELIEVE_LOWER_MS = 30_000;
/** After a push the cloud's twin is compared again once edgeHub must have sent it. */
const SETTLE_READ_MS = 20_000;
/**
 * While the WAN is taken for away only every so many periods have a read: it holds back all acknowledgements for 20 to 50 s, but
 * whatever says "away" may be wrong, and nobody would ever notice.
 */
const PERIODS_AWAY = 4;

/** Patches that wait for a read; with more of them they are forgotten, and what the read shows has a gap to the next one. */
const MAX_HELD = 100;

interface Held {
  readonly patch: JsonObject;
  readonly version: number;
}

export class TwinSync {
  readonly #options: TwinSyncOptions;
  readonly #reader: TwinReader;
  readonly #stopping = new AbortController();
  #linkUp = false;
  #wan: WanState = "unknown";
  #wanted = false;
  /** What is wanted is worth a read although the WAN is taken for away. */
  #despiteAway = false;
  /** The WAN was away, and nothing from the cloud has shown yet what was written meanwhile. */
  #unseen = false;
  /** A patch was taken in that may not have named all that was written: for the next read that is a gap. */
  #mayHide = false;
  #reading = false;
  #held: Held[] = [];
  /** Counts the reasons to read at once: one that comes while a read is under way is a reason for another, if that one fails. */
  #asked = 0;
  /** Desired patches are taken in one after the other. */
  #serial: Promise<void> = Promise.resolve();
  /** The cloud is to be compared with what was pushed, at this time; a comparison before it may be one more. */
  #compareAtMs = Number.NEGATIVE_INFINITY;
  #isWaitingToCompare = false;
  /** Since when all reads have shown a lower version than the known one. */
  #lowerSinceMs: number | undefined;
  /** In a row; a few are worth asking again for. */
  #readsFromStore = 0;
  /** On this link, since the WAN was there: what the first read makes us push is compared once. */
  #hasCompared = false;

  constructor(options: TwinSyncOptions) {
    this.#options = options;
    this.#reader = new TwinReader(options);
  }

  start(): void {
    this.#periodic().catch((error: unknown) => {
      if (!this.#stopping.signal.aborted)
        this.#options.log.error({ error: String(error) }, "periodic twin reads stopped");
    });
  }

  link(state: "up" | "down"): void {
    this.#linkUp = state === "up";
    // The read that each link begins with shows whatever these did.
    this.#held = [];
    this.#reader.linkChanged();
    if (!this.#linkUp) {
      // Nothing more is answered on this connection; whoever reads or pushes now gets a fault.
      this.#options.push.suspend().catch(() => undefined);
      return;
    }
    this.#hasCompared = false;
    if (this.#mayRead()) this.requestRead();
    else this.#options.push.resume();
  }

  renewed(): void {
    this.requestRead();
  }

  wan(state: WanState): void {
    const before = this.#wan;
    this.#wan = state;
    if (state === "away" || before === "away") this.#unseen = true;
    const hasReturned = state !== "away" && (before === "away" || before === state);
    if (!hasReturned) return;
    // What edgeHub could not push meanwhile goes with the next patch or never, and its first answers may come from its store.
    this.#readsFromStore = 0;
    this.#hasCompared = false;
    this.requestRead();
  }

  desired(patch: JsonObject, version: number): void {
    this.#options.wan.heard();
    if (this.#reading) {
      this.#hold({ patch, version });
      return;
    }
    this.#serial = this.#serial.then(() => this.#take({ patch, version }));
  }

  /** Asks for a read at the next occasion: a change may have been missed. */
  requestRead(): void {
    this.#asked += 1;
    this.#want();
  }

  async close(): Promise<void> {
    this.#stopping.abort();
    await this.#serial;
  }

  /** `canWait`: for a read that shows what it may not name. */
  async #take({ patch, version }: Held, canWait = true): Promise<void> {
    const { apply, log, metrics } = this.#options;
    const verdict = this.#judge({ patch, version }, canWait);
    metrics.count("desired_patches_total", { verdict });
    switch (verdict) {
      case "stale":
        // A live patch with an old number: the module twin may have been made anew.
        if (version < (apply.known?.version ?? 0)) this.#wantDespiteAway();
        return;
      case "gap":
        log.info({ version, known: apply.known?.version }, "desired changes were missed, the twin is read");
        this.#hold({ patch, version });
        // edgeHub passes on only what comes from the cloud, so a read will be answered from there.
        this.#wantDespiteAway();
        return;
      case "applied":
        try {
          await apply.patch(patch, version);
        } catch (error) {
          log.error(
            { version, error: String(error) },
            "a desired change could not be stored, the twin will be read again",
          );
          this.#wantLater(READ_RETRY_MS);
        }
    }
  }

  #judge({ patch, version }: Held, canWait: boolean): PatchJudgement {
    const judged = judgePatch(this.#options.apply.known?.version, version);
    // edgeHub's own comparison after an outage: a value that was written once more as it was is not in it.
    if (judged !== "applied" || !(this.#unseen || saysNothing(patch))) return judged;
    if (canWait) return "gap";
    this.#mayHide = true;
    return judged;
  }

  #hold(held: Held): void {
    if (this.#held.length >= MAX_HELD) this.#held = [];
    this.#held.push(held);
  }

  /** "Unknown" is not empty: a gateway that never synchronised reads even while the WAN is away, since edgeHub may know. */
  #mayRead(): boolean {
    const isWorth = this.#wan !== "away" || this.#despiteAway || this.#options.apply.known === undefined;
    return this.#linkUp && isWorth;
  }

  #wantDespiteAway(): void {
    this.#despiteAway = true;
    this.#want();
  }

  #want(): void {
    this.#wanted = true;
    if (this.#reading || !this.#mayRead() || this.#stopping.signal.aborted) return;
    this.#reading = true;
    this.#readWhileWanted()
      .catch((error: unknown) => {
        this.#options.log.error({ error: String(error) }, "a twin read could not be taken in");
        this.#wantLater(READ_RETRY_MS);
      })
      .finally(() => {
        this.#reading = false;
        if (this.#linkUp) this.#options.push.resume();
      });
  }

  async #readWhileWanted(): Promise<void> {
    const { clock } = this.#options;
    await this.#serial;
    while (this.#wanted && this.#mayRead() && !this.#stopping.signal.aborted) {
      this.#wanted = false;
      this.#despiteAway = false;
      const [asked, startedMs] = [this.#asked, clock.steady()];
      const isRead = await this.#read();
      // After a read that failed too: those that follow what is known do not wait for the next one.
      const held = this.#held.splice(0);
      for (const patch of held.toSorted((a, b) => a.version - b.version)) await this.#take(patch, isRead);
      if (isRead && this.#held.length === 0) continue;
      this.#wanted = asked !== this.#asked;
      if (this.#wanted) continue;
      // Newer than what the read showed: edgeHub answered from an older store, or the patch is of a life that is over. Another
      // read at once would show the same.
      if (isRead) this.#held = [];
      // All acknowledgements wait for a read: one that took long and brought nothing is not repeated without a pause as long, unless
      // leaves wait for the first one, and not for ever.
      const isCostly = !isRead && this.#options.apply.known !== undefined;
      this.#wantLater(Math.max(READ_RETRY_MS, isCostly ? clock.steady() - startedMs : 0));
      return;
    }
  }

  async #read(): Promise<boolean> {
    const { apply, log, push, synchronised } = this.#options;
    // A push may be long in failing; telemetry does not have to wait for that.
    await push.suspend();
    const read = await this.#reader.read();
    if (read === undefined) return false;
    const { source, startedMs, tookMs } = read;
    const { desired, desiredVersion, reported } = read.twin;
    const fromCloud = source === "cloud";
    const mayBeOld = this.#mayBeOld(read);
    const context = { fromCloud, mayBeOld, startedMs, hasGap: this.#mayHide && !mayBeOld };
    const leaves = await apply.read(desired, desiredVersion, reported, context);
    if (leaves === undefined) {
      log.warn(
        { version: desiredVersion },
        "edgeHub knows nothing of the module twin, or an older one, and is asked again",
      );
      return false;
    }
    log.info({ version: desiredVersion, tookMs: Math.round(tookMs), fromCloud }, "the module twin was read");
    if (!mayBeOld) this.#mayHide = false;
    if (fromCloud || (!mayBeOld && this.#wan !== "away")) this.#unseen = false;
    synchronised();
    await this.#takenIn(leaves, source, mayBeOld);
    return true;
  }

  #mayBeOld({ source, startedMs, twin, wasSlow }: AnsweredRead): boolean {
    const known = this.#options.apply.known?.version ?? 0;
    const isLower = twin.desiredVersion !== undefined && twin.desiredVersion < known;
    this.#lowerSinceMs = isLower ? (this.#lowerSinceMs ?? startedMs) : undefined;
    if (source !== "unknown") return source === "store";
    const isDoubtful = this.#lowerSinceMs !== undefined && startedMs - this.#lowerSinceMs < BELIEVE_LOWER_MS;
    return isDoubtful || this.#wan === "away" || wasSlow;
  }

  async #takenIn(leaves: readonly Leaf[], source: Source, mayBeOld: boolean): Promise<void> {
    const { push, refusals } = this.#options;
    if (!mayBeOld) await refusals.act();
    for (const leaf of leaves) push.changed(leaf);
    push.ownChanged();
    if (source === "cloud") this.#readsFromStore = 0;
    else if (source === "store") this.#readAgainSoon();
    if (!this.#hasCompared) this.#planSettleRead();
    this.#hasCompared = true;
  }

  /**
   * edgeHub has answered from its store, so changes made while the WAN was away are not in it. The first read after an outage often
   * ends so, and wakes edgeHub: the next one comes from the cloud [iothub-mqtt.md 12.3].
   */
  #readAgainSoon(): void {
    this.#readsFromStore += 1;
    if (this.#readsFromStore <= MAX_READS_FROM_STORE) this.#wantLater(READ_AGAIN_MS * this.#readsFromStore);
  }

  /** Asks for a read when edgeHub must have sent what it takes now. */
  compareLater(): void {
    this.#planSettleRead();
  }

  /** What was pushed after the read is compared with the cloud when edgeHub must have sent it. */
  #planSettleRead(): void {
    this.#compareAtMs = this.#options.clock.steady() + SETTLE_READ_MS;
    this.#waitToCompare();
  }

  #waitToCompare(): void {
    const { clock } = this.#options;
    if (this.#isWaitingToCompare) return;
    this.#isWaitingToCompare = true;
    clock.sleep(this.#compareAtMs - clock.steady(), this.#stopping.signal).then(
      () => {
        this.#isWaitingToCompare = false;
        this.#want();
        if (clock.steady() < this.#compareAtMs) this.#waitToCompare();
      },
      () => undefined,
    );
  }

  #wantLater(ms: number): void {
    this.#options.clock.sleep(ms, this.#stopping.signal).then(
      () => this.#want(),
      () => undefined,
    );
  }

  async #periodic(): Promise<void> {
    const { clock, random, readIntervalSecs } = this.#options;
    for (let periodsAway = 0; !this.#stopping.signal.aborted; ) {
      await clock.sleep(readIntervalSecs() * 1000 * (0.75 + random() / 2), this.#stopping.signal);
      periodsAway = this.#wan === "away" ? periodsAway + 1 : 0;
      if (periodsAway === 0) this.#want();
      else if (periodsAway % PERIODS_AWAY === 0) this.#wantDespiteAway();
    }
  }
}

/** No value, or a component in which there is none: of what a difference of two twins leaves out, only the version is to be seen. */
function saysNothing(patch: JsonObject): boolean {
  return isEmpty(patch) || Object.values(patch).some((component) => isJsonObject(component) && isEmpty(component));
}
