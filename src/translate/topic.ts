/**
 * The pieces of IoT Hub topics: percent-encoding, property bags, request parameters.
 * Invariant: reading never throws, whatever a leaf sends; `+` is a plus, never a blank [iothub-mqtt.md 2.1].
 */

/** Decodes `%XX`; what is no UTF-8 in percent-encoding stays as it stands, as at edgeHub (`%zz` passes unchanged). */
export function decodePercent(text: string): string {
  if (!text.includes("%")) return text;
  try {
    return decodeURIComponent(text);
  } catch {
    return text.replaceAll(/(?:%[0-9A-Fa-f]{2})+/g, (run) => (isUtf8(run) ? decodeURIComponent(run) : run));
  }
}

/**
 * Whether `%XX%XX...` is UTF-8. Looked at before it is decoded: an exception says the same, but costs more to catch than four bytes of
 * topic cost to send, and a topic has room for 20,000 of them.
 */
function isUtf8(run: string): boolean {
  for (let at = 0; at < run.length; ) {
    const lead = byteAt(run, at);
    const more = followers(lead);
    if (more === undefined) return false;
    for (let next = 1; next <= more; next += 1) {
      const byte = byteAt(run, at + 3 * next);
      // The second byte's narrower ranges keep out over-long forms, surrogates and what is beyond Unicode [RFC 3629].
      const [from, to] = next > 1 ? [0x80, 0xbf] : secondRange(lead);
      if (!(byte >= from && byte <= to)) return false;
    }
    at += 3 * (more + 1);
  }
  return true;
}

function followers(lead: number): number | undefined {
  if (lead < 0x80) return 0;
  if (lead < 0xc2 || lead > 0xf4) return undefined;
  if (lead < 0xe0) return 1;
  return lead < 0xf0 ? 2 : 3;
}

function secondRange(lead: number): readonly [number, number] {
  if (lead === 0xe0) return [0xa0, 0xbf];
  if (lead === 0xed) return [0x80, 0x9f];
  if (lead === 0xf0) return [0x90, 0xbf];
  return lead === 0xf4 ? [0x80, 0x8f] : [0x80, 0xbf];
}

/** Not a number behind the end. */
function byteAt(run: string, at: number): number {
  return Number.parseInt(run.slice(at + 1, at + 3), 16);
}

/** Half a surrogate pair, which has no UTF-8 form, becomes U+FFFD. */
export function encodePercent(text: string): string {
  return encodeURIComponent(text.toWellFormed());
}

function splitPair(pair: string): readonly [key: string, value: string] {
  const at = pair.indexOf("=");
  return at < 0 ? [pair, ""] : [pair.slice(0, at), pair.slice(at + 1)];
}

/**
 * Keys and values of a property bag, decoded. A key without `=` has the value "", the last of equal keys wins. A pair with an empty
 * key is left out and a second `=` belongs to the value: edgeHub drops the whole message for either, after acknowledging it.
 */
export function parseBag(bag: string): ReadonlyMap<string, string> {
  const properties = new Map<string, string>();
  for (const pair of bag.split("&")) {
    const [key, value] = splitPair(pair);
    if (key !== "") properties.set(decodePercent(key), decodePercent(value));
  }
  return properties;
}

/** The inverse of {@link parseBag} for well-formed text; ASCII, every key with `=`. An empty key, which has no form, is left out. */
export function formatBag(properties: Iterable<readonly [key: string, value: string]>): string {
  const pairs: string[] = [];
  for (const [key, value] of properties) {
    if (key !== "") pairs.push(`${encodePercent(key)}=${encodePercent(value)}`);
  }
  return pairs.join("&");
}

export interface RequestParameters {
  /** As it stands in the topic: it goes back byte for byte. */
  readonly rid: string;
  readonly version: string | undefined;
}

/** SDKs send decimals and UUIDs. An answer repeats it, and its topic is a little longer than the request's. */
const MAX_RID_CHARS = 1_024;

/**
 * What follows the last `/` of a request's topic: `?$rid={rid}` and perhaps `&$version={v}`, in any order; undefined without a
 * single `$rid` of a possible length.
 */
export function parseRequest(text: string): RequestParameters | undefined {
  if (!text.startsWith("?")) return undefined;
  const parameters = new Map<string, string>();
  for (const pair of text.slice(1).split("&")) {
    const [key, value] = splitPair(pair);
    if (parameters.has(key)) return undefined;
    parameters.set(key, value);
  }
  const rid = parameters.get("$rid");
  const isPossible = rid !== undefined && rid !== "" && rid.length <= MAX_RID_CHARS;
  return !isPossible ? undefined : { rid, version: parameters.get("$version") };
}
