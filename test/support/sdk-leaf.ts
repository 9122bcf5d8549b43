/** A leaf program on the wire of one SDK: a PnP device that keeps what it hears, acknowledges it, and comes back as that SDK does. */
import { connect, type Socket } from "node:net";
import mqttPacket, { type IPublishPacket, type Packet } from "mqtt-packet";
import type { Json, JsonObject } from "../../src/core/message.ts";
import { hubMerge } from "./model-hub.ts";
import { type Filter, type SdkWire, sasToken } from "./sdk-wire.ts";

const WATCHDOG_MS = 60_000;
const DESIRED = "$iothub/twin/PATCH/properties/desired/";

export interface SdkLeafOptions {
  readonly port: number;
  readonly hubHostName: string;
  readonly gatewayHostName: string;
  readonly key: string;
}

export interface TwinAnswer {
  readonly status: number;
  readonly text: string;
}

export class SdkLeaf {
  readonly wire: SdkWire;
  /** What the program knows of its twin. */
  desired: JsonObject = {};
  readonly commands: { readonly name: string; readonly body: string }[] = [];
  readonly cloudToDevice: { readonly topic: string; readonly body: string }[] = [];
  /** One list of versions for each connection: none may go back. */
  readonly versions: number[] = [];
  /** What no SDK could live with. */
  readonly complaints: string[] = [];
  sessionPresent: boolean | undefined;
  readonly #options: SdkLeafOptions;
  readonly #rid: ReturnType<SdkWire["rids"]>;
  readonly #answers = new Map<string, (answer: TwinAnswer) => void>();
  readonly #unacknowledged = new Map<number, IPublishPacket>();
  #waiting = new Map<string, (packet: Packet) => void>();
  #socket: Socket | undefined;
  #lost: Promise<unknown> = Promise.resolve();
  #packetId = 0;

  constructor(wire: SdkWire, options: SdkLeafOptions) {
    this.wire = wire;
    this.#options = options;
    this.#rid = wire.rids();
  }

  get id(): string {
    return this.wire.leafId;
  }

  /** Messages whose PUBACK has not come. */
  get unacknowledged(): number {
    return this.#unacknowledged.size;
  }

  /** A program that starts. */
  async start(): Promise<void> {
    await this.#connect();
    await this.#subscribe(this.wire.subscribes);
    await this.get();
    await this.#subscribe(this.wire.subscribesAfterGet);
  }

  /** The same program after its connection was lost, or with a new token; tries until it is let in and has what it asks for then. */
  async comeBack(): Promise<void> {
    const deadline = Date.now() + WATCHDOG_MS;
    for (;;) {
      try {
        await this.#connect();
        this.#resend();
        await this.#subscribe(this.wire.subscribesAgain);
        if (this.wire.getsAgain) await this.get();
        return;
      } catch (error) {
        if (Date.now() > deadline) throw error;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
  }

  async get(): Promise<TwinAnswer> {
    const answer = await this.#request("$iothub/twin/GET/", this.wire.getBody);
    const body = answer.status === 200 ? (JSON.parse(answer.text) as Record<string, JsonObject>) : {};
    const { $version, ...desired } = body["desired"] ?? {};
    if (typeof $version !== "number") this.complaints.push(`GET without desired.$version: ${answer.text}`);
    if (typeof body["reported"]?.["$version"] !== "number") this.complaints.push("GET without reported.$version");
    this.desired = desired;
    this.#acknowledge(desired, Number($version));
    return answer;
  }

  report(patch: JsonObject): Promise<TwinAnswer> {
    return this.#request("$iothub/twin/PATCH/properties/reported/", JSON.stringify(patch));
  }

  /** Sends telemetry of a component; resolves with its PUBACK, or when the connection is lost. */
  async telemetry(component: string, body: Json): Promise<void> {
    const topic = `devices/${this.id}/messages/events/${this.wire.bag(component)}`;
    const messageId = this.#publish(topic, JSON.stringify(body), 1);
    await Promise.race([this.#next(`puback ${messageId}`), this.#lost]);
  }

  /** The cable is pulled: no DISCONNECT. */
  cut(): void {
    this.#socket?.destroy();
  }

  /** As for a new token. */
  async disconnect(): Promise<void> {
    this.#send({ cmd: "disconnect" });
    this.#socket?.end();
    await this.#lost;
  }

  get isLost(): boolean {
    return this.#socket?.closed !== false;
  }

  /** The connection has ended, whoever ended it. */
  async lost(): Promise<void> {
    await this.#lost;
  }

  async #connect(): Promise<void> {
    const { gatewayHostName, hubHostName, key, port } = this.#options;
    const { clean, keepAliveSecs, leafId, resource, userName } = this.wire;
    const socket = connect(port, "127.0.0.1");
    socket.on("error", () => undefined);
    this.#lost = new Promise((resolve) => socket.once("close", resolve));
    this.#waiting = new Map();
    this.#socket = socket;
    const parser = mqttPacket.parser({ protocolVersion: 4 });
    parser.on("packet", (packet) => this.#hear(packet));
    socket.on("data", (chunk: Buffer) => parser.parse(chunk));
    const connack = this.#next("connack");
    this.#send({
      cmd: "connect",
      protocolId: "MQTT",
      protocolVersion: 4,
      clean,
      clientId: leafId,
      keepalive: keepAliveSecs,
      username: userName(leafId, gatewayHostName),
      password: Buffer.from(sasToken(resource(hubHostName, leafId), key, 3_600)),
    });
    const answer = await Promise.race([connack, this.#lost]);
    if (typeof answer !== "object" || answer === null || !("returnCode" in answer)) throw new Error("no CONNACK");
    if (answer.returnCode !== 0) throw new Error(`${leafId}: CONNACK ${String(answer.returnCode)}`);
    this.sessionPresent = "sessionPresent" in answer && answer.sessionPresent === true;
  }

  async #subscribe(packets: readonly (readonly Filter[])[]): Promise<void> {
    for (const filters of packets) {
      const messageId = this.#nextId();
      const suback = this.#next(`suback ${messageId}`);
      const subscriptions = filters.map(([filter, qos]) => ({ topic: filter.replace("{d}", this.id), qos }));
      this.#send({ cmd: "subscribe", messageId, subscriptions });
      const answer = await Promise.race([suback, this.#endOfConnection()]);
      const { granted } = answer as Extract<Packet, { cmd: "suback" }>;
      const got = granted.map(Number).join();
      if (got !== filters.map(([, qos]) => qos).join()) this.complaints.push(`granted ${got} for ${filters.join()}`);
    }
  }

  #request(prefix: string, body: string): Promise<TwinAnswer> {
    const rid = this.#rid(prefix.includes("GET") ? "get" : "report");
    const answer = new Promise<TwinAnswer>((resolve, reject) => {
      const watchdog = setTimeout(() => reject(new Error(`${this.id}: no answer to ${prefix}`)), WATCHDOG_MS);
      this.#answers.set(rid, (each) => {
        clearTimeout(watchdog);
        resolve(each);
      });
    });
    this.#publish(`${prefix}?$rid=${rid}`, body, this.wire.requestQos);
    return Promise.race([answer, this.#endOfConnection()]);
  }

  async #endOfConnection(): Promise<never> {
    await this.#lost;
    throw new Error(`${this.id}: the connection was lost`);
  }

  #hear(packet: Packet): void {
    if (packet.cmd === "publish") this.#hearPublish(packet);
    else {
      if (packet.cmd === "puback") this.#unacknowledged.delete(packet.messageId ?? 0);
      const name = "messageId" in packet && packet.cmd !== "connack" ? `${packet.cmd} ${packet.messageId}` : packet.cmd;
      this.#waiting.get(name)?.(packet);
      this.#waiting.delete(name);
    }
  }

  #hearPublish({ messageId, payload, qos, topic }: IPublishPacket): void {
    if (qos === 1) this.#send({ cmd: "puback", messageId: messageId ?? 0 });
    const body = payload.toString();
    const twin = /^\$iothub\/twin\/res\/(\d{3})\/\?\$rid=([^&]+)(?:&\$version=\d+)?$/.exec(topic);
    const command = /^\$iothub\/methods\/POST\/([^/]+)\/\?\$rid=([^&]+)$/.exec(topic);
    if (twin !== null) {
      this.#answers.get(twin[2] ?? "")?.({ status: Number(twin[1]), text: body });
      this.#answers.delete(twin[2] ?? "");
    } else if (command !== null) this.#serve(command[1] ?? "", command[2] ?? "", body);
    else if (topic.startsWith(DESIRED)) this.#patch(topic, JSON.parse(body) as JsonObject);
    else if (topic.startsWith(`devices/${this.id}/messages/devicebound/%24.to=`)) this.#message(topic, body);
    else this.complaints.push(`unknown topic ${topic}`);
  }

  #serve(name: string, rid: string, body: string): void {
    this.commands.push({ name, body });
    const answer = name.endsWith("reboot") ? this.wire.emptyAnswer : body;
    this.#publish(`$iothub/methods/res/200/?$rid=${rid}`, answer, this.wire.answerQos);
  }

  #patch(topic: string, body: JsonObject): void {
    const { $version, ...patch } = body;
    const keys = Object.keys(body);
    if (topic !== `${DESIRED}?$version=${Number($version)}`) this.complaints.push(`odd topic ${topic}`);
    if (keys.at(-1) !== "$version") this.complaints.push(`$version is not last: ${keys.join()}`);
    this.desired = hubMerge(this.desired, patch);
    this.#acknowledge(patch, Number($version));
  }

  /** As the guides do: each property is answered with its value, inside its component. */
  #acknowledge(section: JsonObject, version: number): void {
    this.versions.push(version);
    const answers = Object.entries(section).map(([name, value]): [string, Json] => {
      if (typeof value !== "object" || value === null || Array.isArray(value)) return [name, answered(value, version)];
      const inner = Object.entries(value).filter(([key]) => key !== "__t");
      return [name, { __t: "c", ...Object.fromEntries(inner.map(([key, each]) => [key, answered(each, version)])) }];
    });
    if (answers.length === 0) return;
    // Its answer is looked at by nobody; a lost connection is no failure of this report.
    this.report(Object.fromEntries(answers)).catch(() => undefined);
  }

  #message(topic: string, body: string): void {
    this.cloudToDevice.push({ topic, body });
    // Python and Java fail on a key without `=` or value, C knows system properties by `%24.` only.
    for (const pair of topic.split("/").slice(4).join("/").split("&"))
      if (!/^[^=$]+=[^=]+$/.test(pair)) this.complaints.push(`odd pair ${pair} in ${topic}`);
  }

  #resend(): void {
    const { resends } = this.wire;
    // A copy: what is sent as a new packet is unacknowledged again.
    const unacknowledged = Array.from(this.#unacknowledged);
    for (const [messageId, packet] of unacknowledged) {
      if (!packet.topic.startsWith("devices/")) this.#unacknowledged.delete(messageId);
      else if (resends === "same-packet-with-dup") this.#send({ ...packet, dup: true });
      else {
        this.#unacknowledged.delete(messageId);
        if (resends === "new-packet") this.#publish(packet.topic, packet.payload.toString(), 1);
      }
    }
  }

  #publish(topic: string, payload: string, qos: 0 | 1): number {
    const messageId = this.#nextId();
    const packet: IPublishPacket = { cmd: "publish", topic, payload, qos, messageId, dup: false, retain: false };
    if (qos === 1) this.#unacknowledged.set(messageId, packet);
    this.#send(packet);
    return messageId;
  }

  #nextId(): number {
    this.#packetId = (this.#packetId % 65_535) + 1;
    return this.#packetId;
  }

  #next(name: string): Promise<Packet> {
    return new Promise((resolve) => this.#waiting.set(name, resolve));
  }

  #send(packet: Packet): void {
    if (this.#socket?.writable === true) this.#socket.write(mqttPacket.generate(packet));
  }
}

function answered(value: Json, version: number): JsonObject {
  return { value, ac: 200, av: version, ad: "done" };
}
