import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { GatewayError } from "../../../src/core/errors.ts";
import { METRICS, type MetricDeclaration } from "../../../src/ops/metric-table.ts";
import { createMetrics } from "../../../src/ops/metrics.ts";

const TABLE: Readonly<Record<string, MetricDeclaration>> = METRICS;

describe("metrics", () => {
  test("counters, gauges and histograms appear with the prefix of the gateway", async () => {
    const metrics = createMetrics();
    metrics.count("telemetry_received_total");
    metrics.count("telemetry_received_total", {}, 2);
    metrics.count("telemetry_dropped_total", { reason: "expired" });
    metrics.gauge("leaves_connected", 7);
    metrics.observe("puback_seconds", 0.02);
    const text = await metrics.text();
    expect(text).toContain("\npnp_gateway_telemetry_received_total 3\n");
    expect(text).toContain('\npnp_gateway_telemetry_dropped_total{reason="expired"} 1\n');
    expect(text).toContain("\npnp_gateway_leaves_connected 7\n");
    expect(text).toContain('pnp_gateway_puback_seconds_bucket{le="0.025"} 1');
    expect(text).toContain('pnp_gateway_puback_seconds_bucket{le="0.01"} 0');
  });

  test.each([
    ["a name that is not declared", "no_such_total", {}],
    ["a counter of another type", "leaves_connected", {}],
    ["a label that is not declared", "telemetry_received_total", { leafId: "a" }],
    ["a declared label left out", "telemetry_dropped_total", {}],
    ["a name that objects have by birth", "constructor", {}],
  ])("%s is a defect", (_, name, labels) => {
    expect(() => createMetrics().count(name, labels)).toThrow(GatewayError);
    const reported: GatewayError[] = [];
    createMetrics({ report: (defect) => void reported.push(defect) }).count(name, labels);
    expect(reported.map(({ code }) => code)).toEqual(["INVARIANT"]);
  });

  test("two registries do not share their figures", async () => {
    const [one, other] = [createMetrics(), createMetrics({ process: true })];
    one.count("defects_total");
    expect(await other.text()).toContain("\npnp_gateway_defects_total 0\n");
    expect(await other.text()).toContain("pnp_gateway_process_cpu_seconds_total");
  });
});

describe("the table", () => {
  test("a counter's name ends with _total, a histogram's with its unit, and both say what they are", () => {
    for (const [name, { type, help, buckets }] of Object.entries(TABLE)) {
      expect(name.endsWith("_total"), name).toBe(type === "counter");
      expect(name.endsWith("_seconds") && buckets !== undefined, name).toBe(type === "histogram");
      expect(help.length, name).toBeGreaterThan(10);
    }
  });

  test("everything the source counts is declared with that type", () => {
    const verbs = { count: "counter", gauge: "gauge", observe: "histogram" } as const;
    const used: string[] = [];
    for (const file of sources("src")) {
      for (const [, verb, name = ""] of readFileSync(file, "utf8").matchAll(
        /\bmetrics\s*\.(count|gauge|observe)\(\s*"(\w+)"/g,
      )) {
        used.push(name);
        if (verb === "count" || verb === "gauge" || verb === "observe")
          expect(Object.hasOwn(TABLE, name) ? TABLE[name]?.type : "not declared", `${name} in ${file}`).toBe(
            verbs[verb],
          );
      }
    }
    expect(used.length).toBeGreaterThan(20);
  });
});

function sources(folder: string): readonly string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts") && !name.startsWith("devhub"))
    .map((name) => join(folder, name));
}
