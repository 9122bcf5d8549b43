/**
 * The hub without the gateway: what the floor and the bare sender send through.
 */
import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import azureIotDevice from "azure-iot-device";
import azureIotDeviceMqtt from "azure-iot-device-mqtt";
import mqtt from "mqtt";

const { Message, ModuleClient } = azureIotDevice;
const { Mqtt } = azureIotDeviceMqtt;

/** The gateway's own: more buys nothing from edgeHub. */
export const WINDOW = 16;

/** Calls `done` when the hub has acknowledged. */
export type Send = (payload: Buffer, done: (error?: Error | null) => void) => void;

export interface HubAddress {
  readonly connectionString: string;
  readonly caFile: string;
  readonly port: number;
}

/** A bare mqtt.js, told everything that the SDK works out for itself. */
export async function bareUpstream({ connectionString, caFile, port }: HubAddress): Promise<Send> {
  const { host, device, module, key } = parse(connectionString);
  const upstream = await mqtt.connectAsync({
    protocol: "mqtts",
    host: "localhost",
    port,
    ca: readFileSync(caFile),
    protocolVersion: 4,
    clientId: `${device}/${module}`,
    username: `${host}/${device}/${module}/?api-version=2021-04-12`,
    password: token(`${host}/devices/${device}/modules/${module}`, key),
    clean: false,
  });
  const topic = `devices/${device}/modules/${module}/messages/events/%24.ct=application%2Fjson&%24.ce=utf-8`;
  return (payload, done) => upstream.publish(topic, Buffer.from(payload), { qos: 1 }, done);
}

/**
 * The unmodified ModuleClient, with bodies as strings, which cost it a tenth. `properties`: such as the gateway gives each message, so
 * that a back end knows whose it is.
 */
export async function sdkUpstream(
  { connectionString, caFile }: HubAddress,
  properties: Readonly<Record<string, string>> = {},
): Promise<Send> {
  const client = ModuleClient.fromConnectionString(connectionString, Mqtt);
  await client.setOptions({ ca: readFileSync(caFile, "utf8") });
  await client.open();
  return (payload, done) => {
    const message = new Message(payload.toString("utf8"));
    message.contentType = "application/json";
    message.contentEncoding = "utf-8";
    for (const [key, value] of Object.entries(properties)) message.properties.add(key, value);
    client.sendOutputEvent("telemetry", message, (error) => done(error));
  };
}

function parse(connectionString: string): Record<"host" | "device" | "module" | "key", string> {
  const parts = connectionString.split(";").map((part) => [before(part), part.slice(before(part).length + 1)] as const);
  const fields = new Map(parts);
  const of = (name: string): string => fields.get(name) ?? "";
  return { host: of("HostName"), device: of("DeviceId"), module: of("ModuleId"), key: of("SharedAccessKey") };
}

function token(resource: string, key: string): string {
  const expires = Math.floor(Date.now() / 1000) + 3_600;
  const audience = encodeURIComponent(resource);
  const signature = createHmac("sha256", Buffer.from(key, "base64")).update(`${audience}\n${expires}`).digest("base64");
  return `SharedAccessSignature sr=${audience}&sig=${encodeURIComponent(signature)}&se=${expires}`;
}

function before(part: string): string {
  return part.slice(0, part.indexOf("="));
}
