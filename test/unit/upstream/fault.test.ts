import azureIotCommon from "azure-iot-common";
import { describe, expect, it } from "vitest";
import { describeError, faultOfError, faultOfStatus, isSuccess } from "../../../src/upstream/fault.ts";

const { errors } = azureIotCommon;

describe("faultOfError", () => {
  it.each([
    [new errors.NotConnectedError("gone"), "transient"],
    [new errors.TimeoutError("late"), "transient"],
    [new errors.InternalServerError("500"), "transient"],
    [new errors.UnauthorizedError("who"), "unauthorized"],
    [new errors.ThrottlingError("slower"), "throttled"],
    [new errors.MessageTooLargeError("big"), "rejected"],
    [new errors.FormatError("topic"), "rejected"],
    [new errors.ArgumentError("a defect of the call"), "rejected"],
    [new TypeError("Cannot read properties of undefined"), "transient"],
    [new Error("anything"), "transient"],
    ["a string", "transient"],
    [undefined, "transient"],
  ])("turns %s into %s", (error, kind) => {
    expect(faultOfError(error).kind).toBe(kind);
  });

  it("is not led astray by a name of Object.prototype", () => {
    expect(faultOfError(Object.assign(new Error("x"), { name: "constructor" })).kind).toBe("transient");
  });
});

describe("faultOfStatus", () => {
  it.each([
    [0, "transient"],
    [400, "rejected"],
    [401, "unauthorized"],
    [403, "rejected"],
    [404, "transient"],
    [408, "transient"],
    [412, "rejected"],
    [429, "throttled"],
    [500, "transient"],
    [504, "transient"],
  ])("turns %i into %s", (status, kind) => {
    expect(faultOfStatus(status, "")).toEqual({ kind, reason: `status ${status}` });
  });

  it("calls only 2xx a success", () => {
    expect([199, 200, 204, 299, 300, 0, Number.NaN].map(isSuccess)).toEqual([
      false,
      true,
      true,
      true,
      false,
      false,
      false,
    ]);
  });
});

describe("describeError", () => {
  it("keeps tokens and keys to itself", () => {
    const token = "SharedAccessSignature sr=hub%2Fdevices%2Fd&sig=c2VjcmV0&se=1";
    const text = describeError(new Error(`refused: ${token}, HostName=h;SharedAccessKey=c2VjcmV0;x`));
    expect(text).not.toMatch(/c2VjcmV0/);
    expect(text).toContain("refused");
  });
});
