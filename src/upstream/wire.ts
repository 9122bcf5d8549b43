/**
 * The socket under the SDK: handed to MqttBase through its constructor, in place of the MQTT library that it would load itself.
 * It is the same library, but the TLS socket is ours: it can be cut at once, opens within a limit, tells how far it came, and
 * is never opened again once its session is over.
 */
import { EventEmitter } from "node:events";
import { createRequire } from "node:module";
import { isIP } from "node:net";
import type { Duplex } from "node:stream";
import { connect as connectTls, type TLSSocket } from "node:tls";
import { EmptyStore } from "./empty-store.ts";
import { lookupOnce } from "./lookup.ts";

/** How far a connection came; `tls` without `connack` is what an edgeHub shows that loses the CONNECT. */
export type Reached = "nothing" | "tls" | "connack";

export interface WireOptions {
  /** TCP, TLS and CONNACK together. */
  readonly connectTimeoutMs: number;
  /**
   * How long CONNECT is held back after the TLS handshake; 0: it leaves with the handshake's last flight. edgeHub images with
   * DotNetty 0.6 lose what arrives together with that flight, and no CONNACK ever comes [iotedge pull request 7539].
   */
  readonly holdConnectMs: number;
  /**
   * A later connection of the session (a token renewal) found that edgeHub had forgotten what the first one subscribed to. The SDK
   * subscribes once: such a connection works, and hears nothing ever again.
   */
  readonly sessionLost: () => void;
}

/** The part of mqtt.js 4 that is used here. */
interface MqttClient extends EventEmitter {
  end(force: boolean, done: () => void): unknown;
}
interface MqttLibrary {
  MqttClient: new (streamBuilder: () => Duplex, options: object) => MqttClient;
}

// The SDK's own copy: another major version stands beside it, and a plain import would pick that one.
const fromSdk = createRequire(createRequire(import.meta.url).resolve("azure-iot-mqtt-base"));
const mqttLibrary = fromSdk("mqtt") as MqttLibrary;

export class Wire {
  readonly #options: WireOptions;
  #socket: TLSSocket | undefined;
  #over = false;
  #reached: Reached = "nothing";
  #connections = 0;

  constructor(options: WireOptions) {
    this.#options = options;
  }

  /** Of the newest connection. */
  get reached(): Reached {
    return this.#reached;
  }

  /** Called by MqttBase, also for each token renewal. Never throws. */
  connect(uri: string, options: { readonly ca?: string }): EventEmitter {
    const url = URL.canParse(uri) ? new URL(uri) : undefined;
    if (this.#over || url === undefined) return new Stillborn();
    this.#reached = "nothing";
    this.#connections += 1;
    const isRenewal = this.#connections > 1;
    const client = new mqttLibrary.MqttClient(() => this.#openSocket(url, options.ca), {
      ...options,
      outgoingStore: new EmptyStore(),
      connectTimeout: this.#options.connectTimeoutMs,
    });
    // Without any listener an `error` would end the process; MqttBase removes its own while it closes.
    client.on("error", () => undefined);
    client.on("packetreceive", (packet: { cmd?: unknown; returnCode?: unknown; sessionPresent?: unknown }) => {
      if (packet.cmd !== "connack") return;
      this.#reached = "connack";
      if (isRenewal && packet.returnCode === 0 && packet.sessionPresent !== true) this.#options.sessionLost();
    });
    return client;
  }

  /** Ends the connection without a word, and for good. */
  cut(): void {
    this.#over = true;
    this.#socket?.destroy();
  }

  #openSocket(uri: URL, ca: string | undefined): TLSSocket {
    const host = uri.hostname.replace(/^\[(.*)\]$/, "$1");
    const socket = connectTls({
      host,
      port: uri.port === "" ? 8883 : Number(uri.port),
      lookup: lookupOnce,
      ...(isIP(host) === 0 ? { servername: host } : {}),
      ...(ca === undefined ? {} : { ca }),
    });
    socket.setNoDelay(true);
    this.#socket = socket;
    socket.once("secureConnect", () => {
      this.#reached = "tls";
    });
    if (this.#options.holdConnectMs > 0) holdBack(socket, this.#options.holdConnectMs);
    return socket;
  }
}

/** Nothing that is written leaves before `ms` after the handshake. */
function holdBack(socket: TLSSocket, ms: number): void {
  socket.cork();
  socket.once("secureConnect", () => {
    const timer = setTimeout(() => socket.uncork(), ms);
    socket.once("close", () => clearTimeout(timer));
  });
}

/** What a client gets that connects after its session is over: a connection that is closed already. */
class Stillborn extends EventEmitter {
  constructor() {
    super();
    queueMicrotask(() => this.emit("close"));
  }

  end(_force: boolean, done: () => void): this {
    setImmediate(done);
    return this;
  }
}
