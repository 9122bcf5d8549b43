/**
 * `npm start`: development hub and gateway as two child processes, so that either can be killed and no gateway code imports the hub.
 * Prints where leaves connect and what to do next. Ends both when it is ended, and ends when one of them does.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { copyFileSync, mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";

interface Announcement {
  readonly environment: Readonly<Record<string, string>>;
  readonly caFile: string;
  readonly metricsUrl: string;
  readonly probeAddress: { readonly host: string; readonly port: number };
  readonly serviceUrl: string;
}

const MAJOR = Number(process.versions.node.split(".")[0]);
if (MAJOR < 22) {
  console.error(
    `This is Node ${process.versions.node}; 22 or newer is needed. "npm ci" brings it, "npm start" uses it: start with npm, and install with scripts allowed.`,
  );
  process.exit(1);
}

const LOOK_AT_NPM_MS = 1_000;

const stateFolder = resolve(process.env["GATEWAY_STATE"] ?? "./.gateway");
/** Where the sample leaf looks for it, and where users find it. */
const leafCaFile = join(stateFolder, "leaf-ca.pem");
const children: ChildProcess[] = [];
let isEnding = false;
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => end(0));

endWithNpm();

mkdirSync(stateFolder, { recursive: true });
const hub = start("hub", "devhub/main.ts", { DEVHUB_STATE: join(stateFolder, "devhub") }, "pipe");
if (hub.stdout === null) throw new Error("the development hub has no output");
for await (const line of createInterface({ input: hub.stdout })) {
  startGateway(JSON.parse(line) as Announcement);
  break;
}

function startGateway({ caFile, environment, metricsUrl, probeAddress, serviceUrl }: Announcement): void {
  copyFileSync(caFile, leafCaFile);
  const settings = {
    GATEWAY_AUTH_MODE: "development",
    GATEWAY_TLS_BIND: "127.0.0.1",
    GATEWAY_PLAIN_ENABLED: "true",
    GATEWAY_LOG_FORMAT: "iotedge",
    GATEWAY_EDGE_HUB_METRICS_URL: metricsUrl,
    GATEWAY_WAN_PROBE_ADDRESS: `${probeAddress.host}:${probeAddress.port}`,
  };
  const gateway = start(
    "gateway",
    "main.ts",
    { GATEWAY_STATE: stateFolder, ...environment, ...settings, ...ownSettings() },
    "pipe",
  );
  if (gateway.stdout === null) throw new Error("the gateway has no output");
  createInterface({ input: gateway.stdout }).on("line", (line) => {
    console.log(line);
    if (line.includes("gateway started")) printNextSteps(leafCaFile, serviceUrl);
  });
}

/** npm hands a signal to the shell between us and it, which dies of it alone: whoever ends npm means all of this. */
function endWithNpm(): void {
  if (process.env["npm_lifecycle_event"] !== "start") return;
  const shell = process.ppid;
  setInterval(() => {
    if (process.ppid !== shell) end(0);
  }, LOOK_AT_NPM_MS).unref();
}

/** What the user sets in the environment wins over what development sets. */
function ownSettings(): Record<string, string> {
  return Object.fromEntries(
    Object.entries(process.env).filter(
      (entry): entry is [string, string] => entry[0].startsWith("GATEWAY_") && entry[0] !== "GATEWAY_STATE",
    ),
  );
}

function start(
  name: string,
  file: string,
  environment: Readonly<Record<string, string>>,
  stdout: "pipe",
): ChildProcess {
  const child = spawn(process.execPath, [join(import.meta.dirname, file)], {
    env: { ...process.env, ...environment },
    stdio: ["ignore", stdout, "inherit"],
  });
  children.push(child);
  child.on("exit", (code, signal) => {
    if (!isEnding) console.error(`The ${name} has ended (${signal ?? `exit code ${code}`}), so this ends too.`);
    end(code ?? 1);
  });
  return child;
}

/** The gateway first: it writes down what it has while the hub is still there. */
function end(code: number): void {
  if (isEnding) return;
  isEnding = true;
  const [first, second] = children.toReversed();
  const running = children.filter((child) => child.exitCode === null && child.signalCode === null);
  let left = running.length;
  if (left === 0) process.exit(code);
  for (const child of running) {
    child.once("exit", () => {
      left -= 1;
      if (child === first) second?.kill("SIGTERM");
      if (left === 0) process.exit(code);
    });
  }
  (first !== undefined && running.includes(first) ? first : second)?.kill("SIGTERM");
}

function printNextSteps(caFile: string, serviceUrl: string): void {
  const tls = process.env["GATEWAY_TLS_PORT"] ?? "8883";
  const plain = process.env["GATEWAY_PLAIN_PORT"] ?? "1883";
  console.log(`
Leaves connect to   localhost:${tls} (TLS, as Azure device SDKs do) or localhost:${plain} (plain MQTT)
They must trust     ${caFile}
The hub for back ends is at ${serviceUrl}

In a second terminal:
  npm run leaf                                              a temperature controller connects and sends
  npm run hub -- events                                     what reaches the hub (Ctrl-C ends it)
  npm run hub -- set thermostat1.targetTemperature 23       the leaf acknowledges it
  npm run hub -- command 'thermostat1*getMaxMinReport'      the leaf answers
  npm run hub -- twin                                       the module twin, a component for each part of a leaf
  npm run hub -- offline 30s                                the WAN goes away; the leaf notices nothing
`);
}
