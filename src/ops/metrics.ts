/** Prometheus metrics. Invariant: what is counted is declared; a name or label that is not in the table is a defect, never a new series. */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import { GatewayError } from "../core/errors.ts";
import type { Labels, Metrics } from "../flow/ports.ts";
import { METRICS, type MetricDeclaration } from "./metric-table.ts";

const METRICS_PREFIX = "pnp_gateway_";

export interface MetricsRegistry extends Metrics {
  readonly contentType: string;
  /** All metrics in the text format of Prometheus. */
  text(): Promise<string>;
}

export interface MetricsOptions {
  readonly table?: Readonly<Record<string, MetricDeclaration>>;
  /** Memory, CPU and event loop of the process as well. */
  readonly process?: boolean;
  /** Takes the defect of an undeclared name; absent: it is thrown. */
  readonly report?: (defect: GatewayError) => void;
}

export function createMetrics(options: MetricsOptions = {}): MetricsRegistry {
  const { report } = options;
  const table: Readonly<Record<string, MetricDeclaration>> = options.table ?? METRICS;
  const registry = new Registry();
  const counters = new Map<string, Counter>();
  const gauges = new Map<string, Gauge>();
  const histograms = new Map<string, Histogram>();
  for (const [name, declaration] of Object.entries(table)) {
    const config = configOf(name, declaration, registry);
    if (declaration.type === "counter") counters.set(name, new Counter(config));
    else if (declaration.type === "gauge") gauges.set(name, new Gauge(config));
    else histograms.set(name, new Histogram({ ...config, buckets: [...(declaration.buckets ?? [])] }));
  }
  if (options.process === true) collectDefaultMetrics({ register: registry, prefix: METRICS_PREFIX });

  const attempt = <M>(
    metrics: ReadonlyMap<string, M>,
    name: string,
    labels: Labels,
    use: (metric: M) => void,
  ): void => {
    try {
      const metric = metrics.get(name);
      if (metric === undefined) throw new Error("it is not declared with this type");
      const missing = labelsOf(table[name]).filter((label) => !Object.hasOwn(labels, label));
      if (missing.length > 0) throw new Error(`it lacks the label ${missing.join(", ")}`);
      use(metric);
    } catch (error) {
      const defect = new GatewayError("INVARIANT", `the metric ${name} was used wrongly`, { cause: error });
      if (report === undefined) throw defect;
      report(defect);
    }
  };
  return {
    count: (name, labels = {}, by = 1) => attempt(counters, name, labels, (metric) => metric.inc(labels, by)),
    gauge: (name, value, labels = {}) => attempt(gauges, name, labels, (metric) => metric.set(labels, value)),
    observe: (name, value, labels = {}) => attempt(histograms, name, labels, (metric) => metric.observe(labels, value)),
    contentType: registry.contentType,
    text: () => registry.metrics(),
  };
}

function configOf(name: string, declaration: MetricDeclaration, registry: Registry) {
  return {
    name: `${METRICS_PREFIX}${name}`,
    help: declaration.help,
    labelNames: [...labelsOf(declaration)],
    registers: [registry],
  };
}

function labelsOf(declaration: MetricDeclaration | undefined): readonly string[] {
  return declaration?.labels ?? [];
}
