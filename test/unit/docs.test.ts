import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { CONFIG_KEYS, environmentName, isLive, mergeConfig } from "../../src/config.ts";
import { ERROR_CODES } from "../../src/core/errors.ts";
import { REFUSAL_REASONS } from "../../src/downstream/refusals.ts";
import { METRICS, type MetricDeclaration } from "../../src/ops/metric-table.ts";

const read = (path: string): string => readFileSync(join(import.meta.dirname, "../..", path), "utf8");

test("the README's table of codes is the list in core/errors.ts", () => {
  const rows = [...read("README.md").matchAll(/^\| `([A-Z_]+)` \| (.+) \|$/gm)].map(([, code, meaning]) => [
    code,
    meaning,
  ]);
  expect(Object.fromEntries(rows)).toEqual(ERROR_CODES);
});

test("docs/configuration.md has every key with its environment name, its default and whether it is live", () => {
  const result = mergeConfig({}, {});
  if (result.kind === "invalid") throw new Error("the defaults are invalid");
  const page = read("docs/configuration.md");
  for (const key of CONFIG_KEYS) {
    const row = `| \`${key}\` | \`${environmentName(key)}\` | \`${JSON.stringify(result.config[key])}\` | ${isLive(key) ? "yes" : ""} |`;
    expect(page).toContain(row);
    expect(page.slice(page.indexOf(row) + row.length), key).toMatch(/^ \S.{3,} \|\n/);
  }
});

test("docs/operations.md has every metric as it is declared, and alerts on no other", () => {
  const page = read("docs/operations.md");
  const declared = Object.entries<MetricDeclaration>(METRICS);
  const rows = declared.map(([name, { help, labels = [], type }]) => {
    const label = labels.length === 0 ? "" : `{${labels.join(",")}}`;
    return `| \`pnp_gateway_${name}${label}\` | ${type} | ${help} |`;
  });
  const [, table = ""] = page.split("| metric | type | is |\n| --- | --- | --- |\n");
  expect(table.trimEnd().split("\n")).toEqual(rows);
  const [, alerts = ""] = /## What to alert on\n\n(.*?)\n\n/s.exec(page) ?? [];
  const named = [...alerts.matchAll(/pnp_gateway_([a-z_]+)/g)].map(([, name]) => name);
  expect(named.length).toBeGreaterThan(10);
  expect(named.filter((name = "") => !Object.hasOwn(METRICS, name))).toEqual([]);
});

test("docs/operations.md has every command of the gateway", () => {
  const [, table = ""] = /## Commands of the gateway\n(.*?)\n## /s.exec(read("docs/operations.md")) ?? [];
  const described = [...table.matchAll(/^\| (`[^|]+`) \|/gm)].flatMap(([, names = ""]) =>
    [...names.matchAll(/`(\w+)`/g)].map(([, name]) => name),
  );
  const contents: readonly { readonly "@type": string; readonly name: string }[] = JSON.parse(
    read("dtdl/self.json"),
  ).contents;
  const commands = contents.filter((content) => content["@type"] === "Command").map(({ name }) => name);
  expect(commands.length).toBeGreaterThan(5);
  expect(described).toHaveLength(commands.length);
  expect(new Set(described)).toEqual(new Set(commands));
});

test("docs/sources.md explains every kind of bracket that comments use", () => {
  const page = read("docs/sources.md");
  const root = join(import.meta.dirname, "../../src");
  const used = new Set<string>();
  for (const file of globSync("**/*.ts", { cwd: root })) {
    for (const [, bracket = ""] of read(join("src", file)).matchAll(/(?:\*|\/\/).*\[([^[\]]+)\]/g))
      for (const [name] of bracket.matchAll(/\b(?:D-[a-z0-9]+|[a-z-]+\.md|EH|design section)\b/g)) used.add(name);
  }
  expect(used.size).toBeGreaterThan(5);
  expect([...used].filter((name) => !page.includes(`[${name}`))).toEqual([]);
});

test.each(["docs/security.md", "docs/guarantees.md", "docs/sources.md"])(
  "every test that %s names is there",
  (page) => {
    const named = [...read(page).matchAll(/`(test\/[^`\s]+)`/g)].map(([, path = ""]) => path);
    expect(named.length).toBeGreaterThan(10);
    const root = join(import.meta.dirname, "../..");
    expect(named.filter((path) => globSync(path, { cwd: root }).length === 0)).toEqual([]);
  },
);

test("each promise, conflict and failure in docs/guarantees.md names a test that is there", () => {
  const root = join(import.meta.dirname, "../..");
  const page = read("docs/guarantees.md");
  for (const title of ["# What the gateway promises", "## Who wins", "## What happens when"]) {
    const table = page
      .slice(page.indexOf(title))
      .split("\n\n")
      .find((part) => part.startsWith("| "));
    const rows = table?.split("\n").slice(2) ?? [];
    expect(rows.length).toBeGreaterThan(7);
    for (const row of rows) {
      const shownBy = row.split(" | ").at(-1) ?? "";
      const names = [...shownBy.matchAll(/`([^`]+)`/g)].map(([, name = ""]) => name);
      expect(names.length > 0 || shownBy.includes("histories"), row).toBe(true);
      const files = names.map((name) => (name.includes("/") ? name : `test/integration/${name}.test.ts`));
      expect(files.filter((file) => globSync(file, { cwd: root }).length === 0)).toEqual([]);
    }
  }
});

test("each threat in docs/security.md has a control and a test that shows it", () => {
  const [, table = ""] = /## Threats, controls, tests\n\n(.*?)\n\n/s.exec(read("docs/security.md")) ?? [];
  const rows = table
    .split("\n")
    .slice(2)
    .map((row) => row.split(" | "));
  expect(rows.length).toBeGreaterThan(10);
  for (const row of rows) {
    expect(row).toHaveLength(3);
    expect(row[2]).toMatch(/`test\/.+\.test\.ts`/);
  }
});

test("docs/security.md says of every refusal what the leaf hears", () => {
  const rows = [...read("docs/security.md").matchAll(/^\| `([a-z0-9-]+)` \| (?:closed|CONNACK|SUBACK|nothing)/gm)];
  expect(rows.map(([, reason]) => reason)).toEqual([...REFUSAL_REASONS]);
});
