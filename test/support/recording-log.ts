/** A log that keeps its lines, so that a test can ask what was said. */
import type { Log } from "../../src/flow/ports.ts";

export interface LogLine {
  readonly level: "debug" | "info" | "warn" | "error";
  readonly fields: Readonly<Record<string, unknown>>;
  readonly event: string;
}

export class RecordingLog implements Log {
  readonly lines: LogLine[] = [];

  debug(fields: object, event: string): void {
    this.lines.push({ level: "debug", fields: { ...fields }, event });
  }

  info(fields: object, event: string): void {
    this.lines.push({ level: "info", fields: { ...fields }, event });
  }

  warn(fields: object, event: string): void {
    this.lines.push({ level: "warn", fields: { ...fields }, event });
  }

  error(fields: object, event: string): void {
    this.lines.push({ level: "error", fields: { ...fields }, event });
  }

  /** The lines of one level, or all. */
  events(level?: LogLine["level"]): readonly string[] {
    return this.lines.filter((line) => level === undefined || line.level === level).map(({ event }) => event);
  }

  /** All of it, for what must stand in it nowhere. */
  get text(): string {
    return this.lines.map((line) => JSON.stringify(line)).join("\n");
  }
}
