/** The command line as a function: arguments in, lines and an exit code out. 2 means that it was called wrongly. */

import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { CliProblem, COMMANDS, type Command } from "./cli-commands.ts";
import { columns } from "./cli-format.ts";
import { HubClient } from "./cli-hub-client.ts";
import type { ServiceFile } from "./cloud-types.ts";
import { readServiceFile, serviceFilePaths } from "./service-api-file.ts";

export interface CliWorld {
  readonly environment: Readonly<Record<string, string | undefined>>;
  print(line: string): void;
  complain(line: string): void;
  /** Aborted when the user has had enough. */
  readonly signal: AbortSignal;
}

/** What `--<name> <value>` means, in the help texts; `json` takes no value. */
const OPTIONS: Readonly<Record<string, string>> = {
  leaf: "<id>         the leaf, where more than one could be meant",
  component: "<name>  the component of the module's twin, as it is; asks no gateway",
  mode: "<mode>       silent: packets vanish (default); refused: connections are refused",
  device: "<id>       another device's twin",
  module: "<id>       another module's twin",
  json: "             one JSON value a line, with all there is",
};

export async function runCli(argv: readonly string[], world: CliWorld): Promise<number> {
  const [first, ...others] = argv;
  // `help set` is `set --help`.
  const [name, ...rest] = first === "help" && others[0] !== undefined ? [others[0], "--help"] : argv;
  if (name === undefined || name === "help" || name.startsWith("-")) {
    for (const line of overview()) world.print(line);
    return name === undefined ? 2 : 0;
  }
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (command === undefined) {
    world.complain(
      `There is no command ${name}; there are ${Object.keys(COMMANDS).join(", ")}. See: npm run hub -- help`,
    );
    return 2;
  }
  try {
    return await runCommand(command, rest, world);
  } catch (error) {
    world.complain(explain(error, world));
    return 1;
  }
}

async function runCommand(command: Command, rest: readonly string[], world: CliWorld): Promise<number> {
  const parsed = parseOptions(command, rest);
  if (typeof parsed === "string") {
    world.complain(`${parsed}\nUsage: npm run hub -- ${command.usage}`);
    return 2;
  }
  const { values, positionals } = parsed;
  if (values["help"] === true) {
    for (const line of help(command)) world.print(line);
    return 0;
  }
  const texts = Object.entries(values).map(([key, value]) => [key, typeof value === "string" ? value : undefined]);
  return command.run({
    hub: openHub(world),
    arguments: positionals,
    options: Object.fromEntries(texts) as Record<string, string | undefined>,
    json: values["json"] === true,
    print: (line) => world.print(line),
    signal: world.signal,
  });
}

type Parsed = { values: Record<string, string | boolean | undefined>; positionals: string[] };

/** Or what is wrong with the options. */
function parseOptions(command: Command, rest: readonly string[]): Parsed | string {
  const options = ["help", ...command.options].map((name): [string, { type: "string" | "boolean" }] => {
    return [name, { type: name === "help" || name === "json" ? "boolean" : "string" }];
  });
  // A negative number is a value, not an option; JSON does not mind the blank.
  const args = rest.map((text) => (/^-[\d.]/.test(text) ? ` ${text}` : text));
  try {
    const { values, positionals } = parseArgs({ args, options: Object.fromEntries(options), allowPositionals: true });
    return { values: { ...values }, positionals };
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

function openHub(world: CliWorld): HubClient {
  const paths = serviceFilePaths(world.environment);
  for (const path of paths) {
    const lookup = readServiceFile(path);
    if (lookup.kind === "found") return new HubClient(lookup.service, readCa(lookup.service));
    if (lookup.kind === "unreadable") throw new CliProblem(`${path}: ${lookup.reason}`);
  }
  throw new CliProblem(`The development hub has never run here (no ${paths.join(", no ")}). Start it with: npm start`);
}

function readCa({ caFile }: ServiceFile): string {
  try {
    return readFileSync(caFile, "utf8");
  } catch {
    throw new CliProblem(`The development hub's CA file ${caFile} is gone. Start the hub again with: npm start`);
  }
}

function explain(error: unknown, world: CliWorld): string {
  if (error instanceof CliProblem) return error.message;
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  if (code === "ECONNREFUSED" || code === "ECONNRESET") {
    return "The development hub does not answer. Start it with: npm start";
  }
  if (world.signal.aborted) return "interrupted";
  return error instanceof Error ? error.message : String(error);
}

function overview(): readonly string[] {
  return [
    "Plays the back end of the development hub: what a cloud would do to the gateway and its leaves.",
    "",
    "Usage: npm run hub -- <command>",
    "",
    ...columns(Object.values(COMMANDS).map(({ usage, summary }) => [`  ${usage}`, summary])),
    "",
    "Examples:",
    "  npm run hub -- set thermostat1.targetTemperature 23",
    "  npm run hub -- command thermostat1*getMaxMinReport 2026-01-01T00:00:00Z",
    "  npm run hub -- offline 30s",
    "",
    "The hub is found by service.json in its state folder: DEVHUB_STATE, else GATEWAY_STATE/devhub (./.gateway/devhub).",
    "npm run hub -- <command> --help tells a command's options.",
  ];
}

function help({ usage, summary, options }: Command): readonly string[] {
  return [
    `${summary}.`,
    "",
    `Usage: npm run hub -- ${usage}`,
    ...options.map((name) => `  --${name} ${OPTIONS[name] ?? ""}`.trimEnd()),
  ];
}
