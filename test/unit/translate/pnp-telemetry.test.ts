import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { ComponentName, LeafId, Telemetry } from "../../../src/core/message.ts";
import { toModuleTelemetry } from "../../../src/translate/pnp-telemetry.ts";

const leaf = {
  leafId: "leaf-1" as LeafId,
  modelId: "dtmi:com:example:TemperatureController;1",
  component: "leaf_1" as ComponentName,
  components: { thermostat1: "leaf_1__thermostat1" as ComponentName },
};
const stamp = { messageId: "stamped", creationTime: "2026-01-02T03:04:05.678Z" };

function telemetry(system: Telemetry["system"] = {}, properties: Telemetry["properties"] = {}, bytes = 0): Telemetry {
  return { payload: new Uint8Array(bytes), system, properties };
}

function translated(message: Telemetry, from: Parameters<typeof toModuleTelemetry>[1] = leaf): Telemetry {
  const result = toModuleTelemetry(message, from, stamp);
  if (result.kind === "refused") throw new Error(result.reason);
  return result.message;
}

describe("a leaf's telemetry as the module's", () => {
  test("names the leaf's component, the leaf, its model, a message id and the time", () => {
    expect(translated(telemetry({ ct: "application/json", ce: "utf-8" }, { alert: "high" }))).toEqual({
      payload: new Uint8Array(0),
      system: { ct: "application/json", ce: "utf-8", mid: "stamped", sub: "leaf_1" },
      properties: {
        alert: "high",
        "iothub-creation-time-utc": "2026-01-02T03:04:05.678Z",
        leafId: "leaf-1",
        leafModelId: "dtmi:com:example:TemperatureController;1",
      },
    });
  });

  test("a component of the leaf becomes the module's", () => {
    expect(translated(telemetry({ sub: "thermostat1" })).system["sub"]).toBe("leaf_1__thermostat1");
    expect(translated(telemetry({ sub: "" })).system["sub"]).toBe("leaf_1");
  });

  test.each(["thermostat2", "__proto__", "constructor", "toString"])(
    "a component that was not learned is refused: %s",
    (sub) => {
      expect(toModuleTelemetry(telemetry({ sub }), leaf, stamp)).toEqual({
        kind: "refused",
        reason: `${sub} is no component of this leaf`,
      });
    },
  );

  test("a leaf's own message id stays, an empty one does not", () => {
    expect(translated(telemetry({ mid: "mine" })).system["mid"]).toBe("mine");
    expect(translated(telemetry({ mid: "" })).system["mid"]).toBe("stamped");
  });

  test("what addresses another hop, or does not survive the next one, is dropped", () => {
    const system = { on: "out", to: "/x", exp: "2026", cdid: "leaf2", cmid: "m", ct: "", uid: "u", schema: "s" };
    expect(translated(telemetry(system)).system).toEqual({ uid: "u", schema: "s", mid: "stamped", sub: "leaf_1" });
  });

  test("the time of creation is the leaf's own property, then its $.ctime, then ours", () => {
    const time = (system: Telemetry["system"], properties: Telemetry["properties"]) =>
      translated(telemetry(system, properties)).properties["iothub-creation-time-utc"];
    expect(time({ ctime: "B" }, { "iothub-creation-time-utc": "A" })).toBe("A");
    expect(time({ ctime: "B" }, {})).toBe("B");
    expect(time({ ctime: "" }, {})).toBe(stamp.creationTime);
  });

  test("while the clock is not set no time is invented", () => {
    const result = toModuleTelemetry(telemetry(), leaf, { ...stamp, creationTime: undefined });
    expect(result.kind === "ok" && Object.keys(result.message.properties)).toEqual(["leafId", "leafModelId"]);
  });

  test("a leaf cannot pass for another, in whatever spelling", () => {
    const properties = { leafId: "leaf2", LeafID: "leaf2", leafModelId: "dtmi:x:Y;1", LEAFMODELID: "dtmi:x:Y;1" };
    expect(translated(telemetry({}, properties)).properties).toMatchObject({
      leafId: "leaf-1",
      leafModelId: leaf.modelId,
    });
    const unknown = translated(telemetry({}, properties), { ...leaf, modelId: undefined }).properties;
    expect(
      Object.keys(unknown)
        .map((key) => key.toLowerCase())
        .sort(),
    ).toEqual(["iothub-creation-time-utc", "leafid"]);
  });

  test("any payload and any other property pass unchanged", () => {
    const key = fc.string({ unit: "grapheme", minLength: 1, maxLength: 20 });
    const taken = ["leafid", "leafmodelid", "iothub-creation-time-utc", "__proto__"];
    const properties = fc.dictionary(
      key.filter((text) => !taken.includes(text.toLowerCase())),
      fc.string({ unit: "grapheme", maxLength: 20 }),
    );
    fc.assert(
      fc.property(fc.uint8Array(), properties, (payload, said) => {
        const message = translated({ payload, system: { sub: "thermostat1" }, properties: said });
        expect(message.payload).toBe(payload);
        expect(message.properties).toMatchObject(said);
        expect(Object.keys(message.properties)).toHaveLength(Object.keys(said).length + 3);
      }),
    );
  });

  test("a message that would grow past what edgeHub takes is refused, one byte less passes", () => {
    const largest = (low: number, high: number): number => {
      if (high - low <= 1) return low;
      const middle = Math.floor((low + high) / 2);
      const passes = toModuleTelemetry(telemetry({}, {}, middle), leaf, stamp).kind === "ok";
      return passes ? largest(middle, high) : largest(low, middle);
    };
    const bytes = largest(0, 300_000);
    expect(bytes).toBeGreaterThan(256_000);
    expect(bytes).toBeLessThan(252 * 1024);
    const refused = toModuleTelemetry(telemetry({}, {}, bytes + 1), leaf, stamp);
    expect(refused).toEqual({
      kind: "refused",
      reason: "with what the gateway adds it takes 258049 bytes, edgeHub takes 258048",
    });
  });

  test("properties that take more than a topic once encoded are refused", () => {
    const result = toModuleTelemetry(telemetry({}, { note: "ü".repeat(11_000) }), leaf, stamp);
    expect(result.kind === "refused" && result.reason).toMatch(/more than fit into a topic/);
  });
});
