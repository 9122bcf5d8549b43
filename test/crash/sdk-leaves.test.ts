/**
 * Leaves of all SDKs through a whole life: first start, desired changes, telemetry, commands, messages to them, a cut, a new token, a
 * gateway that is killed, a second program of the same id. Each speaks as its SDK was measured to, with tokens that are checked.
 */
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { componentName } from "../../src/core/component-name.ts";
import { isJsonObject } from "../../src/core/merge-patch.ts";
import { type Json, type JsonObject, parseLeafId } from "../../src/core/message.ts";
import type { D2cMessage } from "../../src/devhub/cloud-types.ts";
import { type DevHub, startDevHub } from "../../src/devhub/devhub.ts";
import { freePort, type GatewayProcess, gatewayEnvironment, spawnGateway } from "../support/gateway-process.ts";
import { SdkLeaf, type SdkLeafOptions } from "../support/sdk-leaf.ts";
import { SDK_WIRES, type SdkWire } from "../support/sdk-wire.ts";

const MODULE = { deviceId: "edge1", moduleId: "gw" };
const WAIT = { timeout: 60_000, interval: 50 };
const KEY = Buffer.from("every leaf's own key, here the same").toString("base64");

let folder: string;
let hub: DevHub;
let gateway: GatewayProcess;
let environment: Readonly<Record<string, string>>;
let options: SdkLeafOptions;
const messages: D2cMessage[] = [];
const programs = new Map<SdkWire, SdkLeaf>();

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "sdk-leaves-"));
  const ports = { mqttPort: 0, servicePort: 0, metricsPort: 0, probePort: 0 };
  hub = await startDevHub({ ...ports, ...MODULE, reportedSyncMs: 100, restartDrainIntervalMs: 300 });
  hub.cloud.onEvent((event) => {
    if (event.kind === "message") messages.push(event.message);
  });
  const keysFile = join(folder, "keys.json");
  writeFileSync(
    keysFile,
    JSON.stringify(Object.fromEntries(SDK_WIRES.map(({ leafId }) => [leafId, { primary: KEY }]))),
  );
  const port = await freePort();
  environment = gatewayEnvironment(hub, port, join(folder, "state"), {
    GATEWAY_AUTH_MODE: "enforce",
    GATEWAY_LEAF_KEYS_FILE: keysFile,
    GATEWAY_LOG_LEVEL: "warn",
  });
  const { gatewayHostName, iotHubHostName } = hub.settings;
  options = { port, gatewayHostName, hubHostName: iotHubHostName, key: KEY };
  await startGateway();
});

afterAll(async () => {
  for (const leaf of programs.values()) leaf.cut();
  await gateway[Symbol.asyncDispose]();
  await hub[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

async function startGateway(): Promise<void> {
  gateway = spawnGateway(environment);
  // The start is told with "info"; a leaf that is let in shows it as well.
  await vi.waitFor(async () => expect(await command("gateway*ping", {})).toMatchObject({ status: 200 }), WAIT);
}

async function command(name: string, payload: Json): Promise<unknown> {
  const outcome = await hub.cloud.invoke({ id: MODULE, name, payload });
  return outcome.kind === "answer" ? { status: outcome.status, payload: outcome.payload } : outcome;
}

function componentOf({ leafId }: SdkWire): string {
  const id = parseLeafId(leafId);
  if (id === undefined) throw new Error(`${leafId} is no leaf id`);
  return componentName(id, (text) => createHash("sha256").update(text, "utf8").digest("hex"));
}

function desire(patch: JsonObject): void {
  expect(hub.cloud.patchDesired(MODULE, patch).kind).toBe("updated");
}

/** The leaf knows the desired values, and the hub has its acknowledgements of them. */
async function converged(leaf: SdkLeaf, target: number): Promise<void> {
  const component = componentOf(leaf.wire);
  await vi.waitFor(() => {
    expect(leaf.desired, leaf.wire.name).toMatchObject({ mode: `m${target}`, thermostat1: { target } });
    const reported = hub.cloud.twin(MODULE)?.reported ?? {};
    const shown = { value: target, ac: 200, av: expect.any(Number) };
    expect(reported[`${component}__thermostat1`], leaf.wire.name).toMatchObject({ __t: "c", target: shown });
    expect(reported[component], leaf.wire.name).toMatchObject({ mode: { value: `m${target}`, ac: 200 } });
  }, WAIT);
}

function desireOf(wire: SdkWire, target: number): void {
  const component = componentOf(wire);
  desire({ [component]: { mode: `m${target}` }, [`${component}__thermostat1`]: { target } });
}

async function serves(leaf: SdkLeaf, payload: Json): Promise<void> {
  const component = componentOf(leaf.wire);
  await vi.waitFor(async () => {
    const answer = await command(`${component}__thermostat1*getMaxMinReport`, payload);
    expect(answer, leaf.wire.name).toEqual({ status: 200, payload });
  }, WAIT);
  expect(leaf.commands.at(-1)).toEqual({ name: "thermostat1*getMaxMinReport", body: JSON.stringify(payload) });
}

async function sendToDevice(leaf: SdkLeaf, text: string): Promise<void> {
  const properties = { colour: "very red", größe: "a/b&c=d", empty: "" };
  const request = { leafId: leaf.id, payload: text, properties };
  expect(await command("gateway*sendCloudToDevice", request)).toMatchObject({ status: 200 });
}

async function hears(leaf: SdkLeaf, text: string): Promise<void> {
  await vi.waitFor(
    () =>
      expect(
        leaf.cloudToDevice.map(({ body }) => body),
        leaf.wire.name,
      ).toContain(text),
    WAIT,
  );
}

function messagesOf({ leafId }: SdkWire): readonly D2cMessage[] {
  return messages.filter(({ properties }) => properties["leafId"] === leafId);
}

function programOf(wire: SdkWire): SdkLeaf {
  const leaf = programs.get(wire);
  if (leaf === undefined) throw new Error(`${wire.name} has not started`);
  return leaf;
}

const sdks = SDK_WIRES.map((wire) => ({ wire, name: wire.name }));

describe("a leaf of", () => {
  test.for(sdks)("$name starts, and hears and says everything", async ({ wire }) => {
    const leaf = new SdkLeaf(wire, options);
    programs.set(wire, leaf);
    desireOf(wire, 1);
    await leaf.start();
    expect(leaf.sessionPresent).toBe(false);
    await converged(leaf, 1);
    desireOf(wire, 2);
    await converged(leaf, 2);

    await leaf.telemetry("thermostat1", { temperature: 21.5 });
    expect(leaf.unacknowledged).toBe(0);
    await vi.waitFor(() => expect(messagesOf(wire)).toHaveLength(1), WAIT);
    const [message] = messagesOf(wire);
    expect(message?.system).toMatchObject({ sub: `${componentOf(wire)}__thermostat1` });
    expect(message?.properties).toMatchObject({ alert: "very high", leafId: wire.leafId });
    if (wire.userName("", "").includes("model-id"))
      expect(message?.properties["leafModelId"]).toBe("dtmi:com:example:TemperatureController;2");

    await serves(leaf, { since: "2026-01-01T00:00:00Z" });
    expect(await command(`${componentOf(wire)}*reboot`, null)).toMatchObject({ status: 200 });
    expect(leaf.commands.at(-1)).toEqual({ name: "reboot", body: "null" });
    await sendToDevice(leaf, "first");
    await hears(leaf, "first");
    expect((await leaf.report({ bad: { "a.b": 1 } })).status).toBe(400);
    expect(leaf.complaints).toEqual([]);
  });

  test.for(sdks)("$name that was away comes back to what it missed", async ({ wire }) => {
    const leaf = programOf(wire);
    leaf.cut();
    await leaf.lost();
    desireOf(wire, 3);
    await sendToDevice(leaf, "while away");
    await vi.waitFor(async () => {
      const { payload } = (await command("gateway*getLeaf", { leafId: wire.leafId })) as { payload: Json };
      expect(isJsonObject(payload) && payload["desired"]).toMatchObject({ mode: "m3" });
    }, WAIT);
    await leaf.comeBack();
    expect(leaf.sessionPresent).toBe(!wire.clean);
    await converged(leaf, 3);
    await hears(leaf, "while away");
    await serves(leaf, ["again"]);
    expect(leaf.complaints).toEqual([]);
  });

  test.for(sdks)("$name with a new token goes on where it was", async ({ wire }) => {
    const leaf = programOf(wire);
    await leaf.disconnect();
    await leaf.comeBack();
    desireOf(wire, 4);
    await converged(leaf, 4);
    await serves(leaf, "renewed");
    expect(leaf.complaints).toEqual([]);
  });
});

describe("after the gateway was killed", () => {
  beforeAll(async () => {
    // Nobody knows whether it is acknowledged: the connection is lost at about the same time.
    for (const leaf of programs.values()) leaf.telemetry("thermostat1", "in flight").catch(() => undefined);
    await gateway.kill("SIGKILL");
    await Promise.all([...programs.values()].map((leaf) => leaf.lost()));
    // Leaves try again while there is nobody, and are let in by the first that is there.
    await Promise.all([...[...programs.values()].map((leaf) => leaf.comeBack()), startGateway()]);
  });

  test.for(sdks)("a leaf of $name works as before", async ({ wire }) => {
    const leaf = programOf(wire);
    desireOf(wire, 5);
    await converged(leaf, 5);
    await serves(leaf, 17);
    await sendToDevice(leaf, "after the kill");
    await hears(leaf, "after the kill");
    await vi.waitFor(() => expect(leaf.unacknowledged).toBe(0), WAIT);
    if (wire.resends !== "never")
      await vi.waitFor(() => {
        const bodies = messagesOf(wire).map(({ body }) => Buffer.from(body).toString());
        expect(bodies, wire.name).toContain('"in flight"');
      }, WAIT);
    expect(leaf.complaints).toEqual([]);
  });

  test.for(sdks)(
    "a second program of $name takes the first one's place, with the same request ids",
    async ({ wire }) => {
      const first = programOf(wire);
      const second = new SdkLeaf(wire, options);
      programs.set(wire, second);
      await second.start();
      await first.lost();
      await converged(second, 5);
      desireOf(wire, 6);
      await converged(second, 6);
      await serves(second, null);
      const own = second.versions;
      expect(own, "versions that this program has seen").toEqual(own.toSorted((a, b) => a - b));
      expect(second.complaints).toEqual([]);
    },
  );
});

describe("after the gateway was killed and has lost its disk", () => {
  beforeAll(async () => {
    await gateway.kill("SIGKILL");
    await Promise.all([...programs.values()].map((leaf) => leaf.lost()));
    rmSync(join(folder, "state"), { recursive: true });
    await Promise.all([...[...programs.values()].map((leaf) => leaf.comeBack()), startGateway()]);
  });

  test.for(sdks)("a leaf of $name hears and says everything that its session is for", async ({ wire }) => {
    const leaf = programOf(wire);
    desireOf(wire, 7);
    await vi.waitFor(async () => {
      // Who came before the gateway had read the module twin is dropped once.
      if (leaf.isLost) await leaf.comeBack();
      expect(leaf.desired, wire.name).toMatchObject({ mode: "m7", thermostat1: { target: 7 } });
    }, WAIT);
    await converged(leaf, 7);
    await serves(leaf, { after: "the loss" });
    await sendToDevice(leaf, "after the loss");
    await hears(leaf, "after the loss");
    expect(leaf.complaints).toEqual([]);
  });
});
