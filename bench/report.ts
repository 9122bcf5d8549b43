/** What a benchmark says, as Markdown. */
import { cpus, totalmem } from "node:os";

export interface Section {
  readonly title: string;
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
  readonly note?: string;
}

export function machine(): string {
  const [first] = cpus();
  const memory = `${(totalmem() / 2 ** 30).toFixed(0)} GiB`;
  const system = `${process.platform} ${process.arch}, Node ${process.versions.node}`;
  return `${first?.model ?? "unknown processor"} x ${cpus().length}, ${memory}, ${system}, ${new Date().toISOString()}`;
}

export function markdown({ title, head, rows, note }: Section): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  const rule = head.map((_, column) => (column === 0 ? "---" : "--:"));
  const table = [line(head), line(rule), ...rows.map(line)].join("\n");
  return `### ${title}\n\n${table}\n${note === undefined ? "" : `\n${note}\n`}`;
}
