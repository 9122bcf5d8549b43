import { expect, test } from "vitest";
import { type Config, mergeConfig } from "../../src/config.ts";
import { leafLimits } from "../../src/leaf-limits.ts";

const KEYS = {
  maxConnections: "maxConnections",
  maxConnectionsPerAddress: "maxConnectionsPerAddress",
  maxSubscriptions: "maxSubscriptionsPerLeaf",
  maxHeld: "maxHeldPerLeaf",
  maxMessagesPerSec: "maxMessagesPerSecPerLeaf",
  maxBytesPerSec: "maxBytesPerSecPerLeaf",
  connectTimeoutMs: "connectTimeoutMs",
  tlsHandshakeTimeoutMs: "tlsHandshakeTimeoutMs",
  maxDeliveries: "maxDeliveriesPerLeaf",
  maxUnreadBytes: "maxUnreadBytesPerLeaf",
  maxMessageBytes: "maxMessageBytes",
  maxTopicBytes: "maxTopicBytes",
  maxTopicLevels: "maxTopicLevels",
} as const satisfies Record<keyof ReturnType<typeof leafLimits>, keyof Config>;

test("each limit of the broker is that of its own configuration key", () => {
  const names = Object.keys(KEYS) as (keyof typeof KEYS)[];
  const values = Object.fromEntries(names.map((name, at) => [name, 1_001 + at]));
  const file = Object.fromEntries(names.map((name) => [KEYS[name], values[name]]));
  const merged = mergeConfig(file, {});
  if (merged.kind === "invalid") throw new Error(JSON.stringify(merged.problems));
  expect(leafLimits(merged.config)).toEqual(values);
});
