/**
 * The gateway's own component of the module twin: what it reports of itself, and its commands for back ends.
 * Invariant: each command answers with a status of its own and never fails another's.
 */
import { z } from "zod";
import { GATEWAY_COMPONENT } from "../core/component-name.ts";
import { diff, isEmpty } from "../core/merge-patch.ts";
import type { Json, JsonObject, Telemetry } from "../core/message.ts";
import { parseLeafId } from "../core/message.ts";
import { unacknowledged } from "../core/property-ack.ts";
import { sameValue } from "../core/same-value.ts";
import { type CloudToDevice, DEFAULT_TTL_SECS, MAX_TTL_SECS } from "./cloud-to-device.ts";
import type { Leaf, Leaves } from "./leaves.ts";
import type { CommandAnswer } from "./ports.ts";
import { owedBy } from "./reported-push.ts";

const LEAF = z.strictObject({ leafId: z.string() });
const CLOUD_TO_DEVICE = z.strictObject({
  leafId: z.string(),
  payload: z.json().optional(),
  /** For bytes that are no JSON. */
  payloadBase64: z.base64().optional(),
  properties: z.record(z.string().min(1), z.string()).optional(),
  messageId: z.string().min(1).max(128).optional(),
  correlationId: z.string().min(1).max(128).optional(),
  ttlSecs: z.number().int().positive().max(MAX_TTL_SECS).optional(),
});

export interface GatewayComponentOptions {
  readonly leaves: Leaves;
  readonly cloudToDevice: CloudToDevice;
  /** Nulls the leaf's reported part upstream, forgets its cache and queue; the leaf is listed as removed. */
  readonly removeLeaf: (leaf: Leaf) => Promise<void>;
  /** A removed leaf that came back may have its desired properties again. */
  readonly confirmLeaf: (leaf: Leaf) => Promise<void>;
  readonly diagnostics: () => JsonObject;
  readonly setLogLevel: (level: string) => boolean;
  readonly newMessageId: () => string;
  readonly version: string;
}

type Handler = (payload: Json) => Promise<CommandAnswer> | CommandAnswer;

export class GatewayComponent {
  readonly #options: GatewayComponentOptions;
  readonly #handlers: Readonly<Record<string, Handler>>;
  #state: JsonObject = {};
  #accepted: JsonObject = {};

  constructor(options: GatewayComponentOptions) {
    this.#options = options;
    this.#handlers = {
      ping: () => ({ status: 200, payload: { version: options.version } }),
      listLeaves: () => ({ status: 200, payload: [...options.leaves.all()].map(summary) }),
      getLeaf: (payload) =>
        this.#withLeaf(LEAF, payload, (leaf) => ({ status: 200, payload: details(leaf, options.cloudToDevice) })),
      removeLeaf: (payload) =>
        this.#withLeaf(LEAF, payload, async (leaf) => {
          await options.removeLeaf(leaf);
          return { status: 200, payload: summary(leaf) };
        }),
      confirmLeaf: (payload) =>
        this.#withLeaf(LEAF, payload, async (leaf) => {
          await options.confirmLeaf(leaf);
          return { status: 200, payload: summary(leaf) };
        }),
      sendCloudToDevice: (payload) =>
        this.#withLeaf(CLOUD_TO_DEVICE, payload, (leaf, request) => this.#send(leaf, request)),
      getDiagnostics: () => ({ status: 200, payload: options.diagnostics() }),
      setLogLevel: (payload) => this.#setLogLevel(payload),
    };
  }

  async run(command: string, payload: Json): Promise<CommandAnswer> {
    const handler = Object.hasOwn(this.#handlers, command) ? this.#handlers[command] : undefined;
    if (handler !== undefined) return handler(payload);
    const known = Object.keys(this.#handlers).map((name) => `${GATEWAY_COMPONENT}*${name}`);
    return {
      status: 404,
      payload: { message: `the gateway has no command ${command.slice(0, 100)}; it has ${known.join(", ")}` },
    };
  }

  /** Sets properties that the gateway reports of itself; they go up with the next push. */
  report(state: JsonObject): void {
    this.#state = { ...this.#state, ...state };
  }

  /** What the hub does not have yet of them, in module words. */
  owed(): JsonObject | undefined {
    const patch = diff(this.#accepted, this.#state, sameValue);
    return isEmpty(patch) ? undefined : { [GATEWAY_COMPONENT]: { __t: "c", ...patch } };
  }

  /** edgeHub has taken them. */
  accepted(): void {
    this.#accepted = this.#state;
  }

  /** A new link: what the hub has of it is not known. */
  unsettle(): void {
    this.#accepted = {};
  }

  statusMessage(status: JsonObject): Telemetry {
    return {
      payload: new TextEncoder().encode(JSON.stringify(status)),
      system: { sub: GATEWAY_COMPONENT, ct: "application/json", ce: "utf-8", mid: this.#options.newMessageId() },
      properties: {},
    };
  }

  #setLogLevel(payload: Json): CommandAnswer {
    const parsed = z.strictObject({ level: z.string() }).safeParse(payload);
    if (!parsed.success) return badRequest(parsed.error);
    if (this.#options.setLogLevel(parsed.data.level)) return { status: 200, payload: null };
    return { status: 400, payload: { message: "level is one of debug, info, warn, error" } };
  }

  async #send(leaf: Leaf, request: z.infer<typeof CLOUD_TO_DEVICE>): Promise<CommandAnswer> {
    const { cloudToDevice, newMessageId } = this.#options;
    const messageId = request.messageId ?? newMessageId();
    const isJson = request.payloadBase64 === undefined;
    const payload = isJson
      ? Buffer.from(textOf(request.payload ?? null), "utf8")
      : Buffer.from(request.payloadBase64, "base64");
    const system = {
      mid: messageId,
      ...(request.correlationId === undefined ? {} : { cid: request.correlationId }),
    };
    const result = await cloudToDevice.send(
      leaf,
      { payload, system, properties: request.properties ?? {} },
      request.ttlSecs ?? DEFAULT_TTL_SECS,
    );
    if (result.kind === "queued") return { status: 200, payload: { messageId, queued: cloudToDevice.queued(leaf.id) } };
    return { status: result.status, payload: { message: result.reason } };
  }

  async #withLeaf<T extends { leafId: string }>(
    schema: z.ZodType<T>,
    payload: Json,
    run: (leaf: Leaf, request: T) => Promise<CommandAnswer> | CommandAnswer,
  ): Promise<CommandAnswer> {
    const parsed = schema.safeParse(payload);
    if (!parsed.success) return badRequest(parsed.error);
    const leafId = parseLeafId(parsed.data.leafId);
    const leaf = leafId === undefined ? undefined : this.#options.leaves.get(leafId);
    if (leaf === undefined)
      return { status: 404, payload: { message: `there is no leaf ${parsed.data.leafId.slice(0, 128)}` } };
    return run(leaf, parsed.data);
  }
}

/** A string is sent as it is, anything else as JSON. */
function textOf(payload: Json): string {
  return typeof payload === "string" ? payload : JSON.stringify(payload);
}

function badRequest(error: z.ZodError): CommandAnswer {
  return { status: 400, payload: { message: z.prettifyError(error) } };
}

function summary({ connected, record }: Leaf): JsonObject {
  return {
    leafId: record.leafId,
    component: record.component,
    components: record.components,
    modelId: record.modelId ?? null,
    connected,
    removed: record.removed,
  };
}

function details(leaf: Leaf, cloudToDevice: CloudToDevice): JsonObject {
  const { record } = leaf;
  return {
    ...summary(leaf),
    dialect: record.dialect,
    firstSeen: new Date(record.firstSeenMs).toISOString(),
    lastSeen: new Date(record.lastSeenMs).toISOString(),
    subscriptions: record.subscriptions.map(({ filter }) => filter),
    desired: record.desired,
    desiredVersion: record.desiredVersion,
    reported: record.reported,
    reportedVersion: record.reportedVersion,
    confirmedVersion: record.confirmedVersion,
    owed: owedBy(leaf),
    unacknowledged: unacknowledged(record.tracks).map(({ path, state, version, sinceMs }) => ({
      path,
      state,
      version,
      since: new Date(sinceMs).toISOString(),
    })),
    quarantined: record.quarantined,
    cloudToDeviceQueued: cloudToDevice.queued(leaf.id),
  };
}
