/** A leaf's telemetry as the module's own: addressed by component, marked with the leaf it comes from [design section 5]. */
import type { LeafNaming } from "../core/leaf.ts";
import type { LeafId, Telemetry } from "../core/message.ts";
import { encodePercent } from "./topic.ts";

/**
 * A message with everything that translation adds must stay below 256 KB, counted as payload and encoded topic: north of us a
 * larger one would vanish after its PUBACK [iothub-mqtt.md 2.3, azure-iot-device.md 7].
 */
export const MAX_MESSAGE_BYTES = 252 * 1024;
/** `devices/{d}/modules/{m}/messages/events/`, `$.on` and the packet's header, with ids of 128 characters. */
const TOPIC_OVERHEAD_BYTES = 512;

/** System properties that mean something on our hop only, or that edgeHub loses messages over. */
const DROPPED = new Set(["on", "to", "exp", "cdid", "cmid", "sub", "ctime", "ifid"]);

export interface Stamp {
  readonly messageId: string;
  /** ISO 8601; undefined while the clock is not set. */
  readonly creationTime: string | undefined;
}

export type Translated =
  | { readonly kind: "ok"; readonly message: Telemetry }
  | { readonly kind: "refused"; readonly reason: string };

/** The creation time travels as an application property: edgeHub loses messages whose `$.ctime` is not in its own format. */
export const CREATION_TIME = "iothub-creation-time-utc";

/**
 * `$.sub` becomes the module's component, which must be in `leaf.components`; `leafId` and `leafModelId` are ours, a leaf's own are
 * overwritten; message id and creation time are stamped when the leaf set none.
 */
export function toModuleTelemetry(
  telemetry: Telemetry,
  leaf: LeafNaming & { readonly leafId: LeafId; readonly modelId: string | undefined },
  stamp: Stamp,
): Translated {
  const said = telemetry.system;
  const named = said["sub"] ?? "";
  const component = named === "" ? leaf.component : leaf.components[named];
  if (component === undefined) return { kind: "refused", reason: "the component is not known" };
  const kept = Object.entries(said).filter(([key, value]) => !DROPPED.has(key) && value !== "");
  const system = { mid: stamp.messageId, ...Object.fromEntries(kept), sub: component as string };
  const creationTime = telemetry.properties[CREATION_TIME] ?? said["ctime"] ?? stamp.creationTime;
  const { leafId: _leafId, leafModelId: _leafModelId, ...own } = telemetry.properties;
  const properties = {
    ...own,
    ...(creationTime === undefined ? {} : { [CREATION_TIME]: creationTime }),
    leafId: leaf.leafId as string,
    ...(leaf.modelId === undefined ? {} : { leafModelId: leaf.modelId }),
  };
  const message = { payload: telemetry.payload, system, properties };
  const bytes = messageBytes(message);
  if (bytes > MAX_MESSAGE_BYTES)
    return { kind: "refused", reason: `the message would have ${bytes} bytes, ${MAX_MESSAGE_BYTES} are allowed` };
  return { kind: "ok", message };
}

/** Payload and topic as they will be on the wire; percent-encoding triples what it touches. */
function messageBytes({ payload, properties, system }: Telemetry): number {
  let bytes = payload.length + TOPIC_OVERHEAD_BYTES;
  for (const [key, value] of Object.entries(system))
    bytes += encodePercent(key).length + encodePercent(value).length + 6;
  for (const [key, value] of Object.entries(properties))
    bytes += encodePercent(key).length + encodePercent(value).length + 2;
  return bytes;
}
