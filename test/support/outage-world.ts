/**
 * A development hub, the real gateway with its broker, database and ModuleClient, and plain MQTT leaves, for outages of the WAN.
 * Everything that takes long is divided by one factor: the hub's times, and all of the gateway's through its clock.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, vi } from "vitest";
import { mergeConfig } from "../../src/config.ts";
import { type DevHub, startDevHub } from "../../src/devhub/devhub.ts";
import { DEFAULT_SETTINGS } from "../../src/devhub/settings.ts";
import { type Gateway, startGateway } from "../../src/gateway.ts";
import { fastClock } from "./fast-clock.ts";
import { gatewayEnvironment } from "./gateway-process.ts";
import { NumberedLeaf } from "./numbered-leaf.ts";

export const MODULE = { deviceId: "edge1", moduleId: "gw" };
export const WATCHDOG = { timeout: 200_000, interval: 50 };
const PORTS = { mqttPort: 0, servicePort: 0, metricsPort: 0, probePort: 0 };
const LONG = [
  "readInOutageMs",
  "minTwinSyncPeriodMs",
  "resumeAfterSilentMs",
  "resumeAfterRefusedMs",
  "wakingReadMs",
  "offlineNoticeMs",
  "reportedSyncMs",
  "restartDrainIntervalMs",
] as const;

export type GatewaySettings = Readonly<Record<string, string>>;

export interface OutageWorldOptions {
  readonly factor?: number;
  /** `GATEWAY_*`. */
  readonly settings?: GatewaySettings;
  /** Before the gateway starts. */
  readonly prepare?: (hub: DevHub) => void;
}

export class OutageWorld implements AsyncDisposable {
  readonly hub: DevHub;
  readonly factor: number;
  /** The numbers that reached the cloud by leaf, with their message ids, in the order of arrival. */
  readonly arrived = new Map<string, { readonly number: number; readonly id: string | undefined }[]>();
  bootId = "boot";
  readonly #folder = mkdtempSync(join(tmpdir(), "gateway-outage-"));
  readonly #settings: GatewaySettings;
  readonly #leaves: NumberedLeaf[] = [];
  #gateway: Gateway | undefined;

  private constructor(hub: DevHub, factor: number, settings: GatewaySettings) {
    this.hub = hub;
    this.factor = factor;
    this.#settings = settings;
    hub.cloud.onEvent((event) => {
      if (event.kind !== "message") return;
      const { body, properties, system } = event.message;
      const { leafId = "" } = properties;
      if (leafId === "") return;
      const { number } = JSON.parse(Buffer.from(body).toString()) as { readonly number: number };
      this.arrived.set(leafId, [...(this.arrived.get(leafId) ?? []), { number, id: system["mid"] }]);
    });
  }

  static async start({ factor = 5, settings = {}, prepare }: OutageWorldOptions = {}): Promise<OutageWorld> {
    const times = Object.fromEntries(LONG.map((name) => [name, DEFAULT_SETTINGS[name] / factor]));
    const hub = await startDevHub({ ...PORTS, ...times });
    const world = new OutageWorld(hub, factor, settings);
    try {
      prepare?.(hub);
      await world.startGateway();
      return world;
    } catch (error) {
      await world[Symbol.asyncDispose]();
      throw error;
    }
  }

  get gateway(): Gateway {
    if (this.#gateway === undefined) throw new Error("the gateway is stopped");
    return this.#gateway;
  }

  async startGateway(): Promise<void> {
    const environment = gatewayEnvironment(this.hub, 0, this.#folder, this.#settings);
    const merged = mergeConfig({}, environment);
    if (merged.kind === "invalid") throw new Error(JSON.stringify(merged.problems));
    this.#gateway = await startGateway({
      config: merged.config,
      environment,
      stateFolder: this.#folder,
      bootId: this.bootId,
      logDestination: { write: () => undefined },
      clock: fastClock(this.factor),
    });
  }

  async stopGateway(): Promise<void> {
    await this.#gateway?.[Symbol.asyncDispose]();
    this.#gateway = undefined;
  }

  async synchronised(): Promise<void> {
    await vi.waitFor(() => expect(this.gateway.relay.synchronised).toBe(true), WATCHDOG);
  }

  /** The two reads that a new link begins with are over: none is planned any more but by the period. */
  async settled(): Promise<void> {
    await vi.waitFor(async () => expect(await this.reads()).toBeGreaterThanOrEqual(2), WATCHDOG);
  }

  /** Twin reads that ended, well or not. */
  async reads(): Promise<number> {
    return this.metric("twin_reads_total");
  }

  /** A metric of the gateway over all its labels. */
  async metric(name: string): Promise<number> {
    const lines = (await this.gateway.metricsText()).split("\n");
    const values = lines.filter(
      (line) => line.startsWith(`pnp_gateway_${name}{`) || line.startsWith(`pnp_gateway_${name} `),
    );
    return values.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
  }

  async leaf(id: string): Promise<NumberedLeaf> {
    const leaf = await NumberedLeaf.connect(id, this.gateway.broker.ports.plain ?? 0);
    this.#leaves.push(leaf);
    return leaf;
  }

  desire(id: string, target: string): void {
    this.hub.cloud.patchDesired(MODULE, { [id]: { __t: "c", target } });
  }

  async heard(leaf: NumberedLeaf, target: string): Promise<void> {
    await vi.waitFor(() => expect(leaf.targets.at(-1)).toBe(target), WATCHDOG);
  }

  numbersOf(id: string): number[] {
    return (this.arrived.get(id) ?? []).map(({ number }) => number);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const leaf of this.#leaves) await leaf[Symbol.asyncDispose]();
    await this.stopGateway();
    await this.hub[Symbol.asyncDispose]();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
