/** The system calls of a process as strace wrote them down, in order: what was read and written where, and when the disk had it. */
import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import mqttPacket, { type Packet } from "mqtt-packet";
import { run } from "./run.ts";

/** To be put in front of a command; the command's process is the one that is started. Long enough a string for a whole group. */
export function tracer(file: string): readonly string[] {
  const calls = "read,readv,recvmsg,recvfrom,write,writev,sendmsg,sendto,pwrite64,fsync,fdatasync";
  return ["strace", "-D", "-f", "-yy", "-xx", "-s", "1000000", "-e", `trace=${calls}`, "-e", "signal=none", "-o", file];
}

/** Installs it in CI, where nothing is left out. */
export function canTrace(): boolean {
  const works = (): boolean => run("strace", ["-o", "/dev/null", "true"]);
  if (works()) return true;
  if (process.env["CI"] !== "1") return false;
  run("apt-get", ["update"]);
  run("apt-get", ["install", "-y", "--no-install-recommends", "strace"]);
  return works();
}

export interface Call {
  readonly name: string;
  /** What its file descriptor stands for: a path, or `TCP:[here->there]`. */
  readonly target: string;
  /** Positions in the trace: of the line where it began and of the one where it had ended. */
  readonly begin: number;
  readonly end: number;
  /** Negative: it failed. */
  readonly result: number;
  /** What was read or written. */
  readonly data: Buffer;
}

const WHOLE = /^(\d+) +(\w+)\((.*)\) += (-?\d+)/s;
const UNFINISHED = /^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$/s;
const RESUMED = /^(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (-?\d+)/s;

/** In the order in which they ended. */
export function readTrace(file: string): readonly Call[] {
  const calls: Call[] = [];
  const begun = new Map<string, { readonly begin: number; readonly args: string }>();
  readFileSync(file, "latin1")
    .split("\n")
    .forEach((line, at) => {
      const [, thread = "", , begunArgs = ""] = UNFINISHED.exec(line) ?? [];
      if (thread !== "") {
        begun.set(thread, { begin: at, args: begunArgs });
        return;
      }
      const [, resumed = "", resumedName = "", rest = "", resumedResult = ""] = RESUMED.exec(line) ?? [];
      const start = begun.get(resumed);
      if (start !== undefined) {
        begun.delete(resumed);
        calls.push(call(resumedName, start.args + rest, resumedResult, start.begin, at));
      }
      const [, , name = "", args = "", result = ""] = WHOLE.exec(line) ?? [];
      if (name !== "") calls.push(call(name, args, result, at, at));
    });
  return calls;
}

function call(name: string, args: string, result: string, begin: number, end: number): Call {
  const target = /^\d+<(.*?)>(?:,|$)/s.exec(args)?.[1] ?? "";
  // File names are hexadecimal too, in front of the data.
  const texts = [...args.slice(target.length).matchAll(/"((?:\\x[0-9a-f]{2})*)"/g)].map(([, hex = ""]) =>
    Buffer.from(hex.replaceAll("\\x", ""), "hex"),
  );
  return {
    name,
    target: plain(target),
    begin,
    end,
    result: Number(result),
    data: Buffer.concat(texts).subarray(0, Math.max(0, Number(result))),
  };
}

function plain(target: string): string {
  return target.replaceAll(/\\x([0-9a-f]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}

/** An MQTT packet and the call that completed it. */
export interface TracedPacket {
  readonly packet: Packet;
  readonly call: Call;
}

/** The packets of one direction of a connection. */
export function packetsOf(calls: readonly Call[]): readonly TracedPacket[] {
  const packets: TracedPacket[] = [];
  const parser = mqttPacket.parser({ protocolVersion: 4 });
  let current: Call | undefined;
  parser.on("packet", (packet: Packet) => {
    if (current !== undefined) packets.push({ packet, call: current });
  });
  for (const each of calls) {
    current = each;
    parser.parse(each.data);
  }
  return packets;
}

/** LevelDB's log: blocks of this size, in them fragments of records, each behind a header that ends with length and kind. */
const LOG_BLOCK = 32_768;
const LOG_HEADER = 7;

/** What was written to one of LevelDB's logs without the headers, and which call wrote each part: where it ended, in order. */
export interface TracedLog {
  readonly data: Buffer;
  readonly parts: readonly { readonly endsAt: number; readonly call: Call }[];
}

export function logOf(writes: readonly Call[]): TracedLog {
  const raw = Buffer.concat(writes.map(({ data }) => data));
  const pieces: Buffer[] = [];
  const parts: { endsAt: number; call: Call }[] = [];
  let [length, at, written, nth] = [0, 0, 0, 0];
  while (at + LOG_HEADER <= raw.length) {
    const left = LOG_BLOCK - (at % LOG_BLOCK);
    const bytes = left < LOG_HEADER ? 0 : raw.readUInt16LE(at + 4);
    const from = left < LOG_HEADER ? at + left : at + LOG_HEADER;
    pieces.push(raw.subarray(from, from + bytes));
    length += bytes;
    at = from + bytes;
    for (let call = writes[nth]; call !== undefined && written + call.data.length <= at; call = writes[nth]) {
      written += call.data.length;
      nth += 1;
      parts.push({ endsAt: length, call });
    }
  }
  return { data: Buffer.concat(pieces), parts };
}

/** The calls that completed the writing of these bytes, each time they were written. */
export function writersOf({ data, parts }: TracedLog, bytes: Buffer): readonly Call[] {
  const found: Call[] = [];
  for (let at = data.indexOf(bytes); at >= 0; at = data.indexOf(bytes, at + 1)) {
    const part = parts.find(({ endsAt }) => endsAt >= at + bytes.length);
    if (part !== undefined) found.push(part.call);
  }
  return found;
}

/** strace writes on for a moment after the process has gone. */
export function isTraceComplete(file: string): boolean {
  const handle = openSync(file, "r");
  try {
    const tail = Buffer.alloc(4096);
    const size = readFileSync(file).length;
    const count = readSync(handle, tail, 0, tail.length, Math.max(0, size - tail.length));
    return /\+\+\+ (?:exited|killed)[^\n]*\+\+\+\n$/.test(tail.toString("latin1", 0, count));
  } finally {
    closeSync(handle);
  }
}
