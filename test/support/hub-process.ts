/** The development hub as a process that tests kill and start again: same folder, same ports, and a back end's view of it. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { z } from "zod";
import type { Json, JsonObject } from "../../src/core/message.ts";
import { HubClient, type HubReply } from "../../src/devhub/cli-hub-client.ts";
import { readServiceFile } from "../../src/devhub/service-api-file.ts";

const MAIN = new URL("../../src/devhub/main.ts", import.meta.url).pathname;
const WATCHDOG_MS = 120_000;

const Announcement = z.object({
  environment: z.record(z.string(), z.string()),
  mqttPort: z.number(),
  metricsUrl: z.url(),
  probeAddress: z.object({ host: z.string(), port: z.number() }),
});

export class HubProcess implements AsyncDisposable {
  readonly #folder: string;
  readonly #settings: Readonly<Record<string, number>>;
  #ports: Readonly<Record<string, string>> = {
    DEVHUB_MQTT_PORT: "0",
    DEVHUB_SERVICE_PORT: "0",
    DEVHUB_METRICS_PORT: "0",
    DEVHUB_PROBE_PORT: "0",
  };
  #announced: z.output<typeof Announcement> | undefined;
  #client: HubClient | undefined;
  #child: ChildProcess | undefined;

  private constructor(folder: string, settings: Readonly<Record<string, number>>) {
    this.#folder = folder;
    this.#settings = settings;
  }

  /** State survives in `folder`; `settings` are those of `src/devhub/settings.ts`. */
  static async start(folder: string, settings: Readonly<Record<string, number>> = {}): Promise<HubProcess> {
    const hub = new HubProcess(folder, settings);
    await hub.start();
    return hub;
  }

  /** What the gateway is started with. */
  environment(): Record<string, string> {
    return this.#known.environment;
  }

  get metricsUrl(): string {
    return this.#known.metricsUrl;
  }

  get probeAddress(): { readonly host: string; readonly port: number } {
    return this.#known.probeAddress;
  }

  /** Where edgeHub writes down what it took, before it acknowledges it. */
  get journal(): string {
    return join(this.#folder, "edge", "messages.jsonl");
  }

  /** Resolves when it can be used; at once when it runs. */
  async start(): Promise<void> {
    if (this.#child !== undefined) return;
    const { PATH = "" } = process.env;
    const child = spawn(process.execPath, [MAIN], {
      env: { PATH, DEVHUB_STATE: this.#folder, DEVHUB_SETTINGS: JSON.stringify(this.#settings), ...this.#ports },
      stdio: ["ignore", "pipe", "inherit"],
    });
    this.#child = child;
    const watchdog = setTimeout(() => child.kill("SIGKILL"), WATCHDOG_MS);
    const line = await firstLine(child);
    clearTimeout(watchdog);
    this.#announced = Announcement.parse(JSON.parse(line));
    this.#follow(this.#announced);
  }

  /** SIGKILL; resolves when the process is gone. */
  async kill(): Promise<void> {
    const child = this.#child;
    if (child === undefined) return;
    this.#child = undefined;
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
  }

  /** Of the module's twin; undefined while the hub is away. */
  async reported(): Promise<JsonObject | undefined> {
    const reply = await this.#call("GET", "");
    const { properties } = Twin.parse(reply?.body ?? {});
    return properties?.reported as JsonObject | undefined;
  }

  /** True when the hub has taken it. */
  async desire(desired: JsonObject): Promise<boolean> {
    return (await this.#call("PATCH", "", { properties: { desired } }))?.status === 200;
  }

  /** The leaf's own status and answer; undefined when the hub has none. */
  async invoke(methodName: string, payload: Json): Promise<Json | undefined> {
    const body = { methodName, payload, responseTimeoutInSeconds: 30, connectTimeoutInSeconds: 0 };
    return (await this.#call("POST", "/methods", body))?.body;
  }

  /** As `npm run hub`: `cut`, `silent`, `pubacks`, ... */
  async control(name: string, args: JsonObject = {}): Promise<void> {
    await this.#client?.call("POST", `/control/${name}`, args);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }

  get #known(): z.output<typeof Announcement> {
    if (this.#announced === undefined) throw new Error("the hub was never started");
    return this.#announced;
  }

  async #call(method: string, path: string, body?: Json): Promise<HubReply | undefined> {
    const client = this.#client;
    if (client === undefined) return undefined;
    const { deviceId, moduleId } = client.module;
    // Killed meanwhile: there is no answer.
    return client.call(method, `/twins/${deviceId}/modules/${moduleId}${path}`, body).catch(() => undefined);
  }

  /** Later starts listen where the first one did. */
  #follow({ mqttPort, metricsUrl, probeAddress }: z.output<typeof Announcement>): void {
    const found = readServiceFile(join(this.#folder, "service.json"));
    if (found.kind !== "found") throw new Error("the hub has written no service file");
    this.#client = new HubClient(found.service, readFileSync(found.service.caFile, "utf8"));
    this.#ports = {
      DEVHUB_MQTT_PORT: String(mqttPort),
      DEVHUB_SERVICE_PORT: new URL(found.service.url).port,
      DEVHUB_METRICS_PORT: new URL(metricsUrl).port,
      DEVHUB_PROBE_PORT: String(probeAddress.port),
    };
  }
}

const Twin = z.object({ properties: z.object({ reported: z.record(z.string(), z.unknown()) }).optional() });

async function firstLine(child: ChildProcess): Promise<string> {
  if (child.stdout === null) throw new Error("the child has no output");
  const lines = createInterface({ input: child.stdout });
  return new Promise((resolve, reject) => {
    lines.once("line", resolve);
    child.once("exit", (code, signal) => reject(new Error(`the hub ended (${code ?? signal}) before it was ready`)));
  });
}
