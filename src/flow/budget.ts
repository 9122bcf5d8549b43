/**
 * The module twin's reported section is one room of 32 KB for all leaves. Counts what each leaf takes of it, in module words
 * and as IoT Hub counts, and says whether a change still fits. Invariants: a change that shrinks always fits; whatever stands in
 * the section is counted, also what no leaf owns: past the limit the cloud refuses everybody's changes and nobody is told.
 */
import { isJsonObject, jsonBytes } from "../core/merge-patch.ts";
import type { JsonObject, LeafId } from "../core/message.ts";
import { GATEWAY_REPORTED_CEILING_BYTES, MAX_PUSH_BYTES, twinBytes } from "../core/twin-limits.ts";

/** Kept free for acknowledgements of desired properties, which nobody should be unable to give. */
const RESERVED_FOR_ACKNOWLEDGEMENTS_BYTES = 1024;
/** IoT Hub counts a control character as nothing and a number as 8; as JSON on disk and on the wire they are up to this much more. */
const JSON_FACTOR = 4;

/** Two measures: as IoT Hub counts, and as JSON. */
interface Size {
  readonly twin: number;
  readonly json: number;
}

const NOTHING: Size = { twin: 0, json: 0 };
/** `gateway`: the gateway's own component; `strangers`: components whose leaf has not been seen. */
type Other = "gateway" | "strangers";

export class ReportedBudget {
  readonly #sizeOf = new Map<LeafId, Size>();
  readonly #others: Record<Other, number> = { gateway: 0, strangers: 0 };
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
    const before = this.#sizeOf.get(leafId) ?? NOTHING;
    const after = sizeOf(view);
    const reason = this.#tooMuch(before, after, isAcknowledgement) ?? this.#tooLongAsJson(before, after, view);
    if (reason !== undefined) return { kind: "refused", reason };
    this.#put(leafId, after);
    return { kind: "taken" };
  }

  /** Sets what a leaf takes, whatever the limits say: it is so already. */
  set(leafId: LeafId, view: JsonObject): void {
    this.#put(leafId, sizeOf(view));
  }

  /** As {@link set}, for what is no leaf's. */
  setOther(other: Other, section: JsonObject): void {
    const bytes = twinBytes(section);
    this.#total += bytes - this.#others[other];
    this.#others[other] = bytes;
  }

  #tooMuch(before: Size, after: Size, isAcknowledgement: boolean): string | undefined {
    if (after.twin <= before.twin) return undefined;
    const maxBytes = this.#maxPerLeafBytes();
    if (after.twin > maxBytes)
      return `the reported section would have ${after.twin} bytes, ${maxBytes} are allowed for a leaf`;
    const ceiling = GATEWAY_REPORTED_CEILING_BYTES - (isAcknowledgement ? 0 : RESERVED_FOR_ACKNOWLEDGEMENTS_BYTES);
    if (this.#total - before.twin + after.twin <= ceiling) return undefined;
    return `all leaves of this gateway share 32 KB of reported properties and ${this.#total} bytes are taken`;
  }

  #tooLongAsJson(before: Size, after: Size, view: JsonObject): string | undefined {
    if (after.json <= before.json || after.json <= MAX_PUSH_BYTES) return undefined;
    const maxBytes = this.#maxPerLeafBytes() * JSON_FACTOR;
    if (after.json > maxBytes)
      return `the reported section would have ${after.json} bytes as JSON, ${maxBytes} are allowed`;
    const path = longestAsJson(view);
    return path === undefined
      ? undefined
      : `${path} is longer than the ${MAX_PUSH_BYTES} bytes of JSON that can be sent at once`;
  }

  #put(leafId: LeafId, size: Size): void {
    this.#total += size.twin - (this.#sizeOf.get(leafId) ?? NOTHING).twin;
    if (size.json === 0) this.#sizeOf.delete(leafId);
    else this.#sizeOf.set(leafId, size);
  }
}

function sizeOf(view: JsonObject): Size {
  const json = jsonBytes(view);
  return { twin: twinBytes(view), json: json === EMPTY_BYTES ? 0 : json };
}

const EMPTY_BYTES = jsonBytes({});

/** A property that no patch could hold. */
function longestAsJson(view: JsonObject): string | undefined {
  for (const [component, properties] of Object.entries(view)) {
    for (const [name, value] of isJsonObject(properties) ? Object.entries(properties) : []) {
      if (jsonBytes({ [component]: { __t: "c", [name]: value } }) > MAX_PUSH_BYTES) return name.slice(0, 64);
    }
  }
  return undefined;
}
