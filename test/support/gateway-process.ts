/** The real gateway as a process that tests kill: `src/main.ts` with an environment, what it said, and how it ended. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import type { DevHub } from "../../src/devhub/devhub.ts";

const MAIN = new URL("../../src/main.ts", import.meta.url).pathname;
const START_WATCHDOG_MS = 60_000;

interface ProcessEnd {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface GatewayProcess extends AsyncDisposable {
  readonly pid: number | undefined;
  /** Standard output and standard error together. */
  readonly output: string;
  /** Resolves when leaves can connect; rejects with the output when the process ends before. */
  readonly started: Promise<void>;
  readonly ended: Promise<ProcessEnd>;
  /** Resolves when the process is gone. */
  kill(signal: "SIGKILL" | "SIGTERM"): Promise<ProcessEnd>;
}

/** For one plain listener at `plainPort`, the state in `folder`, and short intervals; `more` wins. */
export function gatewayEnvironment(
  hub: Pick<DevHub, "environment" | "metricsUrl" | "probeAddress">,
  plainPort: number,
  folder: string,
  more: Readonly<Record<string, string>> = {},
): Record<string, string> {
  return {
    ...hub.environment(),
    GATEWAY_STATE: folder,
    GATEWAY_TLS_ENABLED: "false",
    GATEWAY_PLAIN_ENABLED: "true",
    GATEWAY_PLAIN_PORT: String(plainPort),
    GATEWAY_AUTH_MODE: "development",
    GATEWAY_OPS_ENABLED: "false",
    GATEWAY_REPORTED_INTERVAL_MS: "200",
    GATEWAY_EDGE_HUB_METRICS_URL: hub.metricsUrl,
    GATEWAY_WAN_PROBE_ADDRESS: `${hub.probeAddress.host}:${hub.probeAddress.port}`,
    ...more,
  };
}

/** Starts the gateway with nothing but `environment` (and the path), by the command in `front` if there is one; disposing kills it. */
export function spawnGateway(
  environment: Readonly<Record<string, string>>,
  front: readonly string[] = [],
): GatewayProcess {
  const { PATH = "" } = process.env;
  const [command, ...args] = [...front, process.execPath, MAIN];
  const child = spawn(command, args, { env: { PATH, ...environment }, stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  const ended = endOf(child);
  const started = new Promise<void>((resolve, reject) => {
    const watchdog = setTimeout(() => reject(new Error(`the gateway does not start:\n${output}`)), START_WATCHDOG_MS);
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk) => {
        output += String(chunk);
        if (!output.includes("gateway started")) return;
        clearTimeout(watchdog);
        resolve();
      });
    }
    void ended.then(({ code, signal }) => {
      clearTimeout(watchdog);
      reject(new Error(`the gateway ended (${code ?? signal}) before it started:\n${output}`));
    });
  });
  // Whoever waits for the start hears of it; a test of starts that fail does not wait.
  started.catch(() => undefined);
  const kill = (signal: NodeJS.Signals): Promise<ProcessEnd> => {
    child.kill(signal);
    return ended;
  };
  return {
    pid: child.pid,
    get output() {
      return output;
    },
    started,
    ended,
    kill,
    async [Symbol.asyncDispose]() {
      await kill("SIGKILL");
    },
  };
}

/**
 * A port that was free a moment ago, for a process that must be found again after a restart. Below those that the system gives to
 * whoever connects: while nobody listens, a client that tries again and again would be given the very port that it dials.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 10_000);
    const server = createServer().listen(port, "127.0.0.1");
    const isFree = await once(server, "listening").then(
      () => true,
      () => false,
    );
    if (!isFree) continue;
    server.close();
    await once(server, "close");
    return port;
  }
}

async function endOf(child: ChildProcess): Promise<ProcessEnd> {
  await once(child, "close");
  return { code: child.exitCode, signal: child.signalCode };
}
