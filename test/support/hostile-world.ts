/**
 * The real gateway as a process of its own, so that attackers and the one they must not harm share no event loop with it: leaves
 * with keys of a group over TLS and plain TCP, and a well-behaved leaf that keeps account of its telemetry.
 */
import { createHmac } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { connect as connectTls, type TLSSocket } from "node:tls";
import mqttPacket from "mqtt-packet";
import type { D2cMessage } from "../../src/devhub/cloud-types.ts";
import { type DevHub, startDevHub } from "../../src/devhub/devhub.ts";
import { deriveLeafKey } from "../../src/downstream/sas-token.ts";
import { freePort, type GatewayProcess, gatewayEnvironment, spawnGateway } from "./gateway-process.ts";
import { connectPacket, events, publishPacket, RawLeaf } from "./leaf-client.ts";

const GROUP_KEY = Buffer.from("the group's key of the hostile plant").toString("base64");
/** A PUBACK has to come before the gateway has worked for so long [the promise], however little of the machine it gets. */
const PUBACK_WITHIN_MS = 2_000;
/** And before this, whatever the gateway does. */
const WATCHDOG_MS = 30_000;
const TOKEN_LIFE_SECS = 3_600;

export class HostileWorld implements AsyncDisposable {
  readonly hub: DevHub;
  readonly gateway: GatewayProcess;
  readonly plainPort: number;
  readonly tlsPort: number;
  readonly messages: D2cMessage[] = [];
  readonly #folder: string;

  private constructor(hub: DevHub, folder: string, plainPort: number, tlsPort: number) {
    this.hub = hub;
    this.#folder = folder;
    this.plainPort = plainPort;
    this.tlsPort = tlsPort;
    hub.cloud.onEvent((event) => {
      if (event.kind === "message") this.messages.push(event.message);
    });
    const groupKeyFile = join(folder, "group-key");
    writeFileSync(groupKeyFile, GROUP_KEY);
    this.gateway = spawnGateway(
      gatewayEnvironment(hub, plainPort, join(folder, "state"), {
        GATEWAY_TLS_ENABLED: "true",
        GATEWAY_TLS_BIND: "127.0.0.1",
        GATEWAY_TLS_PORT: String(tlsPort),
        GATEWAY_AUTH_MODE: "enforce",
        GATEWAY_GROUP_KEY_FILE: groupKeyFile,
        GATEWAY_MAX_LEAVES: "10000",
        GATEWAY_MAX_CONNECTIONS: "320",
      }),
    );
  }

  static async start(): Promise<HostileWorld> {
    const hub = await startDevHub({ mqttPort: 0, servicePort: 0, metricsPort: 0, probePort: 0, reportedSyncMs: 20 });
    const folder = mkdtempSync(join(tmpdir(), "hostile-"));
    const world = new HostileWorld(hub, folder, await freePort(), await freePort());
    try {
      await world.gateway.started;
      return world;
    } catch (error) {
      await world[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** A connection that has said nothing yet. */
  socket(): Socket {
    const socket = connect(this.plainPort, "127.0.0.1");
    socket.on("error", () => undefined);
    return socket;
  }

  tlsSocket(): TLSSocket {
    const socket = connectTls({ host: "127.0.0.1", port: this.tlsPort, servername: "localhost", ca: this.hub.caPem });
    socket.on("error", () => undefined);
    return socket;
  }

  raw(): RawLeaf {
    return new RawLeaf(this.socket());
  }

  /** A leaf with its key: let in, and as hostile as the test wants. */
  async leaf(leafId: string): Promise<RawLeaf> {
    const leaf = this.raw();
    const { code } = await leaf.connect(leafId, { password: this.token(leafId) });
    if (code !== 0) throw new Error(`${leafId} was refused with CONNACK ${code}`);
    return leaf;
  }

  /** As the leaf's program would make it. */
  token(leafId: string, key = deriveLeafKey(GROUP_KEY, leafId)): Buffer {
    const sr = encodeURIComponent(`${this.hub.settings.iotHubHostName}/devices/${leafId}`);
    const se = Math.floor(Date.now() / 1000) + TOKEN_LIFE_SECS;
    const sig = createHmac("sha256", Buffer.from(key, "base64")).update(`${sr}\n${se}`).digest("base64");
    return Buffer.from(`SharedAccessSignature sr=${sr}&sig=${encodeURIComponent(sig)}&se=${se}`);
  }

  connectBytes(leafId: string, fields: Parameters<typeof connectPacket>[1] = {}): Buffer {
    return mqttPacket.generate(connectPacket(leafId, { password: this.token(leafId), ...fields }));
  }

  messagesOf(leafId: string): readonly string[] {
    return this.messages
      .filter(({ properties }) => properties["leafId"] === leafId)
      .map(({ body }) => Buffer.from(body).toString());
  }

  /** Processor time of the gateway so far; where the machine does not tell, the time that has passed. */
  busyMs(): number {
    try {
      const stat = readFileSync(`/proc/${this.gateway.pid}/stat`, "utf8");
      const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      // utime and stime, in ticks of 10 ms.
      return (Number(fields[11]) + Number(fields[12])) * 10;
    } catch {
      return performance.now();
    }
  }

  /** Of the gateway; 0 where the machine does not tell. */
  residentMegabytes(): number {
    try {
      const status = readFileSync(`/proc/${this.gateway.pid}/status`, "utf8");
      return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) / 1024;
    } catch {
      return 0;
    }
  }

  /** Polls; the time is a watchdog, not a measurement. */
  async until(what: string, holds: () => boolean): Promise<void> {
    const deadline = Date.now() + WATCHDOG_MS;
    while (!holds()) {
      if (Date.now() > deadline) throw new Error(`waited ${WATCHDOG_MS} ms for ${what}`);
      await sleep(20);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.gateway[Symbol.asyncDispose]();
    await this.hub[Symbol.asyncDispose]();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** Sends telemetry over TLS, one message after the other, and never reconnects. */
export class GoodLeaf {
  readonly id: string;
  /** Texts that were acknowledged, in order. */
  readonly acknowledged: string[] = [];
  /** From PUBLISH to PUBACK. */
  readonly tookMs: number[] = [];
  /** What must not be: a late PUBACK, an end of the connection. */
  readonly harm: string[] = [];
  readonly #world: HostileWorld;
  readonly #leaf: RawLeaf;

  private constructor(world: HostileWorld, id: string, leaf: RawLeaf) {
    this.#world = world;
    this.id = id;
    this.#leaf = leaf;
  }

  static async connect(world: HostileWorld, id: string): Promise<GoodLeaf> {
    const leaf = new RawLeaf(world.tlsSocket());
    const { code } = await leaf.connect(id, { password: world.token(id) });
    if (code !== 0) throw new Error(`the well-behaved leaf was refused with CONNACK ${code}`);
    return new GoodLeaf(world, id, leaf);
  }

  /** Until `signal` aborts, every `pauseMs`. */
  async work(signal: AbortSignal, pauseMs = 10): Promise<void> {
    while (!signal.aborted && this.harm.length === 0) {
      await this.#send();
      await sleep(pauseMs);
    }
  }

  async #send(): Promise<void> {
    const text = String(this.acknowledged.length);
    const [fromMs, fromBusyMs] = [performance.now(), this.#world.busyMs()];
    this.#leaf.send(publishPacket(events(this.id), text, { messageId: (this.acknowledged.length % 65_000) + 1 }));
    try {
      await this.#leaf.pubacks(1);
    } catch (error) {
      this.harm.push(String(error));
      return;
    }
    const tookMs = performance.now() - fromMs;
    const busyMs = this.#world.busyMs() - fromBusyMs;
    this.acknowledged.push(text);
    this.tookMs.push(tookMs);
    if (Math.min(tookMs, busyMs) > PUBACK_WITHIN_MS)
      this.harm.push(`PUBACK after ${Math.round(tookMs)} ms, in which the gateway worked for ${busyMs} ms`);
  }

  leave(): void {
    this.#leaf.cut();
  }
}
