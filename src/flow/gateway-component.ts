/**
 * The gateway's own component of the module twin: what it reports of itself, and its commands for back ends.
 * Invariant: each command answers with a status of its own and never fails another's.
 */
import { GATEWAY_COMPONENT } from "../core/component-name.ts";
import type { Models } from "../core/dtdl.ts";
import { applyPatch, diff, isEmpty, isJsonObject, jsonBytes } from "../core/merge-patch.ts";
import type { Json, JsonObject, Telemetry } from "../core/message.ts";
import { composeModel } from "../core/model-compose.ts";
import { unacknowledged } from "../core/property-ack.ts";
import { sameValue } from "../core/same-value.ts";
import type { CloudToDevice } from "./cloud-to-device.ts";
import { MAX_LIST_BYTES, parseCloudToDevice, parseLeaf, text } from "./gateway-requests.ts";
import type { LeafLife } from "./leaf-life.ts";
import type { Leaf, Leaves } from "./leaves.ts";
import type { CommandAnswer } from "./ports.ts";
import { owedBy } from "./reported-push.ts";
import type { SetAside } from "./set-aside.ts";
import { setAsideCommands } from "./set-aside-commands.ts";

export interface GatewayComponentOptions {
  readonly leaves: Leaves;
  readonly models: Models;
  readonly cloudToDevice: CloudToDevice;
  readonly life: LeafLife;
  readonly setAside: SetAside;
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
      listLeaves: (payload) => this.#list(payload),
      getLeaf: (payload) =>
        this.#withLeaf(payload, (leaf) => ({ status: 200, payload: details(leaf, options.cloudToDevice) })),
      removeLeaf: (payload) =>
        this.#withLeaf(payload, async (leaf) => {
          await options.life.remove(leaf);
          return { status: 200, payload: summary(leaf) };
        }),
      confirmLeaf: (payload) =>
        this.#withLeaf(payload, async (leaf) => {
          await options.life.confirm(leaf);
          return { status: 200, payload: summary(leaf) };
        }),
      sendCloudToDevice: (payload) => this.#withLeaf(payload, (leaf, request) => this.#send(leaf, request)),
      ...setAsideCommands(options.setAside),
      getDiagnostics: () => ({ status: 200, payload: options.diagnostics() }),
      getModel: (payload) => this.#model(payload),
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

  /** Who is known, for back ends and people. */
  leafList(): JsonObject[] {
    return [...this.#options.leaves.all()].map(summary);
  }

  /** Sets properties that the gateway reports of itself (null: no longer); they go up with the next push. */
  report(state: JsonObject): void {
    this.#state = applyPatch(this.#state, state);
  }

  /** What the hub does not have yet of them, in module words. */
  owed(): JsonObject | undefined {
    const patch = diff(this.#accepted, this.#state, sameValue);
    return isEmpty(patch) ? undefined : { [GATEWAY_COMPONENT]: { __t: "c", ...patch } };
  }

  /** The whole of them, in module words. */
  view(): JsonObject {
    return { [GATEWAY_COMPONENT]: { __t: "c", ...this.#state } };
  }

  /** edgeHub has taken this patch; what has changed since it was sent is still owed. */
  accepted(patch: JsonObject): void {
    const section = patch[GATEWAY_COMPONENT];
    if (!isJsonObject(section)) return;
    const { __t: _marker, ...properties } = section;
    this.#accepted = applyPatch(this.#accepted, properties);
  }

  /** A read shows what the hub has of it. */
  settle(section: JsonObject): void {
    const { __t: _marker, ...properties } = section;
    this.#accepted = properties;
  }

  statusMessage(status: JsonObject): Telemetry {
    return {
      payload: new TextEncoder().encode(JSON.stringify(status)),
      system: { sub: GATEWAY_COMPONENT, ct: "application/json", ce: "utf-8", mid: this.#options.newMessageId() },
      properties: {},
    };
  }

  /** As many as an answer may hold, in the order of their ids, beginning after `after`. */
  #list(payload: Json): CommandAnswer {
    const after = isJsonObject(payload) && Object.hasOwn(payload, "after") ? payload["after"] : "";
    if (typeof after !== "string") return badRequest('"after" is the id of a leaf');
    const list: JsonObject[] = [];
    let bytes = 0;
    const leaves = [...this.#options.leaves.all()].filter(({ id }) => id > after);
    for (const leaf of leaves.toSorted((a, b) => (a.id < b.id ? -1 : 1))) {
      const shown = summary(leaf);
      bytes += jsonBytes(shown) + 1;
      if (bytes > MAX_LIST_BYTES) break;
      list.push(shown);
    }
    return { status: 200, payload: list };
  }

  #model(payload: Json): CommandAnswer {
    const { leaves, models } = this.#options;
    const id = isJsonObject(payload) ? text(payload, "id") : undefined;
    const present = [...leaves.all()].map(({ record }) => record).filter(({ removed }) => !removed);
    const { interfaces, notes } = composeModel(present, models, id);
    return { status: 200, payload: { interfaces, notes } };
  }

  #setLogLevel(payload: Json): CommandAnswer {
    const level = isJsonObject(payload) ? text(payload, "level") : undefined;
    if (level !== undefined && this.#options.setLogLevel(level)) return { status: 200, payload: null };
    return badRequest('"level" is one of debug, info, warn, error');
  }

  async #send(leaf: Leaf, payload: JsonObject): Promise<CommandAnswer> {
    const { cloudToDevice, newMessageId } = this.#options;
    const request = parseCloudToDevice(payload, newMessageId);
    if ("problem" in request) return badRequest(request.problem);
    const result = await cloudToDevice.send(leaf, request.message, request.ttlSecs);
    if (result.kind === "refused") return { status: result.status, payload: { message: result.reason } };
    return {
      status: 200,
      payload: { messageId: request.message.system["mid"] ?? "", queued: cloudToDevice.queued(leaf.id) },
    };
  }

  async #withLeaf(
    payload: Json,
    run: (leaf: Leaf, payload: JsonObject) => Promise<CommandAnswer> | CommandAnswer,
  ): Promise<CommandAnswer> {
    const leafId = parseLeaf(payload);
    if (typeof leafId !== "string") return badRequest(leafId.problem);
    const leaf = this.#options.leaves.get(leafId);
    if (leaf === undefined || !isJsonObject(payload))
      return { status: 404, payload: { message: `there is no leaf ${leafId}` } };
    return run(leaf, payload);
  }
}

function badRequest(message: string): CommandAnswer {
  return { status: 400, payload: { message } };
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
