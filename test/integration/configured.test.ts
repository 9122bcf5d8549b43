/** Settings of the whole gateway that are felt only from outside: which doors are open, what the log says, what the cloud is told. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import mqtt from "mqtt";
import { expect, onTestFinished, test } from "vitest";
import type { JsonObject } from "../../src/core/message.ts";
import { startRig, WITHIN } from "../support/gateway-rig.ts";
import { events, userName } from "../support/leaf-client.ts";

test("a leaf comes in over WebSocket where that is asked for, and the log is one that IoT Edge can filter", async () => {
  await using rig = await startRig({
    config: { webSocketEnabled: true, webSocketPort: 0, webSocketBind: "127.0.0.1", logFormat: "iotedge" },
  });
  const leaf = mqtt.connect(`wss://localhost:${rig.gateway.broker.ports.webSocket}/$iothub/websocket`, {
    clientId: "web-1",
    username: userName("web-1"),
    ca: rig.caPem,
    protocolVersion: 4,
    reconnectPeriod: 0,
  });
  await new Promise((resolve, reject) => leaf.once("connect", resolve).once("error", reject));
  await leaf.publishAsync(events("web-1"), JSON.stringify({ temperature: 21 }), { qos: 1 });
  await expect.poll(() => rig.eventsOf("web-1"), WITHIN).toHaveLength(1);
  await leaf.endAsync();
  expect(rig.log.length).toBeGreaterThan(0);
  for (const line of rig.log) expect(line).toMatch(/^<[3467]> \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \+00:00 \S/);
});

test("no door is open that nobody asked for", async () => {
  await using rig = await startRig({ config: { plainEnabled: false } });
  expect(Object.keys(rig.gateway.broker.ports)).toEqual(["tls"]);
});

test("the module announces the model that is configured, and leaves are held against the documents in the folder", async () => {
  const modelsFolder = mkdtempSync(join(tmpdir(), "models-"));
  onTestFinished(() => rmSync(modelsFolder, { recursive: true, force: true }));
  const known = "dtmi:com:example:Known;1";
  const contents = [{ "@type": "Telemetry", name: "temperature", schema: "double" }];
  const document = { "@context": "dtmi:dtdl:context;2", "@id": known, "@type": "Interface", contents };
  writeFileSync(join(modelsFolder, "known.json"), JSON.stringify(document));
  await using rig = await startRig({ config: { modelId: "dtmi:com:example:Box;1", modelsFolder } });
  await expect.poll(() => rig.events.at(-1), WITHIN).toMatchObject({ modelId: "dtmi:com:example:Box;1" });
  await rig.connectLeaf("known1", { modelId: known });
  await rig.connectLeaf("strange1", { modelId: "dtmi:com:example:Strange;1" });
  expect(await rig.command("gateway*getModel", {})).toMatchObject({
    status: 200,
    payload: { notes: [expect.stringMatching(/^strange1: .*is not among the models/)] },
  });
});

test("live settings are in force at once, and no longer when nobody desires them any more", async () => {
  await using rig = await startRig();
  const comes = async (leafId: string): Promise<boolean> => {
    const options = { clientId: leafId, username: userName(leafId), protocolVersion: 4, reconnectPeriod: 0 } as const;
    const leaf = await mqtt.connectAsync(`mqtt://127.0.0.1:${rig.plainPort}`, options).catch(() => undefined);
    await leaf?.endAsync();
    return leaf !== undefined;
  };
  expect(await comes("first")).toBe(true);
  await rig.setDesired({ gateway: { __t: "c", maxLeaves: 1, logLevel: "error" } });
  await expect.poll(() => rig.gateway.config().maxLeaves, WITHIN).toBe(1);
  const lines = rig.log.length;
  expect(await comes("second")).toBe(false);
  expect(await comes("first")).toBe(true);
  expect(rig.log.slice(lines)).toEqual([]);
  await rig.setDesired({ gateway: null });
  await expect.poll(() => rig.gateway.config().maxLeaves, WITHIN).toBeGreaterThan(1);
  expect(await comes("second")).toBe(true);
  await rig.command("gateway*explode", {});
  await expect.poll(() => rig.log.slice(lines).join(""), WITHIN).toContain("a command to the gateway was refused");
});

test.each([
  ["is believed to come from the cloud where edgeHub's own counters say so", {}, true],
  ["proves nothing behind a parent edgeHub", { IOTEDGE_PARENTHOSTNAME: "parent" }, false],
])("a twin read %s", async (_, environment, fromCloud) => {
  await using rig = await startRig({ environment });
  const [read] = rig.log
    .map((line) => JSON.parse(line) as JsonObject)
    .filter(({ event }) => event === "the module twin was read");
  expect(read).toMatchObject({ fromCloud });
});
