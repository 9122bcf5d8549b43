/**
 * The load: leaves that speak raw MQTT over TCP or TLS, each with a window of unacknowledged messages. Argument: {@link Load} as JSON.
 * Says `connected`, `begin` when warm, `end` with the figures of the time between, and ends when everything is acknowledged. A twin operation counts as
 * acknowledged when its answer is there.
 */
import { readFileSync } from "node:fs";
import { connect as connectTcp, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import mqttPacket, { type Packet } from "mqtt-packet";
import { percentile } from "./percentile.ts";

export interface Load {
  readonly port: number;
  /** TLS with this CA's certificates; absent: plain. */
  readonly caFile?: string;
  readonly leaves: number;
  readonly window: number;
  readonly payloadBytes: number;
  readonly warmMs: number;
  readonly measureMs: number;
  /** What each leaf does; twin operations are answered in any order of requests. */
  readonly operation?: Operation;
  /** Messages each second of all leaves together; absent: as fast as they are acknowledged. */
  readonly perSec?: number;
  /** Stops after so many messages instead of after `measureMs`. */
  readonly messages?: number;
}

export type Operation = "telemetry" | "get" | "patch";

export interface LoadFigures {
  readonly acked: number;
  readonly seconds: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

const load = JSON.parse(process.argv[2] ?? "{}") as Load;
let isMeasuring = false;
let isStopping = false;
let acked = 0;
let ackedInAll = 0;
let sentInAll = 0;
let beganAt = 0;
let latencies: number[] = [];
let reachedEnd: (() => void) | undefined;

interface Leaf {
  start(): void;
  send(): void;
  fill(): void;
}

class TelemetryLeaf implements Leaf {
  readonly #socket: Socket;
  readonly #publish: Buffer;
  readonly #idAt: number;
  readonly #sentAt = new Float64Array(65_536);
  #nextId = 1;
  #rest: Buffer = Buffer.alloc(0);
  pending = 0;

  constructor(socket: Socket, id: string) {
    this.#socket = socket;
    const topic = `devices/${id}/messages/events/%24.ct=application%2Fjson&%24.ce=utf-8`;
    const empty = JSON.stringify({ temperature: 21.5, pad: "" });
    const payload = empty.replace('""', `"${"x".repeat(load.payloadBytes - empty.length)}"`);
    this.#publish = mqttPacket.generate({
      cmd: "publish",
      topic,
      payload,
      qos: 1,
      messageId: 0x7e7e,
      dup: false,
      retain: false,
    });
    this.#idAt = this.#publish.length - payload.length - 2;
  }

  start(): void {
    this.#socket.on("data", (chunk: Buffer) => this.#hear(chunk));
  }

  send(): void {
    const id = this.#nextId;
    this.#nextId = id === 65_535 ? 1 : id + 1;
    const packet = Buffer.from(this.#publish);
    packet.writeUInt16BE(id, this.#idAt);
    this.#sentAt[id] = performance.now();
    this.pending += 1;
    sentInAll += 1;
    this.#socket.write(packet);
  }

  fill(): void {
    this.#socket.cork();
    while (this.pending < load.window && mayGoOn()) this.send();
    this.#socket.uncork();
  }

  /** Only PUBACKs come: no leaf subscribes. */
  #hear(chunk: Buffer): void {
    const bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    const now = performance.now();
    let at = 0;
    for (; at + 4 <= bytes.length; at += 4) {
      if (bytes[at] !== 0x40) throw new Error(`packet of type ${bytes[at]} instead of a PUBACK`);
      this.pending -= 1;
      ackedInAll += 1;
      if (!isMeasuring) continue;
      acked += 1;
      latencies.push(now - (this.#sentAt[bytes.readUInt16BE(at + 2)] ?? now));
    }
    this.#rest = bytes.subarray(at);
    if (load.perSec === undefined) this.fill();
    if (!mayGoOn() && ackedInAll === sentInAll) reachedEnd?.();
  }
}

/** One twin request after the other, as the SDKs do; each has the next `$rid`. */
class TwinLeaf implements Leaf {
  readonly #socket: Socket;
  readonly #sentAt = new Map<number, number>();
  #next = 0;

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  start(): void {
    const parser = mqttPacket.parser({ protocolVersion: 4 });
    parser.on("packet", (packet) => {
      if (packet.cmd === "publish") this.#answered(packet.topic);
    });
    this.#socket.on("data", (chunk: Buffer) => parser.parse(chunk));
    const subscriptions = [{ topic: "$iothub/twin/res/#", qos: 0 as const }];
    this.#socket.write(mqttPacket.generate({ cmd: "subscribe", messageId: 1, subscriptions }));
  }

  send(): void {
    this.#next += 1;
    this.#sentAt.set(this.#next, performance.now());
    sentInAll += 1;
    const isPatch = load.operation === "patch";
    const topic = `$iothub/twin/${isPatch ? "PATCH/properties/reported" : "GET"}/?$rid=${this.#next}`;
    const payload = isPatch ? JSON.stringify({ temperature: this.#next }) : "";
    const once = { qos: 0, dup: false, retain: false } as const;
    this.#socket.write(mqttPacket.generate({ cmd: "publish", topic, payload, ...once }));
  }

  fill(): void {
    while (this.#sentAt.size < load.window && mayGoOn()) this.send();
  }

  #answered(topic: string): void {
    const [, status = "", rid = ""] = /^\$iothub\/twin\/res\/(\d+)\/\?\$rid=(\d+)/.exec(topic) ?? [];
    if (!status.startsWith("2")) throw new Error(`a twin operation was answered ${topic}`);
    const sentAt = this.#sentAt.get(Number(rid)) ?? Number.NaN;
    this.#sentAt.delete(Number(rid));
    ackedInAll += 1;
    if (isMeasuring) {
      acked += 1;
      latencies.push(performance.now() - sentAt);
    }
    if (load.perSec === undefined) this.fill();
    if (!mayGoOn() && ackedInAll === sentInAll) reachedEnd?.();
  }
}

function mayGoOn(): boolean {
  return !isStopping && (load.messages === undefined || sentInAll < load.messages);
}

async function connectLeaf(id: string): Promise<Leaf> {
  const options = { host: "localhost", port: load.port };
  const socket =
    load.caFile === undefined
      ? connectTcp({ ...options, host: "127.0.0.1" })
      : connectTls({ ...options, ca: readFileSync(load.caFile), servername: "localhost" });
  socket.setNoDelay(true);
  socket.on("close", () => {
    if (!isStopping) throw new Error(`${id} was disconnected`);
  });
  const parser = mqttPacket.parser({ protocolVersion: 4 });
  const isIn = new Promise<void>((resolve, reject) => {
    socket.on("error", reject);
    parser.on("packet", (packet: Packet) => {
      if (packet.cmd === "connack" && packet.returnCode === 0) resolve();
      else reject(new Error(`${id} was not let in: ${JSON.stringify(packet)}`));
    });
  });
  const first = (chunk: Buffer): void => void parser.parse(chunk);
  socket.on("data", first);
  socket.write(
    mqttPacket.generate({
      cmd: "connect",
      protocolId: "MQTT",
      protocolVersion: 4,
      clientId: id,
      clean: true,
      keepalive: 240,
      username: `devhub.azure-devices.net/${id}/?api-version=2021-04-12&model-id=dtmi%3Acom%3Aexample%3AThermostat%3B1`,
      password: Buffer.from("development"),
    }),
  );
  await isIn;
  socket.off("data", first);
  const isTwin = load.operation === "get" || load.operation === "patch";
  return isTwin ? new TwinLeaf(socket) : new TelemetryLeaf(socket, id);
}

const leaves: Leaf[] = [];
for (let n = 0; n < load.leaves; n += 1) leaves.push(await connectLeaf(`bench${n}`));
console.log("connected");
for (const leaf of leaves) leaf.start();
const pacer = load.perSec === undefined ? undefined : pace(load.perSec);
if (load.messages !== undefined) begin();
for (const leaf of leaves) if (pacer === undefined) leaf.fill();
if (load.messages === undefined) {
  await wait(load.warmMs);
  begin();
  await wait(load.measureMs);
} else await new Promise<void>((resolve) => (reachedEnd = resolve));
report();
isStopping = true;
clearInterval(pacer);
const watchdog = setTimeout(() => process.exit(3), 60_000);
if (ackedInAll < sentInAll) await new Promise<void>((resolve) => (reachedEnd = resolve));
clearTimeout(watchdog);
console.log(JSON.stringify({ total: ackedInAll }));
process.exit(0);

function begin(): void {
  beganAt = performance.now();
  isMeasuring = true;
  console.log("begin");
}

function report(): void {
  isMeasuring = false;
  const seconds = (performance.now() - beganAt) / 1000;
  latencies = latencies.toSorted((a, b) => a - b);
  const figures: LoadFigures = {
    acked,
    seconds,
    p50Ms: percentile(latencies, 0.5),
    p99Ms: percentile(latencies, 0.99),
  };
  console.log(`end ${JSON.stringify(figures)}`);
}

/** Leaf after leaf, evenly over the second. */
function pace(perSec: number): NodeJS.Timeout {
  const startedAt = performance.now();
  let next = 0;
  return setInterval(() => {
    for (const due = ((performance.now() - startedAt) / 1000) * perSec; next < due && mayGoOn(); next += 1)
      leaves[next % leaves.length]?.send();
  }, 2);
}

function wait(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
