import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { CONFIG_KEYS, environmentName, isLive, mergeConfig } from "../../src/config.ts";
import { ERROR_CODES } from "../../src/core/errors.ts";

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
