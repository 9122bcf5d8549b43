/**
 * `npm run bench [-- <part>... [--large]]`: each part with its own processes and folder, one after the other; all tables at the end.
 * Figures depend on the machine; what counts are the ratios to what ran beside them.
 * BENCH_NODE_GATEWAY="--cpu-prof --cpu-prof-dir=/tmp" profiles the gateway (also BENCH_NODE_HUB, BENCH_NODE_FLOOR);
 * BENCH_ROUNDS=1 shortens the throughput part.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { hostile } from "./hostile.ts";
import { outage, queue, writes } from "./outage.ts";
import { offlineReads, recovery } from "./recovery.ts";
import { machine, markdown, type Section } from "./report.ts";
import { throughput, twins } from "./throughput.ts";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { large: { type: "boolean", default: false } },
});
const PARTS: Readonly<Record<string, (folder: string) => Promise<Section>>> = {
  throughput,
  twins,
  outage,
  offlineReads,
  recovery,
  writes,
  hostile,
  queue: (folder) => queue(folder, values.large ? 1_000_000 : 100_000),
};
const unknown = positionals.filter((name) => !Object.hasOwn(PARTS, name));
if (unknown.length > 0) {
  console.error(`There is no part ${unknown.join(", ")}; there are ${Object.keys(PARTS).join(", ")}.`);
  process.exit(2);
}
const sections: string[] = [];
const names = positionals.length > 0 ? positionals : Object.keys(PARTS);
for (const name of names) {
  const folder = mkdtempSync(join(tmpdir(), "gateway-bench-"));
  console.error(`${name} ...`);
  try {
    const section = await PARTS[name]?.(folder);
    if (section !== undefined) sections.push(markdown(section));
  } catch (error) {
    sections.push(`### ${name}\n\nfailed: ${String(error)}\n`);
    process.exitCode = 1;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
console.log(`${machine()}\n\n${sections.join("\n")}`);
