import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { formatJsonBody, parseJsonBody } from "../../../src/translate/json-body.ts";

function parse(text: string): ReturnType<typeof parseJsonBody> {
  return parseJsonBody(new TextEncoder().encode(text));
}

const nested = (levels: number) => `${"[".repeat(levels)}${"]".repeat(levels)}`;

describe("JSON in a frame", () => {
  test("parsing undoes formatting", () => {
    fc.assert(
      fc.property(fc.jsonValue({ noUnicodeString: false }), (value) => {
        expect(parseJsonBody(formatJsonBody(value as never))).toEqual({
          kind: "json",
          value: JSON.parse(JSON.stringify(value)),
        });
      }),
    );
  });

  test("64 levels pass, 65 do not", () => {
    expect(parse(nested(64)).kind).toBe("json");
    expect(parse(nested(65))).toEqual({ kind: "bad", reason: "the body is nested deeper than 64 levels" });
    expect(parse(`${'{"a":'.repeat(65)}1${"}".repeat(65)}`).kind).toBe("bad");
  });

  test("brackets that follow each other or stand in texts are no depth", () => {
    expect(parse(`[${"[],".repeat(200)}{}]`).kind).toBe("json");
    expect(parse(JSON.stringify("[".repeat(200))).kind).toBe("json");
    expect(parse(JSON.stringify(`"${"{".repeat(200)}`)).kind).toBe("json");
    expect(parse(JSON.stringify(`"\\"${"{".repeat(200)}`)).kind).toBe("json");
  });

  test("depth behind a text that ends in a backslash or holds a quote counts", () => {
    const tooDeep = { kind: "bad", reason: "the body is nested deeper than 64 levels" };
    expect(parse(`["\\\\",${nested(64)}]`)).toEqual(tooDeep);
    expect(parse(`["\\"",${nested(64)}]`)).toEqual(tooDeep);
  });

  test("bytes that are no UTF-8 are refused, not repaired", () => {
    const bytes = new Uint8Array([0x22, 0xc3, 0x28, 0x22]);
    expect(parseJsonBody(bytes)).toEqual({ kind: "bad", reason: "the body is not UTF-8" });
  });

  test("__proto__ is a key like any other", () => {
    const body = parse('{"__proto__":{"a":1}}');
    expect(body.kind === "json" && Object.keys(body.value as object)).toEqual(["__proto__"]);
  });
});
