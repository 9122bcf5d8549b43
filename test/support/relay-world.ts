/**
 * A whole gateway around models: the real relay, a store, a model hub, model leaves, a clock moved by hand.
 * The process can be killed at any moment and started again on what its store had committed.
 */
import type { Models } from "../../src/core/dtdl.ts";
import type { JsonObject } from "../../src/core/message.ts";
import type { Clock, Log, Metrics } from "../../src/flow/ports.ts";
import { Relay, type RelaySettings } from "../../src/flow/relay.ts";
import { sha256Hex } from "../../src/sha256-hex.ts";
import { FaultyStore, type Misfortune } from "./faulty-store.ts";
import { ManualClock } from "./manual-clock.ts";
import { emptyDisk, MemoryStore } from "./memory-store.ts";
import { ModelEdge } from "./model-edge.ts";
import { ModelHub, ModelWan } from "./model-hub.ts";
import { ModelLeaves } from "./model-leaves.ts";

export const RELAY_SETTINGS: RelaySettings = {
  spillAfterMs: 200,
  commitIntervalMs: 100,
  timeToLiveSecs: 7_200,
  maxBytes: 64 * 1024 * 1024,
  overflow: "reject",
  memoryEntries: 50,
  memoryBytes: 1024 * 1024,
  durability: "first-safe",
  retainAfterAckSecs: 60,
  leafConnectTimeoutSecs: 0,
  commandTimeoutSecs: 25,
  maxPendingCommandsPerLeaf: 16,
  maxLeaves: 100,
  maxComponentsPerLeaf: 10,
  maxTwinBytesPerLeaf: 8_192,
  reportedIntervalMs: 5_000,
  twinReadIntervalSecs: 900,
  modelCheck: "warn",
};

const SILENT: Log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined };
const NO_METRICS: Metrics = { count: () => undefined, gauge: () => undefined, observe: () => undefined };

export interface WorldOptions {
  readonly settings?: Partial<RelaySettings>;
  readonly models?: Models;
  readonly log?: Log;
  readonly metrics?: Metrics;
  /** An edgeHub between the gateway and the hub. */
  readonly edge?: boolean;
  readonly clockIsSet?: () => boolean;
}

export class RelayWorld implements AsyncDisposable {
  readonly clock = new ManualClock();
  readonly hub = new ModelHub(this.clock);
  readonly wan = new ModelWan(this.clock);
  readonly leaves = new ModelLeaves();
  readonly edge: ModelEdge | undefined;
  settings: RelaySettings;
  aliases: Readonly<Record<string, string>> = {};
  /** What outlives a process. */
  disk = emptyDisk();
  /** What happens to the commits from now on. */
  misfortune: () => Misfortune = () => "none";
  store: FaultyStore;
  /** What the gateway was told that is desired of itself. */
  readonly gatewayDesired: { readonly section: JsonObject; readonly version: number }[] = [];
  bootId = "boot-1";
  relay: Relay | undefined;
  readonly #options: WorldOptions;
  #ids = 0;

  constructor(options: WorldOptions = {}) {
    this.#options = options;
    this.settings = { ...RELAY_SETTINGS, ...options.settings };
    this.store = this.#openStore();
    if (options.edge === true) this.edge = new ModelEdge(this.hub, this.clock);
    this.hub.edge = this.edge;
    this.wan.edge = this.edge;
  }

  async start(): Promise<Relay> {
    const clock: Clock = this.clock;
    this.relay = new Relay({
      store: this.store,
      upstream: this.hub,
      downstream: this.leaves,
      wan: this.wan,
      clock,
      metrics: this.#options.metrics ?? NO_METRICS,
      log: this.#options.log ?? SILENT,
      random: () => 0.5,
      newMessageId: () => `id-${++this.#ids}`,
      naming: { sha256Hex, aliases: this.aliases },
      models: this.#options.models ?? new Map(),
      settings: () => this.settings,
      clockIsSet: this.#options.clockIsSet ?? (() => true),
      version: "0.0.0-test",
      bootId: this.bootId,
      setLogLevel: () => true,
      onGatewayDesired: (section, version) => ({
        memory: null,
        apply: () => this.gatewayDesired.push({ section, version }),
      }),
    });
    await this.relay.start();
    return this.relay;
  }

  /** SIGKILL: connections break, nobody is told, nothing more is written. The next process finds the disk as it is. */
  kill(): void {
    this.store.crash();
    this.leaves.detach();
    this.hub.detach();
    this.wan.handler = undefined;
    this.relay = undefined;
    this.store = this.#openStore();
  }

  /** After {@link kill}: the next process finds an empty disk. */
  loseDisk(): void {
    this.disk = emptyDisk();
    this.store = this.#openStore();
  }

  #openStore(): FaultyStore {
    return new FaultyStore(new MemoryStore(this.disk), this.clock, () => this.misfortune());
  }

  /** Lets everything that is due within `ms` happen. */
  async pass(ms: number): Promise<void> {
    await this.clock.advance(ms);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const relay = this.relay;
    if (relay === undefined) return;
    let disposed = false;
    // Also when it fails: a test that has failed with a broken disk is to say so at once.
    const done = relay[Symbol.asyncDispose]().finally(() => {
      disposed = true;
    });
    while (!disposed) await this.clock.advance(1_000);
    await done;
  }
}

/** One that has a link, past the reads of the module twin that a new link begins with. */
export async function connectedWorld(options: WorldOptions = {}): Promise<RelayWorld> {
  const world = new RelayWorld(options);
  await world.start();
  world.hub.link("up");
  await world.pass(30_000);
  return world;
}
