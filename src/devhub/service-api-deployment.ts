/**
 * `POST /devices/{device}/applyConfigurationContent`: a deployment manifest for one device, as `az iot edge set-modules` sends it. What it
 * says of modules that this hub has twins of comes into force; Edge agent and edgeHub are not among them.
 */
import type { Json, JsonObject } from "../core/message.ts";
import type { IotHubCloud } from "./cloud.ts";
import { isObject } from "./cloud-twin.ts";
import type { Identity } from "./cloud-types.ts";
import { badRequest, errorText, type ServiceReply } from "./service-api-reply.ts";

const SECTION = "properties.desired";

export function applyConfigurationContent(cloud: IotHubCloud, deviceId: string, body: Json | undefined): ServiceReply {
  const content = isObject(body) ? body["modulesContent"] : undefined;
  if (!isObject(content)) return badRequest("modulesContent is not an object");
  for (const [moduleId, sections] of Object.entries(content)) {
    const id = { deviceId, moduleId };
    for (const [path, value] of Object.entries(isObject(sections) ? sections : {})) {
      if (path !== SECTION && !path.startsWith(`${SECTION}.`)) return badRequest(`${moduleId} has ${path}`);
      const refused = apply(cloud, id, path.split(".").slice(2), value);
      if (refused !== undefined) return refused;
    }
  }
  return { status: 204 };
}

/** `properties.desired` takes the place of the whole section, `properties.desired.a.b` of what is at `a.b` [IoT Edge, layered deployments]. */
function apply(cloud: IotHubCloud, id: Identity, path: readonly string[], value: Json): ServiceReply | undefined {
  const twin = cloud.fullTwin(id);
  if (twin === undefined) return undefined;
  const desired = withValueAt(twin.desired.properties, path, value);
  if (!isObject(desired)) return badRequest(`${SECTION} is not an object`);
  const outcome = cloud.updateTwin(id, { desired }, "replace");
  return outcome.kind === "refused" ? errorText(outcome.status, outcome.message) : undefined;
}

function withValueAt(document: Json | undefined, path: readonly string[], value: Json): Json {
  const [first, ...rest] = path;
  if (first === undefined) return value;
  const object: JsonObject = isObject(document) ? document : {};
  const old = Object.hasOwn(object, first) ? object[first] : undefined;
  return Object.fromEntries([
    ...Object.entries(object).filter(([key]) => key !== first),
    [first, withValueAt(old, rest, value)],
  ]);
}
