#!/usr/bin/env node
/**
 * The process: environment, config file, signals, exit codes. Alone reads `process.*`.
 * `iotedge-pnp-gateway` runs the gateway; `leaf`, `model`, `config` and `manifest` answer operators without starting it.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { isIPv6 } from "node:net";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { parse as parseYaml } from "yaml";
import { CONFIG_KEYS, type Config, environmentName, mergeConfig } from "./config.ts";
import { componentOf } from "./core/component-name.ts";
import { GatewayError } from "./core/errors.ts";
import { type Json, parseLeafId } from "./core/message.ts";
import { parseLeafSecrets } from "./downstream/leaf-secrets.ts";
import { deriveLeafKey } from "./downstream/sas-token.ts";
import type { Gateway } from "./gateway.ts";
import { checkManifest } from "./manifest-check.ts";
import { renderManifest } from "./manifest-render.ts";
import { readModels } from "./model-files.ts";
import { composeFromList } from "./model-list.ts";
import { keepHeapSmall } from "./ops/heap.ts";
import { sha256Hex } from "./sha256-hex.ts";

/** Set first: as process 1 of a container Node ignores SIGTERM until somebody listens. */
let gateway: Gateway | undefined;
let isEnding = false;
for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => void end(signal));

/** Containers are killed 10 s after SIGTERM. */
const END_WITHIN_MS = 8_000;

const HELP = `iotedge-pnp-gateway                 run the gateway
iotedge-pnp-gateway leaf name <id>  the component of the module twin that stands for a leaf
iotedge-pnp-gateway leaf key <id>   the leaf's key, derived from the group key, and its connection string
iotedge-pnp-gateway model <file>    the DTDL of the whole module twin, from a list of leaves (the answer of gateway*listLeaves, or
                                    [{ "leafId": "...", "modelId": "..." }]; "-": standard input) and the documents in modelsFolder
iotedge-pnp-gateway config          the configuration as file and environment make it, by the names of its environment variables
iotedge-pnp-gateway manifest check <file> [--module <name>]
                                    what in a deployment manifest would lose data or leave leaves out
iotedge-pnp-gateway manifest render <file>
                                    a template as IoT Hub takes it: placeholders filled from the environment

Environment: IOTEDGE_* as the IoT Edge runtime sets it (or EdgeHubConnectionString), GATEWAY_STATE (state folder),
GATEWAY_CONFIG (JSON or YAML file), GATEWAY_<KEY> for each key of the configuration.`;

await run(process.argv.slice(2));

async function run(args: readonly string[]): Promise<void> {
  const { help, module, words } = parseWords(args);
  try {
    if (help) print(HELP);
    else if (words.length === 0) await serve();
    else answer(words, module);
  } catch (error) {
    if (error instanceof GatewayError) fail(`${error.code}: ${error.message}`, 1);
    throw error;
  }
}

interface Words {
  readonly help: boolean;
  readonly module: string | undefined;
  readonly words: readonly string[];
}

function parseWords(args: readonly string[]): Words {
  try {
    const { values, positionals: words } = parseArgs({
      args: [...args],
      allowPositionals: true,
      options: { help: { type: "boolean", short: "h" }, module: { type: "string" } },
    });
    return { help: values.help === true || words[0] === "help", module: values.module, words };
  } catch (error) {
    return fail(`${error instanceof Error ? error.message : String(error)}\n\n${HELP}`, 2);
  }
}

/** What can be said without starting the gateway: words, the last of them a name or a file. */
function answer(words: readonly string[], moduleName: string | undefined): void {
  const argument = words.at(-1) ?? "";
  switch (words.length === 1 ? argument : `${words.slice(0, -1).join(" ")} <argument>`) {
    case "config":
      return print(configText(readConfig()));
    case "model <argument>":
      return print(modelText(argument));
    case "leaf name <argument>":
      return print(leafName(argument));
    case "leaf key <argument>":
      return print(leafKey(argument));
    case "manifest check <argument>":
      return checkManifestFile(argument, moduleName);
    case "manifest render <argument>":
      return renderManifestFile(argument);
    default:
      return fail(`There is no command "${words.join(" ")}".\n\n${HELP}`, 2);
  }
}

async function serve(): Promise<void> {
  keepHeapSmall();
  const config = readConfig();
  const stateFolder = process.env["GATEWAY_STATE"] ?? "./.gateway";
  // Only here: whoever asks for a name or a key does not wait for broker, SDK and database to be loaded.
  const { startGateway } = await import("./gateway.ts");
  const started = await startGateway({ config, environment: process.env, stateFolder, bootId: bootId() });
  gateway = started;
  tellHealthCheck(stateFolder, config, started.opsPort);
  if (isEnding) await started[Symbol.asyncDispose]();
}

/** Where healthcheck.ts asks; an empty text when there is nobody to ask. */
function tellHealthCheck(stateFolder: string, { opsBind }: Config, port: number | undefined): void {
  const host = ["0.0.0.0", "::"].includes(opsBind) ? "localhost" : opsBind;
  const url = port === undefined ? "" : `http://${isIPv6(host) ? `[${host}]` : host}:${port}/healthz`;
  try {
    writeFileSync(join(stateFolder, "health-url"), `${url}\n`);
  } catch (error) {
    process.stderr.write(`The health check has to guess: ${String(error)}\n`);
  }
}

async function end(signal: string): Promise<void> {
  if (isEnding || gateway === undefined) process.exit(gateway === undefined && !isEnding ? 0 : 1);
  isEnding = true;
  setTimeout(() => process.exit(1), END_WITHIN_MS).unref();
  try {
    await gateway[Symbol.asyncDispose]();
    process.exit(0);
  } catch (error) {
    fail(`The gateway could not end in order after ${signal}: ${String(error)}`, 1);
  }
}

function readConfig(): Config {
  const result = mergeConfig(configFile(), process.env);
  if (result.kind === "ok") return result.config;
  const lines = result.problems.map(({ key, problem }) => `  ${key}: ${problem}`);
  return fail(`CONFIG_INVALID: the configuration is wrong:\n${lines.join("\n")}`, 1);
}

function configFile(): Record<string, unknown> {
  const path = process.env["GATEWAY_CONFIG"];
  if (path === undefined || path === "") return {};
  try {
    const parsed: unknown = parseYaml(readFileSync(path, "utf8"));
    if (parsed === null) return {};
    if (typeof parsed === "object" && !Array.isArray(parsed)) return { ...parsed };
    return fail(`CONFIG_INVALID: ${path} (GATEWAY_CONFIG) holds no object`, 1);
  } catch (error) {
    return fail(`CONFIG_INVALID: ${path} (GATEWAY_CONFIG) cannot be read: ${String(error)}`, 1);
  }
}

function configText(config: Config): string {
  return CONFIG_KEYS.map((key) => `${environmentName(key)}=${JSON.stringify(config[key])}`).join("\n");
}

function leafName(id: string): string {
  const leafId = parseLeafId(id) ?? fail(`${id} is no device id that IoT Hub would accept.`, 2);
  return componentOf(leafId, { aliases: readConfig().aliases, sha256Hex });
}

function modelText(file: string): string {
  const { aliases, maxComponentsPerLeaf, modelsFolder } = readConfig();
  const text = readText(file);
  const models = readModels(modelsFolder, (problem) => process.stderr.write(`${problem}\n`));
  const result = composeFromList(text, models, { sha256Hex, aliases, maxComponentsPerLeaf });
  if (result.kind === "bad") return fail(`${file}: ${result.reason}`, 2);
  for (const note of result.model.notes) process.stderr.write(`${note}\n`);
  return JSON.stringify(result.model.interfaces, null, 2);
}

function primaryGroupKey(path: string): string {
  try {
    const parsed = parseLeafSecrets({ groupKey: readFileSync(path, "utf8") });
    if (parsed.kind === "invalid") return fail(`${parsed.problems.join("; ")} (${path})`, 1);
    return parsed.secrets.groupKeys[0] ?? fail(`groupKeyFile: no key in ${path}`, 1);
  } catch (error) {
    return fail(`groupKeyFile (GATEWAY_GROUP_KEY_FILE) cannot be read: ${String(error)}`, 1);
  }
}

/** The key as DPS derives it for a member of an enrollment group [iothub-mqtt.md 11]. */
function leafKey(id: string): string {
  const leafId = parseLeafId(id) ?? fail(`${id} is no device id that IoT Hub would accept.`, 2);
  const config = readConfig();
  if (config.groupKeyFile === "")
    fail("groupKeyFile (GATEWAY_GROUP_KEY_FILE) names the file with the group key; it is not set.", 2);
  const key = deriveLeafKey(primaryGroupKey(config.groupKeyFile), leafId);
  const hub = config.hubHostNames[0] ?? process.env["IOTEDGE_IOTHUBHOSTNAME"] ?? "<hub>.azure-devices.net";
  const host = config.serverNames[0] ?? process.env["IOTEDGE_GATEWAYHOSTNAME"]?.split(":")[0] ?? "<gateway host>";
  return `${key}\nHostName=${hub};DeviceId=${leafId};SharedAccessKey=${key};GatewayHostName=${host}`;
}

function renderManifestFile(path: string): void {
  const rendered = renderManifest(readJson(path), process.env);
  switch (rendered.kind) {
    case "ok":
      return print(JSON.stringify(rendered.manifest, undefined, 2));
    case "missing":
      return fail(`${path} needs in the environment: ${rendered.names.join(", ")}`, 2);
    case "invalid":
      return fail(`${path}: ${rendered.problem}`, 2);
  }
}

function readJson(path: string): Json {
  try {
    return JSON.parse(readText(path)) as Json;
  } catch (error) {
    return fail(`${path} is no JSON: ${String(error)}`, 2);
  }
}

/** "-" is standard input. */
function readText(path: string): string {
  try {
    return readFileSync(path === "-" ? 0 : path, "utf8");
  } catch (error) {
    return fail(`${path} cannot be read: ${String(error)}`, 2);
  }
}

/** Exit code 1 when something would lose data or leave leaves out; warnings alone are 0. */
function checkManifestFile(path: string, moduleName: string | undefined): void {
  const findings = checkManifest(readJson(path), moduleName);
  for (const { level, problem, where } of findings) print(`${level}: ${where}: ${problem}`);
  const errors = findings.filter(({ level }) => level === "error").length;
  print(`${path}: ${errors} errors, ${findings.length - errors} warnings`);
  process.exit(errors === 0 ? 0 : 1);
}

function bootId(): string | undefined {
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  } catch {
    return undefined;
  }
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

function fail(text: string, code: number): never {
  process.stderr.write(`${text}\n`);
  process.exit(code);
}
