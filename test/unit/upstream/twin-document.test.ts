import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseDesiredPatch, parseJson, parseModuleTwin } from "../../../src/upstream/twin-document.ts";

describe("parseJson", () => {
  it("never throws, whatever the bytes", () => {
    fc.assert(fc.property(fc.uint8Array(), (bytes) => void parseJson(bytes)));
  });

  it("reads back what was written", () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        expect(parseJson(Buffer.from(JSON.stringify(value)))).toEqual(JSON.parse(JSON.stringify(value)));
      }),
    );
  });

  it("takes text that is no UTF-8 for nothing", () => {
    expect(parseJson(Buffer.from([0x22, 0xff, 0x22]))).toBeUndefined();
  });
});

describe("parseModuleTwin", () => {
  it("takes the versions out and keeps the rest", () => {
    const document = { desired: { a: { $version: 1 }, $version: 7 }, reported: { b: 2, $version: 9 } };
    expect(parseModuleTwin(document)).toEqual({
      desired: { a: { $version: 1 } },
      desiredVersion: 7,
      reported: { b: 2 },
    });
  });

  it("leaves out metadata, which IoT Hub shows to back ends only", () => {
    const document = { desired: { a: 1, $version: 7, $metadata: { a: {} } }, reported: { b: 2, $metadata: {} } };
    expect(parseModuleTwin(document)).toEqual({ desired: { a: 1 }, desiredVersion: 7, reported: { b: 2 } });
    expect(parseDesiredPatch({ a: null, $version: 8, $metadata: {} })).toEqual({ patch: { a: null }, version: 8 });
  });

  it("says nothing of a version that is not there or is no version", () => {
    for (const version of [{}, { $version: null }, { $version: "7" }, { $version: -1 }, { $version: 1.5 }]) {
      expect(parseModuleTwin({ desired: version, reported: {} })).toMatchObject({ desiredVersion: undefined });
    }
  });

  it("is undefined for what is no twin", () => {
    for (const document of [undefined, null, 5, "x", [], { desired: [] }, { desired: {}, reported: null }]) {
      expect(parseModuleTwin(document)).toBeUndefined();
    }
  });
});

describe("parseDesiredPatch", () => {
  it("takes the version out of any patch", () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue()), fc.nat(), (patch, version) => {
        const { $version: _none, ...expected } = patch;
        expect(parseDesiredPatch({ ...patch, $version: version })).toEqual({ patch: expected, version });
      }),
    );
  });

  it("is undefined without a version", () => {
    for (const document of [undefined, [], {}, { a: 1 }, { $version: "1" }])
      expect(parseDesiredPatch(document)).toBeUndefined();
  });
});
