/** The development hub as a process: what survives SIGKILL, and how it is configured. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import iotDevice from "azure-iot-device";
import { Mqtt } from "azure-iot-device-mqtt";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { parseEnvironment, sayTakenPort } from "../../src/devhub/settings.ts";
import { startQuickHub } from "./devhub-edge-harness.ts";

const { Message, ModuleClient } = iotDevice;

describe("the process", () => {
  let state: string;
  const children: ChildProcess[] = [];
  beforeEach(() => {
    state = mkdtempSync(join(tmpdir(), "devhub-process-"));
  });
  afterEach(() => {
    for (const child of children.splice(0)) child.kill("SIGKILL");
    rmSync(state, { recursive: true, force: true });
  });

  async function start(settings: object = {}): Promise<{ child: ChildProcess; ready: Record<string, string> }> {
    const environment = {
      PATH: process.env["PATH"] ?? "",
      DEVHUB_STATE: state,
      DEVHUB_MQTT_PORT: "0",
      DEVHUB_SERVICE_PORT: "0",
      DEVHUB_METRICS_PORT: "0",
      DEVHUB_PROBE_PORT: "0",
      DEVHUB_SETTINGS: JSON.stringify(settings),
    };
    const child = spawn(process.execPath, ["src/devhub/main.ts"], {
      env: environment,
      stdio: ["ignore", "pipe", "inherit"],
    });
    children.push(child);
    for await (const line of createInterface({ input: child.stdout })) return { child, ready: JSON.parse(line) };
    throw new Error("no ready line");
  }

  test("keeps every acknowledged message and its module's key through SIGKILL", async () => {
    // A slow cloud, so that messages are waiting when the process dies.
    const first = await start({ cloudRoundTripMs: 600_000 });
    const client = ModuleClient.fromConnectionString(String(first.ready["moduleConnectionString"]), Mqtt);
    await client.setOptions({ ca: String(first.ready["caFile"]) });
    client.on("error", () => {});
    await client.open();
    for (let n = 0; n < 5; n++) await client.sendEvent(new Message(String(n)));
    first.child.kill("SIGKILL");
    await once(first.child, "exit");
    await client.close().catch(() => {});
    const second = await start({ cloudRoundTripMs: 600_000 });
    const withoutPort = (text: unknown) => String(text).split(";GatewayHostName")[0];
    expect(withoutPort(second.ready["moduleConnectionString"])).toBe(
      withoutPort(first.ready["moduleConnectionString"]),
    );
    const metrics = await (await fetch(String(second.ready["metricsUrl"]))).text();
    expect(metrics).toMatch(/edgehub_queue_length\{[^}]*\} 5\n/);
  });

  test("ends with code 0 at SIGTERM", async () => {
    const { child } = await start();
    child.kill("SIGTERM");
    expect((await once(child, "exit"))[0]).toBe(0);
  });
});

describe("the environment", () => {
  test("has a variable for each port, named when the port is taken", async () => {
    await using hub = await startQuickHub();
    const taken = Number(new URL(hub.metricsUrl).port);
    const error: unknown = await startQuickHub({ metricsPort: taken }).catch((reason: unknown) => reason);
    expect(sayTakenPort(error, { metricsPort: taken })).toMatch(
      new RegExp(`^Port ${taken} is taken .* DEVHUB_METRICS_PORT\\.$`),
    );
    expect(sayTakenPort(new Error("something else"), { metricsPort: taken })).toBeUndefined();
  });

  test("names every problem", () => {
    const parsed = parseEnvironment({
      DEVHUB_MQTT_PORT: "x",
      DEVHUB_PERSONALITY: "broker",
      DEVHUB_SETTINGS: '{"nothing":1}',
    });
    expect(parsed).toMatchObject({ kind: "invalid" });
    const names = parsed.kind === "invalid" ? parsed.problems.map((problem) => problem.split(":")[0]) : [];
    expect(names).toEqual(["DEVHUB_PERSONALITY", "DEVHUB_MQTT_PORT", "DEVHUB_SETTINGS"]);
  });

  test("takes an empty variable for an unset one and leaves other defaults alone", () => {
    expect(parseEnvironment({ DEVHUB_MQTT_PORT: "", DEVHUB_ROUTES: "FROM /* INTO $upstream\n\n" })).toEqual({
      kind: "valid",
      settings: { stateFolder: "./.devhub", routes: ["FROM /* INTO $upstream"] },
    });
  });
});
