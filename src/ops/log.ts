/**
 * The log, one line per event. Invariant: a line never holds a secret and never a line break of its own, so that nothing a leaf sends
 * can forge a line.
 */
import { pino } from "pino";
import type { Clock, Log } from "../flow/ports.ts";
import { redactFields, redactText } from "./redact.ts";

const LOG_LEVELS = ["debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];
export type LogFormat = "json" | "iotedge";

export interface LogOptions {
  readonly level: LogLevel;
  readonly format: LogFormat;
  /** Standard output when absent. */
  readonly destination?: { write(line: string): void };
  /** Milliseconds since 1970; the machine's time when absent. */
  readonly now?: () => number;
}

export interface AdjustableLog extends Log {
  readonly level: LogLevel;
  setLevel(level: LogLevel): void;
}

export function isLogLevel(text: string): text is LogLevel {
  return LOG_LEVELS.some((level) => level === text);
}

/** "json": pino's lines with `level` as a word. "iotedge": what the log pull of the IoT Edge agent can filter by level and time. */
export function createLog({ level, format, destination, now = Date.now }: LogOptions): AdjustableLog {
  const target = destination ?? pino.destination({ dest: 1, sync: true });
  const options: pino.LoggerOptions = {
    level,
    base: null,
    timestamp: () => `,"time":"${new Date(now()).toISOString()}"`,
    messageKey: "event",
    formatters: { level: (label) => ({ level: label }) },
  };
  const logger = pino(options, format === "json" ? target : { write: (line) => target.write(formatForIotEdge(line)) });
  const write = (at: LogLevel, fields: object, event: string): void => {
    if (logger.isLevelEnabled(at)) logger[at](redactFields(fields), redactText(event));
  };
  return {
    debug: (fields, event) => write("debug", fields, event),
    info: (fields, event) => write("info", fields, event),
    warn: (fields, event) => write("warn", fields, event),
    error: (fields, event) => write("error", fields, event),
    get level(): LogLevel {
      return isLogLevel(logger.level) ? logger.level : "info";
    },
    setLevel: (next) => {
      logger.level = next;
    },
  };
}

/** The severity codes of syslog, as the IoT Edge agent reads them [IoT Edge "Retrieve logs", recommended logging format]. */
const SEVERITIES: Readonly<Record<LogLevel, number>> = { debug: 7, info: 6, warn: 4, error: 3 };

/** `<6> 2026-01-02 03:04:05.678 +00:00 event name=value ...` of a JSON line. */
function formatForIotEdge(line: string): string {
  const { level, time, event, ...fields } = parseLine(line);
  const stamp = String(time).replace("T", " ").replace("Z", " +00:00");
  const severity = typeof level === "string" && isLogLevel(level) ? SEVERITIES[level] : SEVERITIES.info;
  const pairs = Object.entries(fields).map(([name, value]) => ` ${oneWord(name)}=${oneWord(value)}`);
  return `<${severity}> ${stamp} ${oneLine(String(event))}${pairs.join("")}\n`;
}

function parseLine(line: string): Readonly<Record<string, unknown>> {
  const parsed: unknown = JSON.parse(line);
  return typeof parsed === "object" && parsed !== null ? { ...parsed } : {};
}

/** As it is when that is unmistakable, else as JSON, which has no line breaks. */
function oneWord(value: unknown): string {
  return typeof value === "string" && /^[\w.:/@$*+-]+$/.test(value) ? value : JSON.stringify(value);
}

function oneLine(text: string): string {
  return text.replaceAll(/[\p{Cc}\u2028\u2029]+/gu, " ");
}

// ------------------------------------------------------------------------------------------------ repeats

/** One event of one key, and how often it was held back since it was last written. */
interface Window {
  readonly untilMs: number;
  readonly write: (last: object, repeated: number) => void;
  /** Fields of the last one that was held back: what is told late shall at least be the newest. */
  last: object;
  held: number;
}

/** A reason out of a closed list. A sentence may hold what a leaf sent, and would let it write a line each time. */
const LABEL = /^[a-z0-9]+(?:-[a-z0-9]+)*$/;

/** Whose it is and why, where fields say so: a second reason within a minute is news. */
function keyOf({
  leafId,
  remoteAddress,
  reason,
}: {
  readonly leafId?: unknown;
  readonly remoteAddress?: unknown;
  readonly reason?: unknown;
}): string {
  const whose = leafId ?? remoteAddress;
  const why = typeof reason === "string" && LABEL.test(reason) ? reason : "";
  return `${typeof whose === "string" ? whose : ""} ${why}`;
}

/** Of a line that tells a change of state, which no leaf can make one write. */
function stateOf({ state }: { readonly state?: unknown }): unknown {
  return state;
}

/** Different keys that are remembered; a hostile crowd of leaves must not fill the memory. */
const MAX_WINDOWS = 1_000;

/**
 * A log that writes the same event of the same leaf (else address) and reason once per `windowMs`, but each change of a `state`; the
 * others are counted and told as `repeated` with the next line that is written, whosever it is.
 */
export function limitRepeats(log: Log, clock: Clock, windowMs = 60_000): Log {
  /** Oldest first, since a window that ends is taken out and begins again at the end. */
  const windows = new Map<string, Window>();
  const close = (name: string, window: Window): void => {
    windows.delete(name);
    if (window.held > 0) window.write(window.last, window.held);
  };
  const limited =
    (level: LogLevel) =>
    (fields: object, event: string): void => {
      const nowMs = clock.steady();
      for (const [name, window] of windows) {
        if (window.untilMs > nowMs && windows.size <= MAX_WINDOWS) break;
        close(name, window);
      }
      const name = `${level} ${event} ${keyOf(fields)}`;
      const open = windows.get(name);
      if (open !== undefined && stateOf(open.last) === stateOf(fields)) {
        open.held += 1;
        open.last = fields;
        return;
      }
      if (open !== undefined) close(name, open);
      const write = (last: object, repeated: number): void => log[level]({ ...last, repeated }, event);
      windows.set(name, { untilMs: nowMs + windowMs, write, last: fields, held: 0 });
      log[level](fields, event);
    };
  return { debug: limited("debug"), info: limited("info"), warn: limited("warn"), error: limited("error") };
}
