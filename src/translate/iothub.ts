/**
 * The IoT Hub device dialect: what unmodified Azure IoT device SDKs say and hear on MQTT 3.1.1 [iothub-mqtt.md 0-7, 13].
 * Invariants: a leaf is only ever heard on its own topics; `$rid` goes back byte for byte, first in its topic; every twin section
 * that goes down ends with `$version`.
 */
import { isJsonObject, jsonBytes } from "../core/merge-patch.ts";
import type {
  Channel,
  Frame,
  Json,
  JsonObject,
  LeafId,
  LeafNotice,
  LeafRequest,
  Subscription,
  Telemetry,
} from "../core/message.ts";
import type { Dialect } from "./dialect.ts";
import { parseIothubConnect } from "./iothub-connect.ts";
import { formatJsonBody, parseJsonBody } from "./json-body.ts";
import { encodePercent, formatBag, parseBag, parseRequest } from "./topic.ts";

const TWIN_GET = "$iothub/twin/GET/";
const TWIN_REPORT = "$iothub/twin/PATCH/properties/reported/";
const TWIN_DESIRED = "$iothub/twin/PATCH/properties/desired/";
const TWIN_ANSWER = "$iothub/twin/res/";
const COMMAND = "$iothub/methods/POST/";
const COMMAND_ANSWER = "$iothub/methods/res/";

/** [D-meth]: each way. */
const MAX_COMMAND_BYTES = 128 * 1024;
/** A topic is an MQTT string [MQTT-1.5.3]. */
const MAX_TOPIC_BYTES = 65_535;

export const iothub: Dialect = {
  name: "iothub",
  parseConnect: parseIothubConnect,
  session: sessionOf,
  channel: channelOf,
  parse: parseFrame,
  format: formatNotice,
};

function sessionOf(leafId: LeafId): readonly Subscription[] {
  const ofTwin = [`${TWIN_ANSWER}#`, `${TWIN_DESIRED}#`, `${COMMAND}#`];
  return [...ofTwin.map((filter) => ({ filter, qos: 0 as const })), { filter: cloudToDeviceFilter(leafId), qos: 1 }];
}

function cloudToDeviceFilter(leafId: LeafId): string {
  return `devices/${leafId}/messages/devicebound/#`;
}

/** Counts what edgeHub counts [iothub-mqtt.md 12.1]; cloud-to-device of this leaf only. */
function channelOf(leafId: LeafId, filter: string): Channel | undefined {
  if (filter === `${TWIN_ANSWER}#`) return "twin-answers";
  if (filter.startsWith(COMMAND)) return "commands";
  if (filter.startsWith(TWIN_DESIRED)) return "desired";
  if (filter === cloudToDeviceFilter(leafId)) return "cloud-to-device";
  return undefined;
}

// ------------------------------------------------------------------------------------------------ what a leaf says

function close(reason: string): LeafRequest {
  return { kind: "close", reason };
}

function unknownTopic(topic: string): LeafRequest {
  return close(`no topic that leaves publish to: ${topic.slice(0, 100)}`);
}

function parseFrame(leafId: LeafId, frame: Frame): LeafRequest {
  const { topic, payload } = frame;
  if (topic.startsWith("devices/")) return parseTelemetry(leafId, frame);
  if (topic.startsWith(TWIN_GET)) return parseGet(topic.slice(TWIN_GET.length));
  if (topic.startsWith(TWIN_REPORT)) return parseReport(topic.slice(TWIN_REPORT.length), payload);
  if (topic.startsWith(COMMAND_ANSWER)) return parseCommandAnswer(topic.slice(COMMAND_ANSWER.length), payload);
  return unknownTopic(topic);
}

/** A trailing `/` (Node, Java, .NET) and a `?` before the bag (many raw clients) are no part of it. */
const EVENTS = /^messages\/events(?:\/\??(.*?)\/?)?$/s;

function parseTelemetry(leafId: LeafId, frame: Frame): LeafRequest {
  const own = `devices/${leafId}/`;
  if (!frame.topic.startsWith(own)) return close("a topic of another device");
  const match = EVENTS.exec(frame.topic.slice(own.length));
  if (match === null) return unknownTopic(frame.topic);
  const system: [string, string][] = [];
  const properties: [string, string][] = [];
  for (const [key, value] of parseBag(match[1] ?? "")) {
    if (isSystemKey(key)) system.push([key.slice(2), value]);
    else properties.push([key, value]);
  }
  if (frame.retain === true) properties.push(["mqtt-retain", "true"]);
  if (frame.dup === true) properties.push(["mqtt-dup", "true"]);
  if (frame.will === true) properties.push(["iothub-MessageType", "Will"]);
  const telemetry: Telemetry = {
    payload: frame.payload,
    system: Object.fromEntries(system),
    properties: Object.fromEntries(properties),
  };
  return { kind: "telemetry", telemetry };
}

function isSystemKey(key: string): boolean {
  return key.length > 2 && key.startsWith("$.");
}

function parseGet(parameters: string): LeafRequest {
  const request = parseRequest(parameters);
  return request === undefined ? close("a twin GET without one $rid") : { kind: "twin-get", rid: request.rid };
}

function parseReport(parameters: string, payload: Uint8Array): LeafRequest {
  const request = parseRequest(parameters);
  if (request === undefined) return close("a twin PATCH without one $rid");
  const { rid, version } = request;
  const invalid = (reason: string): LeafRequest => ({ kind: "twin-invalid", rid, status: 400, reason });
  if (version !== undefined && !/^\d{1,15}$/.test(version)) return invalid("the topic's $version is not a number");
  const body = parseJsonBody(payload);
  if (body.kind === "bad") return invalid(body.reason);
  if (!isJsonObject(body.value)) return invalid("the body is not a JSON object");
  if (Object.hasOwn(body.value, "$version")) return invalid("$version stands in the body");
  return { kind: "reported", rid, patch: body.value, ifVersion: version === undefined ? undefined : Number(version) };
}

/** An answer that says nothing usable still ends the call: its caller gets 500 and a reason, as at edgeHub. */
function parseCommandAnswer(rest: string, payload: Uint8Array): LeafRequest {
  const slash = rest.indexOf("/");
  const request = parseRequest(rest.slice(slash + 1));
  if (slash < 0 || request === undefined) return { kind: "ignored", reason: "a command's answer without one $rid" };
  const { rid } = request;
  const answer = (status: number, value: Json) => ({ kind: "command-answer" as const, rid, status, payload: value });
  const unusable = (reason: string): LeafRequest => ({
    ...answer(500, { message: `the leaf's answer is unusable: ${reason}` }),
    reason,
  });
  if (!/^-?\d{1,9}$/.test(rest.slice(0, slash))) return unusable("its status is not an integer");
  const status = Number(rest.slice(0, slash));
  if (payload.length === 0) return answer(status, null);
  const body = parseJsonBody(payload);
  if (body.kind === "bad") return unusable(body.reason);
  // Counted as it will be written again: `1e20` takes 21 digits then, and an over-long answer would cost the whole module its link.
  if (jsonBytes(body.value) > MAX_COMMAND_BYTES) return unusable(`it has more than ${MAX_COMMAND_BYTES} bytes`);
  return answer(status, body.value);
}

// ------------------------------------------------------------------------------------------------ what a leaf hears

function formatNotice(leafId: LeafId, notice: LeafNotice): Frame {
  switch (notice.kind) {
    case "twin":
      return frame0(`${TWIN_ANSWER}200/?$rid=${notice.rid}`, {
        desired: versioned(notice.desired, notice.desiredVersion),
        reported: versioned(notice.reported, notice.reportedVersion),
      });
    case "reported-accepted":
      return frame0(`${TWIN_ANSWER}204/?$rid=${notice.rid}&$version=${notice.version}`);
    case "twin-refused":
      return frame0(`${TWIN_ANSWER}${notice.status}/?$rid=${notice.rid}`, {
        errorCode: ERROR_CODES[notice.status] ?? notice.status * 1000,
        trackingId: notice.rid,
        message: notice.reason,
        timestampUtc: notice.timestampUtc,
      });
    case "desired":
      return frame0(`${TWIN_DESIRED}?$version=${notice.version}`, versioned(notice.patch, notice.version));
    case "command":
      // `+` and `#` are legal in a command's name but close a .NET leaf's connection when they stand raw in a topic.
      return frame0(
        `${COMMAND}${notice.name.replaceAll(/[+#\p{Cc}]/gu, encodePercent)}/?$rid=${notice.rid}`,
        notice.payload,
      );
    case "cloud-to-device":
      return { topic: cloudToDeviceTopic(leafId, notice.message), payload: notice.message.payload, qos: 1 };
  }
}

/** Where IoT Hub's code of an error is known [troubleshoot IoT Hub error codes]; SDKs look only whether there is one. */
const ERROR_CODES: Readonly<Record<number, number>> = { 400: 400_004, 429: 429_001, 500: 500_001, 503: 503_001 };

function frame0(topic: string, body?: Json): Frame {
  return { topic, payload: body === undefined ? new Uint8Array() : formatJsonBody(body), qos: 0 };
}

/** `$version` last: the Python guide takes the first key of a patch as the component or property. */
function versioned(section: JsonObject, version: number): JsonObject {
  const entries = Object.entries(section).filter(([key]) => key !== "$version");
  return Object.fromEntries([...entries, ["$version", version]]);
}

/**
 * System properties first (Java finds the bag at the first `%24`), `to` always (.NET disconnects without a bag). Left out, because
 * one SDK or another would fail on it: an empty value, a date that cannot be spelled as .NET reads it, an application property
 * that looks like a system one, and what would make the topic longer than MQTT allows.
 */
function cloudToDeviceTopic(leafId: LeafId, { system, properties }: Telemetry): string {
  const to = `/devices/${leafId}/messages/devicebound`;
  const { to: _theirs, ...others } = system;
  const entries: (readonly [string, string])[] = [
    ["$.to", to],
    ...Object.entries(others).map(([key, value]) => [`$.${key}`, DATES.has(key) ? dotnetDate(value) : value] as const),
    ...Object.entries(properties).filter(([key]) => !isSystemKey(key)),
  ];
  let topic = `devices/${leafId}/messages/devicebound/`;
  let separator = "";
  for (const [key, value] of entries) {
    const pair = value === "" ? "" : formatBag([[key, value]]);
    if (pair === "" || topic.length + pair.length >= MAX_TOPIC_BYTES) continue;
    topic += separator + pair;
    separator = "&";
  }
  return topic;
}

const DATES: ReadonlySet<string> = new Set(["exp", "ctime"]);

/** `yyyy-MM-ddTHH:mm:ss.fffffffZ`, the one spelling that .NET reads; "" for what is not a UTC date. */
function dotnetDate(text: string): string {
  const [, seconds, fraction = ""] = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(?:Z|\+00:00)?$/.exec(text) ?? [];
  return seconds === undefined ? "" : `${seconds}.${fraction.slice(0, 7).padEnd(7, "0")}Z`;
}
