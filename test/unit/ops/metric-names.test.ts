import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { METRICS } from "../../../src/ops/metric-table.ts";

const SOURCE = join(import.meta.dirname, "../../../src");

function usedNames(): Map<string, string> {
  const used = new Map<string, string>();
  for (const file of readdirSync(SOURCE, { recursive: true, encoding: "utf8" })) {
    if (!file.endsWith(".ts") || file.startsWith("devhub")) continue;
    const text = readFileSync(join(SOURCE, file), "utf8");
    for (const [, kind = "", name = ""] of text.matchAll(/\.(count|gauge|observe)\(\s*"([a-z_]+)"/g))
      used.set(name, kind);
  }
  return used;
}

test("every metric that the code uses is declared with the type it is used as", () => {
  const types = { count: "counter", gauge: "gauge", observe: "histogram" } as const;
  const table: Readonly<Record<string, { readonly type: string }>> = METRICS;
  const used = usedNames();
  expect(used.size).toBeGreaterThan(30);
  const wrong = [...used].filter(([name, kind]) => table[name]?.type !== types[kind as keyof typeof types]);
  expect(wrong).toEqual([]);
});

test("no metric is declared that nothing uses", () => {
  const used = usedNames();
  expect(Object.keys(METRICS).filter((name) => !used.has(name))).toEqual([]);
});
