/**
 * The middle of the gateway: the flow objects around one set of ports, started inner to outer and stopped in reverse.
 * Knows no adapter, so that tests can put a memory store, a fake upstream and a manual clock around the same relay.
 */

import type { NamingRules } from "../core/component-name.ts";
import type { Models } from "../core/dtdl.ts";
import { CLOUD_TO_DEVICE_INPUT } from "../core/endpoints.ts";
import type { LeafRecord } from "../core/leaf.ts";
import type { JsonObject, Telemetry } from "../core/message.ts";
import { parseLeafId } from "../core/message.ts";
import type { WanState } from "../core/wan.ts";
import { dialectNamed } from "../translate/dialects.ts";
import { iothub } from "../translate/iothub.ts";
import { ReportedBudget } from "./budget.ts";
import { CloudToDevice, DEFAULT_TTL_SECS, systemForLeaf } from "./cloud-to-device.ts";
import { type CommandSettings, Commands } from "./commands.ts";
import { Downlink } from "./downlink.ts";
import { Forwarder, type ForwarderSettings } from "./forwarder.ts";
import { GatewayComponent } from "./gateway-component.ts";
import { HeldGets } from "./held-gets.ts";
import { LeafLife } from "./leaf-life.ts";
import { type Leaf, Leaves } from "./leaves.ts";
import { MachineMemory } from "./machine-memory.ts";
import { ModelGuard, type ModelPolicy } from "./model-guard.ts";
import type { Clock, Downstream, HubHandler, Log, Metrics, Store, Upstream, WanHandler, WanWatch } from "./ports.ts";
import { RelayReport } from "./relay-report.ts";
import { ReportedIntake } from "./reported-intake.ts";
import { ReportedPush } from "./reported-push.ts";
import { SilentRefusals } from "./silent-refusals.ts";
import { type GatewayDesired, TwinApply } from "./twin-apply.ts";
import { TwinSync } from "./twin-sync.ts";
import { Uplink } from "./uplink.ts";

export interface RelaySettings extends ForwarderSettings, CommandSettings {
  readonly maxLeaves: number;
  readonly maxComponentsPerLeaf: number;
  readonly maxTwinBytesPerLeaf: number;
  readonly reportedIntervalMs: number;
  readonly twinReadIntervalSecs: number;
  readonly modelCheck: ModelPolicy;
}

export interface RelayOptions {
  readonly store: Store;
  readonly upstream: Upstream;
  readonly downstream: Downstream;
  readonly wan: WanWatch;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly random: () => number;
  readonly newMessageId: () => string;
  readonly naming: NamingRules;
  /** Of leaves, as far as the operator gave their documents. */
  readonly models: Models;
  readonly settings: () => RelaySettings;
  readonly clockIsSet: () => boolean;
  readonly version: string;
  /** Differs at each boot of the machine; undefined where it cannot be had. */
  readonly bootId: string | undefined;
  readonly setLogLevel: (level: string) => boolean;
  readonly onGatewayDesired: GatewayDesired;
}

export class Relay implements AsyncDisposable {
  readonly #options: RelayOptions;
  readonly #leaves: Leaves;
  readonly #forwarder: Forwarder;
  readonly #push: ReportedPush;
  readonly #apply: TwinApply;
  readonly #sync: TwinSync;
  readonly #uplink: Uplink;
  readonly #heldGets: HeldGets;
  readonly #commands: Commands;
  readonly #cloudToDevice: CloudToDevice;
  readonly #budget: ReportedBudget;
  readonly component: GatewayComponent;
  readonly #report: RelayReport;
  readonly #machine: MachineMemory;
  #linkUp = false;
  #wan: WanState = "unknown";

  constructor(options: RelayOptions) {
    this.#options = options;
    const { settings } = options;
    const dialectOf = (record: LeafRecord) => dialectNamed(record.dialect) ?? iothub;
    const maxComponentsPerLeaf = () => settings().maxComponentsPerLeaf;
    this.#budget = new ReportedBudget(() => settings().maxTwinBytesPerLeaf);
    const leaves = new Leaves(options.store, options.naming);
    const guard = new ModelGuard({ ...options, policy: () => settings().modelCheck });
    const downlink = new Downlink({ ...options, leaves, dialectOf });
    const forwarder = new Forwarder({
      ...options,
      statusMessage: () => this.#statusMessage(),
      lookAtEdgeHub: () => options.wan.look().then(() => this.#machine.edgeHubNoted),
    });
    const cloudToDevice = new CloudToDevice({ ...options, leaves, downlink });
    const refusals = new SilentRefusals({
      ...options,
      leaves,
      changed: (leaf) => push.changed(leaf),
      compareLater: () => this.#sync.compareLater(),
    });
    const apply = new TwinApply({
      ...options,
      refusals,
      leaves,
      downlink,
      budget: this.#budget,
      maxComponentsPerLeaf,
      sessionOf: (record) => dialectOf(record).session(record.leafId),
      onGatewayReported: (section) => this.component.settle(section),
    });
    const push = new ReportedPush({
      ...options,
      leaves,
      send: (patch) => options.upstream.patchReported(patch),
      intervalMs: () => settings().reportedIntervalMs,
      own: { owed: () => this.component.owed(), accepted: (patch) => this.component.accepted(patch) },
    });
    const reported = new ReportedIntake({
      ...options,
      leaves,
      downlink,
      budget: this.#budget,
      maxComponentsPerLeaf,
      knownVersion: () => apply.known?.version,
      changed: (leaf) => push.changed(leaf),
      guard,
    });
    const life = new LeafLife({ ...options, leaves, apply, cloudToDevice, push, budget: this.#budget });
    this.component = new GatewayComponent({
      ...options,
      leaves,
      cloudToDevice,
      life,
      setAside: forwarder.setAside,
      diagnostics: () => this.diagnostics(),
    });
    const commands = new Commands({
      ...options,
      leaves,
      downlink,
      guard,
      own: (command, payload) => this.component.run(command, payload),
      ridPrefix: options.newMessageId().replaceAll("-", "").slice(0, 6),
    });
    const heldGets = new HeldGets({ ...options, leaves, downlink });
    const uplink = new Uplink({
      ...options,
      leaves,
      downlink,
      forwarder,
      apply,
      heldGets,
      reported,
      commands,
      cloudToDevice,
      guard,
      dialectOf,
    });
    this.#sync = new TwinSync({
      ...options,
      forwarder,
      push,
      apply,
      refusals,
      readIntervalSecs: () => settings().twinReadIntervalSecs,
      synchronised: () => heldGets.answer(),
    });
    this.#report = new RelayReport({
      ...options,
      leaves,
      forwarder,
      push,
      apply,
      budget: this.#budget,
      roomChanged: (twinRoom) => this.report({ twinRoom }),
    });
    this.#machine = new MachineMemory(options);
    this.#leaves = leaves;
    this.#forwarder = forwarder;
    this.#push = push;
    this.#apply = apply;
    this.#uplink = uplink;
    this.#heldGets = heldGets;
    this.#commands = commands;
    this.#cloudToDevice = cloudToDevice;
  }

  /** Loads what the disk has, then opens upstream, then lets leaves in: who connects is answered from the caches at once. */
  async start(): Promise<void> {
    const { downstream, upstream, wan } = this.#options;
    await this.#leaves.load();
    await this.#apply.load();
    await this.#cloudToDevice.load();
    await this.#machine.boot((isAnother) => this.#forwarder.start(isAnother));
    for (const leaf of this.#leaves.all()) this.#push.changed(leaf);
    this.#sync.start();
    await wan.open(this.#wanHandler());
    await upstream.open(this.#hubHandler());
    await downstream.listen(this.#uplink);
    this.#machine.start();
    this.#report.start();
  }

  /** Leaves first, so that nothing new comes in; then what is under way is written down. */
  async [Symbol.asyncDispose](): Promise<void> {
    const { downstream, upstream, wan } = this.#options;
    this.#machine.stop();
    this.#report.stop();
    this.#heldGets.close();
    await downstream[Symbol.asyncDispose]();
    // A push that edgeHub does not answer ends with the link, and what is not safe yet is not made to wait for it.
    const pushed = this.#push.close();
    await this.#sync.close();
    await this.#forwarder.close();
    await upstream[Symbol.asyncDispose]();
    await pushed;
    await wan[Symbol.asyncDispose]();
    await Promise.all([...this.#leaves.all()].map((leaf) => leaf.lane.idle()));
    await this.#leaves.saveVolatile();
    await this.#machine.noteTime();
  }

  get linkUp(): boolean {
    return this.#linkUp;
  }

  /** The twin was read (now or in an earlier life), so leaves can be answered. */
  get synchronised(): boolean {
    return this.#apply.known !== undefined;
  }

  leaves(): Iterable<Leaf> {
    return this.#leaves.all();
  }

  /** Something that the gateway reports of itself has changed. */
  report(state: JsonObject): void {
    this.component.report(state);
    this.#budget.setOther("gateway", this.component.view());
    this.#push.ownChanged();
  }

  diagnostics(): JsonObject {
    return { version: this.#options.version, linkUp: this.#linkUp, wan: this.#wan, ...this.#report.diagnostics() };
  }

  /** Brings the gauges up to date; call before they are read. */
  gauges(): void {
    this.#report.gauges();
  }

  // ---------------------------------------------------------------- handlers

  #hubHandler(): HubHandler {
    return {
      link: (state) => {
        this.#linkUp = state === "up";
        this.#options.metrics.gauge("link_up", this.#linkUp ? 1 : 0);
        this.#options.metrics.count("link_changes_total", { state });
        this.#forwarder.link(state);
        this.#sync.link(state);
        if (this.#linkUp) this.#push.ownChanged();
      },
      renewed: () => this.#sync.renewed(),
      desired: (patch, version) => this.#sync.desired(patch, version),
      command: (name, payload, signal) => this.#commands.run(name, payload, signal),
      input: (name, message) => this.#input(name, message),
    };
  }

  async #input(name: string, message: Telemetry): Promise<void> {
    const { log, metrics } = this.#options;
    const leafId = parseLeafId(message.properties["leafId"] ?? "");
    const leaf = name === CLOUD_TO_DEVICE_INPUT && leafId !== undefined ? this.#leaves.get(leafId) : undefined;
    if (leaf === undefined) {
      metrics.count("inputs_refused_total");
      log.warn(
        { input: name.slice(0, 64), leafId },
        "a message at a module input names no input or no leaf that there is",
      );
      return;
    }
    const { leafId: _own, ...properties } = message.properties;
    const system = { mid: message.system["mid"] ?? this.#options.newMessageId(), ...systemForLeaf(message.system) };
    const result = await this.#cloudToDevice.send(
      leaf,
      { payload: message.payload, system, properties },
      DEFAULT_TTL_SECS,
    );
    if (result.kind === "queued") return;
    metrics.count("inputs_refused_total");
    log.warn({ leafId, reason: result.reason }, "a message at the input c2d was refused");
  }

  #wanHandler(): WanHandler {
    const { log, metrics } = this.#options;
    return {
      wan: (state) => {
        this.#wan = state;
        for (const each of ["online", "away", "unknown"])
          metrics.gauge("wan_state", each === state ? 1 : 0, { state: each });
        log.info({ state }, "the way to the cloud");
        this.#sync.wan(state);
      },
      edgeHubInstance: (instance) => {
        this.#machine.edgeHub(instance, async () => {
          await this.#forwarder.edgeHubRestarted();
          this.#sync.requestRead();
        });
      },
      backlog: (messages, asOfMs) => {
        metrics.gauge("edgehub_backlog_messages", messages);
        // Another edgeHub's says nothing of what the one before has taken.
        if (this.#machine.isUpToDate) this.#forwarder.edgeHubBacklog(messages, asOfMs);
      },
    };
  }

  #statusMessage(): Telemetry {
    const { leavesConnected, outboxEntries } = this.#report.diagnostics();
    return this.component.statusMessage({
      event: "connected",
      leavesConnected: leavesConnected ?? 0,
      outboxEntries: outboxEntries ?? 0,
    });
  }
}
