/** `leaf name` and `leaf key`, as an operator runs them: what they print is what gateway and DPS compute. */
import { spawnSync } from "node:child_process";
import { createHmac } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const MAIN = new URL("../../src/main.ts", import.meta.url).pathname;
/** Master key and registration id of the documentation of DPS, and the key that it derives ["Symmetric key attestation"]. */
const MASTER = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==";
const REGISTRATION = "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6";
const DERIVED = "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc=";

let folder: string;
let groupKeyFile: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "leaf-commands-"));
  groupKeyFile = join(folder, "group-key");
  writeFileSync(groupKeyFile, `${MASTER}\n`);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function run(args: readonly string[], environment: Readonly<Record<string, string>> = {}) {
  const { PATH = "" } = process.env;
  const ended = spawnSync(process.execPath, [MAIN, ...args], { env: { PATH, ...environment }, encoding: "utf8" });
  return { code: ended.status, out: ended.stdout.trimEnd(), err: ended.stderr };
}

describe("leaf key", () => {
  test("prints the key that DPS derives, and a connection string that an SDK takes", () => {
    const { code, err, out } = run(["leaf", "key", REGISTRATION], {
      GATEWAY_GROUP_KEY_FILE: groupKeyFile,
      IOTEDGE_IOTHUBHOSTNAME: "plant.azure-devices.net",
      IOTEDGE_GATEWAYHOSTNAME: "edge.plant.example",
    });
    expect([code, err]).toEqual([0, ""]);
    expect(out.split("\n")).toEqual([
      DERIVED,
      `HostName=plant.azure-devices.net;DeviceId=${REGISTRATION};SharedAccessKey=${DERIVED};GatewayHostName=edge.plant.example`,
    ]);
  });

  test("derives from the first of two keys, and names the hosts of the configuration", () => {
    const [primary, secondary] = ["first", "second"].map((text) => Buffer.from(`${text} key`).toString("base64"));
    writeFileSync(join(folder, "two"), `${primary}\n${secondary}\n`);
    const { out } = run(["leaf", "key", "leaf1"], {
      GATEWAY_GROUP_KEY_FILE: join(folder, "two"),
      GATEWAY_HUB_HOST_NAMES: "hub.example,other.example",
      GATEWAY_SERVER_NAMES: "gateway.example",
    });
    const key = createHmac("sha256", "first key").update("leaf1").digest("base64");
    expect(out).toBe(
      `${key}\nHostName=hub.example;DeviceId=leaf1;SharedAccessKey=${key};GatewayHostName=gateway.example`,
    );
  });

  test("without a group key, or for what is no id, says what is wrong and prints no key", () => {
    const without = run(["leaf", "key", "leaf1"]);
    expect([without.code, without.out]).toEqual([2, ""]);
    expect(without.err).toContain("GATEWAY_GROUP_KEY_FILE");
    const wrong = run(["leaf", "key", "leaf 1"], { GATEWAY_GROUP_KEY_FILE: groupKeyFile });
    expect([wrong.code, wrong.out]).toEqual([2, ""]);
    expect(wrong.err).not.toContain(MASTER);
  });

  test("says so when the file is not there or holds no key", () => {
    writeFileSync(join(folder, "no-key"), "this is no base64");
    for (const path of [join(folder, "missing"), join(folder, "no-key")]) {
      const { code, err, out } = run(["leaf", "key", "leaf1"], { GATEWAY_GROUP_KEY_FILE: path });
      expect([code, out]).toEqual([1, ""]);
      expect(err).toContain("groupKeyFile");
      expect(err).not.toMatch(/\n\s+at /);
    }
  });
});

describe("leaf name", () => {
  test.each([
    ["leaf1", "leaf1"],
    ["a-b", "a_b_d44362d6"],
  ])("of %s is %s", (id, component) => {
    expect(run(["leaf", "name", id])).toEqual({ code: 0, out: component, err: "" });
  });

  test("is the alias where there is one", () => {
    expect(run(["leaf", "name", "boiler"], { GATEWAY_ALIASES: '{"boiler":"heating"}' }).out).toBe("heating");
  });

  test("refuses what is no id", () => {
    const { code, err } = run(["leaf", "name", "a/b"]);
    expect(code).toBe(2);
    expect(err).toContain("a/b is no device id");
  });
});
