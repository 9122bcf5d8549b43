/** A back end of the development hub for the command line: requests and the event stream, over HTTPS with a SAS token. */

import type { IncomingMessage } from "node:http";
import { request } from "node:https";
import type { Json } from "../core/message.ts";
import { isObject } from "./cloud-twin.ts";
import type { ServiceFile } from "./cloud-types.ts";
import { signToken } from "./service-api-auth.ts";

export interface HubReply {
  readonly status: number;
  readonly body: Json | undefined;
}

export interface ServerSent {
  readonly name: string;
  readonly data: Json;
}

/** Each call is one request; nothing is kept open between them. Rejects with Node's error when nobody listens there. */
export class HubClient {
  readonly module: { readonly deviceId: string; readonly moduleId: string };
  readonly #service: ServiceFile;
  readonly #caPem: string;

  constructor(service: ServiceFile, caPem: string) {
    this.#service = service;
    this.#caPem = caPem;
    this.module = { deviceId: service.deviceId, moduleId: service.moduleId };
  }

  async call(method: string, path: string, body?: Json, signal?: AbortSignal): Promise<HubReply> {
    const response = await this.#send(method, path, body, signal);
    let text = "";
    for await (const chunk of response.setEncoding("utf8")) text += String(chunk);
    return { status: response.statusCode ?? 0, body: text === "" ? undefined : (JSON.parse(text) as Json) };
  }

  /** Events from now on, until `signal` or until the hub ends. After `onOpen` none is missed. */
  async *events(signal: AbortSignal, onOpen?: () => void): AsyncGenerator<ServerSent> {
    const response = await this.#send("GET", "/events", undefined, signal);
    onOpen?.();
    let pending = "";
    for await (const chunk of response.setEncoding("utf8")) {
      const blocks = (pending + String(chunk)).split("\n\n");
      pending = blocks.pop() ?? "";
      for (const block of blocks) {
        const event = parseServerSent(block);
        if (event !== undefined) yield event;
      }
    }
  }

  #send(
    method: string,
    path: string,
    body: Json | undefined,
    signal: AbortSignal | undefined,
  ): Promise<IncomingMessage> {
    const url = new URL(path, this.#service.url);
    url.searchParams.set("api-version", "2021-04-12");
    const text = body === undefined ? undefined : JSON.stringify(body);
    const headers = {
      Authorization: this.#token(),
      ...(text === undefined ? {} : { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(text) }),
    };
    const options = { method, headers, ca: this.#caPem, agent: false, ...(signal === undefined ? {} : { signal }) };
    return new Promise((resolve, reject) => {
      request(url, options, resolve).once("error", reject).end(text);
    });
  }

  #token(): string {
    const { connectionString } = this.#service;
    const field = (name: string) => new RegExp(`(?:^|;)${name}=([^;]*)`).exec(connectionString)?.[1] ?? "";
    return signToken(field("HostName"), field("SharedAccessKeyName"), field("SharedAccessKey"), Date.now());
  }
}

/** What went wrong by the hub's own words. */
export function reasonOf(reply: HubReply): { code: number | undefined; text: string } {
  const message = isObject(reply.body) ? reply.body["Message"] : undefined;
  if (typeof message !== "string") return { code: undefined, text: `status ${reply.status}` };
  try {
    const inner = JSON.parse(message) as Json;
    const code = isObject(inner) ? inner["errorCode"] : undefined;
    const text = isObject(inner) ? inner["message"] : undefined;
    return { code: typeof code === "number" ? code : undefined, text: typeof text === "string" ? text : message };
  } catch {
    return { code: undefined, text: message.replace(/^ErrorCode:[^;]*;/, "") };
  }
}

/** Undefined for comments. */
function parseServerSent(block: string): ServerSent | undefined {
  const lines = block.split("\n");
  const field = (name: string) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
  const data = field("data");
  return data === undefined ? undefined : { name: field("event") ?? "message", data: JSON.parse(data) as Json };
}
