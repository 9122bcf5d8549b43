/** A leaf that costs this machine little, so that there can be hundreds: the IoT Hub dialect over mqtt.js, with TLS and the leaf's own key. */
import { createHmac } from "node:crypto";
import { connectAsync, type MqttClient } from "mqtt";
import type { JsonObject } from "../../src/core/message.ts";
import { HUB_HOST } from "./cloud-container.ts";

const TOKEN_SECS = 3_600;
const CONNECT_WITHIN_MS = 120_000;

export interface RawLeafOptions {
  /** Of this machine. */
  readonly port: number;
  readonly caPem: string;
  readonly leafId: string;
  /** Base64. */
  readonly key: string;
  /** False: rejects when the first attempt fails. */
  readonly retries?: boolean;
}

/** Resolves when CONNECT is accepted and the twin's topics are subscribed. */
export async function startRawLeaf(options: RawLeafOptions): Promise<RawLeaf> {
  const { caPem, key, leafId, port, retries = true } = options;
  const settings = {
    ca: caPem,
    clientId: leafId,
    username: userName(leafId),
    password: sasToken(leafId, key),
    clean: false,
    connectTimeout: CONNECT_WITHIN_MS,
    ...(retries ? {} : { reconnectPeriod: 0 }),
  };
  const client = await connectAsync(`mqtts://localhost:${port}`, settings, retries);
  const leaf = new RawLeaf(client, leafId);
  await leaf.subscribe();
  return leaf;
}

export function userName(leafId: string): string {
  return `${HUB_HOST}/${leafId}/?api-version=2021-04-12`;
}

export function sasToken(leafId: string, key: string): string {
  const resource = encodeURIComponent(`${HUB_HOST}/devices/${leafId}`);
  const expiry = Math.floor(Date.now() / 1_000) + TOKEN_SECS;
  const signature = createHmac("sha256", Buffer.from(key, "base64")).update(`${resource}\n${expiry}`).digest("base64");
  return `SharedAccessSignature sr=${resource}&sig=${encodeURIComponent(signature)}&se=${expiry}`;
}

export class RawLeaf implements AsyncDisposable {
  /** Desired patches that came. */
  readonly patches: JsonObject[] = [];
  readonly #client: MqttClient;
  readonly #leafId: string;
  readonly #answers = new Map<string, (status: string) => void>();
  #requests = 0;

  constructor(client: MqttClient, leafId: string) {
    this.#client = client;
    this.#leafId = leafId;
    client.on("error", () => undefined);
    client.on("message", (topic, payload) => {
      const [, status, rid] = /^\$iothub\/twin\/res\/(\d+)\/\?\$rid=([^&]+)/.exec(topic) ?? [];
      if (status !== undefined && rid !== undefined) this.#answers.get(rid)?.(status);
      else this.patches.push(JSON.parse(payload.toString("utf8")) as JsonObject);
    });
  }

  async subscribe(): Promise<void> {
    await this.#client.subscribeAsync(["$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#"], { qos: 0 });
  }

  /** Resolves with PUBACK. */
  async publish(body: JsonObject): Promise<void> {
    const topic = `devices/${this.#leafId}/messages/events/$.ct=application%2Fjson&$.ce=utf-8`;
    await this.#client.publishAsync(topic, JSON.stringify(body), { qos: 1 });
  }

  /** Resolves to the status of the answer. */
  async report(patch: JsonObject): Promise<string> {
    const rid = String((this.#requests += 1));
    const answered = new Promise<string>((resolve) => this.#answers.set(rid, resolve));
    const topic = `$iothub/twin/PATCH/properties/reported/?$rid=${rid}`;
    await this.#client.publishAsync(topic, JSON.stringify(patch), { qos: 0 });
    return answered;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client.endAsync(true);
  }
}
