/**
 * `npm test`: every check and every tier of tests, one after the other, with one line of totals at the end.
 * Nothing is left out in silence: what is skipped stands in a line of its own with the reason.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { prepareContainers } from "./containers.ts";

interface Totals {
  passed: number;
  failed: number;
  skipped: number;
}

const isCi = (process.env["CI"] ?? "") !== "";
const totals: Totals = { passed: 0, failed: 0, skipped: 0 };
const skippedSuites: string[] = [];
/** Inside a tier: what this machine does not allow, such as mounting a disk in memory. */
const skippedTests: string[] = [];

const major = Number(process.versions.node.split(".")[0]);
if (major < 22) {
  console.error(`Node ${process.versions.node} runs this, 22 or newer is needed: install with "npm ci" (with install scripts), which brings it.`);
  process.exit(1);
}

function say(text: string): void {
  console.log(`\n== ${text}`);
}

/** A check that has no tests of its own counts as one. */
function check(name: string, command: string, args: readonly string[]): void {
  say(name);
  const started = Date.now();
  const { status } = spawnSync(command, args, { stdio: "inherit" });
  console.log(`${name}: ${Math.round((Date.now() - started) / 1_000)} s`);
  if (status === 0) totals.passed += 1;
  else totals.failed += 1;
  if (status !== 0) console.log(`${name}: FAILED`);
}

interface VitestReport {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numFailedTestSuites: number;
  readonly numPendingTests: number;
  readonly numTodoTests: number;
  readonly success: boolean;
  readonly testResults: readonly {
    readonly name: string;
    readonly assertionResults: readonly {
      readonly ancestorTitles: readonly string[];
      readonly title: string;
      readonly status: string;
    }[];
  }[];
}

/** File and block of each test that did not run, with how many it stands for. */
function notRun({ testResults }: VitestReport): readonly string[] {
  const counts = new Map<string, number>();
  for (const { assertionResults, name } of testResults) {
    for (const { ancestorTitles, status, title } of assertionResults) {
      if (status === "passed" || status === "failed") continue;
      const place = `${relative(process.cwd(), name)}: ${ancestorTitles[0] ?? title}`;
      counts.set(place, (counts.get(place) ?? 0) + 1);
    }
  }
  return [...counts].map(([place, count]) => `${place} (${count}): this machine does not allow what they need`);
}

interface TierOptions {
  readonly environment?: Readonly<Record<string, string>>;
  /** For vitest. */
  readonly args?: readonly string[];
}

function tests(name: string, project: string, { args: more = [], environment = {} }: TierOptions = {}): void {
  say(name);
  const folder = mkdtempSync(join(tmpdir(), "pnp-gateway-test-"));
  const file = join(folder, "report.json");
  const started = Date.now();
  const args = ["run", "--project", project, "--reporter=default", "--reporter=json", `--outputFile.json=${file}`, ...more];
  const { status } = spawnSync("vitest", args, { stdio: "inherit", env: { ...process.env, ...environment } });
  try {
    const report = JSON.parse(readFileSync(file, "utf8")) as VitestReport;
    totals.passed += report.numPassedTests;
    // A file that cannot even be loaded, or an unhandled rejection, is a failure too.
    totals.failed += Math.max(report.numFailedTests, status === 0 ? 0 : 1);
    totals.skipped += report.numPendingTests + report.numTodoTests;
    skippedTests.push(...notRun(report));
  } catch {
    totals.failed += 1;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  console.log(`${name}: ${Math.round((Date.now() - started) / 1000)} s`);
}

/** Last, since an engine beside them would slow the others down. */
function containerTests(): void {
  say("containers");
  const prepared = prepareContainers(isCi);
  switch (prepared.kind) {
    case "unavailable":
      skippedSuites.push(`container tests (test/e2e): ${prepared.reason}`);
      return;
    case "failed":
      totals.failed += 1;
      console.log(`containers: FAILED: ${prepared.reason}`);
      return;
    case "ready":
      skippedSuites.push(...prepared.skipped);
      tests("e2e", "e2e", { args: prepared.args, environment: { TESTCONTAINERS_RYUK_DISABLED: "true" } });
      prepared.stop();
  }
}

const began = Date.now();
check("format", "biome", ["check", "."]);
check("lint", "oxlint", []);
check("types", "tsc", ["-p", "."]);
check("unused code", "knip", []);
check("build", "tsc", ["-p", "tsconfig.build.json"]);
tests("unit", "unit");
tests("contract", "contract", {
  environment: { FUZZ_RUNS: process.env["FUZZ_RUNS"] ?? "2000", LINKS: process.env["LINKS"] ?? "300" },
});
tests("integration", "integration");
tests("crash", "crash");
containerTests();

for (const suite of [...skippedSuites, ...skippedTests]) console.log(`SKIPPED: ${suite}`);
console.log(`\nall of it: ${Math.round((Date.now() - began) / 1_000)} s`);
console.log(`${totals.passed} passed, ${totals.failed} failed${totals.skipped > 0 ? `, ${totals.skipped} skipped` : ""}`);
if (isCi && skippedSuites.length > 0) {
  console.error("In CI no tier may be skipped.");
  process.exit(1);
}
process.exit(totals.failed === 0 ? 0 : 1);
