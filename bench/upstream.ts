/** The hub without the gateway: what the floor and the bare sender send through. */
import { readFileSync } from "node:fs";
import azureIotCommon from "azure-iot-common";
import azureIotDevice from "azure-iot-device";
import azureIotDeviceMqtt from "azure-iot-device-mqtt";
import mqtt from "mqtt";

const { ConnectionString, SharedAccessSignature } = azureIotCommon;
const { Message, ModuleClient } = azureIotDevice;
const { Mqtt } = azureIotDeviceMqtt;

/** The gateway's own: more buys nothing from edgeHub. */
export const WINDOW = 16;
const TOKEN_VALID_SECS = 3_600;

/** Calls `done` when the hub has acknowledged. */
export type Send = (payload: Buffer, done: (error?: Error | null) => void) => void;

export interface HubAddress {
  readonly connectionString: string;
  readonly caFile: string;
  readonly port: number;
}

/** A bare mqtt.js, told everything that the SDK works out for itself. */
export async function bareUpstream({ connectionString, caFile, port }: HubAddress): Promise<Send> {
  const {
    HostName: host,
    DeviceId: device,
    ModuleId: module,
    SharedAccessKey: key = "",
  } = ConnectionString.parse(connectionString);
  const resource = encodeURIComponent(`${host}/devices/${device}/modules/${module}`);
  const expires = Math.floor(Date.now() / 1000) + TOKEN_VALID_SECS;
  const upstream = await mqtt.connectAsync({
    protocol: "mqtts",
    host: "localhost",
    port,
    ca: readFileSync(caFile),
    protocolVersion: 4,
    clientId: `${device}/${module}`,
    username: `${host}/${device}/${module}/?api-version=2021-04-12`,
    password: SharedAccessSignature.create(resource, "", key, expires).toString(),
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
