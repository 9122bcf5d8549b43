import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Telemetry } from "../../../src/core/message.ts";
import { MAX_MESSAGE_BYTES, type ReceivedMessage, seal, unseal } from "../../../src/upstream/envelope.ts";

function message(part: Partial<Telemetry> = {}): Telemetry {
  return { payload: Buffer.from("{}"), system: {}, properties: {}, ...part };
}

function envelopeOf(telemetry: Telemetry) {
  const sealed = seal("telemetry", telemetry);
  if (sealed.kind !== "sealed") throw new Error(sealed.reason);
  return sealed.envelope;
}

/** What the SDK and edgeHub make of it on the way to another module's input. */
function received(telemetry: Telemetry): ReceivedMessage {
  const { data, properties } = envelopeOf(telemetry);
  const bag = properties.map(([key, value]) => `${encodeURIComponent(key)}=${encodeURIComponent(value)}`).join("&");
  const decoded = bag === "" ? [] : bag.split("&").map((pair) => pair.split("=").map(decodeURIComponent));
  const blank = { messageId: "", correlationId: "", userId: "", to: "", expiryTimeUtc: undefined };
  return {
    ...blank,
    contentType: undefined,
    contentEncoding: undefined,
    properties: { propertyList: decoded.map(([key, value]) => ({ key, value })) },
    getBytes: () => Buffer.from(data),
  };
}

const key = fc.string({ unit: "grapheme", maxLength: 12 });
const ownKey = key.filter((text) => text !== "" && text !== "dt-subject" && !text.startsWith("$."));
const value = fc.string({ unit: "grapheme", maxLength: 20 });
const telemetry: fc.Arbitrary<Telemetry> = fc.record({
  payload: fc.uint8Array({ maxLength: 64 }),
  system: fc.dictionary(fc.constantFrom("mid", "cid", "ct", "ce", "sub", "schema", "__proto__"), value),
  properties: fc.dictionary(ownKey, value),
});

describe("seal", () => {
  it("loses and changes nothing that may go up", () => {
    fc.assert(
      fc.property(telemetry, (original) => {
        const back = unseal(received(original));
        expect(Buffer.from(back.payload)).toEqual(Buffer.from(original.payload));
        expect(new Map(Object.entries(back.system))).toEqual(new Map(Object.entries(original.system)));
        expect(new Map(Object.entries(back.properties))).toEqual(new Map(Object.entries(original.properties)));
      }),
    );
  });

  it("never lets an application property become a system property, and never throws", () => {
    fc.assert(
      fc.property(
        fc.dictionary(fc.oneof(key, fc.constantFrom("dt-subject", "$.sub", "$.on", "")), fc.string({ unit: "binary" })),
        (properties) => {
          const sealed = seal("telemetry", message({ properties }));
          if (sealed.kind === "unsendable") return;
          for (const [sent] of sealed.envelope.properties) {
            expect(sent.startsWith("$.")).toBe(false);
            expect(["", "dt-subject"]).not.toContain(sent);
          }
        },
      ),
    );
  });

  it("gives text to the SDK as a string and other bytes as they are", () => {
    expect(envelopeOf(message({ payload: Buffer.from("\ufeff{}") })).data).toBe("\ufeff{}");
    expect(envelopeOf(message({ payload: Uint8Array.of(0xc3, 0x28) })).data).toEqual(Buffer.from([0xc3, 0x28]));
    expect(envelopeOf(message({ payload: new Uint8Array(Buffer.from("xhiy")).subarray(1, 3) })).data).toBe("hi");
    expect(envelopeOf(message({ payload: new Uint8Array() })).data).toBe("");
  });

  it("never sends $.ctime or a second $.on", () => {
    const { properties } = envelopeOf(
      message({ system: { ctime: "2026-01-02T03:04:05Z", on: "theirs", sub: "leaf1" } }),
    );
    expect(properties).toEqual([
      ["iothub-creation-time-utc", "2026-01-02T03:04:05Z"],
      ["$.sub", "leaf1"],
    ]);
  });

  it("keeps a creation time that is already an application property", () => {
    const creation = { "iothub-creation-time-utc": "first" };
    expect(envelopeOf(message({ system: { ctime: "second" }, properties: creation })).properties).toEqual([
      ["iothub-creation-time-utc", "first"],
    ]);
  });

  it("seals what fits when it is encoded, whatever characters it is of, and nothing else", () => {
    // Around 65,535 bytes of topic: the same number of characters fits or does not, by what they are.
    const units = fc.constantFrom("x", "+", "\u{7ff}", "\u{20ac}", "\u{1f600}", "\ud800");
    const sized = fc.tuple(units, fc.integer({ min: 1, max: 70_000 })).map(([unit, bytes]) => {
      return unit.repeat(Math.ceil(bytes / (unit.isWellFormed() ? encodeURIComponent(unit).length : 9)));
    });
    fc.assert(
      fc.property(fc.array(sized, { maxLength: 3 }), fc.integer({ min: 0, max: 260_000 }), (values, payloadBytes) => {
        const properties = Object.fromEntries(values.map((text, at) => [`k${at}`, text]));
        const sealed = seal("telemetry", { payload: new Uint8Array(payloadBytes), system: {}, properties });
        const isWellFormed = values.every((text) => text.isWellFormed());
        const bag = isWellFormed ? values.map((text, at) => `k${at}=${encodeURIComponent(text)}&`).join("") : "";
        const topicBytes = 300 + "%24.on=telemetry&".length + bag.length;
        const fits = isWellFormed && topicBytes <= 65_535 && topicBytes + payloadBytes <= MAX_MESSAGE_BYTES;
        expect(sealed.kind).toBe(fits ? "sealed" : "unsendable");
      }),
      { numRuns: 300 },
    );
  });

  it("takes what just fits and no byte more", () => {
    const size = (bytes: number) => seal("telemetry", message({ payload: new Uint8Array(bytes) })).kind;
    let fits = 0;
    for (let step = 2 ** 18; step >= 1; step /= 2) if (size(fits + step) === "sealed") fits += step;
    expect(fits).toBeGreaterThan(MAX_MESSAGE_BYTES - 400);
    expect(fits).toBeLessThan(MAX_MESSAGE_BYTES);
    expect(size(fits + 1)).toBe("unsendable");
  });
});
