/** A leaf that lives through its gateway's death: mqtt.js with a kept session that subscribes once and never again, and numbers all it says. */
import { setTimeout as delay } from "node:timers/promises";
import mqtt, { type MqttClient } from "mqtt";

const SUBSCRIPTIONS = ["$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#", "$iothub/methods/POST/#"];
const REPORTED = "$iothub/twin/PATCH/properties/reported/?$rid=";
const ANSWER_WITHIN_MS = 5_000;
const LONG_MS = 100_000;
const RECONNECT_MS = 100;
/** How many properties the leaf reports in turn. */
const REPORTED_KEYS = 5;

export interface LeafReply {
  readonly status: number;
  readonly body: string;
}

export class NumberedLeaf implements AsyncDisposable {
  readonly id: string;
  /** The numbers of the messages that were acknowledged. */
  readonly acknowledged: number[] = [];
  /** Of each reported property the last value that was answered 204. */
  readonly accepted = new Map<string, number>();
  /** The statuses of all answers to reported patches. */
  readonly statuses: number[] = [];
  /** `$version` of each desired patch in the order of arrival. */
  readonly versions: number[] = [];
  /** The last patches' values of `target`, in the order of arrival. */
  readonly targets: unknown[] = [];
  readonly #client: MqttClient;
  readonly #waiting = new Map<string, (reply: LeafReply) => void>();
  readonly #padding: string;
  #isEnding = false;
  #sent = 0;
  #asked = 0;

  private constructor(id: string, client: MqttClient, paddingBytes: number) {
    this.id = id;
    this.#padding = ".".repeat(paddingBytes);
    this.#client = client;
  }

  /** Resolves when the leaf has subscribed, the one time it does. Its messages carry so much `paddingBytes`. */
  static async connect(id: string, port: number, paddingBytes = 0): Promise<NumberedLeaf> {
    const client = mqtt.connect({
      host: "127.0.0.1",
      port,
      clientId: id,
      username: `hub.example/${id}/?api-version=2021-04-12`,
      password: "none",
      clean: false,
      resubscribe: false,
      reconnectPeriod: RECONNECT_MS,
      keepalive: 30,
    });
    client.on("error", () => undefined);
    const leaf = new NumberedLeaf(id, client, paddingBytes);
    client.on("message", (topic, payload) => leaf.#heard(topic, payload.toString()));
    await client.subscribeAsync(SUBSCRIPTIONS, { qos: 0 });
    return leaf;
  }

  get isConnected(): boolean {
    return this.#client.connected;
  }

  get sent(): number {
    return this.#sent;
  }

  /** Resolves at the PUBACK, however many connections it takes. False: the client gave it up unsent, its number is left out. */
  async send(): Promise<boolean> {
    const number = this.#sent;
    this.#sent += 1;
    const body = JSON.stringify(this.#padding === "" ? { number } : { number, padding: this.#padding });
    try {
      await this.#client.publishAsync(`devices/${this.id}/messages/events/`, body, { qos: 1 });
    } catch {
      // mqtt.js forgets what is published in the moment between a CONNACK and the end of its own resending when the connection ends.
      return false;
    }
    this.acknowledged.push(number);
    return true;
  }

  /** Undefined when there was no answer, as when the gateway was killed meanwhile. */
  async report(patch: Readonly<Record<string, unknown>>): Promise<LeafReply | undefined> {
    return this.#ask(REPORTED, JSON.stringify(patch));
  }

  get(): Promise<LeafReply | undefined> {
    return this.#ask("$iothub/twin/GET/?$rid=", "");
  }

  /** A GET with QoS 1: when its PUBACK came, and, however long that takes, its answer. */
  getAcknowledged(): { readonly acknowledged: Promise<unknown>; readonly reply: Promise<LeafReply | undefined> } {
    const acknowledged = Promise.withResolvers<unknown>();
    const reply = this.#ask("$iothub/twin/GET/?$rid=", "", { within: LONG_MS, acknowledged: acknowledged.resolve });
    return { acknowledged: acknowledged.promise, reply };
  }

  /** Sends messages, `window` at a time, until the signal ends it; resolves when the last is acknowledged. */
  async sendUntil(signal: AbortSignal, window: number, pauseMs: number): Promise<void> {
    const one = async (): Promise<void> => {
      while (!signal.aborted) {
        await this.send();
        await delay(pauseMs);
      }
    };
    await Promise.all(Array.from({ length: window }, one));
  }

  /** Reports counters under {@link REPORTED_KEYS} names in turn. */
  async reportUntil(signal: AbortSignal, pauseMs: number): Promise<void> {
    for (let number = 0; !signal.aborted; number += 1) {
      await delay(pauseMs);
      if (!this.isConnected) continue;
      const key = `counter${number % REPORTED_KEYS}`;
      const reply = await this.report({ [key]: number });
      if (reply === undefined) continue;
      this.statuses.push(reply.status);
      if (reply.status === 204) this.accepted.set(key, number);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isEnding = true;
    await this.#client.endAsync(true);
  }

  async #ask(
    topic: string,
    body: string,
    options: { readonly within: number; readonly acknowledged?: (packet: unknown) => void } = {
      within: ANSWER_WITHIN_MS,
    },
  ): Promise<LeafReply | undefined> {
    this.#asked += 1;
    const rid = `${this.id}-${this.#asked}`;
    const { promise, resolve } = Promise.withResolvers<LeafReply | undefined>();
    const watchdog = setTimeout(() => resolve(undefined), options.within);
    const gone = (): void => resolve(undefined);
    this.#client.once("close", gone);
    this.#waiting.set(rid, resolve);
    const { acknowledged } = options;
    this.#client.publish(`${topic}${rid}`, body, { qos: acknowledged === undefined ? 0 : 1 }, (_error, packet) =>
      acknowledged?.(packet),
    );
    const reply = await promise;
    clearTimeout(watchdog);
    this.#client.off("close", gone);
    this.#waiting.delete(rid);
    return reply;
  }

  #heard(topic: string, body: string): void {
    const [, status, rid = ""] = /^\$iothub\/twin\/res\/(\d+)\/\?\$rid=([^&]+)/.exec(topic) ?? [];
    const [, command] = /^\$iothub\/methods\/POST\/[^/]+\/\?\$rid=(.+)$/.exec(topic) ?? [];
    if (status !== undefined) this.#waiting.get(rid)?.({ status: Number(status), body });
    else if (command !== undefined && !this.#isEnding)
      this.#client.publish(`$iothub/methods/res/200/?$rid=${command}`, body, { qos: 0 });
    else if (topic.startsWith("$iothub/twin/PATCH/properties/desired/")) {
      const patch = JSON.parse(body) as { readonly $version: number; readonly target?: unknown };
      this.versions.push(patch.$version);
      if (patch.target !== undefined) this.targets.push(patch.target);
    }
  }
}
