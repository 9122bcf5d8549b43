/**
 * The service side of the hub over HTTPS: what an unmodified `azure-iothub` asks for twins, identities and methods, a stream
 * of events, and the controls of the development hub. Every request carries a SAS token of one of the hub's policies.
 */

import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import type { Json } from "../core/message.ts";
import type { IotHubCloud } from "./cloud.ts";
import type { ControlFunctions, Identity } from "./cloud-types.ts";
import { answerControl } from "./control-api.ts";
import { formatServerSent } from "./events.ts";
import { judgeToken } from "./service-api-auth.ts";
import { applyConfigurationContent } from "./service-api-deployment.ts";
import { answerMethod } from "./service-api-methods.ts";
import { badRequest, errorReply, type ServiceReply, type ServiceRequest } from "./service-api-reply.ts";
import { answerRegistry, answerTwin, type TwinApiParts } from "./service-api-twins.ts";

export interface ServiceApiOptions {
  readonly cloud: IotHubCloud;
  /** PEM. The certificate should name `localhost` and the hub's host. */
  readonly tls: { readonly key: string; readonly cert: string };
  readonly bind: string;
  /** 0 takes a free one. */
  readonly port: number;
  /** The hub that tokens must be for. */
  readonly hostName: string;
  readonly controls: ControlFunctions;
  /** For `connectionState`; without it everybody is "Disconnected". */
  isConnected?(id: Identity): boolean;
}

export interface ServiceApi extends AsyncDisposable {
  readonly port: number;
  /** What a back end is configured with. */
  readonly connectionString: string;
}

/** The largest body of a request: a payload of a method or a twin, written generously. */
const MAX_BODY_BYTES = 524_288;
/** A listener that reads so slowly that this much waits for it is cut. */
const MAX_UNREAD_BYTES = 16 * 1024 * 1024;
const HEARTBEAT_MS = 15_000;

/** Resolves when it listens. Disposing ends every request and every stream. */
export async function startServiceApi(options: ServiceApiOptions): Promise<ServiceApi> {
  const ended = new AbortController();
  const service = new Service(options, ended.signal);
  const server = createServer(options.tls, (request, response) => {
    // handle answers its own failures and never rejects.
    void service.handle(request, response);
  });
  await listen(server, options.port, options.bind);
  const { port } = server.address() as AddressInfo;
  const key = options.cloud.policyKey("iothubowner") ?? "";
  return {
    port,
    connectionString: `HostName=${options.hostName};SharedAccessKeyName=iothubowner;SharedAccessKey=${key}`,
    async [Symbol.asyncDispose]() {
      ended.abort();
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

class Service {
  readonly #options: ServiceApiOptions;
  readonly #twinParts: TwinApiParts;
  readonly #ended: AbortSignal;

  constructor(options: ServiceApiOptions, ended: AbortSignal) {
    this.#options = options;
    this.#ended = ended;
    this.#twinParts = { cloud: options.cloud, isConnected: (id) => options.isConnected?.(id) ?? false };
  }

  async handle(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    response.on("error", () => response.destroy());
    try {
      const reply = await this.#answer(incoming, response);
      if (reply !== undefined) send(response, reply);
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      send(response, errorReply(500, "ServerError", text));
    }
  }

  /** Undefined when the response is in other hands: a stream, or a caller that has gone. */
  async #answer(incoming: IncomingMessage, response: ServerResponse): Promise<ServiceReply | undefined> {
    const url = new URL(incoming.url ?? "/", "https://hub");
    const path = decodePath(url.pathname);
    if (path === undefined) return badRequest("the path is not percent-encoded UTF-8");
    const { cloud, hostName } = this.#options;
    const rules = { hostName, policyKey: (policy: string) => cloud.policyKey(policy), nowMs: Date.now() };
    const verdict = judgeToken(incoming.headers.authorization, rules);
    if (verdict.kind === "denied")
      return errorReply(401, "IotHubUnauthorizedAccess", `Unauthorized: ${verdict.reason}`);
    if (path[0] === "events" && incoming.method === "GET") return this.#stream(response);
    const body = await readBody(incoming);
    if (body.kind !== "json") return body.kind === "gone" ? undefined : body.reply;
    const gone = new AbortController();
    response.once("close", () => gone.abort());
    return this.#route({
      method: incoming.method ?? "GET",
      path,
      query: url.searchParams,
      ifMatch: incoming.headers["if-match"],
      policy: verdict.policy,
      body: body.value,
      signal: AbortSignal.any([gone.signal, this.#ended]),
    });
  }

  async #route(request: ServiceRequest): Promise<ServiceReply> {
    const [area, ...path] = request.path;
    if (area === "control") return answerControl(this.#options.controls, { ...request, path });
    if (!request.query.has("api-version")) return errorReply(400, "InvalidProtocolVersion", "api-version is missing");
    if (area === "devices") return this.#identities({ ...request, path });
    const target = area === "twins" ? parseTarget(path) : undefined;
    if (target === undefined) return errorReply(404, "NotFound", "the development hub has no such path");
    if (target.method) return answerMethod(this.#options.cloud, target.id, request);
    return answerTwin(this.#twinParts, target.id, request);
  }

  #identities({ body, method, path, policy }: ServiceRequest): ServiceReply {
    const [deviceId = "", action] = path;
    const isDeployment = method === "POST" && action === "applyConfigurationContent";
    if (method !== "GET" && !isDeployment)
      return errorReply(405, "MethodNotAllowed", "identities of this hub are read-only");
    if (policy !== "iothubowner")
      return errorReply(401, "IotHubUnauthorizedAccess", "the policy may not read or write identities");
    if (isDeployment) return applyConfigurationContent(this.#options.cloud, deviceId, body);
    return answerRegistry(this.#twinParts, path);
  }

  #stream(response: ServerResponse): undefined {
    const { cloud, hostName } = this.#options;
    const hubName = hostName.split(".")[0] ?? hostName;
    response.writeHead(200, { "Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store" });
    const write = (text: string) => {
      if (response.writableLength > MAX_UNREAD_BYTES) response.destroy();
      else response.write(text);
    };
    // Said at once, so that a listener knows from when on it misses nothing.
    write(": listening\n\n");
    const stop = cloud.onEvent((event) => write(formatServerSent(event, hubName)));
    const heartbeat = setInterval(() => write(": still here\n\n"), HEARTBEAT_MS);
    response.once("close", () => {
      clearInterval(heartbeat);
      stop();
    });
  }
}

function parseTarget(path: readonly string[]): { id: Identity; method: boolean } | undefined {
  const method = path.at(-1) === "methods" && path.length % 2 === 0;
  const [deviceId, modules, moduleId, ...rest] = method ? path.slice(0, -1) : path;
  if (deviceId === undefined || deviceId === "" || rest.length > 0) return undefined;
  if (modules === undefined) return { id: { deviceId }, method };
  return modules === "modules" && moduleId !== undefined && moduleId !== ""
    ? { id: { deviceId, moduleId }, method }
    : undefined;
}

function decodePath(pathname: string): string[] | undefined {
  try {
    return pathname.split("/").slice(1).map(decodeURIComponent);
  } catch {
    return undefined;
  }
}

type Body =
  | { readonly kind: "json"; readonly value: Json | undefined }
  | { readonly kind: "bad"; readonly reply: ServiceReply }
  | { readonly kind: "gone" };

async function readBody(incoming: IncomingMessage): Promise<Body> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of incoming) {
      const piece = chunk as Buffer;
      bytes += piece.length;
      // What is too much is still read, or the answer would be lost in a reset.
      if (bytes <= MAX_BODY_BYTES) chunks.push(piece);
    }
  } catch {
    return { kind: "gone" };
  }
  if (bytes > MAX_BODY_BYTES) {
    return {
      kind: "bad",
      reply: errorReply(413, "RequestEntityTooLarge", `a body has at most ${MAX_BODY_BYTES} bytes`),
    };
  }
  const text = Buffer.concat(chunks).toString("utf8");
  if (text.trim() === "") return { kind: "json", value: undefined };
  try {
    return { kind: "json", value: JSON.parse(text) as Json };
  } catch {
    return { kind: "bad", reply: badRequest("the body is not JSON") };
  }
}

function send(response: ServerResponse, { status, body, headers }: ServiceReply): void {
  if (response.headersSent || response.destroyed) {
    response.destroy();
    return;
  }
  const text = body === undefined ? "" : JSON.stringify(body);
  const type = body === undefined ? {} : { "Content-Type": "application/json; charset=utf-8" };
  response.writeHead(status, { ...type, "Content-Length": Buffer.byteLength(text), ...headers });
  response.end(text);
}

function listen(server: Server, port: number, host: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, () => {
      server.off("error", reject);
      resolve();
    });
  });
}
