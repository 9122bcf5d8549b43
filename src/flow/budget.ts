/**
 * The module twin's reported section is one room of 32 KB for all leaves. Counts what each leaf takes of it, in module words
 * and as IoT Hub counts, and says whether a change still fits. Invariant: a change that shrinks always fits.
 */
import type { JsonObject, LeafId } from "../core/message.ts";
import { GATEWAY_REPORTED_CEILING_BYTES, twinBytes } from "../core/twin-limits.ts";

/** Kept free for acknowledgements of desired properties, which nobody should be unable to give. */
const RESERVED_FOR_ACKNOWLEDGEMENTS_BYTES = 1024;

export class ReportedBudget {
  readonly #bytesOf = new Map<LeafId, number>();
  #total = 0;
  readonly #maxPerLeafBytes: () => number;

  constructor(maxPerLeafBytes: () => number) {
    this.#maxPerLeafBytes = maxPerLeafBytes;
  }

  get totalBytes(): number {
    return this.#total;
  }

  /** What `view` would cost the leaf. Takes the room at once when it fits, so that two leaves cannot both take the last of it. */
  take(
    leafId: LeafId,
    view: JsonObject,
    isAcknowledgement: boolean,
  ): { kind: "taken" } | { kind: "refused"; reason: string } {
    const before = this.#bytesOf.get(leafId) ?? 0;
    const after = twinBytes(view);
    if (after > before) {
      const maxBytes = this.#maxPerLeafBytes();
      if (after > maxBytes) {
        return {
          kind: "refused",
          reason: `the reported section would have ${after} bytes, ${maxBytes} are allowed for a leaf`,
        };
      }
      const ceiling = GATEWAY_REPORTED_CEILING_BYTES - (isAcknowledgement ? 0 : RESERVED_FOR_ACKNOWLEDGEMENTS_BYTES);
      if (this.#total - before + after > ceiling) {
        return {
          kind: "refused",
          reason: `all leaves of this gateway share 32 KB of reported properties and ${this.#total} bytes are taken`,
        };
      }
    }
    this.set(leafId, view);
    return { kind: "taken" };
  }

  /** Sets what a leaf takes, whatever the limits say: it is so already. */
  set(leafId: LeafId, view: JsonObject): void {
    const bytes = twinBytes(view);
    this.#total += bytes - (this.#bytesOf.get(leafId) ?? 0);
    if (bytes === 0) this.#bytesOf.delete(leafId);
    else this.#bytesOf.set(leafId, bytes);
  }

  bytesOf(leafId: LeafId): number {
    return this.#bytesOf.get(leafId) ?? 0;
  }
}
