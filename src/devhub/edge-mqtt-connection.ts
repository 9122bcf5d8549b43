/**
 * One MQTT 3.1.1 connection as edgeHub's protocol head treats it: PUBLISH packets are handled strictly one after the
 * other, so one that waits for the cloud holds back every PUBACK behind it, while PINGREQ is answered at once.
 */

import type { Socket } from "node:net";
import type { IConnectPacket, IPublishPacket, ISubscribePacket, IUnsubscribePacket, Packet } from "mqtt-packet";
import mqttPacket from "mqtt-packet";
import type { Behaviour } from "./behaviour.ts";
import type { Identity } from "./cloud-types.ts";
import { FrameSizeGuard } from "./edge-mqtt-frames.ts";
import type { DevHubSettings } from "./settings.ts";

/** What stands behind the connections. */
export interface ConnectionHandler {
  /** The CONNACK to send; `accepted` must have bound the connection to its client before. */
  connect(connection: EdgeConnection, packet: IConnectPacket): Promise<ConnectVerdict>;
  /** Resolves when the packet may be acknowledged, in order. `close`: no acknowledgement, the connection ends. */
  publish(connection: EdgeConnection, packet: IPublishPacket): Promise<"acknowledge" | "close">;
  subscribe(connection: EdgeConnection, packet: ISubscribePacket): void;
  unsubscribe(connection: EdgeConnection, packet: IUnsubscribePacket): void;
  /** Exactly once for each connection that got a CONNACK 0. `will` is due when there was no DISCONNECT. */
  closed(connection: EdgeConnection, will: IConnectPacket["will"]): void;
}

export type ConnectVerdict =
  | { readonly kind: "accepted"; readonly sessionPresent: boolean }
  | { readonly kind: "refused"; readonly code: number };

export interface ConnectedClient {
  readonly key: string;
  readonly identity: Identity;
  readonly modelId: string | undefined;
  /** Its subscriptions end with the connection. */
  readonly clean: boolean;
  /** When its token runs out, clock skew included; milliseconds since 1970. */
  readonly expiresMs: number;
}

/** edgeHub's decoder limit for a whole packet [EH-json MaxInboundMessageSize]. */
const MAX_PACKET_BYTES = 262_144;
/** Publishes waiting; above, the socket is not read [EH MessagingServiceClient MaxPendingMessages]. */
const MAX_PENDING = 100;

export class EdgeConnection {
  /** Who is connected; set by the handler when it accepts. */
  client: ConnectedClient | undefined;
  readonly #socket: Socket;
  readonly #handler: ConnectionHandler;
  readonly #behaviour: Behaviour;
  readonly #settings: DevHubSettings;
  readonly #parser = mqttPacket.parser({ protocolVersion: 4 });
  readonly #guard = new FrameSizeGuard(MAX_PACKET_BYTES);
  readonly #pending: IPublishPacket[] = [];
  /** Sent behind the CONNECT without waiting for the CONNACK, as MQTT allows. */
  readonly #early: Packet[] = [];
  readonly #acknowledged = new Map<number, () => void>();
  #working = false;
  /** The client said goodbye: what it sent before is still handled. */
  #drains = false;
  #phase: "new" | "authenticating" | "open" | "closed" = "new";
  #will: IConnectPacket["will"];
  #watchdog: NodeJS.Timeout | undefined;
  #keepAliveMs: number;
  #lastMessageId = 0;

  constructor(socket: Socket, handler: ConnectionHandler, behaviour: Behaviour, settings: DevHubSettings) {
    this.#socket = socket;
    this.#handler = handler;
    this.#behaviour = behaviour;
    this.#settings = settings;
    this.#keepAliveMs = settings.connectArrivalTimeoutMs;
  }

  start(): void {
    this.#socket.setNoDelay(true);
    this.#parser.on("packet", (packet) => this.#receive(packet));
    this.#parser.on("error", () => this.reset());
    this.#socket.on("data", (chunk) => this.#read(chunk));
    this.#socket.on("error", () => this.reset());
    this.#socket.on("close", () => this.#end(false));
    this.#feedWatchdog();
  }

  get open(): boolean {
    return this.#phase === "open";
  }

  /** Writes one PUBLISH that nobody waits for; nothing when the connection is gone. */
  send(topic: string, payload: string, qos: 0 | 1): void {
    if (!this.open) return;
    const message = { cmd: "publish", topic, payload, qos, dup: false, retain: false } as const;
    this.#write(qos === 0 ? message : { ...message, messageId: this.#nextMessageId() });
  }

  /** Writes one QoS 1 PUBLISH and resolves with whether the client acknowledged it in time. */
  sendAcknowledged(topic: string, payload: Uint8Array): Promise<boolean> {
    if (!this.open) return Promise.resolve(false);
    const messageId = this.#nextMessageId();
    return new Promise((resolve) => {
      const settle = (acknowledged: boolean) => {
        clearTimeout(timer);
        this.#acknowledged.delete(messageId);
        this.#socket.off("close", onClose);
        resolve(acknowledged);
      };
      const onClose = () => settle(false);
      const timer = setTimeout(() => settle(false), this.#settings.messageAckTimeoutMs);
      this.#acknowledged.set(messageId, () => settle(true));
      this.#socket.once("close", onClose);
      const content = { topic, payload: Buffer.from(payload), qos: 1, dup: false, retain: false } as const;
      this.#write({ cmd: "publish", messageId, ...content });
    });
  }

  /** Ends the connection at once, as a cut line or a killed process would. */
  reset(): void {
    if (this.#socket.destroyed) return this.#end(false);
    this.#socket.destroy();
    this.#end(false);
  }

  #read(chunk: Buffer): void {
    this.#feedWatchdog();
    if (!this.#guard.accepts(chunk)) return this.reset();
    this.#parser.parse(chunk);
  }

  #receive(packet: Packet): void {
    if (this.#phase === "closed" || this.#behaviour.silent) return;
    switch (this.#phase) {
      case "new":
        return packet.cmd === "connect" ? this.#connect(packet) : this.reset();
      case "authenticating":
        this.#early.push(packet);
        return;
      case "open":
        return this.#handle(packet);
    }
  }

  #handle(packet: Packet): void {
    if (packet.cmd === "publish") return this.#enqueue(packet);
    if (packet.cmd === "puback") return this.#acknowledged.get(idOf(packet))?.();
    if (packet.cmd === "pingreq") return this.#write({ cmd: "pingresp" });
    if (packet.cmd === "subscribe") {
      this.#handler.subscribe(this, packet);
      return this.#write({ cmd: "suback", messageId: idOf(packet), granted: packet.subscriptions.map(grantedQos) });
    }
    if (packet.cmd === "unsubscribe") {
      this.#handler.unsubscribe(this, packet);
      return this.#write({ cmd: "unsuback", messageId: idOf(packet), granted: [] });
    }
    if (packet.cmd === "disconnect") {
      this.#end(true);
      return this.#socket.destroySoon();
    }
    // A second CONNECT, the second half of QoS 2, the server's own packets, MQTT 5: a client may send none of them.
    this.reset();
  }

  #connect(packet: IConnectPacket): void {
    this.#phase = "authenticating";
    this.#socket.pause();
    // The handler turns every failure into a verdict; what still throws must not leave a half-open connection.
    this.#handler.connect(this, packet).then(
      (verdict) => this.#admit(packet, verdict),
      () => this.reset(),
    );
  }

  #admit(packet: IConnectPacket, verdict: ConnectVerdict): void {
    if (this.#phase !== "authenticating") {
      // The client left while its credentials were judged: nobody else will tell the handler.
      if (verdict.kind === "accepted") this.#handler.closed(this, undefined);
      return;
    }
    if (verdict.kind === "refused") {
      this.#write({ cmd: "connack", returnCode: verdict.code, sessionPresent: false });
      this.#phase = "closed";
      this.#socket.end();
      this.#clearTimers();
      return;
    }
    this.#phase = "open";
    this.#will = packet.will;
    this.#keepAliveMs = keepAliveMs(packet.keepalive ?? 0, this.#settings.maxKeepAliveMs);
    this.#write({ cmd: "connack", returnCode: 0, sessionPresent: verdict.sessionPresent });
    this.#feedWatchdog();
    this.#socket.resume();
    for (const early of this.#early.splice(0)) this.#receive(early);
  }

  #enqueue(packet: IPublishPacket): void {
    this.#pending.push(packet);
    if (this.#pending.length >= MAX_PENDING) this.#socket.pause();
    // #work catches what the handler throws.
    if (!this.#working) void this.#work();
  }

  async #work(): Promise<void> {
    this.#working = true;
    for (let packet = this.#pending.shift(); packet !== undefined; packet = this.#pending.shift()) {
      if (this.#phase === "closed" && !this.#drains) break;
      if (this.#pending.length < MAX_PENDING && this.open) this.#socket.resume();
      const verdict = await this.#handler.publish(this, packet).catch(() => "close" as const);
      // edgeHub takes a QoS 2 message and closes only then, so the sender repeats what has already gone up.
      if (verdict === "close" || packet.qos === 2) this.reset();
      else if (packet.qos === 1) this.#acknowledge(idOf(packet));
    }
    this.#working = false;
  }

  #acknowledge(messageId: number): void {
    const { puback } = this.#behaviour;
    if (puback === "drop") return;
    if (puback === "normal") return this.#write({ cmd: "puback", messageId });
    setTimeout(() => this.#write({ cmd: "puback", messageId }), puback.delayMs).unref();
  }

  #write(packet: Packet): void {
    if (this.#phase === "closed" || this.#socket.destroyed || this.#behaviour.silent) return;
    this.#socket.write(mqttPacket.generate(packet));
  }

  #end(graceful: boolean): void {
    if (this.#phase === "closed") return;
    const wasOpen = this.#phase === "open";
    this.#phase = "closed";
    this.#clearTimers();
    this.#drains = graceful;
    if (wasOpen) this.#handler.closed(this, graceful ? undefined : this.#will);
  }

  #feedWatchdog(): void {
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => this.reset(), this.#keepAliveMs);
    this.#watchdog.unref();
  }

  #clearTimers(): void {
    clearTimeout(this.#watchdog);
  }

  #nextMessageId(): number {
    do this.#lastMessageId = (this.#lastMessageId % 65_535) + 1;
    while (this.#acknowledged.has(this.#lastMessageId));
    return this.#lastMessageId;
  }
}

/** 1.5 times what the client asked for, never above the cap; none asked for means the cap [PG]. */
function keepAliveMs(secs: number, maxMs: number): number {
  return secs === 0 ? maxMs : Math.min(secs * 1500, maxMs);
}

/** The parser gives every packet that needs one an id; the type does not say so. */
function idOf(packet: Packet): number {
  return packet.messageId ?? 0;
}

/** A filter asked for at QoS 2 is granted 1 [iothub-mqtt.md 1.9]. */
function grantedQos(subscription: { readonly qos: number }): number {
  return Math.min(subscription.qos, 1);
}
