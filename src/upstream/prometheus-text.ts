/** The few series of edgeHub's metrics page that the WAN watch needs; everything else is skipped. Pure, never throws. */

export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

const LINE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?\s*$/s;
const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"/gs;

/** All samples of the named series in the page's order [Prometheus text format 0.0.4]. */
export function parseMetrics(text: string, names: ReadonlySet<string>): Sample[] {
  const samples: Sample[] = [];
  for (const line of text.split("\n")) {
    if (line.startsWith("#")) continue;
    const name = /^[a-zA-Z0-9_:]+/.exec(line)?.[0];
    if (name === undefined || !names.has(name)) continue;
    const match = LINE.exec(line);
    const value = parseValue(match?.[3]);
    if (match !== null && value !== undefined) samples.push({ name, labels: parseLabels(match[2] ?? ""), value });
  }
  return samples;
}

function parseLabels(text: string): Record<string, string> {
  return Object.fromEntries(
    Array.from(text.matchAll(LABEL), ([, key = "", value = ""]) => [key, unescapeLabel(value)]),
  );
}

function unescapeLabel(value: string): string {
  return value.replaceAll(/\\(.)/gs, (_, character: string) => (character === "n" ? "\n" : character));
}

function parseValue(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (text === "+Inf") return Number.POSITIVE_INFINITY;
  if (text === "-Inf") return Number.NEGATIVE_INFINITY;
  const value = Number(text);
  return Number.isNaN(value) ? undefined : value;
}

/** The sum over all samples of `name` whose labels include `labels`; 0 when there is none. */
export function sumOf(samples: readonly Sample[], name: string, labels: Readonly<Record<string, string>>): number {
  const wanted = Object.entries(labels);
  return samples
    .filter((sample) => sample.name === name && wanted.every(([key, value]) => sample.labels[key] === value))
    .reduce((sum, sample) => sum + sample.value, 0);
}
