/** What the service API is asked and answers, apart from HTTP, and the shapes of IoT Hub's own errors. */

import { randomUUID } from "node:crypto";
import type { Json, JsonObject } from "../core/message.ts";

export interface ServiceRequest {
  readonly method: string;
  /** Decoded segments of the path. */
  readonly path: readonly string[];
  readonly query: URLSearchParams;
  readonly ifMatch: string | undefined;
  readonly policy: string;
  /** Undefined when there was no body. */
  readonly body: Json | undefined;
  /** Aborted when the caller is gone or the hub ends. */
  readonly signal: AbortSignal;
}

export interface ServiceReply {
  readonly status: number;
  readonly body?: Json;
  readonly headers?: Readonly<Record<string, string>>;
}

/** `{"Message":"ErrorCode:<code>;<text>"}`: the service SDKs split it at the colon and the semicolon. */
export function errorReply(status: number, code: string, text: string): ServiceReply {
  return errorText(status, `ErrorCode:${code};${text.replaceAll(";", ",")}`);
}

export function errorText(status: number, message: string): ServiceReply {
  const tracking = `Tracking ID:${randomUUID()}-TimeStamp:${new Date().toISOString()}`;
  return { status, body: { Message: message, ExceptionMessage: tracking } };
}

/** Errors of direct methods carry their number inside the message, as JSON. */
export function numberedError(status: number, errorCode: number, text: string): ServiceReply {
  const inner: JsonObject = {
    errorCode,
    trackingId: randomUUID(),
    message: text,
    timestampUtc: new Date().toISOString(),
  };
  return { status, body: { Message: JSON.stringify(inner), ExceptionMessage: "" } };
}

export function badRequest(text: string): ServiceReply {
  return errorReply(400, "ArgumentInvalid", text);
}
