/** The files that say who the leaves are, parsed. Pure: texts in, values out. A problem never quotes a secret. */
import { X509Certificate } from "node:crypto";

export interface LeafSecrets {
  /** Leaf id -> its keys in base64, primary first. */
  readonly keys: ReadonlyMap<string, readonly string[]>;
  /** Keys in base64 that leaves' keys are derived from. */
  readonly groupKeys: readonly string[];
  /** Leaf id -> SHA-1 or SHA-256 in hex. */
  readonly thumbprints: ReadonlyMap<string, readonly string[]>;
  readonly authorities: readonly X509Certificate[];
}

/** Contents of the files; undefined for a file that is not configured. */
export interface LeafSecretFiles {
  /** `{ "<leafId>": { "primary": "...", "secondary": "..." } }` */
  readonly leafKeys?: string | undefined;
  /** One key in base64, or two (primary, secondary) on lines of their own. */
  readonly groupKey?: string | undefined;
  /** `{ "<leafId>": "<thumbprint>" }`, or a list of them. */
  readonly leafThumbprints?: string | undefined;
  /** Certificates in PEM, one or more. */
  readonly leafCa?: string | undefined;
}

export type LeafSecretsResult =
  | { readonly kind: "ok"; readonly secrets: LeafSecrets }
  | { readonly kind: "invalid"; readonly problems: readonly string[] };

const BASE64 = /^(?:[A-Za-z0-9+/]{4})+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;
const THUMBPRINT = /^(?:[0-9a-f]{40}|[0-9a-f]{64})$/i;
const PEM = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/** All problems of all files at once, each with the setting that names the file. */
export function parseLeafSecrets(files: LeafSecretFiles): LeafSecretsResult {
  const problems: string[] = [];
  const secrets: LeafSecrets = {
    keys: parsePerLeaf(files.leafKeys, "leafKeysFile", keysOf, problems),
    groupKeys: parseGroupKeys(files.groupKey, problems),
    thumbprints: parsePerLeaf(files.leafThumbprints, "leafThumbprintsFile", thumbprintsOf, problems),
    authorities: parseAuthorities(files.leafCa, problems),
  };
  return problems.length > 0 ? { kind: "invalid", problems } : { kind: "ok", secrets };
}

function parsePerLeaf(
  text: string | undefined,
  setting: string,
  valuesOf: (entry: unknown) => readonly string[] | undefined,
  problems: string[],
): ReadonlyMap<string, readonly string[]> {
  const perLeaf = new Map<string, readonly string[]>();
  if (text === undefined) return perLeaf;
  const parsed = parseObject(text);
  if (parsed === undefined) problems.push(`${setting}: no JSON object of leaf ids`);
  for (const [leafId, entry] of Object.entries(parsed ?? {})) {
    const values = valuesOf(entry);
    if (values === undefined) problems.push(`${setting}: ${leafId} has something else than it should`);
    else perLeaf.set(leafId, values);
  }
  return perLeaf;
}

function parseObject(text: string): object | undefined {
  try {
    const parsed: unknown = JSON.parse(text);
    return typeof parsed === "object" && parsed !== null && !Array.isArray(parsed) ? parsed : undefined;
  } catch {
    return undefined;
  }
}

function keysOf(entry: unknown): readonly string[] | undefined {
  if (typeof entry !== "object" || entry === null) return undefined;
  const { primary, secondary }: { primary?: unknown; secondary?: unknown } = entry;
  const keys = [primary, secondary].filter((key) => key !== undefined);
  return keys.length > 0 && keys.every(isKey) ? keys : undefined;
}

function isKey(key: unknown): key is string {
  return typeof key === "string" && BASE64.test(key);
}

function thumbprintsOf(entry: unknown): readonly string[] | undefined {
  const listed: readonly unknown[] = Array.isArray(entry) ? entry : [entry];
  const thumbprints = listed.map((one) => (typeof one === "string" ? one.replaceAll(/[\s:]/g, "") : ""));
  return thumbprints.length > 0 && thumbprints.every((one) => THUMBPRINT.test(one)) ? thumbprints : undefined;
}

function parseGroupKeys(text: string | undefined, problems: string[]): readonly string[] {
  if (text === undefined) return [];
  const keys = text.split(/\s+/).filter((line) => line !== "");
  if (keys.length > 0 && keys.length <= 2 && keys.every(isKey)) return keys;
  problems.push("groupKeyFile: no key in base64, or more than two");
  return [];
}

function parseAuthorities(text: string | undefined, problems: string[]): readonly X509Certificate[] {
  if (text === undefined) return [];
  try {
    const authorities = (text.match(PEM) ?? []).map((pem) => new X509Certificate(pem));
    if (authorities.length > 0 && authorities.every(({ ca }) => ca)) return authorities;
    problems.push("leafCaFile: no certificate of an authority in it, or one that is none");
  } catch {
    problems.push("leafCaFile: a certificate in it cannot be read");
  }
  return [];
}
