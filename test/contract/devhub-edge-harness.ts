/** What the contract tests of the development hub's edge side share: a quick hub and a bare MQTT client. */

import { createHmac } from "node:crypto";
import mqtt, { type IClientOptions, type MqttClient } from "mqtt";
import { type DevHub, startDevHub } from "../../src/devhub/devhub.ts";
import type { DevHubSettings } from "../../src/devhub/settings.ts";

export const GW = { deviceId: "edge1", moduleId: "gw" };

/** Free ports and times divided by about 50. */
export function startQuickHub(settings: Partial<DevHubSettings> = {}): Promise<DevHub> {
  return startDevHub({
    mqttPort: 0,
    servicePort: 0,
    metricsPort: 0,
    probePort: 0,
    restartDrainIntervalMs: 200,
    reportedSyncMs: 100,
    readInOutageMs: 400,
    subscriptionDelayMs: 0,
    minTwinSyncPeriodMs: 2_400,
    resumeAfterSilentMs: 460,
    resumeAfterRefusedMs: 800,
    wakingReadMs: 100,
    offlineNoticeMs: 600,
    ...settings,
  });
}

export interface TokenParts {
  readonly resource?: string;
  readonly key?: string;
  readonly expirySecs?: number;
  /** How the resource is written into `sr`; percent-encoded by default. */
  readonly encode?: (resource: string) => string;
}

function fieldsOf(connectionString: string): Map<string, string> {
  const pairs = connectionString.split(";").map((pair): [string, string] => {
    const at = pair.indexOf("=");
    return [pair.slice(0, at), pair.slice(at + 1)];
  });
  return new Map(pairs);
}

/** A SAS token for the module, each part replaceable by a wrong one. */
export function token(hub: DevHub, parts: TokenParts = {}): string {
  const fields = fieldsOf(hub.moduleConnectionString);
  const resource = parts.resource ?? `${fields.get("HostName")}/devices/${GW.deviceId}/modules/${GW.moduleId}`;
  const sr = (parts.encode ?? encodeURIComponent)(resource);
  const se = String(Math.floor(Date.now() / 1000) + (parts.expirySecs ?? 3600));
  const key = Buffer.from(parts.key ?? fields.get("SharedAccessKey") ?? "", "base64");
  const sig = createHmac("sha256", key).update(`${sr}\n${se}`).digest("base64");
  return `SharedAccessSignature sr=${sr}&sig=${encodeURIComponent(sig)}&se=${se}`;
}

export interface Heard {
  readonly topic: string;
  readonly text: string;
}

/** mqtt.js as the module `edge1/gw`, without reconnecting, keeping what it hears. */
export class RawModule implements AsyncDisposable {
  readonly client: MqttClient;
  readonly heard: Heard[] = [];
  /** Resolves when the hub has closed the connection. */
  readonly closed: Promise<void>;
  /** Who waits for the answer to a request id. */
  readonly #waiting = new Map<string, (answer: { status: number; topic: string; text: string }) => void>();
  #rid = 0;

  private constructor(client: MqttClient) {
    this.client = client;
    this.closed = new Promise((resolve) => client.once("close", () => resolve()));
    client.on("message", (topic, payload) => this.#hear({ topic, text: payload.toString("utf8") }));
  }

  #hear({ text, topic }: Heard): void {
    this.heard.push({ topic, text });
    const [, status, rid = ""] = /^\$iothub\/twin\/res\/(\d+)\/\?\$rid=([^&]+)/.exec(topic) ?? [];
    this.#waiting.get(rid)?.({ status: Number(status), topic, text });
    this.#waiting.delete(rid);
  }

  /** Rejects when CONNECT is refused; the error carries the CONNACK code. */
  static connect(hub: DevHub, options: IClientOptions = {}): Promise<RawModule> {
    const username = `${hub.settings.iotHubHostName}/edge1/gw/?api-version=2021-04-12`;
    const client = mqtt.connect({
      protocol: "mqtts",
      host: "localhost",
      port: hub.mqttPort,
      ca: hub.caPem,
      clientId: "edge1/gw",
      username,
      password: token(hub),
      clean: false,
      reconnectPeriod: 0,
      ...options,
    });
    const module = new RawModule(client);
    return new Promise((resolve, reject) => {
      client.once("connect", () => resolve(module));
      client.once("error", reject);
      client.once("close", () => reject(new Error("closed before CONNACK")));
      client.on("error", () => {});
    });
  }

  subscribe(...filters: string[]): Promise<unknown> {
    return this.client.subscribeAsync(filters, { qos: 0 });
  }

  /** QoS 1; resolves at PUBACK, rejects when the connection ends before. */
  publish(topic: string, body: string | Buffer = ""): Promise<unknown> {
    const acknowledged = this.client.publishAsync(topic, body, { qos: 1 });
    return Promise.race([acknowledged, this.closed.then(() => Promise.reject(new Error("closed before PUBACK")))]);
  }

  telemetry(bag: string, body: string | Buffer = "{}"): Promise<unknown> {
    return this.publish(`devices/edge1/modules/gw/messages/events/${bag}`, body);
  }

  /** Sends a twin request and waits for its answer; needs the answers' subscription. */
  async request(topic: string, body = ""): Promise<{ status: number; topic: string; text: string }> {
    const rid = String(++this.#rid);
    const answer = this.answerTo(rid);
    this.client.publish(`${topic}/?$rid=${rid}`, body, { qos: 0 });
    return await answer;
  }

  get(): Promise<{ status: number; topic: string; text: string }> {
    return this.request("$iothub/twin/GET");
  }

  report(patch: unknown): Promise<{ status: number; topic: string; text: string }> {
    const body = typeof patch === "string" ? patch : JSON.stringify(patch);
    return this.request("$iothub/twin/PATCH/properties/reported", body);
  }

  answerTo(rid: string): Promise<{ status: number; topic: string; text: string }> {
    return new Promise((resolve) => this.#waiting.set(rid, resolve));
  }

  /** Desired notifications heard so far. */
  get desired(): unknown[] {
    const found = this.heard.filter(({ topic }) => topic.startsWith("$iothub/twin/PATCH/properties/desired/"));
    return found.map(({ text }) => JSON.parse(text));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.endAsync(true);
  }
}

export const TWIN_ANSWERS = "$iothub/twin/res/#";
export const DESIRED = "$iothub/twin/PATCH/properties/desired/#";
export const METHODS = "$iothub/methods/POST/#";

/** The value of one series, summed over those whose labels include the given ones; undefined when there is none. */
export async function metric(
  hub: DevHub,
  name: string,
  labels: Record<string, string> = {},
): Promise<number | undefined> {
  const text = await (await fetch(hub.metricsUrl)).text();
  const wanted = Object.entries(labels).map(([key, value]) => `${key}="${value}"`);
  const lines = text.split("\n").filter((line) => line.startsWith(`${name}{`) && wanted.every((w) => line.includes(w)));
  if (lines.length === 0) return undefined;
  return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
}
