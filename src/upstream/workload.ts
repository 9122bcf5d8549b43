/**
 * Client of the workload API that IoT Edge gives each module: what to trust, signatures, server certificates
 * [iothub-mqtt.md 9]. Invariant: every call ends within its limit, whatever the other side does.
 */
import { X509Certificate } from "node:crypto";
import type { Clock } from "../flow/ports.ts";
import { exchange, type HttpAnswer, type HttpRequest } from "./http-exchange.ts";
import { isJsonObject } from "./twin-document.ts";

export interface WorkloadAccess {
  /** `unix:///path.sock`, or `http://host:port` in simulators. */
  readonly uri: string;
  readonly moduleId: string;
  readonly generationId: string;
  /** undefined: the one that every version of IoT Edge takes. */
  readonly apiVersion?: string | undefined;
}

export interface ServerCertificate {
  /** The only name in it, beside the module's id. */
  readonly serverName: string;
  /** PEM, leaf first. */
  readonly chain: string;
  /** PEM. A secret. */
  readonly privateKey: string;
  readonly expiresMs: number;
}

export interface WorkloadClient {
  /** PEM of the certificates that edgeHub's chains end at; undefined when IoT Edge has none. */
  trustBundle(signal?: AbortSignal): Promise<string | undefined>;
  /** The HMAC-SHA256 of `data` under the module's key. */
  sign(data: Uint8Array, signal?: AbortSignal): Promise<Buffer>;
  /** A new certificate at each call; `expiresMs` is a wish that only old versions grant. */
  serverCertificate(serverName: string, expiresMs: number, signal?: AbortSignal): Promise<ServerCertificate>;
}

const API_VERSION = "2018-06-28";
const DEFAULT_WORKLOAD_TIMEOUT_MS = 5_000;

/** A client for the API at `access.uri`. Its calls reject on failure with a message that holds no secret. */
export function createWorkloadClient(
  access: WorkloadAccess,
  clock: Clock,
  timeoutMs = DEFAULT_WORKLOAD_TIMEOUT_MS,
): WorkloadClient {
  const target = targetOf(access.uri);
  const version = `api-version=${encodeURIComponent(access.apiVersion ?? API_VERSION)}`;
  const identity = `/modules/${encodeURIComponent(access.moduleId)}/genid/${encodeURIComponent(access.generationId)}`;
  const call = async (
    method: HttpRequest["method"],
    path: string,
    body: object | undefined,
    signal: AbortSignal | undefined,
  ) =>
    exchange(clock, {
      target,
      method,
      path: `${path}?${version}`,
      timeoutMs,
      signal,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });

  return {
    async trustBundle(signal) {
      const answer = await call("GET", "/trust-bundle", undefined, signal);
      if (answer.status === 404) return undefined;
      return textField(expectSuccess(answer, "the trust bundle"), "certificate");
    },
    async sign(data, signal) {
      const body = { keyId: "primary", algo: "HMACSHA256", data: Buffer.from(data).toString("base64") };
      const answer = await call("POST", `${identity}/sign`, body, signal);
      return Buffer.from(textField(expectSuccess(answer, "a signature"), "digest"), "base64");
    },
    async serverCertificate(serverName, expiresMs, signal) {
      const body = { commonName: serverName, expiration: new Date(expiresMs).toISOString() };
      const answer = await call("POST", `${identity}/certificate/server`, body, signal);
      return parseCertificate(serverName, expectSuccess(answer, `a certificate for ${serverName}`));
    },
  };
}

function targetOf(uri: string): HttpRequest["target"] {
  const url = new URL(uri);
  if (url.protocol === "unix:") return { socketPath: decodeURIComponent(url.pathname) };
  return { host: url.hostname, port: url.port === "" ? 80 : Number(url.port) };
}

function expectSuccess({ status, body }: HttpAnswer, what: string): Readonly<Record<string, unknown>> {
  if (status < 200 || status > 299) throw new Error(`the workload API answered ${status} when asked for ${what}`);
  const document: unknown = JSON.parse(body);
  if (!isJsonObject(document)) throw new Error(`the workload API's answer is no object: ${what}`);
  return document;
}

function textField(document: Readonly<Record<string, unknown>>, name: string): string {
  const value = document[name];
  if (typeof value !== "string") throw new Error(`the workload API's answer lacks ${name}`);
  return value;
}

function parseCertificate(serverName: string, document: Readonly<Record<string, unknown>>): ServerCertificate {
  const chain = textField(document, "certificate");
  const key = document["privateKey"];
  const privateKey = textField(isJsonObject(key) ? key : {}, "bytes");
  // The certificate itself knows best: it never outlives the Edge CA, whatever `expiration` says.
  const expiresMs = Date.parse(new X509Certificate(chain).validTo);
  return { serverName, chain, privateKey, expiresMs };
}
