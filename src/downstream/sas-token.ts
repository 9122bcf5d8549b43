/**
 * Shared access signatures as devices send them [iothub-mqtt.md 1.3]. Invariant: what was signed is `sr` exactly as it stands in the
 * token; it is decoded only after that, to be compared.
 */
import { createHmac, timingSafeEqual } from "node:crypto";

export interface SasToken {
  /** Still encoded. */
  readonly resource: string;
  readonly signature: Buffer;
  readonly expirySecs: string;
  readonly policy: string;
}

const PREFIX = "SharedAccessSignature ";
/** Whole seconds; thirteen digits are beyond any date that there is. */
const SECONDS = /^\d{1,13}$/;
const SHA256_BYTES = 32;

/** undefined: no token of that form. Fields come in any order, each once; unknown ones are left aside. */
export function parseSasToken(text: string): SasToken | undefined {
  if (!text.startsWith(PREFIX)) return undefined;
  const fields = new Map<string, string>();
  for (const field of text.slice(PREFIX.length).split("&")) {
    const at = field.indexOf("=");
    const key = field.slice(0, at);
    if (at < 1 || fields.has(key)) return undefined;
    fields.set(key, field.slice(at + 1));
  }
  const [resource, encoded, expirySecs] = [fields.get("sr"), fields.get("sig"), fields.get("se")];
  if (resource === undefined || encoded === undefined || expirySecs === undefined) return undefined;
  const signature = Buffer.from(decode(encoded) ?? "", "base64");
  if (signature.length !== SHA256_BYTES || !SECONDS.test(expirySecs)) return undefined;
  return { resource, signature, expirySecs, policy: fields.get("skn") ?? "" };
}

/** Whether one of the keys (decoded from base64) made the signature; every key is tried, in constant time. */
export function isSignedBy({ resource, expirySecs, signature }: SasToken, keys: readonly Buffer[]): boolean {
  const matches = keys.filter((key) =>
    timingSafeEqual(createHmac("sha256", key).update(`${resource}\n${expirySecs}`, "utf8").digest(), signature),
  );
  return matches.length > 0;
}

/** The host and the device id that a token is for; undefined when it is for something else (a module, a hub). */
export function sasAudience({ resource }: SasToken): { readonly host: string; readonly deviceId: string } | undefined {
  // C sends it raw: then a `%` in the id is one [iothub-mqtt.md 1.3].
  const plain = resource.includes("/") ? resource : decode(resource);
  const [host, kind, deviceId, ...more] = plain?.split("/") ?? [];
  if (host === undefined || kind !== "devices" || deviceId === undefined || more.length > 0) return undefined;
  return { host, deviceId };
}

/**
 * Ids are compared like edgeHub does: whatever their case, and once more decoded (.NET with a hardware signer encodes twice). Only
 * a token's own consistency is at stake: whose it is, the key decides.
 */
export function isSameDevice(inToken: string, leafId: string): boolean {
  const wanted = leafId.toLowerCase();
  return inToken.toLowerCase() === wanted || decode(inToken)?.toLowerCase() === wanted;
}

/** The key of a member of a group, as enrolment groups derive it. Both keys are base64. */
export function deriveLeafKey(groupKey: string, leafId: string): string {
  return createHmac("sha256", Buffer.from(groupKey, "base64")).update(leafId, "utf8").digest("base64");
}

function decode(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}
