/**
 * Topics: percent-encoding, property bags and request ids. Parsing never throws: a leaf may send any bytes.
 * `parseBag` and `formatBag` are inverse to each other.
 */

/** Decodes `%XX` as UTF-8; `+` is a literal plus; what is no valid encoding stays as it is, as at edgeHub [iothub-mqtt.md 12.1]. */
export function decodePercent(text: string): string {
  if (!text.includes("%")) return text;
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Encodes everything but letters, digits and `- _ . ~`, so that no character means anything in a topic. */
export function encodePercent(text: string): string {
  return encodeURIComponent(wellFormed(text)).replaceAll(
    /[!'()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

/** A lone surrogate has no UTF-8 form. */
function wellFormed(text: string): string {
  return text.isWellFormed() ? text : text.toWellFormed();
}

export interface Bag {
  /** By wire key without `$.`. */
  readonly system: Readonly<Record<string, string>>;
  readonly properties: Readonly<Record<string, string>>;
}

/** A property bag, or why it is none: `=` inside a value, an empty key, `&&` [iothub-mqtt.md 12.1]. The last of equal keys wins. */
export function parseBag(text: string): Bag | { readonly problem: string } {
  const system = new Map<string, string>();
  const properties = new Map<string, string>();
  const bag = text.endsWith("/") ? text.slice(0, -1) : text;
  if (bag === "") return { system: {}, properties: {} };
  for (const pair of bag.split("&")) {
    const at = pair.indexOf("=");
    const key = decodePercent(at < 0 ? pair : pair.slice(0, at));
    const raw = at < 0 ? "" : pair.slice(at + 1);
    if (key === "") return { problem: "a property has no name" };
    if (raw.includes("=")) return { problem: "a property's value holds a raw =" };
    if (key.startsWith("$.")) system.set(key.slice(2), decodePercent(raw));
    else properties.set(key, decodePercent(raw));
  }
  return { system: Object.fromEntries(system), properties: Object.fromEntries(properties) };
}

/** System properties first and spelled `%24.`, as Java and C clients need them [iothub-mqtt.md 3]. */
export function formatBag({ system, properties }: Bag): string {
  const pairs = [
    ...Object.entries(system).map(([key, value]) => `%24.${encodePercent(key)}=${encodePercent(value)}`),
    ...Object.entries(properties).map(([key, value]) => `${encodePercent(key)}=${encodePercent(value)}`),
  ];
  return pairs.join("&");
}

/** The part of a `$iothub` topic behind `/?`: keys as they stand, first of equal keys wins, values not decoded (a rid is copied byte for byte). */
export function parseQuery(text: string): ReadonlyMap<string, string> {
  const query = new Map<string, string>();
  for (const pair of text.split("&")) {
    const at = pair.indexOf("=");
    const key = at < 0 ? pair : pair.slice(0, at);
    const name = key === "%24rid" ? "$rid" : key === "%24version" ? "$version" : key;
    if (!query.has(name)) query.set(name, at < 0 ? "" : pair.slice(at + 1));
  }
  return query;
}
