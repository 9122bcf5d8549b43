/** Every metric the gateway has: a row here is all it takes to add one. Names without the prefix `pnp_gateway_`. */

export interface MetricDeclaration {
  readonly type: "counter" | "gauge" | "histogram";
  readonly help: string;
  readonly labels?: readonly string[];
  /** Upper bounds of a histogram, in its own unit. */
  readonly buckets?: readonly number[];
}

/** Seconds, from a prompt edgeHub or disk to an operation that hangs in an outage. */
const LATENCY = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

export const METRICS = {
  // leaves
  leaves_connected: { type: "gauge", help: "Leaves with a connection" },
  leaves_known: { type: "gauge", help: "Leaves in the registry, connected or away" },
  leaf_connects_total: { type: "counter", help: "Connections that leaves have made" },
  leaf_refused_total: { type: "counter", help: "Connections that were refused", labels: ["reason"] },
  leaf_takeovers_total: { type: "counter", help: "Connections that a second one of the same leaf took over" },
  leaf_connections: { type: "gauge", help: "Connections, also those that have not said who they are" },
  leaf_connects_delayed_total: {
    type: "counter",
    help: "CONNACKs held back because two programs fight over an id or one sends too much",
  },
  leaf_tokens_expired_total: {
    type: "counter",
    help: "Connections closed at the end of their token's or certificate's life",
  },
  model_violations_total: {
    type: "counter",
    help: "Where leaves and their models disagree",
    labels: ["rule"],
  },
  frames_refused_total: { type: "counter", help: "Frames of leaves that were not taken", labels: ["reason"] },

  // telemetry
  telemetry_received_total: { type: "counter", help: "Telemetry messages from leaves" },
  telemetry_received_bytes_total: { type: "counter", help: "Payload of the telemetry messages from leaves" },
  telemetry_accepted_total: { type: "counter", help: "Telemetry messages that edgeHub acknowledged" },
  telemetry_spilled_total: { type: "counter", help: "Telemetry messages that were written to disk" },
  telemetry_retained_evicted_total: {
    type: "counter",
    help: "Retained telemetry messages that were forgotten early because the quota was full",
  },
  telemetry_resent_total: { type: "counter", help: "Retained telemetry messages that were sent again" },
  telemetry_dropped_total: { type: "counter", help: "Telemetry messages that were given up", labels: ["reason"] },
  set_aside_entries: {
    type: "gauge",
    help: "Messages that were set aside and wait for somebody to retry or discard them",
  },
  telemetry_set_aside_total: { type: "counter", help: "Telemetry messages that the hub refused for good" },
  puback_seconds: {
    type: "histogram",
    help: "From a leaf's telemetry to its first safe place",
    buckets: LATENCY,
  },
  outbox_entries: { type: "gauge", help: "Telemetry messages that wait, in memory or on disk" },
  outbox_in_flight: { type: "gauge", help: "Telemetry messages sent and not acknowledged yet" },
  outbox_oldest_age_seconds: { type: "gauge", help: "Age of the oldest waiting telemetry message" },

  // twins
  reported_patches_total: { type: "counter", help: "Reported patches taken from leaves" },
  reported_refused_total: { type: "counter", help: "Reported patches refused to leaves", labels: ["status"] },
  reported_pushes_total: { type: "counter", help: "Reported patches sent to edgeHub", labels: ["outcome"] },
  reported_quarantined_total: { type: "counter", help: "Reported values that the hub refused for good" },
  reported_owed_leaves: { type: "gauge", help: "Leaves whose reported state edgeHub does not have in full" },
  desired_patches_total: { type: "counter", help: "Desired patches from the hub", labels: ["verdict"] },
  desired_notices_total: { type: "counter", help: "Desired changes sent to leaves" },
  twin_reads_total: { type: "counter", help: "Reads of the module twin", labels: ["result"] },
  twin_bytes: { type: "gauge", help: "Size of a section of the module twin, of 32 KB", labels: ["section"] },

  // commands and cloud-to-device
  commands_total: { type: "counter", help: "Commands answered", labels: ["status"] },
  command_seconds: { type: "histogram", help: "From a command to its answer", buckets: LATENCY },
  command_answers_ignored_total: { type: "counter", help: "Answers of leaves to commands that nobody waits for" },
  cloud_to_device_total: { type: "counter", help: "Cloud-to-device messages", labels: ["result"] },
  inputs_refused_total: { type: "counter", help: "Messages to a module input that could not be delivered to a leaf" },

  // upstream
  link_up: { type: "gauge", help: "1 while the link to edgeHub is up" },
  link_changes_total: { type: "counter", help: "Changes of the link to edgeHub", labels: ["state"] },
  link_attempts_total: { type: "counter", help: "Attempts to connect to edgeHub", labels: ["outcome"] },
  link_malformed_total: { type: "counter", help: "Packets from edgeHub that could not be understood" },
  upstream_sends_total: { type: "counter", help: "Telemetry sends to edgeHub", labels: ["outcome"] },
  wan_state: { type: "gauge", help: "1 for the state the line from edgeHub to the cloud is in", labels: ["state"] },
  edgehub_backlog_messages: { type: "gauge", help: "Messages that edgeHub holds for the cloud" },

  // store
  store_commits_total: { type: "counter", help: "Synced writes" },
  store_commit_seconds: { type: "histogram", help: "Time of a synced write", buckets: LATENCY },
  store_bytes_written_total: { type: "counter", help: "Bytes handed to the database" },
  store_failures_total: { type: "counter", help: "Writes that the disk refused" },
  disk_written_bytes: {
    type: "gauge",
    help: "Bytes that the process has had written to disks; beside telemetry_received_bytes_total it is what each byte costs",
  },
  store_disk_full: { type: "gauge", help: "1 while the disk has only room for what makes room" },
  store_damaged_total: { type: "counter", help: "Damages found on disk: entry, log, database", labels: ["what"] },
  store_outbox_entries: { type: "gauge", help: "Telemetry messages that wait on disk" },
  store_outbox_bytes: { type: "gauge", help: "Size of the telemetry messages that wait on disk" },

  // the gateway itself
  certificate_days_left: {
    type: "gauge",
    help: "Days until a server certificate for leaves expires",
    labels: ["server_name"],
  },
  config_problems_total: { type: "counter", help: "Desired configuration values that were refused" },
  defects_total: { type: "counter", help: "Broken invariants: each is a bug of the gateway" },
} as const satisfies Readonly<Record<string, MetricDeclaration>>;
