/**
 * Takes secrets out of what is logged. Invariant: neither the value of a field that is named like a secret nor a key or signature
 * inside a text (a connection string, a SAS token) reaches a log.
 */

/** Field names, compared without case, dashes and underscores. */
const SECRET_NAMES = new Set([
  "password",
  "passwd",
  "sas",
  "sastoken",
  "token",
  "key",
  "primary",
  "primarykey",
  "secondary",
  "secondarykey",
  "groupkey",
  "privatekey",
  "sharedaccesskey",
  "sharedaccesssignature",
  "signature",
  "sig",
  "connectionstring",
  "authorization",
  "secret",
]);

/** `SharedAccessKey=...` of a connection string, `sig=...` of a SAS token, the body of a private key in PEM. */
const SECRET_TEXTS = [
  /\b(SharedAccessKey=)[^;\s"'\\]+/gi,
  /\b(sig=)[^&\s"'\\]+/gi,
  /(-----BEGIN [A-Z ]*PRIVATE KEY-----)[\s\S]*?(?=-----END|$)/g,
];
const MASK = "***";
const MAX_DEPTH = 6;

/** The fields of a log line, fit to be written; errors become their text with their causes. */
export function redactFields(fields: object): Record<string, unknown> {
  return redactObject(fields, 0);
}

export function redactText(text: string): string {
  return SECRET_TEXTS.reduce((result, pattern) => result.replace(pattern, `$1${MASK}`), text);
}

function redactObject(fields: object, depth: number): Record<string, unknown> {
  const pairs = Object.entries(fields).map(([name, value]: [string, unknown]): [string, unknown] => [
    name,
    isSecret(name) && value !== undefined ? MASK : redactValue(value, depth + 1),
  ]);
  return Object.fromEntries(pairs);
}

function redactValue(value: unknown, depth: number): unknown {
  if (typeof value === "string") return redactText(value);
  if (typeof value === "bigint") return String(value);
  if (typeof value !== "object" || value === null) return value;
  if (depth >= MAX_DEPTH) return "...";
  if (value instanceof Error) return redactText(errorText(value));
  // The bytes of a payload are nobody's business here, and there may be many.
  if (ArrayBuffer.isView(value)) return `${value.byteLength} bytes`;
  if (Array.isArray(value)) return value.map((each) => redactValue(each, depth + 1));
  return redactObject(value, depth);
}

function errorText(error: Error, depth = 0): string {
  const own = `${error.name}: ${error.message}`;
  if (!(error.cause instanceof Error) || depth >= MAX_DEPTH) return own;
  return `${own} <- ${errorText(error.cause, depth + 1)}`;
}

function isSecret(name: string): boolean {
  return SECRET_NAMES.has(name.toLowerCase().replaceAll(/[-_]/g, ""));
}
