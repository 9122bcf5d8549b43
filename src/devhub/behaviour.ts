/**
 * Misbehaviour on demand: a plain mutable object that the control API and tests write and that the edge side reads at each
 * step. Everything is off at the start; {@link resetBehaviour} turns it all off again.
 */

import type { InputMessage, InputOutcome } from "./edge-hub-inputs.ts";
import type { WanLink } from "./edge-hub-wan.ts";

/** Everything that can be done to the edge side from outside; the hub offers it, the control API calls it. */
export interface EdgeControl {
  /** Written freely; read at each step. */
  readonly behaviour: Behaviour;
  /** The line to the cloud: `cut("silent" | "refused")`, `restore()`, `state`. */
  readonly wan: WanLink;
  /** Clients connected now: `{device}` or `{device}/{module}`. */
  readonly connected: readonly string[];
  /** Acknowledged messages that went nowhere, oldest first, at most the last 1,000. */
  readonly drops: readonly Drop[];
  /** Ends every MQTT connection without a word. */
  cutConnections(): void;
  /** SIGKILL of edgeHub; `lose`: its store goes too, as with a container made anew without a storage folder. */
  killEdge(store: "keep" | "lose"): Promise<void>;
  /** Starts edgeHub again on the same ports; nothing when it runs. */
  startEdge(): Promise<void>;
  sendInput(moduleId: string, input: string, message: InputMessage): Promise<InputOutcome>;
}

/** A message that was acknowledged and went nowhere, as the log of the real edgeHub would tell. */
export interface Drop {
  readonly from: string;
  readonly topic: string;
  readonly reason: string;
}

/** How a twin request is answered instead of honestly; `silence`: PUBACK, but never an answer. */
export type TwinAnswer = "normal" | "silence" | { readonly status: number };

export interface Behaviour {
  /** New connections: taken, reset at TCP, or answered with this CONNACK code. */
  connections: "accept" | "reset" | { readonly connack: number };
  /** Connections stay open, but every packet is swallowed. */
  silent: boolean;
  /** `drop` keeps PUBACKs back for ever; a number delays each by so many milliseconds, in order. */
  puback: "normal" | "drop" | { readonly delayMs: number };
  twinGet: TwinAnswer;
  twinPatch: TwinAnswer;
  /** `fail`: 500; `hang`: accepted and never answered. Per call, so that signing can fail while the trust bundle works. */
  workload: { sign: WorkloadAnswer; trustBundle: WorkloadAnswer; serverCertificate: WorkloadAnswer };
}

export type WorkloadAnswer = "normal" | "fail" | "hang";

export function normalBehaviour(): Behaviour {
  return {
    connections: "accept",
    silent: false,
    puback: "normal",
    twinGet: "normal",
    twinPatch: "normal",
    workload: { sign: "normal", trustBundle: "normal", serverCertificate: "normal" },
  };
}

/** Back to honesty; the object keeps its identity, since others hold it. */
export function resetBehaviour(behaviour: Behaviour): void {
  Object.assign(behaviour, normalBehaviour());
}
