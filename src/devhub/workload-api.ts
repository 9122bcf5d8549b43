/**
 * The part of the Edge daemon that a module talks to: signing with its key, the trust bundle and server certificates,
 * over HTTP/1.1 on a unix socket and, for containers on other hosts, a TCP port.
 */

import { createHmac } from "node:crypto";
import { rmSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { Behaviour, WorkloadAnswer } from "./behaviour.ts";
import { type CertificateAuthority, withoutPort } from "./certificates.ts";
import type { IdentityRecord } from "./edge-hub-store.ts";

export interface WorkloadSettings {
  readonly socketPath: string;
  readonly port: number | undefined;
  readonly bind: string;
  readonly serverCertificateLifeMs: number;
  readonly authority: CertificateAuthority;
  readonly behaviour: Behaviour;
  find(moduleId: string): IdentityRecord | undefined;
}

export interface WorkloadApi extends AsyncDisposable {
  /** `unix://...`, as in IOTEDGE_WORKLOADURI. */
  readonly socketUri: string;
  /** `http://bind:port`, when a port was asked for. */
  readonly httpUri: string | undefined;
}

interface Answer {
  readonly status: number;
  readonly body: Readonly<Record<string, unknown>>;
}

const MAX_REQUEST_BYTES = 1_048_576;

export async function startWorkloadApi(settings: WorkloadSettings): Promise<WorkloadApi> {
  const onRequest = (request: IncomingMessage, response: ServerResponse) => {
    // A caller that went away in the middle is its own business; the socket is closed either way.
    serve(settings, request, response).catch(() => response.destroy());
  };
  const onSocket = createServer(onRequest);
  // A socket file left behind by a killed process would make listen fail.
  rmSync(settings.socketPath, { force: true });
  await listen(onSocket, { path: settings.socketPath });
  const onTcp = settings.port === undefined ? undefined : createServer(onRequest);
  if (onTcp !== undefined) await listen(onTcp, { host: settings.bind, port: settings.port ?? 0 });
  const address = onTcp?.address();
  return {
    socketUri: `unix://${settings.socketPath}`,
    httpUri: typeof address === "object" && address !== null ? `http://${settings.bind}:${address.port}` : undefined,
    async [Symbol.asyncDispose]() {
      await Promise.all([close(onSocket), onTcp === undefined ? undefined : close(onTcp)]);
    },
  };
}

async function serve(settings: WorkloadSettings, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const body = await readBody(request);
  const url = new URL(request.url ?? "/", "http://localhost");
  const route = `${request.method ?? ""} ${url.pathname}`;
  const misbehaviour = misbehaviourOf(settings.behaviour, route);
  if (misbehaviour === "hang") return;
  const answer = misbehaviour === "fail" ? failure(500, "told to fail") : await answerTo(settings, url, route, body);
  // The SDK ignores a body whose type is not JSON, and would then trust nobody.
  response.writeHead(answer.status, { "content-type": "application/json" });
  response.end(JSON.stringify(answer.body));
}

function misbehaviourOf(behaviour: Behaviour, route: string): WorkloadAnswer {
  if (route.endsWith("/sign")) return behaviour.workload.sign;
  if (route.endsWith("/trust-bundle")) return behaviour.workload.trustBundle;
  return route.endsWith("/certificate/server") ? behaviour.workload.serverCertificate : "normal";
}

async function answerTo(settings: WorkloadSettings, url: URL, route: string, body: string): Promise<Answer> {
  if (!url.searchParams.has("api-version")) return failure(400, "api-version is missing");
  if (route === "GET /trust-bundle" || route === "GET /manifest-trust-bundle") {
    return { status: 200, body: { certificate: settings.authority.rootPem } };
  }
  const [, id, genid, call] = /^POST \/modules\/([^/]+)\/genid\/([^/]+)\/(sign|certificate\/server)$/.exec(route) ?? [];
  if (id === undefined || genid === undefined) return failure(404, `no such call: ${route}`);
  const moduleId = decodeURIComponent(id);
  const module = settings.find(moduleId);
  if (module === undefined || module.generationId !== decodeURIComponent(genid)) return failure(404, "no such module");
  const fields = parseFields(body);
  if (fields === undefined) return failure(400, "the body is not a JSON object");
  return call === "sign" ? sign(module, fields) : issueServer(settings, moduleId, fields);
}

function sign(module: IdentityRecord, fields: Readonly<Record<string, unknown>>): Answer {
  const data = fields["data"];
  if (typeof data !== "string") return failure(400, "data is missing");
  const hmac = createHmac("sha256", Buffer.from(module.key, "base64")).update(Buffer.from(data, "base64"));
  return { status: 200, body: { digest: hmac.digest("base64") } };
}

async function issueServer(
  settings: WorkloadSettings,
  moduleId: string,
  fields: Readonly<Record<string, unknown>>,
): Promise<Answer> {
  const commonName = fields["commonName"];
  if (typeof commonName !== "string" || commonName === "") return failure(400, "commonName is missing");
  const issued = await settings.authority.issue(
    [withoutPort(commonName), moduleId],
    settings.serverCertificateLifeMs,
    "rsa",
  );
  const expiration = issued.expiration.toISOString();
  const privateKey = { type: "key", bytes: issued.privateKeyPem };
  return { status: 201, body: { privateKey, certificate: issued.chainPem, expiration } };
}

function failure(status: number, message: string): Answer {
  return { status, body: { message } };
}

function parseFields(body: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const parsed: unknown = JSON.parse(body);
    return typeof parsed === "object" && parsed !== null ? { ...parsed } : undefined;
  } catch {
    return undefined;
  }
}

async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request) {
    bytes += chunk.length;
    if (bytes > MAX_REQUEST_BYTES) throw new Error("request too large");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function listen(server: Server, where: { path: string } | { host: string; port: number }): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(where, () => resolve());
  });
}

function close(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}
