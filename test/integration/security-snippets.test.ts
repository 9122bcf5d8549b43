/** The Node snippets of docs/security.md as a user would run them, to the letter, as programs of their own. */
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { deriveLeafKey } from "../../src/downstream/sas-token.ts";
import { type GatewayRig, startRig, WITHIN } from "../support/gateway-rig.ts";
import { type Authority, makeAuthority } from "../support/test-certificates.ts";

const ROOT = join(import.meta.dirname, "../..");
const GROUP_KEY = Buffer.from("the group's key of a documented plant").toString("base64");

let folder: string;
let authority: Authority;
let rig: GatewayRig;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "snippets-"));
  authority = await makeAuthority("Plant CA");
  rig = await startRig({
    config: { authMode: "enforce", groupKeyFile: file("group", GROUP_KEY), leafCaFile: file("ca.pem", authority.pem) },
  });
});
afterAll(async () => {
  await rig[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

function file(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

function snippet(number: number): string {
  const page = readFileSync(join(ROOT, "docs/security.md"), "utf8");
  const found = [...page.matchAll(/^```js\n(.*?)^```$/gms)][number]?.[1];
  if (found === undefined) throw new Error(`docs/security.md has no Node snippet ${number}`);
  return found;
}

async function run(code: string, environment: Readonly<Record<string, string>>): Promise<string> {
  const { PATH = "" } = process.env;
  const child = spawn(process.execPath, ["--input-type=module", "--eval", code], {
    cwd: ROOT,
    env: { PATH, ...environment },
  });
  let said = "";
  child.stderr.on("data", (chunk) => {
    said += String(chunk);
  });
  const status = await new Promise((resolve) => child.once("close", resolve));
  return status === 0 ? "ended well" : said;
}

test("with a key", async () => {
  const key = deriveLeafKey(GROUP_KEY, "snippet-key");
  const host = `HostName=${rig.hub.settings.iotHubHostName};GatewayHostName=localhost:${rig.tlsPort}`;
  const ended = await run(snippet(0), {
    LEAF_CONNECTION_STRING: `${host};DeviceId=snippet-key;SharedAccessKey=${key}`,
    LEAF_CA_FILE: file("leaf-ca.pem", rig.caPem),
  });
  expect(ended).toBe("ended well");
  await expect.poll(() => rig.eventsOf("snippet-key").length, WITHIN).toBe(1);
  expect(rig.eventsOf("snippet-key")[0]?.properties["leafModelId"]).toBe("dtmi:com:example:Thermostat;1");
});

test("with a certificate", async () => {
  const { key, pem } = await authority.issue("CN=snippet-x509");
  const ended = await run(snippet(1), {
    GATEWAY: `localhost:${rig.tlsPort}`,
    LEAF_ID: "snippet-x509",
    LEAF_CA_FILE: file("leaf-ca.pem", rig.caPem),
    LEAF_CERTIFICATE_FILE: file("leaf.pem", pem),
    LEAF_KEY_FILE: file("leaf-key.pem", key),
  });
  expect(ended).toBe("ended well");
  await expect.poll(() => rig.eventsOf("snippet-x509").length, WITHIN).toBe(1);
});
