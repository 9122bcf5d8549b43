/** The status page for people: plain HTML of what the gateway knows, nothing to load, nothing to press. Pure. */
import type { Json, JsonObject } from "../core/message.ts";

/** Rows of a table that are shown; who has more leaves reads the metrics. */
const MAX_ROWS = 500;
const REFRESH_SECS = 10;

const STYLE = `body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1b1f24;background:#fff}
table{border-collapse:collapse;margin:.5rem 0 1.5rem;width:100%}th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #d8dee4;vertical-align:top}
th{font-weight:600}h1{font-size:1.5rem}h2{font-size:1.1rem}code{font-family:ui-monospace,monospace}
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}th,td{border-color:#30363d}}`;

/** Values of `status` become rows, objects in it sections, and lists of objects tables. */
export function statusPage(title: string, status: JsonObject): string {
  const plain = Object.entries(status).filter(([, value]) => !isSection(value));
  const sections = Object.entries(status).filter(([, value]) => isSection(value));
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="${REFRESH_SECS}">
<title>${escape(title)}</title><style>${STYLE}</style></head>
<body><h1>${escape(title)}</h1>
${pairs(plain)}
${sections.map(([name, value]) => `<h2>${escape(words(name))}</h2>\n${section(value)}`).join("\n")}
<p><a href="/metrics">metrics</a> · <a href="/healthz">alive</a> · <a href="/readyz">ready</a></p>
</body></html>
`;
}

function section(value: Json): string {
  if (isObject(value)) return pairs(Object.entries(value));
  return Array.isArray(value) ? table(value.filter(isObject)) : "";
}

function pairs(entries: readonly (readonly [string, Json])[]): string {
  const rows = entries.map(([name, value]) => `<tr><th>${escape(words(name))}</th><td>${cell(value)}</td></tr>`);
  return rows.length === 0 ? "<p>none</p>" : `<table>${rows.join("\n")}</table>`;
}

function table(rows: readonly JsonObject[]): string {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  if (rows.length === 0) return "<p>none</p>";
  const head = columns.map((name) => `<th>${escape(words(name))}</th>`).join("");
  const body = rows
    .slice(0, MAX_ROWS)
    .map(
      (row) =>
        `<tr>${columns.map((name) => `<td>${cell(Object.hasOwn(row, name) ? row[name] : null)}</td>`).join("")}</tr>`,
    );
  const more = rows.length > MAX_ROWS ? `<p>and ${rows.length - MAX_ROWS} more</p>` : "";
  return `<table><tr>${head}</tr>\n${body.join("\n")}</table>${more}`;
}

function cell(value: Json | undefined): string {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  return typeof value === "object" ? `<code>${escape(JSON.stringify(value))}</code>` : escape(String(value));
}

/** Objects, and lists that hold nothing else; a list of texts stays one cell. */
function isSection(value: Json): boolean {
  return isObject(value) || (Array.isArray(value) && value.every(isObject));
}

function isObject(value: Json): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** `outboxEntries` -> `outbox entries` */
function words(name: string): string {
  return name.replaceAll(
    /([a-z0-9])([A-Z])/g,
    (_, before: string, after: string) => `${before} ${after.toLowerCase()}`,
  );
}

function escape(text: string): string {
  return text
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;")
    .replaceAll("'", "&#39;");
}
