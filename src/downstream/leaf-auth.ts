/**
 * Whether a leaf is who it says. Invariant: code 5 is said only when the credentials were checked and are wrong; whatever may be
 * different in a minute is 3, since a 5 parks some SDKs for ever [iothub-mqtt.md 1.5].
 */
import type { Authentication, Clock, Credentials, LeafAuthenticator } from "../flow/ports.ts";
import { checkLeafCertificate } from "./leaf-certificate.ts";
import type { LeafSecrets } from "./leaf-secrets.ts";
import { deriveLeafKey, isSameDevice, isSignedBy, parseSasToken, type SasToken, sasAudience } from "./sas-token.ts";

export interface LeafAuthOptions {
  /** "development": whoever comes is believed. */
  readonly mode: "development" | "enforce";
  /** undefined: not read yet. Asked at each CONNECT, so that they may change. */
  readonly secrets: () => LeafSecrets | undefined;
  /** Hosts that a token may be for: the IoT Hub's and the gateway's own names. Without any nobody's token can be judged. */
  readonly hostNames: readonly string[];
  /** Ids that are kept out, however good their credentials; in both modes. */
  readonly denied: () => readonly string[];
  readonly clock: Clock;
  /** False while the clock is known to be wrong: no expiry can be judged. */
  readonly clockIsSet: () => boolean;
}

/** edgeHub's tolerance for clocks, and the grace before a connection is closed, in one: a token is good until then. */
const GRACE_MS = 300_000;

export function createLeafAuthenticator(options: LeafAuthOptions): LeafAuthenticator {
  return {
    async authenticate(credentials) {
      if (options.denied().includes(credentials.leafId)) return wrong("this leaf is denied");
      if (options.mode === "development") return { kind: "accepted", closeAtMs: undefined };
      const secrets = options.secrets();
      if (secrets === undefined) return unsure("the leaves' keys are not read yet");
      if (!options.clockIsSet()) return unsure("the clock is not set");
      const { password, certificate } = credentials;
      if (password !== undefined && password.length > 0) return checkToken(options, secrets, credentials, password);
      if (certificate !== undefined) return checkCertificate(options, secrets, credentials, certificate);
      return wrong("neither a token nor a client certificate");
    },
  };
}

function wrong(reason: string): Authentication {
  return { kind: "refused", code: 5, reason };
}

function unsure(reason: string): Authentication {
  return { kind: "refused", code: 3, reason };
}

function checkToken(
  { hostNames, clock }: LeafAuthOptions,
  secrets: LeafSecrets,
  { leafId }: Credentials,
  password: Uint8Array,
): Authentication {
  const token = parseSasToken(Buffer.from(password).toString("utf8"));
  if (token === undefined) return wrong("the password is no shared access signature");
  if (token.policy !== "") return wrong("the token is one of a policy, not of a device");
  const keys = keysOf(secrets, leafId);
  if (keys.length === 0) return wrong("no key is known for this leaf");
  if (hostNames.length === 0) return unsure("no host name is configured that a token could be for");
  const problem = audienceProblem(token, hostNames, leafId);
  if (problem !== undefined) return wrong(problem);
  if (!isSignedBy(token, keys)) return wrong("the token's signature is not made with this leaf's key");
  const closeAtMs = Number(token.expirySecs) * 1000 + GRACE_MS;
  return closeAtMs > clock.now() ? { kind: "accepted", closeAtMs } : wrong("the token has expired");
}

function audienceProblem(token: SasToken, hostNames: readonly string[], leafId: string): string | undefined {
  const audience = sasAudience(token);
  if (audience === undefined) return "the token is not for a device";
  // `HostName=gateway:8884` is how a client dials another port, and then the port stands in its token too.
  const host = audience.host.toLowerCase().replace(/:\d+$/, "");
  if (!hostNames.some((name) => name.toLowerCase() === host)) return "the token is for another hub";
  return isSameDevice(audience.deviceId, leafId) ? undefined : "the token is for another device";
}

/** A leaf's own keys come before the group's, as an individual enrolment does. */
function keysOf({ keys, groupKeys }: LeafSecrets, leafId: string): readonly Buffer[] {
  const own = keys.get(leafId) ?? groupKeys.map((groupKey) => deriveLeafKey(groupKey, leafId));
  return own.map((key) => Buffer.from(key, "base64"));
}

function checkCertificate(
  { clock }: LeafAuthOptions,
  { thumbprints, authorities }: LeafSecrets,
  { issuers = [], leafId }: Credentials,
  certificate: Uint8Array,
): Authentication {
  const rules = { thumbprints: thumbprints.get(leafId) ?? [], authorities };
  const check = checkLeafCertificate([certificate, ...issuers], leafId, rules, clock.now());
  // edgeHub judges those that are connected again each five minutes, certificates as well as tokens [iothub-mqtt.md 12.5].
  return check.kind === "accepted" ? { kind: "accepted", closeAtMs: check.untilMs + GRACE_MS } : wrong(check.reason);
}
