/** The development hub as one: a back end at the service API, the module at the edge side, and the controls. */

import { createHmac } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { Agent, request } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Json } from "../../src/core/message.ts";
import type { DevHub } from "../../src/devhub/devhub.ts";
import { DESIRED, GW, METHODS, RawModule, startQuickHub, TWIN_ANSWERS } from "./devhub-edge-harness.ts";

describe("the whole hub", () => {
  let hub: DevHub;
  let state: string;
  beforeEach(async () => {
    state = mkdtempSync(join(tmpdir(), "devhub-service-"));
    hub = await startQuickHub({ stateFolder: state });
  });
  afterEach(async () => {
    await hub[Symbol.asyncDispose]();
    rmSync(state, { recursive: true, force: true });
  });

  const control = (name: string, args: object = {}) => call(hub, "POST", `/control/${name}`, args);

  test("says in service.json how to be its back end", () => {
    const service = JSON.parse(readFileSync(join(state, "service.json"), "utf8"));
    expect(service).toMatchObject({ ...GW, url: hub.serviceUrl, connectionString: hub.serviceConnectionString });
    expect(readFileSync(service.caFile, "utf8")).toBe(hub.caPem);
  });

  test("brings a back end's twin patch to the module and the module's answer to a method back", async () => {
    await using module = await RawModule.connect(hub);
    await module.subscribe(TWIN_ANSWERS, DESIRED, METHODS);
    await module.get();
    const path = "/twins/edge1/modules/gw?api-version=2021-04-12";
    const patched = await call(hub, "PATCH", path, { properties: { desired: { a: 1 } } });
    expect(patched.status).toBe(200);
    await expect.poll(() => module.desired).toEqual([{ a: 1, $version: 2 }]);
    module.client.on("message", (topic) => {
      if (topic.startsWith("$iothub/methods/POST/ping/")) {
        module.client.publish(`$iothub/methods/res/200/?$rid=${topic.split("=")[1]}`, '{"pong":true}');
      }
    });
    const invoked = await call(hub, "POST", "/twins/edge1/modules/gw/methods?api-version=2021-04-12", {
      methodName: "ping",
      payload: {},
      responseTimeoutInSeconds: 10,
    });
    expect(invoked).toMatchObject({ status: 200, body: { status: 200, payload: { pong: true } } });
  });

  test("keeps the cloud's twins through a restart", async () => {
    hub.cloud.patchDesired(GW, { kept: true });
    await hub[Symbol.asyncDispose]();
    hub = await startQuickHub({ stateFolder: state });
    expect(hub.cloud.twin(GW)).toMatchObject({ desired: { kept: true }, desiredVersion: 2 });
  });

  describe("the controls", () => {
    test("cut and restore the line and show it", async () => {
      await control("wan-down", { mode: "refused" });
      expect((await control("state")).body).toMatchObject({ line: "refused", edgeHubOnline: false });
      await control("wan-up");
      expect((await control("state")).body).toMatchObject({ line: "up", edgeHubOnline: false });
      await expect.poll(async () => (await control("state")).body).toMatchObject({ edgeHubOnline: true });
    });

    test("change what the edge side does, and reset it", async () => {
      await using module = await RawModule.connect(hub);
      await module.subscribe(TWIN_ANSWERS);
      await control("twin-answers", { get: { status: 503 } });
      expect((await module.get()).status).toBe(503);
      await control("reset");
      expect((await module.get()).status).toBe(200);
    });

    test("cut connections, kill edgeHub and start it again", async () => {
      await using first = await RawModule.connect(hub);
      expect((await control("state")).body).toMatchObject({ connected: ["edge1/gw"] });
      await control("cut");
      await first.closed;
      await control("kill-edge", { store: "lose" });
      await expect(RawModule.connect(hub)).rejects.toThrow();
      await control("start-edge");
      await using again = await RawModule.connect(hub);
      expect(again.client.connected).toBe(true);
    });

    test("recreate the module's twin and let its version jump", async () => {
      hub.cloud.patchDesired(GW, { a: 1 });
      await control("jump-version", { to: 40 });
      expect(hub.cloud.twin(GW)?.desiredVersion).toBe(40);
      await control("recreate-twin");
      expect(hub.cloud.twin(GW)).toMatchObject({ desired: {}, desiredVersion: 1 });
    });

    test("send to an input", async () => {
      await using module = await RawModule.connect(hub);
      await module.subscribe("devices/edge1/modules/gw/inputs/#");
      const sent = await control("send-input", { input: "c2d", body: "hello", properties: { leafId: "leaf1" } });
      expect(sent.body).toEqual({ outcome: "acknowledged" });
      expect(module.heard.map(({ text }) => text)).toEqual(['"hello"']);
      expect(module.heard[0]?.topic).toMatch(/^devices\/edge1\/modules\/gw\/inputs\/c2d\/leafId=leaf1&/);
    });

    test.each([
      ["wan-down", { mode: "loud" }],
      ["twin-answers", { twinget: "silence" }],
      ["jump-version", {}],
      ["state", { extra: 1 }],
    ])("refuse arguments of %s that they do not understand", async (name, args) => {
      expect((await control(name, args)).status).toBe(400);
    });
  });
});

function call(
  hub: DevHub,
  method: string,
  path: string,
  body: object,
): Promise<{ status: number | undefined; body: Json }> {
  const fields = new Map(
    hub.serviceConnectionString.split(";").map((pair): [string, string] => {
      const at = pair.indexOf("=");
      return [pair.slice(0, at), pair.slice(at + 1)];
    }),
  );
  const sr = encodeURIComponent(fields.get("HostName") ?? "");
  const se = Math.floor(Date.now() / 1000) + 600;
  const key = Buffer.from(fields.get("SharedAccessKey") ?? "", "base64");
  const sig = encodeURIComponent(createHmac("sha256", key).update(`${sr}\n${se}`).digest("base64"));
  const authorization = `SharedAccessSignature sr=${sr}&sig=${sig}&se=${se}&skn=iothubowner`;
  const headers = { authorization, "content-type": "application/json" };
  const options = { method, headers, ca: hub.caPem, agent: new Agent({ keepAlive: false }) };
  return new Promise((resolve, reject) => {
    const sent = request(`${hub.serviceUrl}${path}`, options, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("end", () => {
        const text = Buffer.concat(chunks).toString("utf8");
        resolve({ status: response.statusCode, body: text === "" ? null : JSON.parse(text) });
      });
    });
    sent.on("error", reject);
    sent.end(JSON.stringify(body));
  });
}
