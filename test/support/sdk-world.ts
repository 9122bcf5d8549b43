/** A development hub, a gateway in a process of its own that can be killed, and what leaves on the SDKs' wires need to reach it. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, vi } from "vitest";
import { componentName } from "../../src/core/component-name.ts";
import { type Json, type JsonObject, parseLeafId } from "../../src/core/message.ts";
import type { D2cMessage } from "../../src/devhub/cloud-types.ts";
import { type DevHub, startDevHub } from "../../src/devhub/devhub.ts";
import { sha256Hex } from "../../src/sha256-hex.ts";
import { freePort, type GatewayProcess, gatewayEnvironment, spawnGateway } from "./gateway-process.ts";
import type { SdkLeafOptions } from "./sdk-leaf.ts";
import { SDK_WIRES, type SdkWire } from "./sdk-wire.ts";

const MODULE = { deviceId: "edge1", moduleId: "gw" };
/** A watchdog of ten times what a busy machine takes. */
export const WAIT = { timeout: 60_000, interval: 50 };
const KEY = Buffer.from("every leaf's own key, here the same").toString("base64");

export class SdkWorld implements AsyncDisposable {
  readonly hub: DevHub;
  readonly leafOptions: SdkLeafOptions;
  readonly #messages: D2cMessage[] = [];
  readonly #folder: string;
  readonly #environment: Readonly<Record<string, string>>;
  #gateway: GatewayProcess | undefined;

  private constructor(hub: DevHub, port: number) {
    this.hub = hub;
    this.#folder = mkdtempSync(join(tmpdir(), "sdk-leaves-"));
    const keysFile = join(this.#folder, "keys.json");
    const keys = Object.fromEntries(SDK_WIRES.map(({ leafId }) => [leafId, { primary: KEY }]));
    writeFileSync(keysFile, JSON.stringify(keys));
    this.#environment = gatewayEnvironment(hub, port, join(this.#folder, "state"), {
      GATEWAY_AUTH_MODE: "enforce",
      GATEWAY_LEAF_KEYS_FILE: keysFile,
      GATEWAY_LOG_LEVEL: "warn",
    });
    const { gatewayHostName, iotHubHostName } = hub.settings;
    this.leafOptions = { port, gatewayHostName, hubHostName: iotHubHostName, key: KEY };
    hub.cloud.onEvent((event) => {
      if (event.kind === "message") this.#messages.push(event.message);
    });
  }

  static async start(): Promise<SdkWorld> {
    const ports = { mqttPort: await freePort(), servicePort: 0, metricsPort: 0, probePort: 0 };
    const hub = await startDevHub({ ...ports, ...MODULE, reportedSyncMs: 100, restartDrainIntervalMs: 300 });
    const world = new SdkWorld(hub, await freePort());
    await world.startGateway();
    return world;
  }

  /** Resolves when it answers. */
  async startGateway(): Promise<void> {
    this.#gateway = spawnGateway(this.#environment);
    // The start is told with "info"; a command that is answered shows it as well.
    await vi.waitFor(async () => expect(await this.command("gateway*ping", {})).toMatchObject({ status: 200 }), WAIT);
  }

  /** SIGKILL. */
  async killGateway(): Promise<void> {
    await this.#gateway?.kill("SIGKILL");
  }

  /** While the gateway is killed. */
  loseDisk(): void {
    rmSync(join(this.#folder, "state"), { recursive: true });
  }

  /** A back end's call: the answer, or what the hub makes of there being none. */
  async command(name: string, payload: Json): Promise<unknown> {
    const outcome = await this.hub.cloud.invoke({ id: MODULE, name, payload });
    return outcome.kind === "answer" ? { status: outcome.status, payload: outcome.payload } : outcome;
  }

  desire(patch: JsonObject): void {
    expect(this.hub.cloud.patchDesired(MODULE, patch).kind).toBe("updated");
  }

  /** What the cloud has of the module twin. */
  section(name: "desired" | "reported", component: string): Json {
    return this.hub.cloud.twin(MODULE)?.[name][component] ?? null;
  }

  messagesOf({ leafId }: SdkWire): readonly D2cMessage[] {
    return this.#messages.filter(({ properties }) => properties["leafId"] === leafId);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#gateway?.[Symbol.asyncDispose]();
    await this.hub[Symbol.asyncDispose]();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** The component of the module's twin that stands for the leaf. */
export function componentOf({ leafId }: SdkWire): string {
  const id = parseLeafId(leafId);
  if (id === undefined) throw new Error(`${leafId} is no leaf id`);
  return componentName(id, sha256Hex);
}
