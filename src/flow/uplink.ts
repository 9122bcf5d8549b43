/**
 * What leaves do: connect, subscribe, send. Each frame is parsed by the leaf's dialect, handled in the leaf's lane, and called
 * received only when it is at its first safe place. Invariant: nothing that one leaf sends can fail the handling of another's.
 */
import { isSameConnect, type LeafNaming, type LeafRecord, sameSubscriptions } from "../core/leaf.ts";
import { isEmpty } from "../core/merge-patch.ts";
import type { Channel, Frame, LeafId, LeafRequest, Subscription, Telemetry } from "../core/message.ts";
import { resubscribed, withLostSession, withMissed, withoutComponents } from "../core/reconcile.ts";
import type { Dialect } from "../translate/dialect.ts";
import { type Learned, learnComponents } from "../translate/pnp.ts";
import { toModuleTelemetry } from "../translate/pnp-telemetry.ts";
import type { CloudToDevice } from "./cloud-to-device.ts";
import type { Commands } from "./commands.ts";
import type { Downlink } from "./downlink.ts";
import type { Forwarder } from "./forwarder.ts";
import { forgetHeld, type HeldGets } from "./held-gets.ts";
import type { Leaf, Leaves } from "./leaves.ts";
import type { ModelGuard } from "./model-guard.ts";
import type { Admission, Clock, LeafConnect, LeafHandler, Log, Metrics, Received } from "./ports.ts";
import type { ReportedIntake } from "./reported-intake.ts";
import type { TwinApply } from "./twin-apply.ts";

export interface UplinkOptions {
  readonly leaves: Leaves;
  readonly downlink: Downlink;
  readonly forwarder: Forwarder;
  readonly apply: TwinApply;
  readonly heldGets: HeldGets;
  readonly reported: ReportedIntake;
  readonly commands: Commands;
  readonly cloudToDevice: CloudToDevice;
  readonly guard: ModelGuard;
  readonly dialectOf: (record: LeafRecord) => Dialect;
  readonly clock: Clock;
  /** False while the clock is known to be wrong: no creation time is stamped then. */
  readonly clockIsSet: () => boolean;
  readonly newMessageId: () => string;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly settings: () => { readonly maxLeaves: number; readonly maxComponentsPerLeaf: number };
}

const DONE: Received = { kind: "done" };

export class Uplink implements LeafHandler {
  readonly #options: UplinkOptions;

  constructor(options: UplinkOptions) {
    this.#options = options;
  }

  // ---------------------------------------------------------------- connections

  async admit(connect: LeafConnect): Promise<Admission> {
    const known = this.#options.leaves.get(connect.leafId);
    const leaf = known ?? this.#firstSeen(connect);
    if (typeof leaf === "string") return { kind: "refused", code: 3, reason: leaf };
    this.#checkName(leaf);
    try {
      await leaf.lane.run(() => this.#remember(leaf, connect, known === undefined));
    } catch (error) {
      return { kind: "refused", code: 3, reason: `the leaf's record could not be stored: ${String(error)}` };
    }
    // Somebody else's first CONNECT of this id could not be stored and took the record with it.
    if (this.#options.leaves.get(leaf.id) !== leaf)
      return { kind: "refused", code: 3, reason: "the leaf's record is gone, try again" };
    leaf.listed = leaf.record.subscriptions;
    return { kind: "accepted", subscriptions: leaf.listed };
  }

  async connected({ clean, leafId }: LeafConnect): Promise<void> {
    await this.#withLeaf(leafId, (leaf) => {
      leaf.connected = true;
      leaf.isClean = clean;
      leaf.channels = new Set();
      forgetHeld(leaf);
      leaf.told = undefined;
      this.#openChannels(leaf, leaf.record.subscriptions);
    });
  }

  async subscribed(leafId: LeafId, subscriptions: readonly Subscription[]): Promise<void> {
    await this.#withLeaf(leafId, async (leaf) => {
      const { leaves } = this.#options;
      // A clean session ends with its connection [MQTT-3.1.2-6].
      const kept = leaf.isClean ? subscriptions : resubscribed(leaf.record.subscriptions, leaf.listed, subscriptions);
      if (!leaf.isClean && (leaf.isUnsure || !sameSubscriptions(kept, leaf.record.subscriptions)))
        await leaves.save(leaf, { ...leaf.record, subscriptions: kept });
      leaf.listed = subscriptions;
      // The connection may have ended while the commit was under way.
      if (leaf.connected) this.#openChannels(leaf, kept);
    });
  }

  async disconnected(leafId: LeafId): Promise<void> {
    await this.#withLeaf(leafId, (leaf) => {
      leaf.connected = false;
      leaf.channels = new Set();
      forgetHeld(leaf);
      leaf.record = { ...leaf.record, lastSeenMs: this.#options.clock.now() };
    });
  }

  /** Back ends address a known leaf by the component that it has: a name that is chosen later changes nothing, and says so. */
  #checkName({ id, record }: Leaf): void {
    const { leaves, log } = this.#options;
    const configured = leaves.nameFor(id);
    if (configured === record.component) return;
    const { component } = record;
    log.warn({ leafId: id, component, configured }, "the leaf keeps its component, its alias came too late");
  }

  #firstSeen(connect: LeafConnect): Leaf | string {
    const { clock, leaves, settings } = this.#options;
    if (leaves.size >= settings().maxLeaves) return "the gateway has as many leaves as it is allowed to have";
    const leaf = leaves.create(connect, clock.now());
    return leaf ?? `component ${leaves.nameFor(connect.leafId)} belongs to another leaf; give one of them an alias`;
  }

  async #remember(leaf: Leaf, connect: LeafConnect, isNew: boolean): Promise<void> {
    const { apply, guard, leaves, settings } = this.#options;
    const { record } = leaf;
    const subscriptions = connect.clean ? [] : record.subscriptions;
    const modelId = connect.modelId ?? record.modelId;
    const { naming } = learnComponents(
      record,
      guard.componentsOf(modelId),
      leaves.sha256Hex,
      settings().maxComponentsPerLeaf,
    );
    const kept = this.#withoutVanished(leaf, modelId);
    const next = { ...kept, components: naming.components, subscriptions, modelId, dialect: connect.dialect };
    if (!isNew && !leaf.isUnsure && isSameConnect(record, next)) return;
    try {
      await leaves.save(leaf, isNew ? await this.#firstRecord(next, connect.clean) : next);
      if (isNew) apply.seen(leaf.record);
      if (kept !== record) this.#options.reported.shrunk(leaf);
    } catch (error) {
      // Still in the lane, so that nobody who waits behind takes the record for one that is stored.
      if (isNew) leaves.discard(leaf);
      throw error;
    }
  }

  async #firstRecord(record: LeafRecord, isClean: boolean): Promise<LeafRecord> {
    const { apply, dialectOf } = this.#options;
    const first = await apply.firstRecord(record);
    // Nothing is reported of a leaf that is new to the hub as well.
    if (isClean || isEmpty(first.reported)) return first;
    const notice = isEmpty(first.desired) ? undefined : { patch: first.desired, version: first.desiredVersion };
    return withMissed(record, withLostSession(first, dialectOf(record).session(record.leafId)), notice);
  }

  #withoutVanished(leaf: Leaf, modelId: string | undefined): LeafRecord {
    const { guard, log } = this.#options;
    const components = guard.vanished(leaf.record.modelId, modelId);
    if (components.length === 0) return leaf.record;
    log.warn({ leafId: leaf.id, modelId, components }, "the new model of a leaf has no such components any more");
    return withoutComponents(leaf.record, components);
  }

  #openChannels(leaf: Leaf, subscriptions: readonly Subscription[]): void {
    const { cloudToDevice, dialectOf, downlink, leaves } = this.#options;
    const dialect = dialectOf(leaf.record);
    const channels = new Set<Channel>();
    for (const { filter } of subscriptions) {
      const channel = dialect.channel(leaf.id, filter);
      if (channel !== undefined) channels.add(channel);
    }
    const hadDesired = leaf.channels.has("desired");
    leaf.channels = channels;
    if (!hadDesired && leaves.isReady(leaf, "desired")) downlink.catchUp(leaf);
    leaves.wake(leaf);
    cloudToDevice.ready(leaf);
  }

  // ---------------------------------------------------------------- frames

  received(leafId: LeafId, frame: Frame): Promise<Received> {
    const leaf = this.#options.leaves.get(leafId);
    if (leaf === undefined) return Promise.resolve({ kind: "close", reason: "not connected" });
    return this.#received(leaf, frame).catch((error: unknown): Received => {
      this.#options.metrics.count("defects_total");
      this.#options.log.error(
        { leafId, topic: frame.topic.slice(0, 200), error: String(error) },
        "a frame could not be handled",
      );
      return { kind: "close", reason: "the gateway could not handle it" };
    });
  }

  /** A leaf that only listens would hear at each reconnect, once an hour, what it has heard long ago. */
  async pinged(leafId: LeafId): Promise<void> {
    const heard = this.#options.leaves.get(leafId)?.told;
    if (heard !== undefined) await this.#withLeaf(leafId, (leaf) => this.#options.downlink.heardFrom(leaf, heard));
  }

  async #received(leaf: Leaf, frame: Frame): Promise<Received> {
    const request = this.#options.dialectOf(leaf.record).parse(leaf.id, frame);
    // Only what was written before this frame arrived can have been heard; a will comes from the broker, not from the leaf.
    const heard = frame.will === true ? undefined : leaf.told;
    // Telemetry leaves the lane as soon as it has its place in the queue: waiting for its safe place must not stop the leaf.
    const step = await leaf.lane.run(() => {
      this.#options.downlink.heardFrom(leaf, heard);
      return this.#handle(leaf, request);
    });
    return "later" in step ? step.later : step;
  }

  async #handle(leaf: Leaf, request: LeafRequest): Promise<Received | { later: Promise<Received> }> {
    const { apply, commands, downlink, heldGets, reported } = this.#options;
    switch (request.kind) {
      case "telemetry":
        return this.#telemetry(leaf, request.telemetry);
      case "twin-get":
        // From the cache, never from upstream. "Unknown" is not "empty": without any synchronisation the answer waits.
        if (apply.known === undefined) heldGets.hold(leaf, request.rid);
        else downlink.answerGet(leaf, request.rid);
        return DONE;
      case "reported":
        await reported.take(leaf, request);
        return DONE;
      case "command-answer":
        if (request.reason !== undefined) this.#refused(leaf, "command-answer", request.reason);
        commands.answered(leaf.id, request.rid, { status: request.status, payload: request.payload });
        return DONE;
      case "twin-invalid":
        this.#refused(leaf, "twin-invalid", request.reason);
        downlink.refuse(leaf, request.rid, request.status, request.reason);
        return DONE;
      case "close":
        this.#refused(leaf, "close", request.reason);
        return { kind: "close", reason: request.reason };
      case "ignored":
        this.#refused(leaf, "ignored", request.reason);
        return DONE;
    }
  }

  async #telemetry(leaf: Leaf, telemetry: Telemetry): Promise<Received | { later: Promise<Received> }> {
    const { clock, clockIsSet, forwarder, guard, metrics, newMessageId } = this.#options;
    metrics.count("telemetry_received_total");
    const disagreement = guard.telemetry(leaf.record, telemetry);
    if (disagreement !== undefined) {
      // MQTT has no answer for it, and a closed connection would make an SDK send the same message for ever.
      metrics.count("telemetry_dropped_total", { reason: "model" });
      this.#refused(leaf, "model", disagreement);
      return DONE;
    }
    const naming = await this.#namingFor(leaf, telemetry.system["sub"] ?? "");
    const stamp = {
      messageId: newMessageId(),
      creationTime: clockIsSet() ? new Date(clock.now()).toISOString() : undefined,
    };
    const translated = toModuleTelemetry(telemetry, { ...leaf.record, ...naming }, stamp);
    if (translated.kind === "refused") {
      this.#refused(leaf, "telemetry", translated.reason);
      return { kind: "close", reason: translated.reason };
    }
    const arrivedMs = clock.steady();
    const later = forwarder.enqueue(leaf.id, translated.message).then((safe): Received => {
      metrics.observe("puback_seconds", (clock.steady() - arrivedMs) / 1000);
      return safe.kind === "safe" ? DONE : { kind: "close", reason: safe.reason };
    });
    return { later };
  }

  /**
   * Names with the component that telemetry is of. What is not remembered, because there are too many or because the disk is full, has
   * its name all the same: a message must not be lost for it, nor sent again for ever. A name that cannot be one is left out.
   */
  async #namingFor(leaf: Leaf, component: string): Promise<LeafNaming> {
    const { record } = leaf;
    if (component === "" || Object.hasOwn(record.components, component)) return record;
    const { leaves, log, settings } = this.#options;
    const learn = (most: number): Learned => learnComponents(record, [component], leaves.sha256Hex, most);
    const { naming, refused } = learn(settings().maxComponentsPerLeaf);
    if (refused.length > 0) return learn(Number.POSITIVE_INFINITY).naming;
    await leaves
      .save(leaf, { ...record, components: naming.components })
      .catch((error: unknown) =>
        log.error({ leafId: leaf.id, error: String(error) }, "a component could not be remembered"),
      );
    return naming;
  }

  #refused(leaf: Leaf, reason: string, detail: string): void {
    this.#options.metrics.count("frames_refused_total", { reason });
    this.#options.log.warn({ leafId: leaf.id, reason, detail }, "a leaf's frame was refused");
  }

  async #withLeaf(leafId: LeafId, work: (leaf: Leaf) => Promise<void> | void): Promise<void> {
    const leaf = this.#options.leaves.get(leafId);
    if (leaf !== undefined) await leaf.lane.run(() => work(leaf));
  }
}
