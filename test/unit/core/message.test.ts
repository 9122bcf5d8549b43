import { expect, test } from "vitest";
import { GatewayError } from "../../../src/core/errors.ts";
import { parseLeafId } from "../../../src/core/message.ts";

test.each(["a", "A", "leaf-1:2.3+4%5_6#7*8?9!(0),=@;$'", "x".repeat(128)])("%j is a leaf id", (text) => {
  expect(parseLeafId(text)).toBe(text);
});

test.each(["", "x".repeat(129), "a b", "a/b", "é", "a\n", "a&b", "a\u0000"])("%j is none", (text) => {
  expect(parseLeafId(text)).toBeUndefined();
});

test("a failure of the gateway has a code, and what caused it", () => {
  const cause = new Error("disk");
  const error = new GatewayError("STORE_FAILED", "the disk refused a write", { cause });
  expect([error.name, error.code, error.message, error.cause]).toEqual([
    "GatewayError",
    "STORE_FAILED",
    "the disk refused a write",
    cause,
  ]);
});
