/** Twins and identities as back ends read and write them [IoT Hub service REST API, api-version 2021-04-12]. */

import type { Json, JsonObject } from "../core/message.ts";
import type { IotHubCloud } from "./cloud.ts";
import { isObject, type Mode, type Section, type Twin } from "./cloud-twin.ts";
import type { Identity, TwinChange } from "./cloud-types.ts";
import { badRequest, errorReply, errorText, type ServiceReply, type ServiceRequest } from "./service-api-reply.ts";

export interface TwinApiParts {
  readonly cloud: IotHubCloud;
  isConnected(id: Identity): boolean;
}

const NEVER = "0001-01-01T00:00:00Z";

/** `GET`, `PATCH`, `PUT /twins/{device}[/modules/{module}]`. */
export function answerTwin(parts: TwinApiParts, id: Identity, request: ServiceRequest): ServiceReply {
  switch (request.method) {
    case "GET":
      return twinReply(parts, id);
    case "PATCH":
      return writeTwin(parts, id, request, "update");
    case "PUT":
      return writeTwin(parts, id, request, "replace");
    default:
      return errorReply(405, "MethodNotAllowed", "twins know GET, PATCH and PUT");
  }
}

/** `GET /devices`, `/devices/{device}`, `/devices/{device}/modules`, `/devices/{device}/modules/{module}`. */
export function answerRegistry(parts: TwinApiParts, path: readonly string[]): ServiceReply {
  const [deviceId, modules, moduleId, ...rest] = path;
  if (rest.length > 0 || (modules !== undefined && modules !== "modules"))
    return errorReply(404, "NotFound", "no such path");
  const known = parts.cloud.identities;
  if (deviceId === undefined || deviceId === "") {
    return {
      status: 200,
      body: known.filter((id) => id.moduleId === undefined).map((id) => identityDocument(parts, id)),
    };
  }
  if (modules !== undefined && moduleId === undefined) {
    const own = known.filter((id) => id.deviceId === deviceId && id.moduleId !== undefined);
    return { status: 200, body: own.map((id) => identityDocument(parts, id)) };
  }
  const id = moduleId === undefined ? { deviceId } : { deviceId, moduleId };
  return parts.cloud.fullTwin(id) === undefined
    ? unknownIdentity(id)
    : { status: 200, body: identityDocument(parts, id) };
}

export function unknownIdentity(id: Identity): ServiceReply {
  return id.moduleId === undefined
    ? errorReply(404, "DeviceNotFound", `no device ${id.deviceId} is registered`)
    : errorReply(404, "ModuleNotFound", `no module ${id.moduleId} of device ${id.deviceId} is registered`);
}

function twinReply(parts: TwinApiParts, id: Identity): ServiceReply {
  const twin = parts.cloud.fullTwin(id);
  if (twin === undefined) return unknownIdentity(id);
  const body = twinDocument(twin, parts.isConnected(id));
  return { status: 200, body, headers: { ETag: `"${etagOf(twin)}"` } };
}

function writeTwin(parts: TwinApiParts, id: Identity, request: ServiceRequest, mode: Mode): ServiceReply {
  const change = parseChange(request.body);
  if (typeof change === "string") return badRequest(change);
  const ifMatch = parseIfMatch(request.ifMatch);
  if (ifMatch === "never") return conflict();
  const outcome = parts.cloud.updateTwin(id, change, mode, ifMatch);
  switch (outcome.kind) {
    case "updated":
      return twinReply(parts, id);
    case "missing":
      return unknownIdentity(id);
    case "conflict":
      return conflict();
    case "refused":
      return errorText(outcome.status, outcome.message);
  }
}

function conflict(): ServiceReply {
  return errorReply(412, "PreconditionFailed", "the twin has changed since that ETag");
}

/** The revision asked for; undefined for any; `never` for an ETag that no twin can have. */
function parseIfMatch(header: string | undefined): number | undefined | "never" {
  const tag = header?.replace(/^W\//, "").replace(/^"(.*)"$/, "$1");
  if (tag === undefined || tag === "" || tag === "*") return undefined;
  const bytes = Buffer.from(tag, "base64");
  return bytes.length === 8 ? Number(bytes.readBigUInt64BE()) : "never";
}

function etagOf(twin: Twin): string {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(twin.revision));
  return bytes.toString("base64");
}

/** Or what is wrong with the body. What else a twin document has is read-only and ignored. */
function parseChange(body: Json | undefined): TwinChange | string {
  if (!isObject(body)) return "the body is not a JSON object";
  const tags = own(body, "tags");
  const properties = own(body, "properties");
  if (properties !== undefined && !isObject(properties)) return "properties is not an object";
  const desired = properties === undefined ? undefined : own(properties, "desired");
  if (!isPart(tags) || !isPart(desired)) return "tags and properties.desired are objects or null";
  return {
    ...(tags === undefined ? {} : { tags }),
    ...(desired === undefined ? {} : { desired: desired === null ? null : withoutMarks(desired) }),
  };
}

function isPart(value: Json | undefined): value is JsonObject | null | undefined {
  return value === undefined || value === null || isObject(value);
}

function own(object: JsonObject, key: string): Json | undefined {
  return Object.hasOwn(object, key) ? object[key] : undefined;
}

/** Back ends read a twin, change it and send the whole back, marks and all. */
function withoutMarks(section: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(section).filter(([key]) => key !== "$metadata" && key !== "$version"));
}

function twinDocument(twin: Twin, connected: boolean): JsonObject {
  return {
    ...twin.id,
    etag: etagOf(twin),
    deviceEtag: "MQ==",
    status: "enabled",
    statusUpdateTime: NEVER,
    connectionState: connected ? "Connected" : "Disconnected",
    lastActivityTime: NEVER,
    cloudToDeviceMessageCount: 0,
    authenticationType: "sas",
    x509Thumbprint: { primaryThumbprint: null, secondaryThumbprint: null },
    modelId: twin.modelId ?? "",
    version: twin.version,
    tags: twin.tags,
    properties: { desired: sectionDocument(twin.desired), reported: sectionDocument(twin.reported) },
  };
}

function sectionDocument({ properties, metadata, version }: Section): JsonObject {
  return { ...properties, $metadata: metadata, $version: version };
}

/** Without keys: nobody reads them here. */
function identityDocument(parts: TwinApiParts, id: Identity): JsonObject {
  return {
    ...id,
    generationId: "1",
    etag: "MQ==",
    connectionState: parts.isConnected(id) ? "Connected" : "Disconnected",
    connectionStateUpdatedTime: NEVER,
    lastActivityTime: NEVER,
    cloudToDeviceMessageCount: 0,
    ...(id.moduleId === undefined ? { status: "enabled", statusUpdatedTime: NEVER } : {}),
    authentication: { type: "sas", symmetricKey: { primaryKey: null, secondaryKey: null } },
  };
}
