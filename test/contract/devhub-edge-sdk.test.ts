/** The unmodified device SDK against the development hub: what it is trusted to stand in for. */

import { X509Certificate } from "node:crypto";
import { request } from "node:http";
import iotDevice, { type Twin } from "azure-iot-device";
import { Mqtt } from "azure-iot-device-mqtt";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { resetBehaviour } from "../../src/devhub/behaviour.ts";
import type { DevHub } from "../../src/devhub/devhub.ts";
import { GW, startQuickHub } from "./devhub-edge-harness.ts";

const { Client, Message, ModuleClient } = iotDevice;
const MODEL = "dtmi:com:example:Gateway;1";

describe("the device SDK", () => {
  let hub: DevHub;
  beforeAll(async () => {
    hub = await startQuickHub();
  });
  afterAll(() => hub[Symbol.asyncDispose]());
  beforeEach(() => {
    resetBehaviour(hub.behaviour);
    hub.cloud.events.length = 0;
    Object.assign(process.env, hub.environment());
  });
  afterEach(() => {
    for (const name of Object.keys(hub.environment())) delete process.env[name];
  });

  async function openModule(options: Record<string, unknown> = {}) {
    const client = await ModuleClient.fromEnvironment(Mqtt);
    client.on("error", () => {});
    if (Object.keys(options).length > 0) await client.setOptions({ ca: hub.caPem, ...options });
    await client.open();
    return client;
  }

  test("opens from the environment and sends a component's telemetry to an output", async () => {
    const client = await openModule({ modelId: MODEL });
    const message = new Message(JSON.stringify({ temperature: 21 }));
    message.contentType = "application/json";
    message.contentEncoding = "utf-8";
    message.properties.add("$.sub", "thermostat1");
    message.properties.add("leafId", "a & b=c+d/ü");
    await client.sendOutputEvent("telemetry", message);
    await expect.poll(() => hub.cloud.events).toHaveLength(1);
    expect(hub.cloud.events[0]).toMatchObject({
      ...GW,
      modelId: MODEL,
      system: { sub: "thermostat1", ct: "application/json", ce: "utf-8" },
      properties: { leafId: "a & b=c+d/ü" },
    });
    await client.close();
  });

  test("opens from a connection string with the CA file", async () => {
    const client = ModuleClient.fromConnectionString(hub.moduleConnectionString, Mqtt);
    await client.setOptions({ ca: hub.caFile });
    await client.open();
    await client.sendEvent(new Message("x"));
    await expect.poll(() => hub.cloud.events).toHaveLength(1);
    await client.close();
  });

  test("opens as a device with the device's key", async () => {
    const leaf = { deviceId: "leaf+1" };
    hub.register(leaf);
    const client = Client.fromConnectionString(hub.connectionString(leaf), Mqtt);
    await client.setOptions({ ca: hub.caPem });
    await expect(client.open()).resolves.toBeDefined();
    await client.close();
    hub.register({ deviceId: "leaf1" });
    const plain = Client.fromConnectionString(hub.connectionString({ deviceId: "leaf1" }), Mqtt);
    await plain.setOptions({ ca: hub.caPem });
    await plain.sendEvent(new Message("hello"));
    await expect.poll(() => hub.cloud.events[0]?.deviceId).toBe("leaf1");
    await plain.close();
  });

  test("reads its twin, reports and hears desired changes", async () => {
    const client = await openModule();
    const twin = await client.getTwin();
    const heard: unknown[] = [];
    twin.on("properties.desired", (patch: unknown) => heard.push(patch));
    await expect.poll(() => heard).toEqual([{ $version: 1 }]);
    // The SDK does not say when its subscription is there.
    await client.getTwin();
    hub.cloud.patchDesired(GW, { thermostat1: { __t: "c", target: 20 } });
    await expect.poll(() => heard.at(-1)).toEqual({ thermostat1: { __t: "c", target: 20 }, $version: 2 });
    await report(twin, { thermostat1: { __t: "c", target: { value: 20, ac: 200, av: 2 } } });
    await expect
      .poll(() => hub.cloud.twin(GW)?.reported)
      .toEqual({ thermostat1: { __t: "c", target: { value: 20, ac: 200, av: 2 } } });
    await client.close();
  });

  test("takes a refusal with an empty body for success", async () => {
    const client = await openModule();
    const twin = await client.getTwin();
    hub.behaviour.twinPatch = { status: 400 };
    await report(twin, { never: 1 });
    expect(hub.cloud.twin(GW)?.reported).not.toHaveProperty("never");
    await client.close();
  });

  test("serves a method with a star in its name and answers an empty payload itself with 400", async () => {
    const client = await openModule();
    client.onMethod("thermostat1*getMaxMinReport", (call, response) => {
      // The SDK types neither payload nor promise.
      void response?.send(200, { since: call?.payload });
    });
    const call = { id: GW, name: "thermostat1*getMaxMinReport" };
    // Subscribed a moment after onMethod; until then edgeHub itself answers with status 0.
    await expect
      .poll(() => hub.cloud.invoke({ ...call, payload: "2026-01-02T03:04:05Z" }))
      .toEqual({ kind: "answer", status: 200, payload: { since: "2026-01-02T03:04:05Z" } });
    expect(await hub.cloud.invoke({ ...call, payload: undefined })).toMatchObject({ status: 400 });
    expect(await hub.cloud.invoke({ id: GW, name: "unknown", payload: {}, responseTimeoutMs: 50 })).toEqual({
      kind: "timeout",
    });
    await client.close();
  });

  test("hears messages at its inputs", async () => {
    const client = await openModule();
    const heard: [string, string][] = [];
    client.on("inputMessage", (input, message) => heard.push([input, message.getBytes().toString()]));
    const outcome = hub.sendInput("gw", "c2d", { body: "hello", properties: { leafId: "leaf1" } });
    expect(await outcome).toBe("acknowledged");
    expect(heard).toEqual([["c2d", "hello"]]);
    await client.close();
  });

  describe("the workload API", () => {
    const post = async (path: string, body: unknown) => {
      const answer = await workload(hub, "POST", path, JSON.stringify(body));
      return { ...answer, body: JSON.parse(answer.text) };
    };

    test("issues server certificates for the name asked for and the module id, without the port", async () => {
      const genid = hub.environment()["IOTEDGE_MODULEGENERATIONID"];
      const path = `/modules/gw/genid/${genid}/certificate/server`;
      const { status, body } = await post(path, { commonName: "localhost:8883", expiration: new Date().toISOString() });
      expect(status).toBe(201);
      expect(body.privateKey).toMatchObject({ type: "key", bytes: expect.stringContaining("BEGIN PRIVATE KEY") });
      const certificate = new X509Certificate(body.certificate);
      expect(certificate.subjectAltName).toBe("DNS:localhost, DNS:gw");
      expect(certificate.publicKey.asymmetricKeyType).toBe("rsa");
      expect(body.certificate.match(/BEGIN CERTIFICATE/g)).toHaveLength(2);
      const lifeDays = (Date.parse(body.expiration) - Date.now()) / 86_400_000;
      expect(lifeDays).toBeGreaterThan(29);
      expect(lifeDays).toBeLessThan(31);
      const again = await post(path, { commonName: "192.0.2.1" });
      const second = new X509Certificate(again.body.certificate);
      expect(second.subjectAltName).toBe("IP Address:192.0.2.1, DNS:gw");
      expect(second.serialNumber).not.toBe(certificate.serialNumber);
    });

    test("answers JSON, 404 for another generation and 400 without a version", async () => {
      const bundle = await workload(hub, "GET", "/trust-bundle");
      expect(bundle.type).toContain("application/json");
      expect(JSON.parse(bundle.text)).toEqual({ certificate: hub.caPem });
      expect((await post("/modules/gw/genid/1/sign", { data: "" })).status).toBe(404);
      expect((await workload(hub, "GET", "/trust-bundle", undefined, "")).status).toBe(400);
      expect((await workload(hub, "GET", "/nothing")).status).toBe(404);
    });

    test("fails and hangs when told to", async () => {
      hub.behaviour.workload.sign = "fail";
      await expect(workload(hub, "POST", "/modules/gw/genid/1/sign", "{}")).resolves.toMatchObject({ status: 500 });
      hub.behaviour.workload.trustBundle = "hang";
      let answered = false;
      void workload(hub, "GET", "/trust-bundle").then(
        () => (answered = true),
        () => {},
      );
      await workload(hub, "POST", "/modules/gw/genid/1/sign", "{}");
      expect(answered).toBe(false);
    });
  });
});

function report(twin: Twin, patch: object): Promise<void> {
  return new Promise((resolve, reject) => {
    twin.properties.reported["update"](patch, (error?: Error) =>
      error === undefined || error === null ? resolve() : reject(error),
    );
  });
}

function workload(hub: DevHub, method: string, path: string, body?: string, query = "?api-version=2020-07-07") {
  const socketPath = new URL(hub.environment()["IOTEDGE_WORKLOADURI"] ?? "").pathname;
  return new Promise<{ status: number | undefined; type: string | undefined; text: string }>((resolve, reject) => {
    const sent = request({ socketPath, method, path: `${path}${query}` }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("end", () => {
        const text = Buffer.concat(chunks).toString("utf8");
        resolve({ status: response.statusCode, type: response.headers["content-type"], text });
      });
    });
    sent.on("error", reject);
    sent.end(body);
  });
}
