/** Messages on their way to edgeHub: what the SDK would do by itself must not become a duplicate, a loss or a disorder. */
import { afterEach, describe, expect, it, vi } from "vitest";
import type { Telemetry } from "../../src/core/message.ts";
import { type EdgeHubRig, type RigOptions, startEdgeHubRig } from "../support/edgehub-rig.ts";
import { telemetry, until } from "../support/upstream-harness.ts";

let rig: EdgeHubRig;

async function startUp(options: RigOptions = {}): Promise<void> {
  rig = await startEdgeHubRig(options);
  await rig.upstream.open(rig.hub);
  await until("the link", () => rig.hub.isUp);
}

afterEach(async () => {
  vi.restoreAllMocks();
  await rig[Symbol.asyncDispose]();
});

const TEN_YEARS_MS = 10 * 365 * 24 * 3_600_000;

const arrived = (): string[] => rig.devHub.cloud.events.map(({ body }) => Buffer.from(body).toString("utf8"));

describe("an acknowledgement that comes after more than the SDK's 30 s", () => {
  it("settles the message that it is for, which is sent once, also when the clock is set meanwhile", async () => {
    await startUp();
    rig.devHub.behaviour.puback = { delayMs: 12_000 };
    const sent = rig.upstream.send("telemetry", telemetry("once"));
    await until("its arrival", () => arrived().length === 1);
    // The SDK looks every 10 s at the wall clock.
    const now = Date.now.bind(Date);
    vi.spyOn(Date, "now").mockImplementation(() => now() + TEN_YEARS_MS);
    expect(await sent).toEqual({ kind: "accepted" });
    expect(arrived()).toEqual(["once"]);
  });
});

describe("a burst of 2 MB in one moment", () => {
  it("arrives whole and in order", async () => {
    await startUp();
    const bodies = Array.from({ length: 16 }, (_, n) => `${n} ${"x".repeat(128 * 1024)}`);
    const sent = bodies.map((body) => rig.upstream.send("telemetry", telemetry(body)));
    expect(await Promise.all(sent)).toEqual(bodies.map(() => ({ kind: "accepted" })));
    await until("the last", () => arrived().length === 16);
    expect(arrived()).toEqual(bodies);
  });
});

describe("a message", () => {
  it.each<[string, Telemetry]>([
    ["without a body", telemetry("", { sub: "leaf1", mid: "1" })],
    ["of one byte that is no text", { ...telemetry("", {}), payload: Buffer.from([0xff]) }],
    [
      "with properties that would end the bag or the topic",
      telemetry("x", {}, { "a=b&c": "d=e&f", "#+/?": "%+#/", é: "\u0000\n\u007f😀", k: "" }),
    ],
    ["with ids of odd characters", telemetry("x", { mid: "a=b&c/d+e#f", cid: "%41?", uid: "ü" })],
    ["with content type and encoding", telemetry('{"a":1}', { ct: "application/json;charset=utf-8", ce: "utf-8" })],
  ])("%s reaches the cloud as it is", async (_, message) => {
    await startUp();
    expect(await rig.upstream.send("telemetry", message)).toEqual({ kind: "accepted" });
    await until("the message", () => rig.devHub.cloud.events.length === 1);
    const [event] = rig.devHub.cloud.events;
    expect(Buffer.from(event?.body ?? [])).toEqual(Buffer.from(message.payload));
    expect(event?.properties).toEqual(message.properties);
    expect(event?.system).toMatchObject(message.system);
  });

  it("as large as the gateway lets it be is neither dropped nor does it cost the link", async () => {
    await startUp();
    for (const size of [251 * 1024, 200_000]) {
      const properties = { p: "é".repeat((252 * 1024 - size - 700) / 6) };
      expect(
        await rig.upstream.send("telemetry", { ...telemetry("", {}, properties), payload: Buffer.alloc(size, 120) }),
      ).toEqual({
        kind: "accepted",
      });
    }
    await until("both", () => rig.devHub.cloud.events.length === 2);
    expect(rig.hub.links).toEqual(["up"]);
  });
});
