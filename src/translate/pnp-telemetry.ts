/**
 * A leaf's telemetry as the module's own: addressed by component, marked with the leaf it comes from [design section 5].
 * Invariant: whose message it is, is never the leaf's to say; what passes here fits edgeHub's limits.
 */
import type { LeafNaming } from "../core/leaf.ts";
import type { ComponentName, LeafId, Telemetry } from "../core/message.ts";
import { own } from "./pnp.ts";
import { formatBag } from "./topic.ts";

/**
 * Payload and encoded topic together: the upstream's own cap, 4 KiB below what edgeHub takes, since edgeHub closes the connection
 * or drops after PUBACK what is larger [iothub-mqtt.md 2.3, azure-iot-device.md 7].
 */
const MAX_MESSAGE_BYTES = 252 * 1024;
/** A topic is an MQTT string [MQTT-1.5.3]. */
const MAX_TOPIC_BYTES = 65_535;
/** Topic without bag with two ids of 128 characters, `$.on`, and room for the few keys that the upstream lengthens. */
const TOPIC_RESERVE_BYTES = 512;

const CREATION_TIME = "iothub-creation-time-utc";
/** The output is ours, the identity is the hub's to state, `$.exp` does not survive edgeHub, `$.ctime` travels otherwise. */
const NOT_PASSED_ON: ReadonlySet<string> = new Set(["on", "cdid", "cmid", "to", "exp", "ctime", "mid", "sub"]);
/** Compared in lower case: whose message it is must not depend on how a back end compares names. */
const OURS: ReadonlySet<string> = new Set(["leafid", "leafmodelid"]);

export interface TelemetryStamp {
  readonly messageId: string;
  /** ISO 8601; undefined while the clock is known to be wrong. */
  readonly creationTime: string | undefined;
}

export type ModuleTelemetry =
  | { readonly kind: "ok"; readonly message: Telemetry }
  | { readonly kind: "refused"; readonly reason: string };

/** A leaf's telemetry as the module sends it. The component that `$.sub` names has to be learned before. */
export function toModuleTelemetry(
  telemetry: Telemetry,
  leaf: { readonly leafId: LeafId; readonly modelId: string | undefined } & LeafNaming,
  stamp: TelemetryStamp,
): ModuleTelemetry {
  const sub = own(telemetry.system, "sub") ?? "";
  const component = sub === "" ? leaf.component : own(leaf.components, sub);
  if (component === undefined) return { kind: "refused", reason: `${sub.slice(0, 64)} is no component of this leaf` };
  const message: Telemetry = {
    payload: telemetry.payload,
    system: moduleSystem(telemetry, component, stamp),
    properties: moduleProperties(telemetry, leaf, stamp),
  };
  const reason = tooLarge(message);
  return reason === undefined ? { kind: "ok", message } : { kind: "refused", reason };
}

function moduleSystem({ system }: Telemetry, component: ComponentName, stamp: TelemetryStamp): Telemetry["system"] {
  return Object.fromEntries([
    ...Object.entries(system).filter(([key, value]) => !NOT_PASSED_ON.has(key) && value !== ""),
    ["mid", own(system, "mid") || stamp.messageId],
    ["sub", component],
  ]);
}

function moduleProperties(
  { system, properties }: Telemetry,
  { leafId, modelId }: { readonly leafId: LeafId; readonly modelId: string | undefined },
  stamp: TelemetryStamp,
): Telemetry["properties"] {
  const entries = Object.entries(properties).filter(([key]) => !OURS.has(key.toLowerCase()));
  const createdAt = own(properties, CREATION_TIME) || own(system, "ctime") || stamp.creationTime;
  if (createdAt !== undefined) entries.push([CREATION_TIME, createdAt]);
  entries.push(["leafId", leafId]);
  if (modelId !== undefined) entries.push(["leafModelId", modelId]);
  return Object.fromEntries(entries);
}

/** One UTF-16 unit takes at most three bytes of UTF-8, each of them `%XX`. */
const MAX_ENCODED_PER_UNIT = 9;

function tooLarge(message: Telemetry): string | undefined {
  // Nearly every message is far from the limits, and encoding each one only to measure it costs more than its translation.
  return atMostBytes(message) <= MAX_TOPIC_BYTES ? undefined : exactlyTooLarge(message);
}

/** An upper bound of payload and encoded topic together. */
function atMostBytes({ payload, system, properties }: Telemetry): number {
  let units = 0;
  for (const [key, value] of Object.entries(system)) units += SYSTEM_EXTRA_UNITS + key.length + value.length;
  for (const [key, value] of Object.entries(properties)) units += PAIR_EXTRA_UNITS + key.length + value.length;
  return TOPIC_RESERVE_BYTES + payload.length + units * MAX_ENCODED_PER_UNIT;
}

/** `=` and `&`, and `$.` before a system property's key. */
const PAIR_EXTRA_UNITS = 2;
const SYSTEM_EXTRA_UNITS = 4;

function exactlyTooLarge({ payload, system, properties }: Telemetry): string | undefined {
  const bag = formatBag([
    ...Object.entries(system).map(([key, value]): [string, string] => [`$.${key}`, value]),
    ...Object.entries(properties),
  ]);
  const topicBytes = TOPIC_RESERVE_BYTES + bag.length;
  if (topicBytes > MAX_TOPIC_BYTES) return `its properties take ${bag.length} bytes, more than fit into a topic`;
  if (topicBytes + payload.length <= MAX_MESSAGE_BYTES) return undefined;
  return `with what the gateway adds it takes ${topicBytes + payload.length} bytes, edgeHub takes ${MAX_MESSAGE_BYTES}`;
}
