/** The keys of the configuration that say what one leaf may cost, under the broker's names. Pure. */
import type { Config } from "./config.ts";
import type { LeafLimits } from "./downstream/limits.ts";

export function leafLimits(config: Config): LeafLimits {
  return {
    maxConnections: config.maxConnections,
    maxConnectionsPerAddress: config.maxConnectionsPerAddress,
    maxSubscriptions: config.maxSubscriptionsPerLeaf,
    maxHeld: config.maxHeldPerLeaf,
    maxMessagesPerSec: config.maxMessagesPerSecPerLeaf,
    maxBytesPerSec: config.maxBytesPerSecPerLeaf,
    connectTimeoutMs: config.connectTimeoutMs,
    tlsHandshakeTimeoutMs: config.tlsHandshakeTimeoutMs,
    maxDeliveries: config.maxDeliveriesPerLeaf,
    maxUnreadBytes: config.maxUnreadBytesPerLeaf,
    maxMessageBytes: config.maxMessageBytes,
    maxTopicBytes: config.maxTopicBytes,
    maxTopicLevels: config.maxTopicLevels,
  };
}
