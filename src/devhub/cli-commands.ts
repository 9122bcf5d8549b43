/** The commands of `npm run hub`: each asks the hub for one thing and says what came of it. */

import type { Json, JsonObject } from "../core/message.ts";
import { formatEvent, formatLeaves, parseDurationMs, parseValue } from "./cli-format.ts";
import { type HubClient, type HubReply, reasonOf } from "./cli-hub-client.ts";
import { type LeafSummary, leavesOfTwin, parseLeaves, resolveTarget } from "./cli-leaves.ts";
import { isObject } from "./cloud-twin.ts";

const NOT_ONLINE = 404_103;
const GATEWAY_AWAY =
  "the gateway is not connected to the development hub, or the line is cut. Start both with npm start; mend the line with: npm run hub -- online";

/** Something that the user has to do differently: the message is all they see. */
export class CliProblem extends Error {}

interface CommandInput {
  readonly hub: HubClient;
  readonly arguments: readonly string[];
  /** Of `--leaf`, `--component`, `--mode`, `--device`, `--module`. */
  readonly options: Readonly<Record<string, string | undefined>>;
  readonly json: boolean;
  print(line: string): void;
  readonly signal: AbortSignal;
}

export interface Command {
  readonly usage: string;
  readonly summary: string;
  /** Beyond `--help`. */
  readonly options: readonly string[];
  /** The exit code. */
  run(input: CommandInput): Promise<number>;
}

export const COMMANDS: Readonly<Record<string, Command>> = {
  twin: {
    usage: "twin [--leaf <id>] [--json]",
    summary: "Show the gateway's module twin, or one leaf's part of it",
    options: ["leaf", "device", "module", "json"],
    run: showTwin,
  },
  leaves: {
    usage: "leaves [--json]",
    summary: "List the leaves that the gateway knows",
    options: ["json"],
    run: listLeaves,
  },
  set: {
    usage: "set [<leaf>.][<component>.]<property> <json>",
    summary: "Write a desired property; null removes it",
    options: ["leaf", "component"],
    run: setProperty,
  },
  command: {
    usage: "command [<leaf>.][<component>*]<command> [json]",
    summary: "Call a command of a leaf, or of the gateway (gateway*ping)",
    options: ["leaf", "component"],
    run: callCommand,
  },
  events: {
    usage: "events [--json]",
    summary: "Follow telemetry and twin changes until Ctrl-C",
    options: ["json"],
    run: followEvents,
  },
  offline: {
    usage: "offline [30s] [--mode silent|refused]",
    summary: "Cut the line between edgeHub and IoT Hub, for a time or until online",
    options: ["mode"],
    run: goOffline,
  },
  online: { usage: "online", summary: "Mend the line between edgeHub and IoT Hub", options: [], run: goOnline },
  cut: { usage: "cut [10s]", summary: "Cut the gateway off edgeHub, once or for a time", options: [], run: cutEdge },
  control: {
    usage: "control [<name> [json]]",
    summary: "List the troubles that the hub can make, or make one (docs/testing.md)",
    options: [],
    run: callControl,
  },
};

async function showTwin(input: CommandInput): Promise<number> {
  const { hub, options } = input;
  const deviceId = options["device"] ?? hub.module.deviceId;
  const moduleId = options["module"] ?? (options["device"] === undefined ? hub.module.moduleId : undefined);
  const module = moduleId === undefined ? "" : `/modules/${encodeURIComponent(moduleId)}`;
  const twin = expectOk(await hub.call("GET", `/twins/${encodeURIComponent(deviceId)}${module}`));
  const leafId = options["leaf"];
  const all = input.json ? twin : withoutMetadata(twin);
  const shown = leafId === undefined ? all : leafPart(twin, leafNamed(await knownLeaves(hub), leafId));
  input.print(JSON.stringify(shown, undefined, input.json ? 0 : 2));
  return 0;
}

/** What people look for: who it is and both sections, without a time stamp for every value. */
function withoutMetadata(twin: Json): Json {
  if (!isObject(twin)) return twin;
  const { properties } = twin;
  const sections = Object.entries(isObject(properties) ? properties : {}).map(([name, section]) => {
    const { $metadata: _times, ...rest } = isObject(section) ? section : {};
    return [name, rest] as const;
  });
  const kept = ["deviceId", "moduleId", "modelId", "connectionState"].filter((key) => Object.hasOwn(twin, key));
  return {
    ...Object.fromEntries(kept.map((key) => [key, twin[key] ?? null])),
    properties: Object.fromEntries(sections),
  };
}

async function listLeaves(input: CommandInput): Promise<number> {
  const leaves = await knownLeaves(input.hub);
  for (const line of input.json ? [JSON.stringify(leaves)] : formatLeaves(leaves)) input.print(line);
  return 0;
}

async function setProperty(input: CommandInput): Promise<number> {
  const [text, valueText, ...rest] = input.arguments;
  if (text === undefined || valueText === undefined || rest.length > 0)
    throw new CliProblem("set takes a property and a value");
  const value = jsonArgument(valueText);
  const { component, path } = await target(input, text);
  const nested = path.reduceRight<Json>((inner, name) => ({ [name]: inner }), value);
  if (!isObject(nested)) throw new CliProblem("a property has a name");
  const patch = { properties: { desired: { [component]: { __t: "c", ...nested } } } };
  const twin = expectOk(await input.hub.call("PATCH", modulePath(input.hub), patch));
  input.print(`${component}.${path.join(".")} = ${JSON.stringify(value)}, desired version ${versionOf(twin)}`);
  return 0;
}

async function callCommand(input: CommandInput): Promise<number> {
  const [text, payloadText, ...rest] = input.arguments;
  if (text === undefined || rest.length > 0) throw new CliProblem("command takes a name and at most one payload");
  // A leaf's id may hold an asterisk, a command's name cannot.
  const at = text.lastIndexOf("*");
  const dotted = at < 0 ? text : `${text.slice(0, at)}.${text.slice(at + 1)}`;
  const { component, path } = await target(input, dotted);
  if (path.length !== 1) throw new CliProblem(`${text} names no command; write <component>*<command>`);
  const payload = payloadText === undefined ? undefined : jsonArgument(payloadText);
  const answer = await invoke(input.hub, `${component}*${path[0] ?? ""}`, payload);
  input.print(`${answer.status}  ${JSON.stringify(answer.payload)}`);
  return answer.status >= 200 && answer.status < 300 ? 0 : 1;
}

async function followEvents({ hub, json, signal, ...input }: CommandInput): Promise<number> {
  try {
    for await (const { name, data } of hub.events(signal)) {
      input.print(json ? JSON.stringify(data) : formatEvent(name, data));
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
  if (signal.aborted) return 0;
  throw new CliProblem("the development hub has ended the stream; it was probably stopped");
}

async function goOffline(input: CommandInput): Promise<number> {
  const { endsAt } = await control(input, "wan-down", {
    ...durationOf(input),
    mode: input.options["mode"] ?? "silent",
  });
  const until = typeof endsAt === "string" ? `until ${endsAt.slice(11, 19)} UTC` : "until: npm run hub -- online";
  input.print(`The line to IoT Hub is cut, ${until}. Telemetry goes on into edgeHub's store.`);
  return 0;
}

async function goOnline(input: CommandInput): Promise<number> {
  await control(input, "wan-up", {});
  input.print("The line to IoT Hub is back. edgeHub itself notices after 20 to 40 s, or with the next twin read.");
  return 0;
}

async function cutEdge(input: CommandInput): Promise<number> {
  const { endsAt } = await control(input, "cut", durationOf(input));
  const until = typeof endsAt === "string" ? ` and takes none until ${endsAt.slice(11, 19)} UTC` : "";
  input.print(`edgeHub has dropped all connections${until}.`);
  return 0;
}

async function callControl(input: CommandInput): Promise<number> {
  const [name, args, ...rest] = input.arguments;
  if (rest.length > 0) throw new CliProblem("control takes a name and at most one JSON object");
  const value = args === undefined ? {} : jsonArgument(args);
  if (!isObject(value)) throw new CliProblem("the arguments of a control are a JSON object");
  const answer =
    name === undefined ? expectOk(await input.hub.call("GET", "/control")) : await control(input, name, value);
  input.print(Array.isArray(answer) ? answer.join("\n") : JSON.stringify(answer));
  return 0;
}

async function control({ hub }: CommandInput, name: string, args: JsonObject): Promise<JsonObject> {
  const answer = expectOk(await hub.call("POST", `/control/${encodeURIComponent(name)}`, args));
  return isObject(answer) ? answer : {};
}

function durationOf({ arguments: [text, ...rest] }: CommandInput): { forMs?: number } {
  if (text === undefined) return {};
  const forMs = parseDurationMs(text);
  if (forMs === undefined || rest.length > 0) throw new CliProblem(`${text} is no duration; write 30s, 500ms or 2m`);
  return { forMs };
}

/** Asks the gateway which leaves there are only when that is needed to know what is meant. */
async function target(input: CommandInput, text: string): Promise<{ component: string; path: readonly string[] }> {
  const component = input.options["component"];
  if (component !== undefined) return { component, path: text.split(".") };
  if (/^gateway\.[^.]+$/.test(text) && input.options["leaf"] === undefined)
    return { component: "gateway", path: [text.slice(8)] };
  const leaves = (await askLeaves(input.hub)) ?? (await shownLeaves(input.hub));
  const found = resolveTarget(text, leaves, input.options["leaf"]);
  if (found.kind === "unclear") throw new CliProblem(found.reason);
  return found;
}

async function knownLeaves(hub: HubClient): Promise<readonly LeafSummary[]> {
  const leaves = await askLeaves(hub);
  if (leaves === undefined) throw new CliProblem(GATEWAY_AWAY);
  return leaves;
}

/** Undefined while the gateway cannot be reached: it is away, or the line is cut. */
async function askLeaves(hub: HubClient): Promise<readonly LeafSummary[] | undefined> {
  const call = { methodName: "gateway*listLeaves", payload: {}, responseTimeoutInSeconds: 30 };
  const reply = await hub.call("POST", `${modulePath(hub)}/methods`, call);
  if (reasonOf(reply).code === NOT_ONLINE) return undefined;
  const answer = expectOk(reply);
  const leaves = isObject(answer) && answer["status"] === 200 ? parseLeaves(answer["payload"] ?? null) : undefined;
  if (leaves === undefined) throw new CliProblem(`the gateway does not tell its leaves: ${JSON.stringify(answer)}`);
  return leaves;
}

/** What the twin shows of them, since a back end may write while the gateway is away. */
async function shownLeaves(hub: HubClient): Promise<readonly LeafSummary[]> {
  const twin = expectOk(await hub.call("GET", modulePath(hub)));
  const properties = isObject(twin) ? twin["properties"] : undefined;
  return leavesOfTwin(isObject(properties) ? Object.values(properties).filter(isObject) : []);
}

async function invoke(
  hub: HubClient,
  methodName: string,
  payload: Json | undefined,
): Promise<{ status: number; payload: Json }> {
  const call = { methodName, responseTimeoutInSeconds: 30, ...(payload === undefined ? {} : { payload }) };
  const body = expectOk(await hub.call("POST", `${modulePath(hub)}/methods`, call));
  const status = isObject(body) ? body["status"] : undefined;
  return {
    status: typeof status === "number" ? status : 0,
    payload: isObject(body) ? (body["payload"] ?? null) : null,
  };
}

function expectOk(reply: HubReply): Json {
  if (reply.status >= 200 && reply.status < 300) return reply.body ?? null;
  const { code, text } = reasonOf(reply);
  if (code === NOT_ONLINE) throw new CliProblem(GATEWAY_AWAY);
  if (code === 504_101) throw new CliProblem("the gateway did not answer in time");
  throw new CliProblem(`the hub refuses: ${text}`);
}

function modulePath({ module }: HubClient): string {
  return `/twins/${encodeURIComponent(module.deviceId)}/modules/${encodeURIComponent(module.moduleId)}`;
}

function leafNamed(leaves: readonly LeafSummary[], leafId: string): LeafSummary {
  const leaf = leaves.find((known) => known.leafId === leafId);
  if (leaf === undefined) throw new CliProblem(`there is no leaf ${leafId}. See: npm run hub -- leaves`);
  return leaf;
}

/** The sections cut down to the components that stand for the leaf. */
function leafPart(twin: Json, leaf: LeafSummary): JsonObject {
  const own = new Set([leaf.component, ...Object.values(leaf.components)]);
  const properties = isObject(twin) ? twin["properties"] : undefined;
  const sections = isObject(properties) ? Object.entries(properties) : [];
  return Object.fromEntries(
    sections.map(([name, section]) => [name, isObject(section) ? only(section, own) : section]),
  );
}

function only(section: JsonObject, names: ReadonlySet<string>): JsonObject {
  return Object.fromEntries(Object.entries(section).filter(([name]) => names.has(name) || name === "$version"));
}

function versionOf(twin: Json): string {
  const properties = isObject(twin) ? twin["properties"] : undefined;
  const desired = isObject(properties) ? properties["desired"] : undefined;
  return JSON.stringify((isObject(desired) ? desired["$version"] : undefined) ?? null);
}

function jsonArgument(text: string): Json {
  const parsed = parseValue(text);
  if (parsed.kind === "invalid") throw new CliProblem(`${text} is not JSON. Quote it for your shell: '{"a": 1}'`);
  return parsed.value;
}
