/**
 * edgeHub's Prometheus endpoint, as far as it tells of the line to the cloud: names, labels and moments as measured on the
 * real one [iothub-mqtt.md 12.3].
 */

import { randomUUID } from "node:crypto";

type Labels = Readonly<Record<string, string>>;

export interface EdgeMetricsSettings {
  readonly deviceId: string;
  readonly iotHubHostName: string;
  /** Messages waiting for the cloud, read at each scrape. */
  queueLength(): number;
}

const UPSTREAM_LABELS = { to: "upstream", from_route_output: "", to_route_input: "", priority: "2000000000" };

/** One life of the edgeHub process: counters begin at nothing and `instance_number` is new. */
export class EdgeMetrics {
  readonly instance = randomUUID();
  readonly #settings: EdgeMetricsSettings;
  readonly #counters = new Map<string, { name: string; labels: Labels; value: number }>();

  constructor(settings: EdgeMetricsSettings) {
    this.#settings = settings;
  }

  /** edgeHub has a connection to the cloud: the end of an outage that it counted, or its first one. */
  online(): void {
    this.#add("edgehub_offline_duration_seconds_count", { id: this.#hubId() });
  }

  offline(): void {
    this.#add("edgehub_offline_count_total", { id: this.#hubId() });
  }

  retried(): void {
    // The blank before the name is edgeHub's own.
    this.#add("edgehub_operation_retry_total", { id: "iothub", operation: " SendMessageToCloud" });
  }

  messageSent(from: string): void {
    this.#add("edgehub_messages_sent_total", { from, ...UPSTREAM_LABELS });
  }

  messageDropped(from: string, reason: string): void {
    this.#add("edgehub_messages_dropped_total", { from, reason });
  }

  /** `upstream` rises only for reads that the cloud answered, `edge_hub` for every one. */
  twinRead(id: string, source: "cloud" | "store"): void {
    this.#add("edgehub_gettwin_total", { source: "edge_hub", id });
    if (source === "cloud") this.#add("edgehub_gettwin_total", { source: "upstream", id });
  }

  reportedUpdated(target: "edge_hub" | "upstream", id: string): void {
    this.#add("edgehub_reported_properties_total", { target, id });
  }

  render(): string {
    const lines = [this.#line("edgehub_queue_length", QUEUE_LABELS, this.#settings.queueLength())];
    for (const { name, labels, value } of this.#counters.values()) lines.push(this.#line(name, labels, value));
    return `${lines.join("\n")}\n`;
  }

  #add(name: string, labels: Labels): void {
    const key = `${name}${JSON.stringify(labels)}`;
    const counter = this.#counters.get(key);
    if (counter === undefined) this.#counters.set(key, { name, labels, value: 1 });
    else counter.value += 1;
  }

  #line(name: string, labels: Labels, value: number): string {
    const { iotHubHostName, deviceId } = this.#settings;
    const common = { iothub: iotHubHostName, edge_device: deviceId, instance_number: this.instance };
    const all = Object.entries({ ...common, ...labels, ms_telemetry: "True" });
    return `${name}{${all.map(([key, text]) => `${key}="${escape(text)}"`).join(",")}} ${value}`;
  }

  #hubId(): string {
    return `${this.#settings.deviceId}/$edgeHub`;
  }
}

const QUEUE_LABELS = { endpoint: "iothub", priority: "2000000000" };

function escape(text: string): string {
  return text.replace(/[\\"\n]/g, (found) => (found === "\n" ? "\\n" : `\\${found}`));
}
