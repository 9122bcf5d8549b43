/**
 * The floor: the same job without any of the gateway's work. A bare aedes acknowledges a leaf's message after a bare mqtt.js publish
 * of its bytes was acknowledged by the hub, with the gateway's window. With `sdk` the unmodified ModuleClient stands in place of mqtt.js.
 * Arguments: module connection string, CA file, hub's MQTT port, `bare` or `sdk`.
 */
import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import { Aedes } from "aedes";
import azureIotDevice from "azure-iot-device";
import azureIotDeviceMqtt from "azure-iot-device-mqtt";
import mqtt from "mqtt";

const { Message, ModuleClient } = azureIotDevice;
const { Mqtt } = azureIotDeviceMqtt;

const WINDOW = 16;
const [connectionString = "", caFile = "", hubPort = "", upstreamKind = "bare"] = process.argv.slice(2);
const fields = new Map(connectionString.split(";").map((part) => [before(part), part.slice(before(part).length + 1)]));
const [host = "", device = "", module = ""] = ["HostName", "DeviceId", "ModuleId"].map((name) => fields.get(name));

type Send = (payload: Buffer, done: (error?: Error | null) => void) => void;

/** A bare mqtt.js, told everything that the SDK works out for itself. */
async function bare(): Promise<Send> {
  const upstream = await mqtt.connectAsync({
    protocol: "mqtts",
    host: "localhost",
    port: Number(hubPort),
    ca: readFileSync(caFile),
    protocolVersion: 4,
    clientId: `${device}/${module}`,
    username: `${host}/${device}/${module}/?api-version=2021-04-12`,
    password: token(),
    clean: false,
  });
  const topic = `devices/${device}/modules/${module}/messages/events/%24.ct=application%2Fjson&%24.ce=utf-8`;
  return (payload, done) => upstream.publish(topic, Buffer.from(payload), { qos: 1 }, done);
}

/** The unmodified ModuleClient, with bodies as strings, which cost it a tenth. */
async function sdk(): Promise<Send> {
  const client = ModuleClient.fromConnectionString(connectionString, Mqtt);
  await client.setOptions({ ca: readFileSync(caFile, "utf8") });
  await client.open();
  return (payload, done) => {
    const message = new Message(payload.toString("utf8"));
    message.contentType = "application/json";
    message.contentEncoding = "utf-8";
    client.sendOutputEvent("telemetry", message, (error) => done(error));
  };
}

const publish = await (upstreamKind === "sdk" ? sdk() : bare());
const waiting: (() => void)[] = [];
let running = 0;

const broker = await Aedes.createBroker({
  concurrency: 0,
  authorizePublish: (_client, { payload }, done) => {
    const send = (): void => {
      running += 1;
      publish(Buffer.from(payload), (error) => {
        running -= 1;
        done(error ?? null);
        waiting.shift()?.();
      });
    };
    if (running < WINDOW) send();
    else waiting.push(send);
  },
});
const server = createServer((socket) => broker.handle(socket));
server.listen({ host: "127.0.0.1", port: 0 }, () => {
  const address = server.address();
  console.log(JSON.stringify({ plain: typeof address === "object" ? address?.port : undefined }));
});
process.once("SIGTERM", () => process.exit(0));

function token(): string {
  const expires = Math.floor(Date.now() / 1000) + 3_600;
  const audience = encodeURIComponent(`${host}/devices/${device}/modules/${module}`);
  const key = Buffer.from(fields.get("SharedAccessKey") ?? "", "base64");
  const signature = createHmac("sha256", key).update(`${audience}\n${expires}`).digest("base64");
  return `SharedAccessSignature sr=${audience}&sig=${encodeURIComponent(signature)}&se=${expires}`;
}

function before(part: string): string {
  return part.slice(0, part.indexOf("="));
}
