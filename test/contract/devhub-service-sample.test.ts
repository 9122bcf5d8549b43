/** The sample leaf as a user starts it, straight at a hub of the strict personality: what it says on the wire is IoT Hub's. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { type DevHub, startDevHub } from "../../src/devhub/devhub.ts";
import { makeAuthority } from "../support/test-certificates.ts";

const LEAF = { deviceId: "leaf1" };
const WITHIN = { timeout: 20_000 };

let hub: DevHub;
let leaf: ChildProcess;
let said = "";

beforeAll(async () => {
  hub = await startDevHub({ personality: "iothub", mqttPort: 0, servicePort: 0, metricsPort: 0, probePort: 0 });
  hub.register(LEAF);
  const environment = {
    LEAF_CONNECTION_STRING: hub.connectionString(LEAF),
    LEAF_CA_FILE: hub.caFile,
    LEAF_INTERVAL_MS: "50",
  };
  leaf = spawn(process.execPath, ["samples/temperature-controller.ts"], { env: { ...process.env, ...environment } });
  for (const stream of [leaf.stdout, leaf.stderr]) stream?.on("data", (chunk: Buffer) => (said += chunk.toString()));
});
afterAll(async () => {
  leaf.kill("SIGKILL");
  await hub[Symbol.asyncDispose]();
});

const reported = () => hub.cloud.twin(LEAF)?.reported ?? {};

function command(name: string, payload: string | number | null) {
  return hub.cloud.invoke({ id: LEAF, name, payload, connectTimeoutMs: 10_000 });
}

describe("the sample leaf", () => {
  it("says how it is called instead of taking an option for a device id", async () => {
    const asked = spawn(process.execPath, ["samples/temperature-controller.ts", "--help"]);
    let usage = "";
    asked.stdout.on("data", (chunk: Buffer) => (usage += chunk.toString()));
    expect((await once(asked, "close"))[0]).toBe(0);
    expect(usage).toContain("Usage: npm run leaf");
  });

  it("says what to look at when it does not trust the certificate", async () => {
    const folder = mkdtempSync(join(tmpdir(), "sample-leaf-"));
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
    const strange = join(folder, "ca.pem");
    writeFileSync(strange, (await makeAuthority("somebody else's CA")).pem);
    const env = { ...process.env, LEAF_CONNECTION_STRING: hub.connectionString(LEAF), LEAF_CA_FILE: strange };
    const distrusting = spawn(process.execPath, ["samples/temperature-controller.ts"], { env });
    onTestFinished(() => void distrusting.kill("SIGKILL"));
    let complaint = "";
    distrusting.stdout.on("data", (chunk: Buffer) => (complaint += chunk.toString()));
    await expect.poll(() => complaint, WITHIN).toContain(`Does ${strange} (LEAF_CA_FILE) hold the root`);
  });

  it("sends both thermostats' telemetry under their component and the working set under none", async () => {
    const subjects = () => new Set(hub.cloud.events.map(({ system }) => system["sub"]));
    await expect.poll(subjects, WITHIN).toEqual(new Set(["thermostat1", "thermostat2", undefined]));
    expect(hub.cloud.events[0]).toMatchObject({
      modelId: "dtmi:com:example:TemperatureController;2",
      system: { ct: "application/json" },
    });
  });

  it("reports what it is, and its default target with 203 and version 0", async () => {
    await expect.poll(reported, WITHIN).toMatchObject({
      serialNumber: "SR-123456",
      deviceInformation: { __t: "c", manufacturer: "Contoso Device Corporation" },
      thermostat1: {
        __t: "c",
        targetTemperature: { value: 21, ac: 203, av: 0 },
        maxTempSinceLastReboot: expect.any(Number),
      },
      thermostat2: { __t: "c", targetTemperature: { value: 21, ac: 203, av: 0 } },
    });
  });

  it("acknowledges a target with 200 and its version, and refuses one that is no number", async () => {
    await expect.poll(() => said, WITHIN).toContain("sent thermostat1");
    hub.cloud.patchDesired(LEAF, { thermostat1: { __t: "c", targetTemperature: 30 } });
    const target = () => (reported()["thermostat1"] as { targetTemperature?: unknown } | undefined)?.targetTemperature;
    await expect.poll(target, WITHIN).toMatchObject({ value: 30, ac: 200, av: 2 });
    hub.cloud.patchDesired(LEAF, { thermostat1: { targetTemperature: "warm" } });
    await expect.poll(target, WITHIN).toMatchObject({ value: 30, ac: 400, av: 3 });
    hub.cloud.patchDesired(LEAF, { thermostat1: { targetTemperature: null } });
    await expect.poll(target, WITHIN).toMatchObject({ value: 21, ac: 203, av: 4 });
  });

  it("answers its commands", async () => {
    expect(await command("thermostat1*getMaxMinReport", "2026-01-01T00:00:00Z")).toMatchObject({
      kind: "answer",
      status: 200,
      payload: { maxTemp: expect.any(Number), startTime: expect.stringContaining("T") },
    });
    expect(await command("reboot", 1)).toEqual({ kind: "answer", status: 200, payload: null });
    expect(await command("reboot", "soon")).toMatchObject({ status: 400 });
    expect(await command("thermostat2*getMaxMinReport", "yesterday")).toMatchObject({ status: 400 });
  });

  it("ends cleanly when it is asked to", async () => {
    leaf.kill("SIGINT");
    const [code] = (await once(leaf, "exit")) as [number | null];
    expect(code).toBe(0);
    expect(said).toContain("closed");
  });
});
