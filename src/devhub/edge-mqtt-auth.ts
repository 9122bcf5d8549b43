/**
 * Who is connecting: the MQTT user name and the SAS token, judged as edgeHub judges them
 * [iothub-mqtt.md 1.2, 1.3, 12.1].
 */

import { createHmac, timingSafeEqual } from "node:crypto";
import type { IConnectPacket } from "mqtt-packet";
import type { Identity } from "./cloud-types.ts";
import { keyOf } from "./edge-hub-store.ts";
import type { ConnectedClient } from "./edge-mqtt-connection.ts";
import type { DevHubSettings } from "./settings.ts";

export type ConnectJudgement =
  | { readonly kind: "accepted"; readonly client: ConnectedClient }
  | { readonly kind: "refused"; readonly code: 1 | 3 | 5 };

/** The CONNACK codes of edgeHub: 1 for another MQTT version, 3 for a malformed user name, 5 for anything about credentials. */
export function judgeConnect(
  packet: IConnectPacket,
  keyFor: (client: string) => string | undefined,
  settings: DevHubSettings,
  nowMs: number,
): ConnectJudgement {
  if (packet.protocolVersion !== 4) return { kind: "refused", code: 1 };
  const user = parseUserName(packet.username ?? "");
  if (packet.clientId.trim() === "" || user === undefined) return { kind: "refused", code: 3 };
  const { identity, modelId } = user;
  const key = keyOf(identity);
  const own = keyFor(key);
  if (packet.clientId !== key || own === undefined) return { kind: "refused", code: 5 };
  const keys = [own, keyFor(identity.deviceId) ?? own];
  const hosts = [settings.iotHubHostName, settings.gatewayHostName];
  const token = packet.password?.toString("utf8") ?? "";
  const verdict = verifyToken(token, identity, { keys, hosts, nowMs, clockSkewMs: settings.clockSkewMs });
  if (verdict.kind === "refused") return { kind: "refused", code: 5 };
  const { expiresMs } = verdict;
  return { kind: "accepted", client: { key, identity, modelId, clean: packet.clean === true, expiresMs } };
}

interface UserName {
  readonly identity: Identity;
  readonly modelId: string | undefined;
}

/** `{hub}/{device}[/{module}]/?api-version=...`; undefined when edgeHub would answer CONNACK 3. */
function parseUserName(text: string): UserName | undefined {
  const segments = text.trim().split("/");
  const query = segments.pop() ?? "";
  const ids = segments.slice(1);
  if (ids.length < 1 || ids.length > 2 || ids.some((id) => id === "")) return undefined;
  const keys = parseQuery(query.startsWith("?") ? query.slice(1) : query);
  if (keys === undefined || !keys.has("api-version")) return undefined;
  const [deviceId, moduleId] = ids;
  if (deviceId === undefined) return undefined;
  return { identity: { deviceId, ...(moduleId === undefined ? {} : { moduleId }) }, modelId: keys.get("model-id") };
}

/** The first of duplicate keys wins; `+` stays `+`. */
function parseQuery(query: string): Map<string, string> | undefined {
  const keys = new Map<string, string>();
  for (const pair of query.split("&")) {
    const at = pair.indexOf("=");
    if (at <= 0) continue;
    const value = percentDecode(pair.slice(at + 1));
    if (value === undefined) return undefined;
    if (!keys.has(pair.slice(0, at))) keys.set(pair.slice(0, at), value);
  }
  return keys;
}

function percentDecode(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}

interface TokenRules {
  /** Base64 keys of which one must have signed: the identity's own, and a module's device key. */
  readonly keys: readonly string[];
  /** IoT Hub's name and edgeHub's. */
  readonly hosts: readonly string[];
  readonly nowMs: number;
  readonly clockSkewMs: number;
}

type TokenVerdict =
  | { readonly kind: "valid"; readonly expiresMs: number }
  | { readonly kind: "refused"; readonly reason: string };

/** The HMAC is taken over `sr` exactly as it stands in the token: decoding and encoding again would break raw ones. */
function verifyToken(token: string, identity: Identity, rules: TokenRules): TokenVerdict {
  const fields = parseToken(token);
  if (fields === undefined) return refused("not a SharedAccessSignature with sr, sig and se");
  const audience = audienceOf(fields.sr);
  if (audience === undefined || !audienceMatches(audience, identity, rules.hosts)) return refused("audience");
  const expiresMs = Number(fields.se) * 1000 + rules.clockSkewMs;
  if (expiresMs < rules.nowMs) return refused("expired");
  const given = Buffer.from(fields.sig, "base64");
  const signed = `${fields.sr}\n${fields.se}`;
  const match = rules.keys.some((key) => {
    const expected = createHmac("sha256", Buffer.from(key, "base64")).update(signed).digest();
    return expected.length === given.length && timingSafeEqual(expected, given);
  });
  return match ? { kind: "valid", expiresMs } : refused("signature");
}

function refused(reason: string): TokenVerdict {
  return { kind: "refused", reason };
}

function parseToken(token: string): { sr: string; sig: string; se: string } | undefined {
  const parts = token.split(" ");
  if (parts.length !== 2 || parts[0] !== "SharedAccessSignature") return undefined;
  const fields = new Map<string, string>();
  for (const pair of (parts[1] ?? "").split("&")) {
    const at = pair.indexOf("=");
    if (at > 0) fields.set(pair.slice(0, at), pair.slice(at + 1));
  }
  const sr = fields.get("sr");
  const se = fields.get("se");
  // A raw plus is a blank to edgeHub, which then finds no valid base64.
  const sig = percentDecode((fields.get("sig") ?? "").replaceAll("+", " "));
  if (sr === undefined || se === undefined || !/^\d{1,12}$/.test(se)) return undefined;
  if (sig === undefined || !/^[A-Za-z0-9+/]+={0,2}$/.test(sig)) return undefined;
  return { sr, sig, se };
}

function audienceOf(sr: string): readonly string[] | undefined {
  const segments = percentDecode(sr)?.split("/");
  if (segments === undefined || (segments.length !== 3 && segments.length !== 5)) return undefined;
  // A hardware signer of .NET encodes ids twice.
  const decoded = segments.map((segment) => percentDecode(segment) ?? segment);
  return decoded[1] === "devices" && (decoded.length === 3 || decoded[3] === "modules") ? decoded : undefined;
}

function audienceMatches(audience: readonly string[], identity: Identity, hosts: readonly string[]): boolean {
  const [host = "", , deviceId = "", , moduleId] = audience;
  return (
    hosts.some((known) => sameIgnoringCase(known, host)) &&
    sameIgnoringCase(deviceId, identity.deviceId) &&
    sameIgnoringCase(moduleId ?? "", identity.moduleId ?? "")
  );
}

function sameIgnoringCase(a: string, b: string): boolean {
  return a.toLowerCase() === b.toLowerCase();
}
