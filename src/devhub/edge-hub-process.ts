/**
 * edgeHub as something that can be killed and started: MQTT head and metrics endpoint in front of one {@link EdgeHub}.
 * The ports of the first start are kept for all later ones.
 */

import { createServer, type Server } from "node:http";
import type { ServerCertificate } from "./certificates.ts";
import { EdgeHub, type EdgeHubParts } from "./edge-hub.ts";
import { WanLink } from "./edge-hub-wan.ts";
import { type EdgeMqttServer, listen, startEdgeMqttServer } from "./edge-mqtt-server.ts";

interface Life {
  readonly hub: EdgeHub;
  readonly mqtt: EdgeMqttServer;
  readonly metrics: Server;
  readonly stopListening: (() => void) | undefined;
}

export class EdgeHubProcess {
  readonly #parts: EdgeHubParts;
  readonly #certificate: ServerCertificate;
  /** The line between clients and hub, where there is one. */
  readonly #line: WanLink | undefined;
  #life: Life | undefined;
  #ports: { mqtt: number; plain: number | undefined; metrics: number };

  constructor(parts: EdgeHubParts, certificate: ServerCertificate) {
    // IoT Hub itself stands behind the line: a cut takes its clients away and leaves nothing to wait for.
    const strict = parts.settings.personality === "iothub";
    this.#parts = strict ? { ...parts, wan: new WanLink(parts.settings) } : parts;
    this.#line = strict ? parts.wan : undefined;
    this.#certificate = certificate;
    const { mqttPort, plainMqttPort, metricsPort } = parts.settings;
    this.#ports = { mqtt: mqttPort, plain: plainMqttPort, metrics: metricsPort };
  }

  /** Undefined while it does not run. */
  get hub(): EdgeHub | undefined {
    return this.#life?.hub;
  }

  get ports(): { readonly mqtt: number; readonly plain: number | undefined; readonly metrics: number } {
    return this.#ports;
  }

  async start(): Promise<void> {
    if (this.#life !== undefined) return;
    const { settings, behaviour, wan } = this.#parts;
    wan.restarted();
    const hub = new EdgeHub(this.#parts);
    const reachable = () => this.#line === undefined || this.#line.state === "up";
    const server = { settings, behaviour, handler: hub, certificate: this.#certificate, reachable };
    const mqtt = await startEdgeMqttServer(server, { tls: this.#ports.mqtt, plain: this.#ports.plain });
    const metrics = createServer((request, response) => {
      const found = request.url?.split("?")[0] === "/metrics";
      response.writeHead(found ? 200 : 404, { "content-type": "text/plain; version=0.0.4; charset=utf-8" });
      response.end(found ? hub.metrics.render() : "");
    });
    this.#ports = {
      mqtt: mqtt.port,
      plain: mqtt.plainPort,
      metrics: await listen(metrics, settings.bind, this.#ports.metrics),
    };
    const stopListening = this.#line?.listen({ lineChanged: () => hub.resetConnections() });
    this.#life = { hub, mqtt, metrics, stopListening };
    hub.start();
  }

  /** At once, as SIGKILL: whatever was not stored is lost. */
  async kill(): Promise<void> {
    const life = this.#life;
    if (life === undefined) return;
    this.#life = undefined;
    life.stopListening?.();
    life.hub.stop();
    life.metrics.closeAllConnections();
    await Promise.all([life.mqtt.close(), new Promise((resolve) => life.metrics.close(resolve))]);
  }
}
