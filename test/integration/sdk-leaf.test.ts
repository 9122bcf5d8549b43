/**
 * Unmodified SDKs at both ends: `azure-iot-device` as leaf over TLS, `azure-iothub` as back end; between them the real gateway and
 * the development hub.
 */
import azureIotDevice, {
  type Client as DeviceClient,
  type DeviceMethodRequest,
  type DeviceMethodResponse,
  type Twin,
} from "azure-iot-device";
import azureIotDeviceMqtt from "azure-iot-device-mqtt";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type BackEnd, connectBackEnd } from "../support/back-end.ts";
import { World } from "./raw-world.ts";

const { Client, Message } = azureIotDevice;
const { Mqtt } = azureIotDeviceMqtt;
const MODEL_ID = "dtmi:com:example:TemperatureController;2";

let world: World;
let backEnd: BackEnd;
const clients: DeviceClient[] = [];

beforeAll(async () => {
  world = await World.start({
    config: { tlsEnabled: true, tlsPort: 0, tlsBind: "127.0.0.1", serverNames: ["localhost"] },
  });
  const { port, hostname } = new URL(world.hub.serviceUrl);
  backEnd = connectBackEnd({
    host: hostname,
    port: Number(port),
    ca: world.hub.caPem,
    connectionString: world.hub.serviceConnectionString,
  });
});

afterAll(async () => {
  for (const client of clients) await client.close().catch(() => undefined);
  backEnd[Symbol.dispose]();
  await world[Symbol.asyncDispose]();
});

async function connectLeaf(id: string): Promise<DeviceClient> {
  const key = Buffer.alloc(32, 7).toString("base64");
  const gateway = `localhost:${world.gateway.broker.ports.tls}`;
  const client = Client.fromConnectionString(
    `HostName=devhub.azure-devices.net;DeviceId=${id};SharedAccessKey=${key};GatewayHostName=${gateway}`,
    Mqtt,
  );
  await client.setOptions({ ca: world.hub.caPem, modelId: MODEL_ID });
  await client.open();
  clients.push(client);
  return client;
}

function report(twin: Twin, patch: object): Promise<void> {
  return new Promise((resolve, reject) =>
    twin.properties.reported["update"](patch, (error: Error | null) => (error ? reject(error) : resolve())),
  );
}

async function moduleTwin(): Promise<{
  desired: Record<string, unknown>;
  reported: Record<string, unknown>;
  etag: string;
}> {
  const { responseBody } = await backEnd.registry.getModuleTwin("edge1", "gw");
  return { ...responseBody.properties, etag: responseBody.etag };
}

async function desire(patch: object): Promise<void> {
  const { etag } = await moduleTwin();
  await backEnd.registry.updateModuleTwin("edge1", "gw", { properties: { desired: patch } }, etag);
}

async function command(methodName: string, payload: unknown): Promise<{ status: number; payload: unknown }> {
  const { result } = await backEnd.client.invokeDeviceMethod("edge1", "gw", {
    methodName,
    payload,
    responseTimeoutInSeconds: 20,
    connectTimeoutInSeconds: 5,
  });
  return result;
}

describe("telemetry", () => {
  test("of the default component and of another arrives with the component, the leaf and its model", async () => {
    const leaf = await connectLeaf("telemetry-1");
    const plain = new Message(JSON.stringify({ workingSet: 1 }));
    plain.contentType = "application/json";
    plain.contentEncoding = "utf-8";
    plain.properties.add("colour", "a b+c=ü&#");
    await leaf.sendEvent(plain);
    const part = new Message(JSON.stringify({ temperature: 21.5 }));
    part.properties.add("$.sub", "thermostat1");
    part.messageId = "mine";
    await leaf.sendEvent(part);
    await world.until("two messages", () => world.messagesOf("telemetry-1").length === 2);
    const [first, second] = world.messagesOf("telemetry-1");
    const { component } = await leafOf("telemetry-1");
    expect(first?.system).toMatchObject({
      sub: component,
      ct: "application/json",
      ce: "utf-8",
      mid: expect.stringMatching(/.{8,}/),
    });
    expect(first?.properties).toMatchObject({
      colour: "a b+c=ü&#",
      leafId: "telemetry-1",
      leafModelId: MODEL_ID,
      "iothub-creation-time-utc": expect.stringMatching(/^\d{4}-/),
    });
    expect(Buffer.from(first?.body ?? []).toString()).toBe('{"workingSet":1}');
    expect(second?.system).toMatchObject({ sub: `${component}__thermostat1`, mid: "mine" });
  });
});

async function leafOf(leafId: string): Promise<{ component: string; connected: boolean }> {
  const { payload } = await command("gateway*listLeaves", {});
  const found = (payload as { leafId: string; component: string; connected: boolean }[]).find(
    (each) => each.leafId === leafId,
  );
  if (found === undefined) throw new Error(`${leafId} is not listed`);
  return found;
}

describe("properties", () => {
  test("read-only ones of both kinds of components, objects and removals arrive on the module twin", async () => {
    const leaf = await connectLeaf("props1");
    const twin = await leaf.getTwin();
    await report(twin, {
      serialNumber: "s1",
      place: { building: "a", room: 3 },
      deviceInformation: { __t: "c", manufacturer: "Contoso" },
    });
    await report(twin, { place: { room: null } });
    await expect
      .poll(async () => (await moduleTwin()).reported, { timeout: 30_000 })
      .toMatchObject({
        props1: { __t: "c", serialNumber: "s1", place: { building: "a" } },
        props1__deviceInformation: { __t: "c", manufacturer: "Contoso" },
      });
    await expect
      .poll(async () => JSON.stringify((await moduleTwin()).reported["props1"]), { timeout: 30_000 })
      .not.toContain("room");
  });

  test("writable ones in one patch are acknowledged one by one and together, with 203, 202, 200 and 400", async () => {
    const leaf = await connectLeaf("props2");
    const twin = await leaf.getTwin();
    await report(twin, { interval: { value: 10, ac: 203, av: 0, ad: "initial" } });
    const patches: { $version: number; interval?: number; thermostat1?: { __t: string; targetTemperature: number } }[] =
      [];
    twin.on("properties.desired", (patch: (typeof patches)[number]) => patches.push(patch));
    await desire({ props2: { interval: 20 }, props2__thermostat1: { targetTemperature: 23 } });
    await expect
      .poll(() => patches.at(-1), { timeout: 30_000 })
      .toMatchObject({ interval: 20, thermostat1: { __t: "c", targetTemperature: 23 } });
    const version = patches.at(-1)?.$version ?? 0;
    await report(twin, { interval: { value: 20, ac: 202, av: version, ad: "working" } });
    await report(twin, {
      thermostat1: { __t: "c", targetTemperature: { value: 23, ac: 200, av: version, ad: "done" } },
    });
    await report(twin, { interval: { value: 20, ac: 400, av: version, ad: "too long" } });
    await expect
      .poll(async () => (await moduleTwin()).reported, { timeout: 30_000 })
      .toMatchObject({
        props2: { interval: { value: 20, ac: 400, av: version, ad: "too long" } },
        props2__thermostat1: { __t: "c", targetTemperature: { value: 23, ac: 200, av: version } },
      });
  });

  test("a patch against the hub's rules is refused to the leaf, and what was good stays", async () => {
    const leaf = await connectLeaf("props3");
    const twin = await leaf.getTwin();
    await report(twin, { good: 1 });
    await expect(report(twin, { bad: "x".repeat(5_000) })).rejects.toThrow();
    await expect
      .poll(async () => (await moduleTwin()).reported["props3"], { timeout: 30_000 })
      .toMatchObject({ good: 1 });
    expect((await moduleTwin()).reported["props3"]).not.toHaveProperty("bad");
  });
});

describe("commands", () => {
  test("reach default component and component, with payload, without, and with a complex answer", async () => {
    const leaf = await connectLeaf("cmd1");
    const answer = (request: DeviceMethodRequest, response: DeviceMethodResponse): void => {
      void response.send(200, { name: request.methodName, got: request.payload ?? null, list: [1, { deep: true }] });
    };
    leaf.onDeviceMethod("reboot", answer);
    leaf.onDeviceMethod("thermostat1*getMaxMinReport", answer);
    await expect.poll(async () => (await command("cmd1*reboot", 5)).status, { timeout: 30_000 }).toBe(200);
    expect(await command("cmd1*reboot", 5)).toEqual({
      status: 200,
      payload: { name: "reboot", got: 5, list: [1, { deep: true }] },
    });
    expect(await command("cmd1*reboot", null)).toMatchObject({ status: 200, payload: { got: null } });
    expect(await command("cmd1__thermostat1*getMaxMinReport", "2026-01-02T03:04:05Z")).toMatchObject({
      status: 200,
      payload: { name: "thermostat1*getMaxMinReport", got: "2026-01-02T03:04:05Z" },
    });
  });

  test("to a leaf that is away or unknown are answered 404 with a reason", async () => {
    const leaf = await connectLeaf("cmd2");
    await leaf.close();
    await world.until("the end of the connection", async () => !(await leafOf("cmd2")).connected);
    expect(await command("cmd2*reboot", {})).toMatchObject({
      status: 404,
      payload: { message: expect.stringContaining("cmd2") },
    });
    expect(await command("nobody*reboot", {})).toMatchObject({ status: 404 });
    expect(await command("gateway*nothing", {})).toMatchObject({ status: 404 });
  });
});

describe("cloud-to-device messages", () => {
  test("wait for a sleeping leaf and are gone once it has acknowledged them", async () => {
    const first = await connectLeaf("c2d1");
    await first.close();
    const sent = await command("gateway*sendCloudToDevice", {
      leafId: "c2d1",
      payload: { hello: 1 },
      properties: { colour: "red" },
    });
    expect(sent.status).toBe(200);
    const leaf = await connectLeaf("c2d1");
    const received = await new Promise<InstanceType<typeof Message>>((resolve) => leaf.on("message", resolve));
    expect(received.getData().toString()).toBe('{"hello":1}');
    expect(received.properties.getValue("colour")).toBe("red");
    await leaf.complete(received);
    await expect
      .poll(async () => (await command("gateway*getLeaf", { leafId: "c2d1" })).payload, { timeout: 30_000 })
      .toMatchObject({ cloudToDeviceQueued: 0 });
  });
});

describe("the gateway itself", () => {
  test("takes live configuration from desired properties of its component, each acknowledged", async () => {
    await desire({ gateway: { __t: "c", commandTimeoutSecs: 24, tlsPort: 1, spillAfterMs: "soon" } });
    await expect
      .poll(async () => (await moduleTwin()).reported["gateway"], { timeout: 30_000 })
      .toMatchObject({ commandTimeoutSecs: { value: 24, ac: 200 }, tlsPort: { ac: 501 }, spillAfterMs: { ac: 400 } });
  });

  test("serves a leaf after its own restart: the SDK does not subscribe to its twin topics again", async () => {
    const leaf = await connectLeaf("restart1");
    const twin = await leaf.getTwin();
    const seen: unknown[] = [];
    twin.on("properties.desired", (patch) => seen.push(patch));
    await expect
      .poll(async () => (await command("gateway*getLeaf", { leafId: "restart1" })).payload, { timeout: 30_000 })
      .toMatchObject({ subscriptions: expect.arrayContaining([expect.stringContaining("desired")]) });
    const { tls } = world.gateway.broker.ports;
    await world.stopGateway();
    await desire({ restart1: { __t: "c", while: "away" } });
    await world.startGateway({ tlsPort: tls ?? 0 });
    await world.linked();
    await expect.poll(() => JSON.stringify(seen), { timeout: 60_000 }).toContain('"while":"away"');
    await desire({ restart1: { after: 1 } });
    await expect.poll(() => JSON.stringify(seen), { timeout: 60_000 }).toContain('"after":1');
  });
});
