/** Metrics that a test can read. Labels are written as in Prometheus: `name{a="b"}`. */
import type { Labels, Metrics } from "../../src/flow/ports.ts";

export class RecordingMetrics implements Metrics {
  readonly #values = new Map<string, number>();
  readonly #observed = new Map<string, number[]>();

  count(name: string, labels: Labels = {}, by = 1): void {
    const key = series(name, labels);
    this.#values.set(key, (this.#values.get(key) ?? 0) + by);
  }

  gauge(name: string, value: number, labels: Labels = {}): void {
    this.#values.set(series(name, labels), value);
  }

  observe(name: string, value: number, labels: Labels = {}): void {
    const key = series(name, labels);
    this.#observed.set(key, [...(this.#observed.get(key) ?? []), value]);
  }

  /** A counter or gauge; 0 when it was never touched. */
  value(name: string, labels: Labels = {}): number {
    return this.#values.get(series(name, labels)) ?? 0;
  }

  /** A counter over all its labels. */
  total(name: string): number {
    let total = 0;
    for (const [key, value] of this.#values) if (key === name || key.startsWith(`${name}{`)) total += value;
    return total;
  }

  observed(name: string, labels: Labels = {}): readonly number[] {
    return this.#observed.get(series(name, labels)) ?? [];
  }
}

function series(name: string, labels: Labels): string {
  const pairs = Object.entries(labels)
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, value]) => `${key}="${value}"`);
  return pairs.length === 0 ? name : `${name}{${pairs.join(",")}}`;
}
