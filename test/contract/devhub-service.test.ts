/** The service side of the development hub, judged by the unmodified azure-iothub. */

import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { JsonObject } from "../../src/core/message.ts";
import type { MethodCall } from "../../src/devhub/cloud-types.ts";
import type { BackEnd } from "../support/back-end.ts";
import { DEVICE, GW, type ServiceRig, startServiceRig } from "./devhub-service-harness.ts";

let rig: ServiceRig;
let backEnd: BackEnd;

beforeEach(async () => {
  rig = await startServiceRig({ isConnected: (id) => id.moduleId === "gw" });
  backEnd = rig.backEnd();
});
afterEach(() => rig[Symbol.asyncDispose]());

async function readTwin() {
  return (await backEnd.registry.getModuleTwin("edge1", "gw")).responseBody;
}

function write(patch: unknown, etag = "*") {
  return backEnd.registry.updateModuleTwin("edge1", "gw", patch, etag);
}

/** So many objects inside each other below the root. */
function nest(levels: number): JsonObject {
  return levels === 0 ? {} : { n: nest(levels - 1) };
}

describe("twins", () => {
  it("shows a new module with empty sections at version 1", async () => {
    const twin = await readTwin();
    expect(twin).toMatchObject({ deviceId: "edge1", moduleId: "gw", connectionState: "Connected", tags: {} });
    expect(twin.properties.desired).toMatchObject({ $version: 1, $metadata: { $lastUpdatedVersion: 1 } });
    expect(twin.properties.reported).toMatchObject({ $version: 1 });
  });

  it("tells a device twin from the twins of its modules", async () => {
    rig.cloud.patchDesired(DEVICE, { own: 1 });
    const { responseBody: twin } = await backEnd.registry.getTwin("edge1");
    expect(twin.moduleId).toBeUndefined();
    expect(twin.properties.desired["own"]).toBe(1);
    expect(Object.hasOwn((await readTwin()).properties.desired, "own")).toBe(false);
    expect(twin).toMatchObject({ connectionState: "Disconnected" });
  });

  it("merges a patch, removes what is null, and tells the edge side the patch as it was sent", async () => {
    const heard: unknown[] = [];
    rig.cloud.onDesired((id, patch, version) => heard.push({ id, patch, version }));
    await write({ properties: { desired: { a: { b: 1, c: 2 }, same: true } } });
    const { responseBody: twin } = await write({ properties: { desired: { a: { b: null }, same: true } } });
    expect(twin.properties.desired).toMatchObject({ a: { c: 2 }, same: true, $version: 3 });
    expect(Object.hasOwn(twin.properties.desired["a"], "b")).toBe(false);
    expect(heard).toEqual([
      { id: GW, patch: { a: { b: 1, c: 2 }, same: true }, version: 2 },
      { id: GW, patch: { a: { b: null }, same: true }, version: 3 },
    ]);
  });

  it("takes back a whole twin that was read, changed and sent, with its marks", async () => {
    await write({ properties: { desired: { a: 1 } } });
    const twin = await readTwin();
    twin.properties.desired["a"] = 2;
    const { responseBody: after } = await write({ tags: twin.tags, properties: twin.properties }, twin.etag);
    expect(after.properties.desired).toMatchObject({ a: 2, $version: 3 });
  });

  it("keeps tags from devices and leaves the desired version alone when only tags change", async () => {
    const { responseBody: twin } = await write({ tags: { site: "north", floor: { level: 2 } } });
    expect(twin.tags).toEqual({ site: "north", floor: { level: 2 } });
    expect(twin.properties.desired["$version"]).toBe(1);
    expect(rig.cloud.twin(GW)).toEqual({ desired: {}, desiredVersion: 1, reported: {}, reportedVersion: 1 });
  });

  it("stamps what a write touched with its time and version and nothing else", async () => {
    await write({ properties: { desired: { a: { b: 1 }, c: 1 } } });
    await write({ properties: { desired: { a: { d: 1 } } } });
    const metadata = (await readTwin()).properties.desired["$metadata"];
    expect(metadata).toMatchObject({
      $lastUpdatedVersion: 3,
      a: { $lastUpdatedVersion: 3, b: { $lastUpdatedVersion: 2 }, d: { $lastUpdatedVersion: 3 } },
      c: { $lastUpdatedVersion: 2 },
    });
  });

  it("refuses a write with the ETag of an older twin, and takes one with today's", async () => {
    const { etag } = await readTwin();
    await write({ properties: { desired: { a: 1 } } }, etag);
    await expect(write({ properties: { desired: { a: 2 } } }, etag)).rejects.toMatchObject({
      name: "InvalidEtagError",
    });
    expect(rig.cloud.twin(GW)?.desired).toEqual({ a: 1 });
    await write({ properties: { desired: { a: 3 } } }, (await readTwin()).etag);
    expect(rig.cloud.twin(GW)?.desired).toEqual({ a: 3 });
  });

  it("keeps an ETag good through what the device reports meanwhile", async () => {
    const { etag } = await readTwin();
    rig.cloud.patchReported(GW, { busy: true });
    await write({ properties: { desired: { a: 1 } } }, etag);
    expect(rig.cloud.twin(GW)?.desired).toEqual({ a: 1 });
  });

  it("refuses an ETag that no twin ever had", async () => {
    await expect(write({ tags: {} }, "nonsense")).rejects.toMatchObject({ name: "InvalidEtagError" });
  });

  it("shows what the device reported, read-only", async () => {
    rig.cloud.patchReported(GW, { a: { __t: "c", value: 1 } });
    await write({ properties: { reported: { a: 2 }, desired: { x: 1 } } });
    const { reported } = (await readTwin()).properties as { reported: unknown };
    expect(reported).toMatchObject({ a: { __t: "c", value: 1 }, $version: 2 });
  });

  it("goes back to version 1 when the identity is made anew", async () => {
    await write({ properties: { desired: { a: 1 } } });
    rig.cloud.recreate(GW);
    expect((await readTwin()).properties.desired).toMatchObject({ $version: 1 });
    expect(rig.cloud.twin(GW)?.desired).toEqual({});
  });

  it("says DeviceNotFound for an unknown device", async () => {
    await expect(backEnd.registry.getTwin("nobody")).rejects.toMatchObject({ name: "DeviceNotFoundError" });
  });

  it.each([
    ["an integer beyond 52 bits", { a: 4_503_599_627_370_496 }],
    ["a name with a dot", { "a.b": 1 }],
    ["a name with a dollar sign", { $x: 1 }],
    ["null inside an array", { a: [null] }],
    ["a text over 4 KB", { a: "x".repeat(4_097) }],
    ["a name over 1 KB", { ["k".repeat(1_025)]: 1 }],
    ["eleven levels of objects", nest(11)],
  ])("refuses %s from back end and device alike", async (_, patch) => {
    await expect(write({ properties: { desired: patch } })).rejects.toMatchObject({ name: "ArgumentError" });
    expect(rig.cloud.patchReported(GW, patch)).toMatchObject({ kind: "refused", status: 400 });
    expect(rig.cloud.twin(GW)).toMatchObject({ desiredVersion: 1, reportedVersion: 1 });
  });

  it("takes what is just within the limits", async () => {
    const patch = {
      a: 4_503_599_627_370_495,
      b: -4_503_599_627_370_496,
      c: "x".repeat(4_096),
      d: nest(9),
      e: [[1]],
      f: 1e21,
    };
    await write({ properties: { desired: patch } });
    expect(rig.cloud.twin(GW)?.desired).toEqual(patch);
    expect(rig.cloud.patchReported(GW, patch)).toEqual({ kind: "accepted", version: 2 });
  });

  it("refuses the patch that lets a section grow past 32 KB in all, however small it is itself", () => {
    const names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    const full = Object.fromEntries(names.map((name) => [name, "x".repeat(4_095)]));
    expect(rig.cloud.patchReported(GW, full)).toMatchObject({ kind: "accepted" });
    expect(rig.cloud.patchReported(GW, { i: false })).toMatchObject({ kind: "refused", status: 403 });
    expect(rig.cloud.patchReported(GW, { a: "x".repeat(4_090), i: false })).toMatchObject({ kind: "accepted" });
  });
});

describe("replacing a twin", () => {
  /** azure-iothub has no public call for it; its own HTTP client does the rest as ever. */
  function put(body: unknown): Promise<unknown> {
    const { _restApiClient } = backEnd.registry as unknown as {
      _restApiClient: {
        executeApiCall(
          method: string,
          path: string,
          headers: object,
          body: unknown,
          done: (error: Error | null) => void,
        ): void;
      };
    };
    const headers = { "Content-Type": "application/json; charset=utf-8", "If-Match": '"*"' };
    return new Promise((resolve, reject) => {
      const done = (error: Error | null) => (error === null ? resolve(undefined) : reject(error));
      _restApiClient.executeApiCall("PUT", "/twins/edge1/modules/gw?api-version=2021-04-12", headers, body, done);
    });
  }

  it("notifies the difference, with null for what has gone", async () => {
    await write({ tags: { kept: 1 }, properties: { desired: { a: { b: 1, c: 2 }, gone: 1, same: [1] } } });
    const heard: unknown[] = [];
    rig.cloud.onDesired((_id, patch, version) => heard.push([patch, version]));
    await put({ properties: { desired: { a: { c: 3, d: null }, same: [1] } } });
    expect(heard).toEqual([[{ a: { b: null, c: 3 }, gone: null }, 3]]);
    expect(rig.cloud.fullTwin(GW)).toMatchObject({
      tags: { kept: 1 },
      desired: { properties: { a: { c: 3 }, same: [1] } },
    });
  });
});

describe("direct methods", () => {
  let calls: MethodCall[];

  beforeEach(() => {
    calls = [];
    rig.cloud.setMethodRoute((call) => {
      calls.push(call);
      if (call.name === "away") return Promise.resolve({ kind: "offline" });
      if (call.name === "mute") return Promise.resolve({ kind: "timeout" });
      return Promise.resolve({ kind: "answer", status: 207, payload: { heard: call.payload ?? "nothing" } });
    });
  });

  it("passes name, payload and time-outs on, and the answer back", async () => {
    const params = {
      methodName: "leaf1*reboot",
      payload: { delay: 3 },
      responseTimeoutInSeconds: 7,
      connectTimeoutInSeconds: 2,
    };
    const { result } = await backEnd.client.invokeDeviceMethod("edge1", "gw", params);
    expect(result).toEqual({ status: 207, payload: { heard: { delay: 3 } } });
    expect(calls).toMatchObject([{ id: GW, name: "leaf1*reboot", responseTimeoutMs: 7_000, connectTimeoutMs: 2_000 }]);
  });

  it("calls the device itself when no module is named", async () => {
    await backEnd.client.invokeDeviceMethod("edge1", { methodName: "x" });
    expect(calls[0]?.id).toEqual(DEVICE);
  });

  it("hands on no payload at all when the caller gave none", async () => {
    const { result } = await backEnd.client.invokeDeviceMethod("edge1", "gw", { methodName: "x" });
    expect(calls[0]?.payload).toBeUndefined();
    expect(result).toEqual({ status: 207, payload: { heard: "nothing" } });
  });

  it.each([
    ["a client that is away", "away", { response: { statusCode: 404 } }, 404_103],
    ["a client that does not answer", "mute", { name: "GatewayTimeoutError" }, 504_101],
  ])("tells %s by its error code", async (_, methodName, shape, code) => {
    const failed = await backEnd.client
      .invokeDeviceMethod("edge1", "gw", { methodName })
      .catch((error: unknown) => error);
    expect(failed).toMatchObject(shape);
    const { Message } = JSON.parse((failed as { responseBody: string }).responseBody) as { Message: string };
    expect(JSON.parse(Message)).toMatchObject({ errorCode: code });
  });

  it.each([
    ["a response time-out of one second", { methodName: "x", responseTimeoutInSeconds: 1 }],
    ["a name of 101 characters", { methodName: "n".repeat(101) }],
  ])("refuses %s", async (_, params) => {
    await expect(backEnd.client.invokeDeviceMethod("edge1", "gw", params)).rejects.toMatchObject({
      name: "ArgumentError",
    });
    expect(calls).toEqual([]);
  });

  it("refuses a payload over 128 KB", async () => {
    const call = backEnd.client.invokeDeviceMethod("edge1", "gw", { methodName: "x", payload: "x".repeat(131_072) });
    await expect(call).rejects.toMatchObject({ response: { statusCode: 413 } });
  });

  it("aborts the call when the hub ends", async () => {
    backEnd.client.setRetryPolicy({ shouldRetry: () => false, nextRetryTimeout: () => -1 });
    const aborted = new Promise<void>((resolve) => {
      rig.cloud.setMethodRoute(
        ({ signal }) =>
          new Promise((settle) => {
            signal.addEventListener("abort", () => {
              resolve();
              settle({ kind: "timeout" });
            });
            void rig.api[Symbol.asyncDispose]();
          }),
      );
    });
    const call = backEnd.client.invokeDeviceMethod("edge1", "gw", { methodName: "x" }).catch(() => undefined);
    await aborted;
    await call;
  });
});

describe("identities", () => {
  it("lists modules and finds one by name", async () => {
    const { responseBody: modules } = await backEnd.registry.getModulesOnDevice("edge1");
    expect(modules).toMatchObject([{ deviceId: "edge1", moduleId: "gw", connectionState: "Connected" }]);
    expect((await backEnd.registry.getModule("edge1", "gw")).responseBody).toMatchObject(GW);
    expect((await backEnd.registry.get("edge1")).responseBody).toMatchObject({ deviceId: "edge1", status: "enabled" });
    expect((await backEnd.registry.list()).responseBody).toHaveLength(1);
  });

  it("are not for the policy `service`, which may use twins", async () => {
    const key = rig.cloud.policyKey("service");
    const service = rig.backEnd(`HostName=hub.example;SharedAccessKeyName=service;SharedAccessKey=${key}`);
    await expect(service.registry.get("edge1")).rejects.toMatchObject({ name: "UnauthorizedError" });
    expect((await service.registry.getTwin("edge1")).responseBody.deviceId).toBe("edge1");
  });
});

describe("credentials", () => {
  it.each([
    ["a wrong key", `SharedAccessKeyName=iothubowner;SharedAccessKey=${Buffer.from("wrong").toString("base64")}`],
    ["an unknown policy", "SharedAccessKeyName=constructor;SharedAccessKey=AAAA"],
  ])("are refused with %s", async (_, rest) => {
    const stranger = rig.backEnd(`HostName=hub.example;${rest}`);
    await expect(stranger.registry.getTwin("edge1")).rejects.toMatchObject({ name: "UnauthorizedError" });
  });
});
