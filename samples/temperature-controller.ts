/**
 * The temperature controller of the IoT Plug and Play tutorials (dtmi:com:example:TemperatureController;2) as a leaf of the
 * gateway, written with the unmodified device SDK: what differs from a device of IoT Hub is GatewayHostName and the CA.
 *
 *   npm run leaf [-- <device id>]        settings from the environment, all optional:
 *
 *   LEAF_CONNECTION_STRING   instead of the next four
 *   LEAF_ID                  leaf1
 *   LEAF_KEY                 base64; in development the gateway takes any
 *   LEAF_HUB_NAME            devhub.azure-devices.net; goes into tokens, nobody dials it
 *   LEAF_GATEWAY_HOST        localhost, with `:port` when it is not 8883; must be in the gateway's certificate
 *   LEAF_CA_FILE             ./.gateway/leaf-ca.pem; PEM of the root that the gateway's certificate leads to
 *   LEAF_INTERVAL_MS         5000, between telemetry
 */

import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { Client as DeviceClient, Twin } from "azure-iot-device";
import azureIotDevice from "azure-iot-device";
import azureIotDeviceMqtt from "azure-iot-device-mqtt";

const { Client, Message } = azureIotDevice;
const { Mqtt } = azureIotDeviceMqtt;

const MODEL_ID = "dtmi:com:example:TemperatureController;2";
const DEFAULT_TARGET = 21;
const RETRY_MS = 3_000;
const DEVICE_INFORMATION = {
  manufacturer: "Contoso Device Corporation",
  model: "Contoso 4762B-turbo",
  swVersion: "1.0.0",
  osName: process.platform,
  processorArchitecture: process.arch,
  processorManufacturer: "Contoso Foundries",
  totalStorage: 64_000,
  totalMemory: 640,
};

type Properties = Readonly<Record<string, unknown>>;

const [argument, ...more] = process.argv.slice(2);
if (argument?.startsWith("-") === true || more.length > 0) {
  console.log(
    "Usage: npm run leaf [-- <device id>]; settings from the environment stand at the top of samples/temperature-controller.ts",
  );
  process.exit(/^(?:-h|--help)$/.test(argument ?? "") ? 0 : 2);
}
const deviceId = argument ?? process.env["LEAF_ID"] ?? "leaf1";
const intervalMs = Number(process.env["LEAF_INTERVAL_MS"] ?? 5_000);
const ended = new AbortController();

/** A room with a heater: drifts towards its target and remembers what it has seen. */
class Thermostat {
  readonly name: string;
  target = DEFAULT_TARGET;
  #temperature = 19;
  #readings: { readonly at: Date; readonly temperature: number }[] = [];
  #reportedMax = Number.NEGATIVE_INFINITY;

  constructor(name: string) {
    this.name = name;
  }

  measure(): number {
    const next = this.#temperature + (this.target - this.#temperature) * 0.2 + (Math.random() - 0.5) * 0.4;
    this.#temperature = Math.round(next * 100) / 100;
    this.#readings = [...this.#readings, { at: new Date(), temperature: this.#temperature }].slice(-1_000);
    return this.#temperature;
  }

  /** The maximum since the last reboot, when it is a new one. */
  newMax(): number | undefined {
    if (this.#temperature <= this.#reportedMax) return undefined;
    this.#reportedMax = this.#temperature;
    return this.#temperature;
  }

  reboot(): void {
    this.#readings = [];
    this.#reportedMax = Number.NEGATIVE_INFINITY;
  }

  /** Undefined when nothing was measured since then. */
  report(since: Date): Properties | undefined {
    const readings = this.#readings.filter(({ at }) => at >= since);
    const [first, last] = [readings[0], readings.at(-1)];
    if (first === undefined || last === undefined) return undefined;
    const temperatures = readings.map(({ temperature }) => temperature);
    return {
      maxTemp: Math.max(...temperatures),
      minTemp: Math.min(...temperatures),
      avgTemp: temperatures.reduce((sum, one) => sum + one, 0) / temperatures.length,
      startTime: first.at.toISOString(),
      endTime: last.at.toISOString(),
    };
  }
}

const thermostats = [new Thermostat("thermostat1"), new Thermostat("thermostat2")];

process.once("SIGINT", () => ended.abort());
process.once("SIGTERM", () => ended.abort());
await main();

async function main(): Promise<void> {
  const client = await again(connect, (reason) =>
    /certificate|altnames/i.test(reason)
      ? `Does ${caFile()} (LEAF_CA_FILE) hold the root of the gateway's certificate, and is the host's name in it?`
      : "Is the gateway running (npm start)?",
  );
  if (client === undefined) return;
  answerCommands(client);
  const twin = await again(
    () => client.getTwin(),
    () => "The twin is not there yet.",
  );
  if (twin !== undefined) await live(client, twin);
  await client.close();
  say("closed");
}

/** Until it works; undefined when the user ends the leaf before. */
async function again<T>(attempt: () => Promise<T>, hintFor: (reason: string) => string): Promise<T | undefined> {
  while (!ended.signal.aborted) {
    try {
      return await attempt();
    } catch (error) {
      const reason = reasonOf(error);
      say(`${reason}. ${hintFor(reason)} Trying again in ${RETRY_MS / 1000} s`);
      await pause(RETRY_MS);
    }
  }
  return undefined;
}

async function connect(): Promise<DeviceClient> {
  const client = Client.fromConnectionString(connectionString(), Mqtt);
  await client.setOptions({ ca: readFileSync(caFile(), "utf8"), modelId: MODEL_ID });
  client.on("error", (error: Error) => say(`connection: ${error.message}`));
  client.on("disconnect", () => say("disconnected for good; start the leaf again"));
  await client.open();
  say(`connected as ${MODEL_ID}`);
  return client;
}

async function live(client: DeviceClient, twin: Twin): Promise<void> {
  twin.on("error", (error: Error) => say(`twin: ${error.message}`));
  await report(twin, { serialNumber: "SR-123456", deviceInformation: component(DEVICE_INFORMATION) });
  await acknowledgeDefaults(twin);
  // Called at once with what there is, later with each change.
  twin.on("properties.desired", (desired: Properties) => {
    acknowledge(twin, desired).catch((error: Error) => say(`could not acknowledge: ${error.message}`));
  });
  while (!ended.signal.aborted) {
    await sendRound(client, twin);
    await pause(intervalMs);
  }
}

function connectionString(): string {
  const { LEAF_CONNECTION_STRING, LEAF_HUB_NAME, LEAF_KEY, LEAF_GATEWAY_HOST } = process.env;
  if (LEAF_CONNECTION_STRING !== undefined) return LEAF_CONNECTION_STRING;
  const key = LEAF_KEY ?? Buffer.from("any key will do").toString("base64");
  const hub = LEAF_HUB_NAME ?? "devhub.azure-devices.net";
  return `HostName=${hub};DeviceId=${deviceId};SharedAccessKey=${key};GatewayHostName=${LEAF_GATEWAY_HOST ?? "localhost"}`;
}

function caFile(): string {
  return process.env["LEAF_CA_FILE"] ?? "./.gateway/leaf-ca.pem";
}

// Telemetry

async function sendRound(client: DeviceClient, twin: Twin): Promise<void> {
  for (const thermostat of thermostats) {
    await send(client, { temperature: thermostat.measure() }, thermostat.name);
    const max = thermostat.newMax();
    if (max !== undefined) await report(twin, { [thermostat.name]: component({ maxTempSinceLastReboot: max }) });
  }
  await send(client, { workingSet: Math.round(process.memoryUsage().rss / 1024) }, undefined);
}

async function send(client: DeviceClient, body: Properties, componentName: string | undefined): Promise<void> {
  const message = new Message(JSON.stringify(body));
  message.contentType = "application/json";
  message.contentEncoding = "utf-8";
  if (componentName !== undefined) message.properties.add("$.sub", componentName);
  try {
    await client.sendEvent(message);
    say(`sent ${componentName ?? "(default)"} ${JSON.stringify(body)}`);
  } catch (error) {
    say(`could not send: ${reasonOf(error)}`);
  }
}

// Properties

/** Marked, so that it is told from a property that is an object [PnP conventions]. */
function component(properties: Properties): Properties {
  return { __t: "c", ...properties };
}

async function report(twin: Twin, patch: Properties): Promise<void> {
  const reported = twin.properties.reported as { update(patch: Properties, done: (error?: Error) => void): void };
  const error = await new Promise<Error | undefined>((resolve) => reported.update(patch, resolve));
  say(error ? `could not report: ${error.message}` : `reported ${JSON.stringify(patch)}`);
}

/** What nobody has set yet is reported as the device's own default: 203 with version 0 [PnP writable properties]. */
async function acknowledgeDefaults(twin: Twin): Promise<void> {
  const desired = twin.properties.desired as Properties;
  for (const thermostat of thermostats) {
    if (isObject(desired[thermostat.name])) continue;
    await report(twin, {
      [thermostat.name]: component({ targetTemperature: acknowledgement(thermostat.target, 203, 0, "default") }),
    });
  }
}

async function acknowledge(twin: Twin, desired: Properties): Promise<void> {
  const version = Number(desired["$version"]);
  for (const thermostat of thermostats) {
    const section = desired[thermostat.name];
    if (!isObject(section) || !Object.hasOwn(section, "targetTemperature")) continue;
    const value = section["targetTemperature"];
    say(`desired ${thermostat.name}.targetTemperature = ${JSON.stringify(value)}, version ${version}`);
    const answer = judge(thermostat, value, version);
    await report(twin, { [thermostat.name]: component({ targetTemperature: answer }) });
  }
}

function judge(thermostat: Thermostat, value: unknown, version: number): Properties {
  if (value === null) {
    thermostat.target = DEFAULT_TARGET;
    return acknowledgement(DEFAULT_TARGET, 203, version, "removed, default");
  }
  if (typeof value !== "number") return acknowledgement(thermostat.target, 400, version, "not a number");
  thermostat.target = value;
  return acknowledgement(value, 200, version, "heating or cooling to the target");
}

function acknowledgement(value: number, ac: number, av: number, ad: string): Properties {
  return { value, ac, av, ad };
}

// Commands

type Handler = Parameters<DeviceClient["onDeviceMethod"]>[1];

function answerCommands(client: DeviceClient): void {
  answer(client, "reboot", (delaySecs) => {
    if (delaySecs !== null && typeof delaySecs !== "number")
      return { status: 400, payload: "delay is a number of seconds" };
    for (const thermostat of thermostats) thermostat.reboot();
    return { status: 200, payload: null };
  });
  for (const thermostat of thermostats) {
    answer(client, `${thermostat.name}*getMaxMinReport`, (since) => {
      const from = new Date(typeof since === "string" ? since : 0);
      if (Number.isNaN(from.getTime())) return { status: 400, payload: "since is a date and time" };
      const found = thermostat.report(from);
      return found === undefined ? { status: 404, payload: null } : { status: 200, payload: found };
    });
  }
}

function answer(
  client: DeviceClient,
  name: string,
  run: (payload: unknown) => { status: number; payload: unknown },
): void {
  const handler: Handler = (request, response) => {
    const { status, payload } = run(request.payload);
    say(`command ${name} ${JSON.stringify(request.payload)} answered ${status}`);
    response.send(status, payload).catch((error: Error) => say(`could not answer: ${error.message}`));
  };
  client.onDeviceMethod(name, handler);
}

// The rest

/** Ends early when the user does. */
async function pause(ms: number): Promise<void> {
  await sleep(ms, undefined, { signal: ended.signal }).catch(() => undefined);
}

function isObject(value: unknown): value is Properties {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function say(text: string): void {
  console.log(`${deviceId}  ${text}`);
}
