/** The processes of a run: started here, measured from outside through /proc, ended in reverse. Everything stays on loopback. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";

/** Linux reports processor time in ticks of 10 ms [proc(5)]. */
const TICK_MS = 10;
const START_WITHIN_MS = 20_000;
const END_WITHIN_MS = 10_000;

export interface Usage {
  readonly cpuMs: number;
  readonly rssMb: number;
  /** The highest that the resident memory ever was. */
  readonly peakRssMb: number;
  /** Bytes that the process caused to be sent to the storage layer. */
  readonly writtenBytes: number;
}

export interface Process extends AsyncDisposable {
  /** The next line that matches; what is before it is passed over. */
  line(matching: RegExp, withinMs?: number): Promise<string>;
  usage(): Usage;
  kill(): Promise<void>;
}

export function startProcess(
  file: string,
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Process {
  const nodeOptions = (process.env[`BENCH_NODE_${environment["BENCH_ROLE"] ?? ""}`] ?? "").split(" ").filter(Boolean);
  const child = spawn(process.execPath, [...nodeOptions, join(import.meta.dirname, "..", file), ...args], {
    env: { ...cleanEnvironment(), ...environment },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const lines = new Lines(child);
  const stop = async (signal: NodeJS.Signals): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    const hard = setTimeout(() => child.kill("SIGKILL"), END_WITHIN_MS);
    child.kill(signal);
    await ended;
    clearTimeout(hard);
  };
  return {
    line: (matching, withinMs = START_WITHIN_MS) => lines.next(matching, withinMs, file),
    usage: () => usageOf(child.pid ?? 0),
    kill: () => stop("SIGKILL"),
    [Symbol.asyncDispose]: () => stop("SIGTERM"),
  };
}

/** Settings of the user's own gateway must not change what is measured. */
function cleanEnvironment(): NodeJS.ProcessEnv {
  const isOurs = (name: string): boolean => /^(?:GATEWAY|DEVHUB|IOTEDGE)_/.test(name);
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !isOurs(name)));
}

/** Standard output line by line; it is always read, so that a talking child never blocks. */
class Lines {
  readonly #waiting: { readonly matching: RegExp; readonly found: (line: string | undefined) => void }[] = [];
  readonly #unread: string[] = [];
  #isOver = false;

  constructor(child: ChildProcess) {
    if (child.stdout === null) throw new Error("the child has no output");
    const reader = createInterface({ input: child.stdout });
    reader.on("line", (line) => {
      const first = this.#waiting[0];
      if (first === undefined) this.#unread.push(line);
      else if (first.matching.test(line)) this.#waiting.shift()?.found(line);
    });
    reader.on("close", () => {
      this.#isOver = true;
      for (const { found } of this.#waiting.splice(0)) found(undefined);
    });
  }

  async next(matching: RegExp, withinMs: number, file: string): Promise<string> {
    for (let line = this.#unread.shift(); line !== undefined; line = this.#unread.shift()) {
      if (matching.test(line)) return line;
    }
    if (this.#isOver) throw new Error(`${file} has ended before it said ${matching}`);
    let watchdog: NodeJS.Timeout | undefined;
    const found = await new Promise<string | undefined>((resolve) => {
      this.#waiting.push({ matching, found: resolve });
      watchdog = setTimeout(() => resolve(undefined), withinMs);
    });
    clearTimeout(watchdog);
    if (found === undefined) throw new Error(`${file} did not say ${matching} within ${withinMs} ms`);
    return found;
  }
}

function usageOf(pid: number): Usage {
  // The name in parentheses may hold blanks; the fields after it are the third and on.
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const number = (text: string, name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(text)?.[1]);
  return {
    cpuMs: (Number(stat[11]) + Number(stat[12])) * TICK_MS,
    rssMb: number(status, "VmRSS") / 1024,
    peakRssMb: number(status, "VmHWM") / 1024,
    writtenBytes: number(readFileSync(`/proc/${pid}/io`, "utf8"), "write_bytes"),
  };
}

/** Runs `use` and ends the resource after it, however it came out (Node 22 cannot run `await using`). */
export async function during<T extends AsyncDisposable, R>(
  resource: T | Promise<T>,
  use: (resource: T) => Promise<R>,
): Promise<R> {
  const started = await resource;
  try {
    return await use(started);
  } finally {
    await started[Symbol.asyncDispose]();
  }
}
