/** Whether a back end may: its SAS token against the hub's policies [D-sas]. */

import { createHmac, timingSafeEqual } from "node:crypto";

export interface TokenRules {
  readonly hostName: string;
  /** Base64 key of a policy, undefined for an unknown one. */
  policyKey(policy: string): string | undefined;
  readonly nowMs: number;
}

export type TokenVerdict =
  | { readonly kind: "granted"; readonly policy: string }
  | { readonly kind: "denied"; readonly reason: string };

const PREFIX = "SharedAccessSignature ";
/** As IoT Hub allows for clocks that differ. */
const SKEW_SECS = 300;

export function judgeToken(header: string | undefined, rules: TokenRules): TokenVerdict {
  const token = parseToken(header);
  if (token === undefined) return denied("no shared access signature");
  const key = rules.policyKey(token.policy);
  if (key === undefined) return denied("unknown policy");
  if (!isFor(token.resource, rules.hostName)) return denied("the token is for another hub");
  if (!(token.expirySecs + SKEW_SECS >= rules.nowMs / 1000)) return denied("the token has expired");
  const wanted = createHmac("sha256", Buffer.from(key, "base64")).update(token.signed).digest();
  const given = Buffer.from(token.signature, "base64");
  if (given.length !== wanted.length || !timingSafeEqual(given, wanted)) return denied("wrong signature");
  return { kind: "granted", policy: token.policy };
}

/** A token for `policy` that is good for an hour from `nowMs`. */
export function signToken(hostName: string, policy: string, key: string, nowMs: number): string {
  const sr = encodeURIComponent(hostName);
  const se = Math.floor(nowMs / 1000) + 3600;
  const sig = createHmac("sha256", Buffer.from(key, "base64")).update(`${sr}\n${se}`).digest("base64");
  return `${PREFIX}sr=${sr}&sig=${encodeURIComponent(sig)}&se=${se}&skn=${encodeURIComponent(policy)}`;
}

interface Token {
  readonly resource: string;
  readonly policy: string;
  readonly expirySecs: number;
  /** Base64. */
  readonly signature: string;
  readonly signed: string;
}

/** Fields may come in any order. */
function parseToken(header: string | undefined): Token | undefined {
  if (header === undefined || !header.startsWith(PREFIX)) return undefined;
  const text = header.slice(PREFIX.length);
  const fields = new URLSearchParams(text.replaceAll("+", "%2B"));
  const field = (name: string) => fields.get(name) ?? "";
  // Signed is the resource as it stands in the token, encoded or not.
  const rawResource =
    text
      .split("&")
      .find((part) => part.startsWith("sr="))
      ?.slice(3) ?? "";
  return {
    resource: field("sr"),
    policy: field("skn"),
    expirySecs: /^\d{1,15}$/.test(field("se")) ? Number(field("se")) : Number.NaN,
    signature: field("sig"),
    signed: `${rawResource}\n${field("se")}`,
  };
}

function isFor(resource: string, hostName: string): boolean {
  const [given, host] = [resource.toLowerCase(), hostName.toLowerCase()];
  return given === host || given.startsWith(`${host}/`);
}

function denied(reason: string): TokenVerdict {
  return { kind: "denied", reason };
}
