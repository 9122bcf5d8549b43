import fc from "fast-check";
import { expect, test } from "vitest";
import { utf8Bytes } from "../../../src/core/utf8.ts";

test.each([
  "",
  "plain",
  "é€😀",
  "\u007f\u0080\u07ff\u0800\uffff",
  "\ud83d",
  "\ude00",
  "\ud83dx",
  "\ude00\ud83d",
  "\ud83d\ud83d\ude00",
])("counts the bytes of %j as they are written", (text) => {
  expect(utf8Bytes(text)).toBe(Buffer.byteLength(text, "utf8"));
});

test("counts the bytes of any text, also of half characters", () => {
  const units = fc.array(fc.oneof(fc.nat(0xffff), fc.integer({ min: 0xd7f0, max: 0xe00f })), { maxLength: 12 });
  fc.assert(
    fc.property(units, (codes) => {
      const text = String.fromCharCode(...codes);
      expect(utf8Bytes(text)).toBe(Buffer.byteLength(text, "utf8"));
    }),
    { numRuns: 1_000 },
  );
});
