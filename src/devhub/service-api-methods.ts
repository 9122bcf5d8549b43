/** `POST /twins/{device}[/modules/{module}]/methods`: one call, exactly one answer [D-meth]. */

import { z } from "zod";
import type { Json } from "../core/message.ts";
import type { IotHubCloud } from "./cloud.ts";
import { isObject } from "./cloud-twin.ts";
import type { Identity, MethodOutcome } from "./cloud-types.ts";
import { badRequest, errorReply, numberedError, type ServiceReply, type ServiceRequest } from "./service-api-reply.ts";
import { unknownIdentity } from "./service-api-twins.ts";

const Call = z.object({
  methodName: z.string().min(1).max(100),
  responseTimeoutInSeconds: z.number().int().min(5).max(300).nullish(),
  connectTimeoutInSeconds: z.number().int().min(0).max(300).nullish(),
});
const MAX_PAYLOAD_BYTES = 131_072;

export async function answerMethod(cloud: IotHubCloud, id: Identity, request: ServiceRequest): Promise<ServiceReply> {
  if (request.method !== "POST") return errorReply(405, "MethodNotAllowed", "methods are called by POST");
  const parsed = Call.safeParse(request.body);
  if (!parsed.success) return badRequest(z.prettifyError(parsed.error).replaceAll("\n", " "));
  if (cloud.fullTwin(id) === undefined) return unknownIdentity(id);
  const payload = payloadOf(request.body);
  if (payload !== undefined && Buffer.byteLength(JSON.stringify(payload)) > MAX_PAYLOAD_BYTES) {
    return errorReply(413, "RequestEntityTooLarge", `a payload has at most ${MAX_PAYLOAD_BYTES} bytes`);
  }
  const { methodName, responseTimeoutInSeconds, connectTimeoutInSeconds } = parsed.data;
  const outcome = await cloud.invoke({
    id,
    name: methodName,
    payload,
    responseTimeoutMs: (responseTimeoutInSeconds ?? 30) * 1000,
    connectTimeoutMs: (connectTimeoutInSeconds ?? 0) * 1000,
    signal: request.signal,
  });
  return replyOf(outcome);
}

/** A payload that is null reaches the device as one that was left out: with an empty body. */
function payloadOf(body: Json | undefined): Json | undefined {
  return isObject(body) && Object.hasOwn(body, "payload") ? (body["payload"] ?? undefined) : undefined;
}

function replyOf(outcome: MethodOutcome): ServiceReply {
  switch (outcome.kind) {
    case "answer":
      return { status: 200, body: { status: outcome.status, payload: outcome.payload } };
    case "offline":
      return numberedError(404, 404_103, "Timed out waiting for device to connect.");
    case "timeout":
      return numberedError(504, 504_101, "Timed out waiting for the response from device.");
  }
}
