/** Leaves for tests: one that says any bytes and shows every packet it hears, and one that is mqtt.js as the SDKs use it. */
import { type Duplex, duplexPair } from "node:stream";
import { MqttClient } from "mqtt";
import mqttPacket, { type IConnectPacket, type IPublishPacket, type Packet, type PacketCmd } from "mqtt-packet";
import type { LeafBroker } from "../../src/downstream/broker.ts";
import type { Origin } from "../../src/downstream/connection.ts";

const WATCHDOG_MS = 20_000;
const ORIGIN: Origin = { plain: true, remoteAddress: "10.0.0.1" };

/** As `azure-iot-device` says it. */
export function userName(leafId: string, query = "?api-version=2021-04-12"): string {
  return `hub.example/${leafId}/${query}`;
}

export function events(leafId: string): string {
  return `devices/${leafId}/messages/events/`;
}

/** The leaf's end of an in-memory connection; the broker has the other one. */
export function attached(broker: LeafBroker, origin: Partial<Origin> = {}): Duplex {
  const [leafEnd, brokerEnd] = duplexPair();
  // As with sockets: what one side breaks is broken for the other.
  leafEnd.once("close", () => brokerEnd.destroy());
  const closeLeaf = (): void => {
    if (leafEnd.readableLength > 0 && !leafEnd.isPaused()) setImmediate(closeLeaf);
    else leafEnd.destroy();
  };
  brokerEnd.once("close", () => setImmediate(closeLeaf));
  broker.attach(brokerEnd, { ...ORIGIN, ...origin });
  return leafEnd;
}

export type ConnectFields = Partial<IConnectPacket> & { readonly leafId?: string };

/** Speaks MQTT by hand: nothing is sent, acknowledged or kept quiet unless the test says so. */
export class RawLeaf {
  readonly stream: Duplex;
  readonly packets: Packet[] = [];
  /** Resolves when the broker has ended the connection, or the leaf has. */
  readonly closed: Promise<void>;
  #isClosed = false;
  #waiting: (() => void)[] = [];

  constructor(stream: Duplex) {
    this.stream = stream;
    const parser = mqttPacket.parser({ protocolVersion: 4 });
    parser.on("packet", (packet) => {
      this.packets.push(packet);
      this.#wake();
    });
    stream.on("data", (chunk: Buffer) => parser.parse(chunk));
    stream.on("error", () => undefined);
    this.closed = new Promise((resolve) => {
      const end = (): void => {
        this.#isClosed = true;
        this.#wake();
        resolve();
      };
      stream.once("end", end);
      stream.once("close", end);
    });
  }

  static over(broker: LeafBroker, origin: Partial<Origin> = {}): RawLeaf {
    return new RawLeaf(attached(broker, origin));
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  send(...packets: readonly Packet[]): void {
    this.stream.write(Buffer.concat(packets.map((packet) => mqttPacket.generate(packet))));
  }

  sendBytes(bytes: Uint8Array): void {
    this.stream.write(bytes);
  }

  /** Without waiting for the CONNACK. */
  sendConnect(leafId: string, fields: ConnectFields = {}): void {
    this.send(connectPacket(leafId, fields));
  }

  async connect(
    leafId: string,
    fields: ConnectFields = {},
  ): Promise<{ readonly code: number; readonly present: boolean }> {
    this.sendConnect(leafId, fields);
    const connack = await this.next("connack");
    return { code: connack.returnCode ?? -1, present: connack.sessionPresent };
  }

  async subscribe(...filters: readonly (string | readonly [string, 0 | 1 | 2])[]): Promise<readonly number[]> {
    const subscriptions = filters.map((filter) =>
      typeof filter === "string" ? { topic: filter, qos: 1 as const } : { topic: filter[0], qos: filter[1] },
    );
    this.send({ cmd: "subscribe", messageId: 7, subscriptions });
    const { granted } = await this.next("suback");
    return granted.map(Number);
  }

  publish(topic: string, payload: string, fields: Partial<IPublishPacket> = {}): void {
    this.send(publishPacket(topic, payload, fields));
  }

  /** The next packet of that kind that was not taken yet; others before it stay. */
  async next<C extends PacketCmd>(cmd: C): Promise<Extract<Packet, { cmd: C }>> {
    const isWanted = (packet: Packet): packet is Extract<Packet, { cmd: C }> => packet.cmd === cmd;
    for (;;) {
      const found = this.packets.find(isWanted);
      if (found !== undefined) {
        this.packets.splice(this.packets.indexOf(found), 1);
        return found;
      }
      if (this.#isClosed) throw new Error(`the connection was closed before a ${cmd}`);
      await this.#something(cmd);
    }
  }

  /** Ids of the next PUBACKs in the order in which they came. */
  async pubacks(count: number): Promise<readonly (number | undefined)[]> {
    const ids: (number | undefined)[] = [];
    while (ids.length < count) ids.push((await this.next("puback")).messageId);
    return ids;
  }

  /** A ping and its answer: everything that was sent before has been looked at. */
  async ping(): Promise<void> {
    this.send({ cmd: "pingreq" });
    await this.next("pingresp");
  }

  disconnect(): Promise<void> {
    this.send({ cmd: "disconnect" });
    this.stream.end();
    return this.closed;
  }

  /** As if the cable was cut: no DISCONNECT. */
  cut(): void {
    this.stream.destroy();
  }

  #something(cmd: string): Promise<void> {
    return new Promise((resolve, reject) => {
      const watchdog = setTimeout(() => reject(new Error(`no ${cmd} within ${WATCHDOG_MS} ms`)), WATCHDOG_MS);
      this.#waiting.push(() => {
        clearTimeout(watchdog);
        resolve();
      });
    });
  }

  #wake(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }
}

export function connectPacket(leafId: string, fields: ConnectFields = {}): Packet {
  return {
    cmd: "connect",
    protocolId: "MQTT",
    protocolVersion: 4,
    clean: false,
    clientId: leafId,
    keepalive: 60,
    username: userName(leafId),
    ...fields,
  };
}

export function publishPacket(topic: string, payload: string, fields: Partial<IPublishPacket> = {}): Packet {
  return { cmd: "publish", topic, payload, qos: 1, messageId: 1, dup: false, retain: false, ...fields };
}

/** mqtt.js over a stream; it neither reconnects nor subscribes again by itself. */
export function mqttLeaf(stream: Duplex, leafId: string, clean = false): MqttClient {
  const client = new MqttClient(() => stream, {
    clientId: leafId,
    username: userName(leafId),
    clean,
    protocolVersion: 4,
    reconnectPeriod: 0,
    resubscribe: false,
  });
  client.on("error", () => undefined);
  return client;
}
