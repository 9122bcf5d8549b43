/**
 * Twin GETs that wait for the first synchronisation, outside the lanes, so that nothing waits behind them. Invariant: each one is
 * answered once, unless its connection ends first.
 */
import { takeOut } from "../core/take-out.ts";
import type { Downlink } from "./downlink.ts";
import type { HeldGet, Leaf, Leaves } from "./leaves.ts";
import type { Clock, Log } from "./ports.ts";

/** Below the SDKs' own 60 s [design section 4]. */
const HOLD_MS = 50_000;
/** That one leaf can have held at once; SDKs have one or two under way. */
const MAX_HELD = 16;

export interface HeldGetsOptions {
  readonly leaves: Leaves;
  readonly downlink: Downlink;
  readonly clock: Clock;
  readonly log: Log;
}

export class HeldGets {
  readonly #options: HeldGetsOptions;
  readonly #stopping = new AbortController();

  constructor(options: HeldGetsOptions) {
    this.#options = options;
  }

  close(): void {
    this.#stopping.abort();
  }

  hold(leaf: Leaf, rid: string): void {
    // The request, not its $rid: C counts from 3 at each start, so that two connections may use the same one.
    const held = { rid, end: new AbortController() };
    leaf.heldGets.push(held);
    const [oldest] = leaf.heldGets;
    if (oldest !== undefined && leaf.heldGets.length > MAX_HELD) this.#giveUp(leaf, oldest);
    this.#options.clock.sleep(HOLD_MS, AbortSignal.any([this.#stopping.signal, held.end.signal])).then(
      () => this.#giveUp(leaf, held),
      () => undefined,
    );
  }

  /** The caches are synchronised: what waited for that is answered. */
  answer(): void {
    const { downlink, leaves, log } = this.#options;
    for (const leaf of leaves.all()) {
      const held = forgetHeld(leaf);
      if (held.length === 0) continue;
      leaf.lane
        .run(() => {
          for (const { rid } of held) downlink.answerGet(leaf, rid);
        })
        .catch((error: unknown) =>
          log.error({ leafId: leaf.id, error: String(error) }, "held twin GETs could not be answered"),
        );
    }
  }

  #giveUp(leaf: Leaf, held: HeldGet): void {
    if (!takeOut(leaf.heldGets, held)) return;
    held.end.abort();
    this.#options.downlink.refuse(leaf, held.rid, 503, "the gateway has not been in touch with the hub yet");
  }
}

/** Takes them all; their waits, each a timer, end at once, however often a leaf asks and goes. */
export function forgetHeld(leaf: Leaf): readonly HeldGet[] {
  const held = leaf.heldGets.splice(0);
  for (const { end } of held) end.abort();
  return held;
}
