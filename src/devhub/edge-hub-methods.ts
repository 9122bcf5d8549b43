/** Direct methods: the cloud's call to the connected client and its answer back, matched by request id. */

import { randomBytes } from "node:crypto";
import type { MethodCall, MethodOutcome } from "./cloud-types.ts";
import { parseJson } from "./edge-hub-json.ts";

/** Where a call stands with its client. */
export type Reach =
  | { readonly kind: "reachable"; send(topic: string, payload: string): void }
  | { readonly kind: "unsubscribed" }
  | { readonly kind: "away" };

interface Waiting {
  readonly key: string;
  settle(outcome: MethodOutcome): void;
}

/** edgeHub's own errors reach the cloud as status 0. */
const EDGEHUB_ERROR: MethodOutcome = { kind: "answer", status: 0, payload: null };

export class MethodCalls {
  readonly #reach: (key: string) => Reach;
  readonly #waiting = new Map<string, Waiting>();
  /** Calls that wait for their client to connect; told at each change. */
  readonly #changed = new Set<() => void>();

  constructor(reach: (key: string) => Reach) {
    this.#reach = reach;
  }

  async invoke(key: string, call: MethodCall): Promise<MethodOutcome> {
    await this.#untilReachable(key, call);
    // Looked up in the same turn as the call is sent: a connection that ends in between would never answer.
    const reach = this.#reach(key);
    if (reach.kind === "away") return { kind: "offline" };
    if (reach.kind === "unsubscribed") return EDGEHUB_ERROR;
    const rid = randomBytes(16).toString("hex");
    return new Promise((resolve) => {
      const settle = (outcome: MethodOutcome) => {
        clearTimeout(timer);
        call.signal.removeEventListener("abort", onAbort);
        this.#waiting.delete(rid);
        resolve(outcome);
      };
      const onAbort = () => settle({ kind: "timeout" });
      const timer = setTimeout(onAbort, call.responseTimeoutMs);
      call.signal.addEventListener("abort", onAbort);
      this.#waiting.set(rid, { key, settle });
      const body = call.payload === undefined ? "" : JSON.stringify(call.payload);
      reach.send(`$iothub/methods/POST/${call.name}/?$rid=${rid}`, body);
    });
  }

  /** The first answer counts; one with an unknown id, or from another client, is ignored. */
  answered(key: string, rid: string, status: string, body: Uint8Array): void {
    const waiting = this.#waiting.get(rid.toLowerCase());
    if (waiting === undefined || waiting.key !== key) return;
    waiting.settle(outcomeOf(status, body));
  }

  /** A client connected or subscribed, or the line changed: calls that wait look again. */
  changed(): void {
    for (const look of this.#changed) look();
  }

  /** The connection that carried the calls is gone: the cloud hears it at once. */
  disconnected(key: string): void {
    for (const waiting of this.#waiting.values()) if (waiting.key === key) waiting.settle(EDGEHUB_ERROR);
  }

  #untilReachable(key: string, call: MethodCall): Promise<void> {
    if (this.#reach(key).kind !== "away" || call.connectTimeoutMs <= 0) return Promise.resolve();
    return new Promise((resolve) => {
      const finish = () => {
        clearTimeout(timer);
        this.#changed.delete(look);
        resolve();
      };
      const look = () => {
        if (this.#reach(key).kind === "reachable") finish();
      };
      const timer = setTimeout(finish, call.connectTimeoutMs);
      this.#changed.add(look);
    });
  }
}

function outcomeOf(status: string, body: Uint8Array): MethodOutcome {
  if (!/^[+-]?\d{1,10}$/.test(status)) return { kind: "answer", status: 400_000, payload: null };
  if (body.length === 0) return { kind: "answer", status: Number(status), payload: null };
  const payload = parseJson(body);
  if (payload === undefined) return { kind: "answer", status: 500, payload: null };
  return { kind: "answer", status: Number(status), payload };
}
