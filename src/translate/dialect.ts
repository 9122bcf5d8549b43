/** What a topic convention has to offer so that leaves may speak it. Pure: bytes and topics in, values out. */
import type { Channel, Frame, LeafId, LeafNotice, LeafRequest, Subscription } from "../core/message.ts";

export interface ConnectClaim {
  readonly clientId: string;
  readonly username: string | undefined;
}

export type ConnectParse =
  | { readonly kind: "leaf"; readonly leafId: LeafId; readonly modelId: string | undefined }
  /** 5: the identity is wrong for sure (module identity, client id other than user name); 3: malformed, as edgeHub answers. */
  | { readonly kind: "refused"; readonly code: 3 | 5; readonly reason: string };

export interface Dialect {
  readonly name: string;
  parseConnect(claim: ConnectClaim): ConnectParse;
  /** The subscriptions of an SDK that reads and reports its twin, serves commands and takes cloud-to-device messages. */
  session(leafId: LeafId): readonly Subscription[];
  /** The channel that a subscription of this leaf opens; undefined: not this leaf's, refused. */
  channel(leafId: LeafId, filter: string): Channel | undefined;
  /** Never throws, whatever the bytes. */
  parse(leafId: LeafId, frame: Frame): LeafRequest;
  /** `$iothub/*` with QoS 0, cloud-to-device with QoS 1 (design section 4). */
  format(leafId: LeafId, notice: LeafNotice): Frame;
}
