/**
 * The HTTP server for operators: `/healthz`, `/readyz`, `/metrics` and the status page `/`. Read-only: it answers GET and HEAD, and
 * nothing it is asked changes anything.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { GatewayError } from "../core/errors.ts";
import type { JsonObject } from "../core/message.ts";
import type { Log } from "../flow/ports.ts";
import { statusPage } from "./status-page.ts";

export interface Health {
  readonly isOk: boolean;
  /** What is wrong, or what is waited for; shown to whoever asks. */
  readonly reasons: readonly string[];
}

export interface HealthOptions {
  readonly bind: string;
  /** 0: a free one, see `port` of the server. */
  readonly port: number;
  readonly title: string;
  readonly log: Log;
  /** Alive: false asks for a restart. */
  readonly alive: () => Health;
  /** Ready: leaves are served. */
  readonly ready: () => Health;
  readonly metrics: { readonly contentType: string; text(): Promise<string> };
  readonly status: () => JsonObject;
}

export interface HealthServer extends AsyncDisposable {
  readonly port: number;
}

interface Answer {
  readonly status: number;
  readonly type: string;
  readonly body: string;
}

const TEXT = "text/plain; charset=utf-8";
const HEADERS = {
  "Cache-Control": "no-store",
  "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
};
const MAX_CONNECTIONS = 32;
const REQUEST_TIMEOUT_MS = 10_000;

/** Resolves when the port is bound; throws PORT_TAKEN when it cannot be. */
export async function startHealthServer(options: HealthOptions): Promise<HealthServer> {
  const server = createServer(
    { requestTimeout: REQUEST_TIMEOUT_MS, headersTimeout: REQUEST_TIMEOUT_MS },
    (request, response) => {
      // `respond` answers every failure itself.
      void respond(options, request, response);
    },
  );
  server.maxConnections = MAX_CONNECTIONS;
  await listen(server, options);
  const address = server.address();
  return {
    port: typeof address === "object" && address !== null ? address.port : options.port,
    [Symbol.asyncDispose]: () => close(server),
  };
}

function listen(server: Server, { bind, port }: HealthOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (cause) =>
      reject(
        new GatewayError("PORT_TAKEN", `${bind}:${port} for health and metrics cannot be bound: ${cause.message}`, {
          cause,
        }),
      ),
    );
    server.listen(port, bind, resolve);
  });
}

function close(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}

async function respond(options: HealthOptions, request: IncomingMessage, response: ServerResponse): Promise<void> {
  let answer: Answer;
  try {
    answer = await answerTo(options, request);
  } catch (error) {
    options.log.error({ error: String(error), path: request.url }, "a request for the gateway's state failed");
    answer = { status: 500, type: TEXT, body: "the gateway could not tell\n" };
  }
  response.writeHead(answer.status, { ...HEADERS, "Content-Type": answer.type });
  response.end(request.method === "HEAD" ? undefined : answer.body);
}

async function answerTo(options: HealthOptions, { method, url }: IncomingMessage): Promise<Answer> {
  if (method !== "GET" && method !== "HEAD") return { status: 405, type: TEXT, body: "read only\n" };
  const [path = "/"] = (url ?? "/").split("?", 1);
  switch (path) {
    case "/healthz":
      return healthAnswer(options.alive());
    case "/readyz":
      return healthAnswer(options.ready());
    case "/metrics":
      return { status: 200, type: options.metrics.contentType, body: await options.metrics.text() };
    case "/":
      return { status: 200, type: "text/html; charset=utf-8", body: statusPage(options.title, options.status()) };
    default:
      return { status: 404, type: TEXT, body: "there is /, /healthz, /readyz and /metrics\n" };
  }
}

function healthAnswer({ isOk, reasons }: Health): Answer {
  const lines = reasons.length === 0 ? [isOk ? "ok" : "not ok"] : reasons;
  return { status: isOk ? 200 : 503, type: TEXT, body: `${lines.join("\n")}\n` };
}
