/** edgeHub's own metrics, as far as they tell of its line to the cloud [iothub-mqtt.md 12.3]. */
import type { Clock } from "../flow/ports.ts";
import { exchange } from "./http-exchange.ts";
import { parseMetrics, sumOf } from "./prometheus-text.ts";

export interface EdgeHubMetrics {
  /** A new one for each edgeHub process; undefined where the page does not tell. */
  readonly instance: string | undefined;
  /** Messages waiting for the cloud. */
  readonly backlog: number;
  /** Messages that went to the cloud, of all clients. */
  readonly sentUpstream: number;
  /** Times that edgeHub found itself offline. */
  readonly offlineCount: number;
  /** Times that it was online again, the first included: one more than `offlineCount` while it is online. */
  readonly onlineCount: number;
  /** Twin reads of our module that the cloud answered. */
  readonly cloudReads: number;
}

const SERIES = new Set([
  "edgehub_queue_length",
  "edgehub_messages_sent_total",
  "edgehub_offline_count_total",
  "edgehub_offline_duration_seconds_count",
  "edgehub_gettwin_total",
]);

export interface MetricsIdentity {
  readonly deviceId: string;
  readonly moduleId: string;
}

/** The page's text read for one module. A series that is missing counts as 0: edgeHub shows none that never moved. */
export function parseEdgeHubMetrics(text: string, { deviceId, moduleId }: MetricsIdentity): EdgeHubMetrics {
  const samples = parseMetrics(text, SERIES);
  const hub = { id: `${deviceId}/$edgeHub` };
  return {
    instance: /\binstance_number="([^"]+)"/.exec(text)?.[1],
    backlog: sumOf(samples, "edgehub_queue_length", { endpoint: "iothub" }),
    sentUpstream: sumOf(samples, "edgehub_messages_sent_total", { to: "upstream" }),
    offlineCount: sumOf(samples, "edgehub_offline_count_total", hub),
    onlineCount: sumOf(samples, "edgehub_offline_duration_seconds_count", hub),
    cloudReads: sumOf(samples, "edgehub_gettwin_total", { source: "upstream", id: `${deviceId}/${moduleId}` }),
  };
}

/** Reads the page at `url`. Rejects when it cannot be had in time or is not edgeHub's. */
export async function scrapeEdgeHub(
  url: URL,
  identity: MetricsIdentity,
  timeoutMs: number,
  clock: Clock,
  signal?: AbortSignal,
): Promise<EdgeHubMetrics> {
  const target = { host: url.hostname.replace(/^\[(.*)\]$/, "$1"), port: url.port === "" ? 80 : Number(url.port) };
  const { status, body } = await exchange(clock, {
    target,
    method: "GET",
    path: url.pathname + url.search,
    timeoutMs,
    signal,
  });
  if (status !== 200) throw new Error(`the metrics page answered ${status}`);
  if (!body.includes("edgehub_")) throw new Error("the page is not edgeHub's metrics");
  return parseEdgeHubMetrics(body, identity);
}
