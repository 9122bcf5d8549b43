/** What went wrong outside, in the four words that `flow` reacts to. The only place that knows the SDK's errors and hub statuses. */

import type { Fault } from "../core/message.ts";
import type { Outcome } from "../flow/ports.ts";

/**
 * By `name` of the SDK's error; everything else is `transient`: over MQTT the class tells nothing more [azure-iot-device.md 5]. A
 * TypeError or ReferenceError out of the SDK is one of its own, of a connection that ends: what was asked is not to blame.
 */
const BY_ERROR_NAME: Readonly<Record<string, Fault["kind"]>> = {
  UnauthorizedError: "unauthorized",
  ThrottlingError: "throttled",
  IotHubQuotaExceededError: "throttled",
  MessageTooLargeError: "rejected",
  FormatError: "rejected",
  ArgumentError: "rejected",
  URIError: "rejected",
  NotImplementedError: "rejected",
};

/** The fault behind anything that the SDK threw or handed to a callback. */
export function faultOfError(error: unknown): Fault {
  if (!(error instanceof Error)) return { kind: "transient", reason: String(error) };
  const kind = Object.hasOwn(BY_ERROR_NAME, error.name) ? BY_ERROR_NAME[error.name] : undefined;
  return { kind: kind ?? "transient", reason: describeError(error) };
}

/** `name: message`, without the stack and without anything that a token could hide in. */
export function describeError(error: unknown): string {
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return text.replaceAll(/SharedAccess(?:Signature|Key)[^,;]*/gi, "SharedAccess...").slice(0, 500);
}

/** A twin status outside 2xx. 0 stands for an answer that was none. */
export function faultOfStatus(status: number, detail: string): Fault {
  const reason = detail === "" ? `status ${status}` : `status ${status}: ${detail}`;
  if (status === 429) return { kind: "throttled", reason };
  if (status === 401) return { kind: "unauthorized", reason };
  // Not there (an identity that is being made anew) and not in time say nothing of what was sent.
  const isRefusal = status >= 400 && status < 500 && status !== 404 && status !== 408;
  return { kind: isRefusal ? "rejected" : "transient", reason };
}

export function isSuccess(status: number): boolean {
  return status >= 200 && status < 300;
}

export function failed(fault: Fault): Extract<Outcome, { kind: "failed" }> {
  return { kind: "failed", fault };
}

export function transient(reason: string): Extract<Outcome, { kind: "failed" }> {
  return failed({ kind: "transient", reason });
}
