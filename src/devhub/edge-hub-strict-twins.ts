/** Twins as IoT Hub itself answers them: straight from the cloud, with versions and with errors that say why. */

import { randomUUID } from "node:crypto";
import type { JsonObject } from "../core/message.ts";
import type { Cloud, Identity } from "./cloud-types.ts";
import { isObject, parseJson } from "./edge-hub-json.ts";
import { keyOf } from "./edge-hub-store.ts";
import type { TwinReply, Twins } from "./edge-hub-twins.ts";

export interface StrictTwinParts {
  readonly cloud: Cloud;
  notify(key: string, patch: JsonObject, version: number): void;
}

export class StrictTwins implements Twins {
  readonly #parts: StrictTwinParts;

  constructor(parts: StrictTwinParts) {
    this.#parts = parts;
  }

  get(identity: Identity): Promise<TwinReply> {
    const twin = this.#parts.cloud.twin(identity);
    if (twin === undefined) return Promise.resolve(errorReply(404, "twin not found"));
    const desired = { ...twin.desired, $version: twin.desiredVersion };
    const reported = { ...twin.reported, $version: twin.reportedVersion };
    return Promise.resolve({ status: 200, body: JSON.stringify({ desired, reported }) });
  }

  patch(identity: Identity, body: Uint8Array, ifVersion: string | undefined): TwinReply {
    const patch = parseJson(body);
    if (!isObject(patch)) return errorReply(400, "ErrorCode:ArgumentInvalid; the body is not a JSON object");
    const current = this.#parts.cloud.twin(identity)?.reportedVersion;
    if (ifVersion !== undefined && ifVersion !== String(current)) {
      return errorReply(412, "ErrorCode:PreconditionFailed; the base version is not current");
    }
    const outcome = this.#parts.cloud.patchReported(identity, patch);
    if (outcome.kind === "refused") return errorReply(outcome.status, outcome.message);
    return { status: 204, version: outcome.version };
  }

  desiredChanged(identity: Identity, patch: JsonObject, version: number): void {
    this.#parts.notify(keyOf(identity), patch, version);
  }

  resumed(): void {
    // Nothing is pending: each patch was taken or refused at once.
  }

  stop(): void {
    // Holds nothing.
  }
}

/** The body that clients of IoT Hub find under 3xx and above [iothub-mqtt.md 13]. */
export function errorReply(status: number, message: string): TwinReply {
  const timestampUtc = new Date().toISOString().replace(/\.\d+/, "");
  const body = { errorCode: status * 1000 + 4, trackingId: randomUUID(), message, timestampUtc };
  return { status, body: JSON.stringify(body) };
}
