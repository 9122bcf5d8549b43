/**
 * Who connects, by IoT Hub's rules of client id and user name [iothub-mqtt.md 1.2].
 * Invariant: an accepted id is one that IoT Hub accepts as a device id, and client id and user name agree on it to the letter.
 */
import { type LeafId, parseLeafId } from "../core/message.ts";
import type { ConnectClaim, ConnectParse } from "./dialect.ts";
import { decodePercent } from "./topic.ts";

/** DTDL v2's DTMI, and v3's minor or missing version; at most 128 characters [DTDL v2, v3: DTMI]. */
const DTMI =
  /^dtmi:[A-Za-z](?:[A-Za-z0-9_]*[A-Za-z0-9])?(?::_*[A-Za-z](?:[A-Za-z0-9_]*[A-Za-z0-9])?)*(?:;[1-9]\d{0,8}(?:\.[1-9]\d{0,5})?)?$/;
const MAX_DTMI_CHARS = 128;

function isModelId(text: string): boolean {
  return text.length <= MAX_DTMI_CHARS && DTMI.test(text);
}

/** `{idScope}/registrations/{registrationId}/api-version=...` [iothub-mqtt.md 11] */
const PROVISIONING =
  "a client of the provisioning service, which the gateway is not: a leaf connects with its own id and key";

function refused(code: 3 | 5, reason: string): ConnectParse {
  return { kind: "refused", code, reason };
}

/**
 * `{host}/{device}/?api-version=...[&model-id=...]`; the host is ignored (SDKs put the hub's or the gateway's there), and so is any
 * `api-version`, but it has to be there, as at edgeHub. A model id that is no DTMI is ignored too: the leaf works, without a model.
 */
export function parseIothubConnect({ clientId, username = "" }: ConnectClaim): ConnectParse {
  if (clientId.trim() === "" || username.trim() === "") return refused(3, "client id or user name is blank");
  const [, ...segments] = username.trim().split("/");
  // A device id may hold `?` and `=` itself, so the first segment after the host is never the query.
  const queryAt = segments.findIndex(
    (segment, at) => at > 0 && (segment.startsWith("?") || segment.includes("api-version=")),
  );
  const query = parseQuery(segments.slice(queryAt).join("/"));
  if (queryAt < 0 || !query.has("api-version")) return refused(3, "the user name has no api-version");
  const [device = "", module, ...more] = segments.slice(0, queryAt);
  if (more.length > 0) return refused(3, "the user name has too many parts");
  if (device === "registrations" && module !== undefined) return refused(5, PROVISIONING);
  if (module !== undefined) return refused(5, "a module identity: leaves are devices");
  return checkIdentity(clientId, device, query.get("model-id"));
}

function checkIdentity(clientId: string, device: string, model: string | undefined): ConnectParse {
  const leafId: LeafId | undefined = parseLeafId(device);
  if (leafId === undefined) return refused(3, "the user name's device id is not one that IoT Hub allows");
  if (clientId.startsWith(`${leafId}/`)) return refused(5, "a module identity: leaves are devices");
  if (clientId !== leafId) return refused(5, "client id and user name name different devices");
  return { kind: "leaf", leafId, modelId: model !== undefined && isModelId(model) ? model : undefined };
}

/** The first of equal keys wins, as at edgeHub. */
function parseQuery(text: string): ReadonlyMap<string, string> {
  const query = new Map<string, string>();
  for (const pair of text.replace(/^\?/, "").split("&")) {
    const [key = "", ...value] = pair.split("=");
    if (!query.has(key)) query.set(key, decodePercent(value.join("=")));
  }
  return query;
}
