/**
 * The IoT Hub MQTT device dialect: what unmodified Azure device SDKs speak [iothub-mqtt.md 0-7, 13].
 * Invariant: `parse` never throws, and a frame that names another identity is never taken for this leaf's.
 */
import { isJsonObject } from "../core/merge-patch.ts";
import {
  type Channel,
  type Frame,
  type Json,
  type LeafId,
  type LeafNotice,
  type LeafRequest,
  parseLeafId,
} from "../core/message.ts";
import type { ConnectClaim, ConnectParse, Dialect } from "./dialect.ts";
import { decodePercent, formatBag, parseBag, parseQuery } from "./topic.ts";

const TWIN_GET = "$iothub/twin/GET/";
const TWIN_PATCH = "$iothub/twin/PATCH/properties/reported/";
const METHOD_ANSWER = "$iothub/methods/res/";
/** [DTDL v2, digital twin model identifier] */
const DTMI = /^dtmi:[A-Za-z](?:[A-Za-z0-9_]*[A-Za-z0-9])?(?::[A-Za-z](?:[A-Za-z0-9_]*[A-Za-z0-9])?)*;[1-9][0-9]{0,8}$/;
const MAX_MODEL_ID_CHARS = 128;

const decoder = new TextDecoder("utf-8", { fatal: true });
const encoder = new TextEncoder();
const NOTHING = new Uint8Array();

export const iothub: Dialect = { name: "iothub", parseConnect, channel, parse, format };

// ---------------------------------------------------------------- CONNECT

function refused(code: 3 | 5, reason: string): ConnectParse {
  return { kind: "refused", code, reason };
}

/** `{host}/{device}/?api-version=...`; the host is ignored, the query may stand without `?` (old C SDKs) [iothub-mqtt.md 1.2]. */
function parseConnect({ clientId, username = "" }: ConnectClaim): ConnectParse {
  const segments = username.trim().split("/");
  const last = segments.at(-1) ?? "";
  const query = parseQuery(last.startsWith("?") ? last.slice(1) : last);
  if ((query.get("api-version") ?? "") === "") return refused(3, "the user name has no api-version");
  const [device, module, ...more] = segments.slice(1, -1);
  if (device === undefined || more.length > 0)
    return refused(3, "the user name is not {hub}/{device}/?api-version=...");
  if (module !== undefined || clientId.includes("/"))
    return refused(5, "leaves are devices: this is a module identity");
  const leafId = parseLeafId(device);
  if (leafId === undefined) return refused(5, "IoT Hub would not accept this device id");
  if (clientId !== device) return refused(5, "client id and user name name different devices");
  return { kind: "leaf", leafId, modelId: parseModelId(query.get("model-id")) };
}

/** A text that is no DTMI announces no model; the leaf works on without one. */
function parseModelId(raw: string | undefined): string | undefined {
  if (raw === undefined) return undefined;
  const modelId = decodePercent(raw);
  return modelId.length <= MAX_MODEL_ID_CHARS && DTMI.test(modelId) ? modelId : undefined;
}

// ---------------------------------------------------------------- subscriptions

function channel(leafId: LeafId, filter: string): Channel | undefined {
  if (filter === "$iothub/twin/res/#") return "twin-answers";
  if (filter === "$iothub/methods/POST/#") return "commands";
  if (filter === "$iothub/twin/PATCH/properties/desired/#") return "desired";
  return filter === `devices/${leafId}/messages/devicebound/#` ? "cloud-to-device" : undefined;
}

// ---------------------------------------------------------------- from the leaf

function close(reason: string): LeafRequest {
  return { kind: "close", reason };
}

function parse(leafId: LeafId, frame: Frame): LeafRequest {
  const { topic } = frame;
  if (topic.startsWith(TWIN_GET)) return parseGet(topic.slice(TWIN_GET.length));
  if (topic.startsWith(TWIN_PATCH)) return parseReported(topic.slice(TWIN_PATCH.length), frame.payload);
  if (topic.startsWith(METHOD_ANSWER)) return parseAnswer(topic.slice(METHOD_ANSWER.length), frame.payload);
  const events = `devices/${leafId}/messages/events`;
  if (topic === events) return parseTelemetry("", frame);
  if (topic.startsWith(`${events}/`)) return parseTelemetry(topic.slice(events.length + 1), frame);
  return close(`a leaf may not publish to ${topic.slice(0, 200)}`);
}

function parseTelemetry(bagText: string, { dup, payload, retain, will }: Frame): LeafRequest {
  const bag = parseBag(bagText);
  if ("problem" in bag) return { kind: "ignored", reason: `the property bag is malformed: ${bag.problem}` };
  const marks = {
    ...(retain === true ? { "mqtt-retain": "true" } : {}),
    ...(dup === true ? { "mqtt-dup": "true" } : {}),
    ...(will === true ? { "iothub-MessageType": "Will" } : {}),
  };
  return { kind: "telemetry", telemetry: { payload, system: bag.system, properties: { ...bag.properties, ...marks } } };
}

/** `?$rid=...[&$version=...]`; without a request id nothing could be answered. */
function parseRequest(rest: string): { readonly rid: string; readonly version: string | undefined } | undefined {
  if (!rest.startsWith("?")) return undefined;
  const query = parseQuery(rest.slice(1));
  const rid = query.get("$rid");
  return rid === undefined || rid === "" ? undefined : { rid, version: query.get("$version") };
}

function parseGet(rest: string): LeafRequest {
  const request = parseRequest(rest);
  return request === undefined ? close("a twin GET without $rid") : { kind: "twin-get", rid: request.rid };
}

function parseReported(rest: string, payload: Uint8Array): LeafRequest {
  const request = parseRequest(rest);
  if (request === undefined) return close("a reported PATCH without $rid");
  const { rid, version } = request;
  const invalid = (reason: string): LeafRequest => ({ kind: "twin-invalid", rid, status: 400, reason });
  const ifVersion = version === undefined ? undefined : Number(version);
  if (ifVersion !== undefined && !Number.isSafeInteger(ifVersion)) return invalid("$version is no integer");
  const patch = parseJson(payload);
  if (patch === undefined) return invalid("the patch is no JSON in UTF-8");
  if (!isJsonObject(patch)) return invalid("the patch is no JSON object");
  if (Object.hasOwn(patch, "$version")) return invalid("$version belongs into the topic");
  return { kind: "reported", rid, patch, ifVersion };
}

/** A body that is no JSON becomes status 500 for the caller, as at edgeHub. */
function parseAnswer(rest: string, payload: Uint8Array): LeafRequest {
  const at = rest.indexOf("/");
  const request = at < 0 ? undefined : parseRequest(rest.slice(at + 1));
  const text = at < 0 ? "" : rest.slice(0, at);
  if (request === undefined) return { kind: "ignored", reason: "a command answer without $rid" };
  if (!/^-?\d{1,9}$/.test(text)) {
    return {
      kind: "command-answer",
      rid: request.rid,
      status: 500,
      payload: { message: "the leaf's status is no integer" },
    };
  }
  const answer = payload.length === 0 ? null : parseJson(payload);
  if (answer === undefined) {
    return {
      kind: "command-answer",
      rid: request.rid,
      status: 500,
      payload: { message: "the leaf's answer is no JSON" },
    };
  }
  return { kind: "command-answer", rid: request.rid, status: Number(text), payload: answer };
}

/** undefined: no JSON, no UTF-8, or nested beyond what the parser can hold. */
function parseJson(payload: Uint8Array): Json | undefined {
  try {
    return JSON.parse(decoder.decode(payload)) as Json;
  } catch {
    return undefined;
  }
}

// ---------------------------------------------------------------- to the leaf

function json(topic: string, body: string): Frame {
  return { topic, payload: encoder.encode(body), qos: 0 };
}

function format(leafId: LeafId, notice: LeafNotice): Frame {
  switch (notice.kind) {
    case "twin": {
      // `$version` last in each section: the Python guide takes a section's first key as a component.
      const desired = { ...notice.desired, $version: notice.desiredVersion };
      const reported = { ...notice.reported, $version: notice.reportedVersion };
      return json(`$iothub/twin/res/200/?$rid=${notice.rid}`, JSON.stringify({ desired, reported }));
    }
    case "reported-accepted":
      return { topic: `$iothub/twin/res/204/?$rid=${notice.rid}&$version=${notice.version}`, payload: NOTHING, qos: 0 };
    case "twin-refused":
      return json(`$iothub/twin/res/${notice.status}/?$rid=${notice.rid}`, JSON.stringify(errorBody(notice)));
    case "desired":
      return json(
        `$iothub/twin/PATCH/properties/desired/?$version=${notice.version}`,
        JSON.stringify({ ...notice.patch, $version: notice.version }),
      );
    case "command":
      // A call without payload is `null`: the Node SDK answers an empty body with 400 by itself [iothub-mqtt.md 5].
      return json(`$iothub/methods/POST/${notice.name}/?$rid=${notice.rid}`, JSON.stringify(notice.payload));
    case "cloud-to-device":
      return { topic: deviceBound(leafId, notice.message), payload: notice.message.payload, qos: 1 };
  }
}

/** The shape of IoT Hub's own errors; `errorCode` in the body is what makes the Node SDK see one [iothub-mqtt.md 6.3]. */
function errorBody({ reason, rid, status, timestampUtc }: Extract<LeafNotice, { kind: "twin-refused" }>): object {
  return { errorCode: status * 1000 + 4, trackingId: rid, message: reason, timestampUtc };
}

/** Every key with `=` and a value: Java throws at an empty one, so it is left out [iothub-mqtt.md 3]. */
function deviceBound(
  leafId: LeafId,
  { properties, system }: Extract<LeafNotice, { kind: "cloud-to-device" }>["message"],
): string {
  const to = `/devices/${leafId}/messages/devicebound`;
  const bag = formatBag({ system: withoutEmpty({ to, ...system }), properties: withoutEmpty(properties) });
  return `devices/${leafId}/messages/devicebound/${bag}`;
}

function withoutEmpty(values: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== ""));
}
