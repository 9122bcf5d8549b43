/** `GET /control` lists what the hub can be told to do, `POST /control/<name>` does it. No part of the real IoT Hub. */

import { isObject } from "./cloud-twin.ts";
import type { ControlFunctions } from "./cloud-types.ts";
import { badRequest, errorReply, type ServiceReply, type ServiceRequest } from "./service-api-reply.ts";

export async function answerControl(functions: ControlFunctions, request: ServiceRequest): Promise<ServiceReply> {
  const [name, ...rest] = request.path;
  if (name === undefined && request.method === "GET") return { status: 200, body: Object.keys(functions).toSorted() };
  const run = name !== undefined && Object.hasOwn(functions, name) ? functions[name] : undefined;
  if (run === undefined || rest.length > 0) {
    return errorReply(404, "NotFound", `no such control; there are ${Object.keys(functions).toSorted().join(", ")}`);
  }
  if (request.method !== "POST") return errorReply(405, "MethodNotAllowed", "controls are called by POST");
  const args = request.body ?? {};
  if (!isObject(args)) return badRequest("the arguments are a JSON object");
  try {
    return { status: 200, body: await run(args) };
  } catch (error) {
    return badRequest(error instanceof Error ? error.message : String(error));
  }
}
