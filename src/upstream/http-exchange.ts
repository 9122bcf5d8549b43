/** One HTTP request with a limit on time and size: to the workload API (over its socket) and to edgeHub's metrics page. */
import { type RequestOptions, request } from "node:http";
import type { Clock } from "../flow/ports.ts";
import { lookupOnce } from "./lookup.ts";

export interface HttpRequest {
  readonly target: Pick<RequestOptions, "socketPath" | "host" | "port">;
  readonly method: "GET" | "POST";
  readonly path: string;
  readonly body?: string;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

export interface HttpAnswer {
  readonly status: number;
  readonly body: string;
}

/** A metrics page of an edgeHub with thousands of clients stays below this. */
const MAX_BODY_BYTES = 8 * 1024 * 1024;

/** Rejects when there is no whole answer within `timeoutMs`; any status is an answer. */
export async function exchange(
  clock: Clock,
  { target, method, path, body, timeoutMs, signal }: HttpRequest,
): Promise<HttpAnswer> {
  const limit = new AbortController();
  const signals = signal === undefined ? limit.signal : AbortSignal.any([limit.signal, signal]);
  const waiting = new AbortController();
  const timer = clock.sleep(timeoutMs, waiting.signal).then(
    () => limit.abort(new Error(`no answer within ${timeoutMs} ms`)),
    () => undefined,
  );
  try {
    const how = { method, path, signal: signals, agent: false, lookup: lookupOnce, headers: headersOf(body) };
    return await send({ ...target, ...how }, body);
  } catch (error) {
    throw signals.aborted && signals.reason instanceof Error ? signals.reason : error;
  } finally {
    waiting.abort();
    await timer;
  }
}

function headersOf(body: string | undefined): Record<string, string | number> {
  if (body === undefined) return { host: "localhost" };
  return { host: "localhost", "content-type": "application/json", "content-length": Buffer.byteLength(body) };
}

function send(options: RequestOptions, body: string | undefined): Promise<HttpAnswer> {
  return new Promise((resolve, reject) => {
    const outgoing = request(options, (incoming) => {
      const chunks: Buffer[] = [];
      let bytes = 0;
      incoming.on("data", (chunk: Buffer) => {
        bytes += chunk.length;
        if (bytes > MAX_BODY_BYTES) incoming.destroy(new Error(`the answer is larger than ${MAX_BODY_BYTES} bytes`));
        else chunks.push(chunk);
      });
      incoming.on("error", reject);
      incoming.on("end", () =>
        resolve({ status: incoming.statusCode ?? 0, body: Buffer.concat(chunks).toString("utf8") }),
      );
    });
    outgoing.on("error", reject);
    outgoing.end(body);
  });
}
