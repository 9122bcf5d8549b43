/**
 * The SDK's MQTT transport, with the three things that it lacks towards edgeHub: one handler for every command, the status and the
 * raw document of twin answers, and no way for what arrives to crash the process. It rests on the SDK's constructor seam, on the
 * exported interface `DeviceTransport`, and on two facts that contract tests hold: commands arrive as events `method_<name>`,
 * and twin requests settle while `message` is emitted.
 */

import type { AuthenticationProvider } from "azure-iot-common";
import azureIotDeviceMqtt from "azure-iot-device-mqtt";
import type { JsonObject } from "../core/message.ts";
import { PacketGuard, type TwinAnswer } from "./packet-guard.ts";
import type { Wire } from "./wire.ts";

const { Mqtt } = azureIotDeviceMqtt;

/** No legal command is called so: the name under which `onMethod` gets all of them. */
export const ANY_COMMAND = "*";

type Answered = (error: Error | undefined, answer: TwinAnswer) => void;

const NO_ANSWER: TwinAnswer = { status: 0, document: undefined };

export interface EdgeHubMqttOptions {
  readonly provider: AuthenticationProvider;
  readonly wire: Wire;
  /** Something arrived that the SDK would have thrown on; it was dropped. */
  readonly malformed: (topic: string, reason: string) => void;
}

export class EdgeHubMqtt extends Mqtt {
  readonly #guard: PacketGuard;

  constructor({ provider, wire, malformed }: EdgeHubMqttOptions) {
    const guard = new PacketGuard(wire, malformed);
    // The session has its own limit. The SDK's 30 s are shorter than a twin read in an outage, and run by the wall clock: once that
    // is set, everything under way would fail and be sent twice.
    guard.setTimeout(Number.POSITIVE_INFINITY);
    super(provider, guard);
    this.#guard = guard;
  }

  /** Hands out everything that arrived before the listeners were there. */
  release(): void {
    this.#guard.release();
  }

  override emit(event: string | symbol, ...args: unknown[]): boolean {
    const unheard = typeof event === "string" && event.startsWith("method_") && this.listenerCount(event) === 0;
    return super.emit(unheard ? `method_${ANY_COMMAND}` : event, ...args);
  }

  /** One GET. May never call back: the caller has the time limit. */
  readTwin(done: Answered): void {
    super.getTwin((error) => done(error ?? undefined, this.#guard.answer ?? NO_ANSWER));
  }

  /** One PATCH of the reported section. May never call back: the caller has the time limit. */
  patchReported(patch: JsonObject, done: Answered): void {
    super.updateTwinReportedProperties(patch, (error) => done(error ?? undefined, this.#guard.answer ?? NO_ANSWER));
  }
}
