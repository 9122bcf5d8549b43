import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Frame, Json, JsonObject, LeafId, LeafNotice, LeafRequest } from "../../../src/core/message.ts";
import { iothub } from "../../../src/translate/iothub.ts";

const leaf = "leaf1" as LeafId;
const REPORT = "$iothub/twin/PATCH/properties/reported/?$rid=1";

function says(topic: string, payload: string | Uint8Array): LeafRequest {
  return iothub.parse(leaf, { topic, payload: typeof payload === "string" ? Buffer.from(payload) : payload, qos: 1 });
}

function split(section: JsonObject): { section: JsonObject; version: Json | undefined } {
  expect(Object.keys(section).at(-1)).toBe("$version");
  const { $version, ...rest } = section;
  return { section: rest, version: $version };
}

/** What a client makes of a frame, by the strictest reading of the SDKs [iothub-mqtt.md 6.3]. */
function read({ topic, payload }: Frame): object {
  const body =
    payload.length === 0
      ? undefined
      : (JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(payload)) as JsonObject);
  const answer = /^\$iothub\/twin\/res\/(\d{3})\/\?\$rid=([^&]*)(?:&\$version=(\d+))?$/.exec(topic);
  if (answer?.[1] === "200") {
    const desired = split(body?.["desired"] as JsonObject);
    const reported = split(body?.["reported"] as JsonObject);
    return {
      kind: "twin",
      rid: answer[2],
      desired: desired.section,
      desiredVersion: desired.version,
      reported: reported.section,
      reportedVersion: reported.version,
    };
  }
  if (answer?.[1] === "204") return { kind: "reported-accepted", rid: answer[2], version: Number(answer[3]) };
  if (answer !== null) {
    expect(typeof body?.["errorCode"]).toBe("number");
    return {
      kind: "twin-refused",
      rid: answer[2],
      status: Number(answer[1]),
      reason: body?.["message"],
      timestampUtc: body?.["timestampUtc"],
    };
  }
  const desired = /^\$iothub\/twin\/PATCH\/properties\/desired\/\?\$version=(\d+)$/.exec(topic);
  if (desired !== null) {
    const { section, version } = split(body ?? {});
    expect(version).toBe(Number(desired[1]));
    return { kind: "desired", patch: section, version };
  }
  const command = /^\$iothub\/methods\/POST\/([^/]+)\/\?\$rid=([0-9a-f-]+)$/.exec(topic);
  return { kind: "command", rid: command?.[2], name: command?.[1], payload: body };
}

const section = fc.dictionary(
  fc
    .string({ minLength: 1, unit: "grapheme" })
    .filter((key) => key !== "$version" && key !== "__proto__" && !/^\d+$/.test(key)),
  fc.jsonValue({ maxDepth: 3 }).map((value) => JSON.parse(JSON.stringify(value)) as Json),
);
const version = fc.nat();
const rid = fc.uuid();
const commandName = fc.stringMatching(/^[A-Za-z][A-Za-z0-9_]*(?:\*[A-Za-z][A-Za-z0-9_]*)?$/);
const notices: fc.Arbitrary<LeafNotice> = fc.oneof(
  fc.record({
    kind: fc.constant("twin" as const),
    rid,
    desired: section,
    desiredVersion: version,
    reported: section,
    reportedVersion: version,
  }),
  fc.record({ kind: fc.constant("reported-accepted" as const), rid, version }),
  fc.record({
    kind: fc.constant("twin-refused" as const),
    rid,
    status: fc.integer({ min: 400, max: 599 }),
    reason: fc.string({ unit: "grapheme" }),
    timestampUtc: fc.constant("2026-01-02T03:04:05.000Z"),
  }),
  fc.record({ kind: fc.constant("desired" as const), patch: section, version }),
  fc.record({
    kind: fc.constant("command" as const),
    rid,
    name: commandName,
    payload: fc.jsonValue().map((value) => JSON.parse(JSON.stringify(value)) as Json),
  }),
);

describe("what a leaf hears", () => {
  test("an SDK reads from the frame what was meant, and each section ends with its version", () => {
    fc.assert(
      fc.property(notices, (notice) => {
        expect(read(iothub.format(leaf, notice))).toEqual(notice);
      }),
    );
  });

  test("a message to the device keeps payload and properties, and parsing undoes formatting", () => {
    const value = fc.string({ unit: "grapheme", minLength: 1, maxLength: 20 });
    const key = value.filter((text) => !text.startsWith("$.") && text !== "__proto__");
    const messages = fc.record({
      payload: fc.uint8Array(),
      system: fc.dictionary(fc.constantFrom("mid", "cid", "ct", "ce"), value),
      properties: fc.dictionary(key, value),
    });
    fc.assert(
      fc.property(messages, (message) => {
        const frame = iothub.format(leaf, { kind: "cloud-to-device", message });
        const back = iothub.parse(leaf, { ...frame, topic: frame.topic.replace("devicebound", "events") });
        const to = "/devices/leaf1/messages/devicebound";
        expect(back).toEqual({ kind: "telemetry", telemetry: { ...message, system: { ...message.system, to } } });
      }),
    );
  });

  test("properties that do not fit into a topic are left out, those that do stay", () => {
    const properties = { small: "1", large: "ü".repeat(20_000), last: "2" };
    const { topic } = iothub.format(leaf, {
      kind: "cloud-to-device",
      message: { payload: Buffer.of(), system: {}, properties },
    });
    expect(topic).toMatch(/devicebound&small=1&last=2$/);
  });

  test("a topic is filled to the last byte that MQTT allows", () => {
    const empty = iothub.format(leaf, {
      kind: "cloud-to-device",
      message: { payload: Buffer.of(), system: {}, properties: { a: "x" } },
    });
    const room = 65_535 - empty.topic.length;
    const fill = (value: string) =>
      iothub.format(leaf, {
        kind: "cloud-to-device",
        message: { payload: Buffer.of(), system: {}, properties: { a: value } },
      }).topic.length;
    expect(fill("x".repeat(room + 1))).toBe(65_535);
    expect(fill("x".repeat(room + 2))).toBeLessThan(200);
  });
});

describe("who connects", () => {
  test.each([
    ["edge1/mod1", "hub1/edge1/mod1/?api-version=1", "a module identity: leaves are devices"],
    ["leaf1/mod1", "hub1/leaf1/?api-version=1", "a module identity: leaves are devices"],
    ["leaf2", "hub1/leaf1/?api-version=1", "client id and user name name different devices"],
    [
      "leaf1",
      "0ne00000000/registrations/leaf1/api-version=2019-03-31&ClientVersion=azure-iot-device-provisioning-py%2F2.14.0",
      "a client of the provisioning service, which the gateway is not: a leaf connects with its own id and key",
    ],
  ])("%s as %s is refused for good, and told why", (clientId, username, reason) => {
    expect(iothub.parseConnect({ clientId, username })).toEqual({ kind: "refused", code: 5, reason });
  });
});

describe("what a leaf says", () => {
  test("a request id that no SDK would make closes the connection: its answer might not fit into a topic", () => {
    const longest = "x".repeat(1_024);
    expect(says(`$iothub/twin/GET/?$rid=${longest}`, "")).toEqual({ kind: "twin-get", rid: longest });
    expect(says(`$iothub/twin/GET/?$rid=${longest}x`, "").kind).toBe("close");
    expect(says(`${REPORT}${longest}x`, "{}").kind).toBe("close");
  });

  test("a leaf id with every legal character is compared as it stands", () => {
    const odd = "a%24.b$c'(1)!" as LeafId;
    const request = iothub.parse(odd, { topic: `devices/${odd}/messages/events/a=1`, payload: Buffer.of(), qos: 0 });
    expect(request).toMatchObject({ kind: "telemetry", telemetry: { properties: { a: "1" } } });
  });

  test("no leaf is ever taken for another, whatever the ids", () => {
    const id = fc.stringMatching(/^[A-Za-z0-9\-:.%_*?!(),=@;$']{1,12}$/) as fc.Arbitrary<LeafId>;
    fc.assert(
      fc.property(id, id, (mine, other) => {
        fc.pre(mine !== other);
        for (const topic of [
          `devices/${other}/messages/events/`,
          `devices/${other}/messages/events`,
          `devices/${other}/messages/events/a=1`,
        ])
          expect(iothub.parse(mine, { topic, payload: Buffer.of(), qos: 1 }).kind).toBe("close");
        expect(iothub.channel(mine, `devices/${other}/messages/devicebound/#`)).toBeUndefined();
      }),
    );
  });

  test("a patch that is no UTF-8 is refused", () => {
    expect(says(REPORT, Buffer.from([0x7b, 0xff, 0x7d]))).toEqual({
      kind: "twin-invalid",
      rid: "1",
      status: 400,
      reason: "the body is not UTF-8",
    });
  });

  test("__proto__ in a patch and in a bag are keys like any other", () => {
    const patch = says(REPORT, '{"__proto__":{"polluted":true}}');
    expect(patch.kind === "reported" && Object.keys(patch.patch)).toEqual(["__proto__"]);
    const message = says("devices/leaf1/messages/events/__proto__=1&$.__proto__=2", "");
    expect(message.kind === "telemetry" && Object.keys(message.telemetry.properties)).toEqual(["__proto__"]);
    expect(message.kind === "telemetry" && Object.keys(message.telemetry.system)).toEqual(["__proto__"]);
  });

  test("a command's answer is measured as it will be written again", () => {
    const answer = (items: number) =>
      says("$iothub/methods/res/200/?$rid=1", `[${Array<string>(items).fill("1e20").join(",")}]`);
    expect(answer(5_000)).toMatchObject({ status: 200 });
    expect(answer(6_000)).toEqual({
      kind: "command-answer",
      rid: "1",
      status: 500,
      payload: { message: "the leaf's answer is unusable: it has more than 131072 bytes" },
      reason: "it has more than 131072 bytes",
    });
  });
});
