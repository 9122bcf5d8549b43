/** A leaf that does everything at once and keeps account of it: telemetry in order, reports, reads, commands, desired changes. */
import { connect, type Socket } from "node:net";
import mqttPacket, { type IPublishPacket, type Packet } from "mqtt-packet";
import type { JsonObject } from "../../src/core/message.ts";
import { connectPacket, events, publishPacket } from "../support/leaf-client.ts";
import { COMMANDS, DESIRED, TWIN_GET, TWIN_REPORT } from "./raw-world.ts";

const WATCHDOG_MS = 90_000;

export interface Reply {
  readonly status: number;
  readonly body: string;
}

export class BusyLeaf {
  readonly id: string;
  /** Of the telemetry that was acknowledged to this leaf. */
  readonly acknowledged: number[] = [];
  /** How often the leaf was asked to run each command, by the caller's number. */
  readonly ran = new Map<string, number>();
  /** Each desired patch in the order of arrival. */
  readonly patches: JsonObject[] = [];
  /** What it heard and cannot explain: must stay empty. */
  readonly surprises: string[] = [];
  /** The last number that was reported and answered 204. */
  lastReported = -1;
  readonly #socket: Socket;
  readonly #waiting = new Map<string, (reply: Reply) => void>();
  #sent = 0;
  #reports = 0;
  #asked = 0;
  #isLeaving = false;

  private constructor(id: string, port: number) {
    this.id = id;
    this.#socket = connect(port, "127.0.0.1");
    const parser = mqttPacket.parser({ protocolVersion: 4 });
    parser.on("packet", (packet) => this.#heard(packet));
    this.#socket.on("data", (chunk: Buffer) => parser.parse(chunk));
    this.#socket.on("error", (error) => this.surprises.push(String(error)));
    this.#socket.on("close", () => {
      if (!this.#isLeaving) this.surprises.push("the connection was closed");
    });
  }

  static async connect(id: string, port: number): Promise<BusyLeaf> {
    const leaf = new BusyLeaf(id, port);
    const { status } = await leaf.#ask("connack", connectPacket(id, { keepalive: 0 }));
    if (status !== 0) throw new Error(`${id} was refused with CONNACK ${status}`);
    const subscriptions = [DESIRED, COMMANDS].map((topic) => ({ topic, qos: 0 as const }));
    await leaf.#ask("suback", { cmd: "subscribe", messageId: 1, subscriptions });
    return leaf;
  }

  /** Resolves at the PUBACK. */
  async sendTelemetry(): Promise<void> {
    const number = this.#sent;
    this.#sent += 1;
    const messageId = (number % 65_535) + 1;
    const body = JSON.stringify({ from: this.id, number });
    await this.#ask(`puback ${messageId}`, publishPacket(events(this.id), body, { messageId }));
    this.acknowledged.push(number);
  }

  /** Resolves at the answer; 204 counts as reported. */
  async report(): Promise<Reply> {
    const number = this.#reports;
    this.#reports += 1;
    const reply = await this.#twin(TWIN_REPORT, JSON.stringify({ from: this.id, number }));
    if (reply.status === 204) this.lastReported = number;
    return reply;
  }

  read(): Promise<Reply> {
    return this.#twin(TWIN_GET, "");
  }

  leave(): void {
    this.#isLeaving = true;
    this.#socket.destroy();
  }

  #twin(topic: string, body: string): Promise<Reply> {
    this.#asked += 1;
    const rid = `${this.id}-${this.#asked}`;
    return this.#ask(`twin ${rid}`, publishPacket(`${topic}${rid}`, body, { qos: 0 }));
  }

  #ask(key: string, packet: Packet): Promise<Reply> {
    return new Promise((resolve, reject) => {
      const watchdog = setTimeout(() => reject(new Error(`${this.id}: no answer: ${key}`)), WATCHDOG_MS);
      this.#waiting.set(key, (reply) => {
        clearTimeout(watchdog);
        resolve(reply);
      });
      this.#socket.write(mqttPacket.generate(packet));
    });
  }

  #heard(packet: Packet): void {
    if (packet.cmd === "publish") this.#published(packet);
    else if (packet.cmd === "puback") this.#answered(`puback ${packet.messageId}`, 0, "");
    else if (packet.cmd === "connack") this.#answered("connack", packet.returnCode ?? -1, "");
    else this.#answered(packet.cmd, 0, "");
  }

  #published({ payload, topic }: IPublishPacket): void {
    const body = payload.toString();
    const [, status, answered] = /^\$iothub\/twin\/res\/(\d+)\/\?\$rid=([^&]+)/.exec(topic) ?? [];
    const [, command] = /^\$iothub\/methods\/POST\/echo\/\?\$rid=(.+)$/.exec(topic) ?? [];
    if (answered !== undefined) this.#answered(`twin ${answered}`, Number(status), body);
    else if (command !== undefined) this.#run(command, body);
    else if (topic.startsWith(DESIRED.slice(0, -1))) this.patches.push(JSON.parse(body) as JsonObject);
    else this.surprises.push(topic);
  }

  #run(rid: string, body: string): void {
    this.ran.set(body, (this.ran.get(body) ?? 0) + 1);
    const answer = JSON.stringify({ from: this.id, asked: JSON.parse(body) as unknown });
    this.#socket.write(mqttPacket.generate(publishPacket(`$iothub/methods/res/200/?$rid=${rid}`, answer, { qos: 0 })));
  }

  #answered(key: string, status: number, body: string): void {
    const waiting = this.#waiting.get(key);
    this.#waiting.delete(key);
    if (waiting === undefined) this.surprises.push(`nobody asked for ${key}`);
    else waiting({ status, body });
  }
}
