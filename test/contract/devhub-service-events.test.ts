/** What back ends hear of messages and twin changes, and the control routes beside it. */

import { request } from "node:https";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { HubClient, reasonOf, type ServerSent } from "../../src/devhub/cli-hub-client.ts";
import type { D2cMessage } from "../../src/devhub/cloud-types.ts";
import type { HubEvent } from "../../src/devhub/events.ts";
import { signToken } from "../../src/devhub/service-api-auth.ts";
import { GW, type ServiceRig, startServiceRig } from "./devhub-service-harness.ts";

let rig: ServiceRig;
let hub: HubClient;
let done: AbortController;

beforeEach(async () => {
  rig = await startServiceRig({
    controls: {
      double: ({ n }) => (typeof n === "number" ? Promise.resolve(2 * n) : Promise.reject(new Error("n is a number"))),
    },
  });
  hub = new HubClient({ url: rig.url, caFile: "", connectionString: rig.api.connectionString, ...GW }, rig.caPem);
  done = new AbortController();
});
afterEach(async () => {
  done.abort();
  await rig[Symbol.asyncDispose]();
});

function message(parts: Partial<D2cMessage> & { text?: string }): D2cMessage {
  const { text = "{}", ...rest } = parts;
  const base = { ...GW, system: {}, properties: {}, modelId: undefined, enqueuedMs: 0 };
  return { ...base, body: Buffer.from(text), ...rest };
}

/** What `act` makes a listener hear, as many events as `count`. */
async function heard(count: number, act: () => void): Promise<readonly (ServerSent & { event: HubEvent })[]> {
  const stream = hub.events(done.signal);
  const first = stream.next();
  // The listener is there once its request has been answered, which nothing tells but the first event.
  const probe = setInterval(() => rig.cloud.deliver(message({ text: "probe" })), 5);
  await first;
  clearInterval(probe);
  act();
  const events: (ServerSent & { event: HubEvent })[] = [];
  for await (const sent of stream) {
    const event = sent.data as unknown as HubEvent;
    if (event.body !== "probe") events.push({ ...sent, event });
    if (events.length === count) break;
  }
  return events;
}

describe("events", () => {
  it("carry a message's body as JSON and its system properties under the services' names", async () => {
    const system = { sub: "leaf1__thermostat1", ct: "application/json", ce: "utf-8", mid: "m1", cid: "c1" };
    const modelId = "dtmi:com:example:TemperatureController;2";
    const sent = message({ text: '{"temperature":21.5}', system, properties: { leafId: "leaf1" }, modelId });
    const [telemetry] = await heard(1, () => rig.cloud.deliver(sent));
    expect(telemetry).toMatchObject({
      name: "telemetry",
      event: {
        body: { temperature: 21.5 },
        bodyEncoding: "json",
        applicationProperties: { leafId: "leaf1" },
        systemProperties: {
          "iothub-connection-device-id": "edge1",
          "iothub-connection-module-id": "gw",
          "iothub-message-source": "Telemetry",
          "iothub-enqueuedtime": expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
          "dt-subject": "leaf1__thermostat1",
          "dt-dataschema": modelId,
          "message-id": "m1",
          "correlation-id": "c1",
          "content-type": "application/json",
          "content-encoding": "utf-8",
        },
      },
    });
  });

  it.each([
    ["JSON that was not announced", { text: "[1]" }, { body: "[1]", bodyEncoding: "utf8" }],
    [
      "announced JSON that is none",
      { text: "{", system: { ct: "application/json" } },
      { body: "{", bodyEncoding: "utf8" },
    ],
    [
      "JSON with its charset",
      { text: "1", system: { ct: "application/json;charset=utf-8" } },
      { body: 1, bodyEncoding: "json" },
    ],
    ["bytes", { body: Uint8Array.of(0xff, 0x00) }, { body: "/wA=", bodyEncoding: "base64" }],
    ["text with line breaks", { text: "a\n\nb" }, { body: "a\n\nb", bodyEncoding: "utf8" }],
  ])("carry %s", async (_, parts, expected) => {
    const [sent] = await heard(1, () => rig.cloud.deliver(message(parts)));
    expect(sent?.event).toMatchObject(expected);
  });

  it("do not let a sender say who it is", async () => {
    const forged = message({
      system: { "iothub-connection-device-id": "other" },
      properties: { "dt-dataschema": "dtmi:x;1" },
    });
    const [sent] = await heard(1, () => rig.cloud.deliver(forged));
    expect(sent?.event.systemProperties["iothub-connection-device-id"]).toBe("edge1");
    expect(sent?.event.systemProperties["dt-dataschema"]).toBeUndefined();
  });

  it("tell changes of either side of a twin with the patch and the versions after it", async () => {
    const [desired, reported] = await heard(2, () => {
      rig.cloud.patchDesired(GW, { a: null, b: 1 });
      rig.cloud.patchReported(GW, { c: 2 });
    });
    expect(desired).toMatchObject({
      name: "twin",
      event: {
        body: { version: 3, properties: { desired: { a: null, b: 1, $version: 2 } } },
        applicationProperties: { hubName: "hub", deviceId: "edge1", moduleId: "gw", opType: "updateTwin" },
        systemProperties: { "iothub-message-source": "twinChangeEvents" },
      },
    });
    expect(reported?.event.body).toEqual({ version: 4, properties: { reported: { c: 2, $version: 2 } } });
  });

  it("come in the order in which things happened", async () => {
    const numbers = Array.from({ length: 200 }, (_, n) => String(n));
    const sent = await heard(200, () => {
      for (const text of numbers) rig.cloud.deliver(message({ text }));
    });
    expect(sent.map(({ event }) => event.body)).toEqual(numbers);
  });

  it("end when the hub ends", async () => {
    const stream = hub.events(done.signal);
    const first = stream.next();
    const probe = setInterval(() => rig.cloud.deliver(message({})), 5);
    await first;
    clearInterval(probe);
    const rest = (async () => {
      for await (const _ of stream) continue;
    })();
    await rig.api[Symbol.asyncDispose]();
    await rest.catch((error: unknown) => expect(error).toMatchObject({ code: "ECONNRESET" }));
  });
});

describe("controls", () => {
  it("are listed and called by name", async () => {
    expect(await hub.call("GET", "/control")).toEqual({ status: 200, body: ["double"] });
    expect(await hub.call("POST", "/control/double", { n: 4 })).toEqual({ status: 200, body: 8 });
  });

  it("answer 400 with what the function says of its arguments", async () => {
    const reply = await hub.call("POST", "/control/double", {});
    expect(reply.status).toBe(400);
    expect(reasonOf(reply).text).toBe("n is a number");
  });

  it.each(["toString", "__proto__", "nothing"])("have none called %s", async (name) => {
    expect((await hub.call("POST", `/control/${name}`, {})).status).toBe(404);
  });
});

describe("the service API", () => {
  it.each([
    ["GET", "/events"],
    ["GET", "/control"],
    ["GET", "/twins/edge1?api-version=2021-04-12"],
  ])("asks for a token at %s %s", async (method, path) => {
    expect(await bare(method, path)).toBe(401);
  });

  it.each([
    ["a body that is no JSON", "PATCH", "/twins/edge1", "{", 400],
    ["a path that is no UTF-8", "GET", "/twins/%ff", undefined, 400],
    ["a missing api-version", "GET", "/twins/edge1?x=1", undefined, 400],
    ["a path that does not exist", "GET", "/jobs/v2", undefined, 404],
    ["deleting an identity", "DELETE", "/devices/edge1", undefined, 405],
    ["a body over half a megabyte", "PATCH", "/twins/edge1", `"${"x".repeat(600_000)}"`, 413],
  ])("answers %s with a status", async (_, method, path, text, status) => {
    const versioned = path.includes("?") ? path : `${path}?api-version=2021-04-12`;
    expect(await bare(method, versioned, ownerToken(), text)).toBe(status);
  });
});

function ownerToken(): string {
  return signToken("hub.example", "iothubowner", rig.cloud.policyKey("iothubowner") ?? "", Date.now());
}

function bare(method: string, path: string, token?: string, text?: string): Promise<number | undefined> {
  const headers = token === undefined ? {} : { Authorization: token };
  return new Promise((resolve, reject) => {
    request(`${rig.url}${path}`, { method, headers, ca: rig.caPem, agent: false }, (response) => {
      response.resume();
      resolve(response.statusCode);
    })
      .once("error", reject)
      .end(text);
  });
}
