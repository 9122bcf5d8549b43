/** The gateway's own component as an unmodified back end sees it: its commands, and its configuration by desired properties. */

import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { type GatewayRig, startRig, WITHIN } from "../support/gateway-rig.ts";

const MODEL_ID = "dtmi:com:example:Thermostat;1";

let rig: GatewayRig;

beforeAll(async () => {
  rig = await startRig();
});
afterAll(() => rig[Symbol.asyncDispose]());

describe("the gateway's own commands", () => {
  it("ping and getDiagnostics answer", async () => {
    expect(await rig.command("gateway*ping")).toMatchObject({ status: 200, payload: { version: expect.any(String) } });
    expect(await rig.command("gateway*getDiagnostics")).toMatchObject({
      status: 200,
      payload: { linkUp: true, wan: "online", leaves: 0, outboxEntries: 0, setAsideMessages: 0 },
    });
  });

  it("listLeaves and getLeaf tell who is known, with what model, and whether it is connected", async () => {
    const leaf = await rig.connectLeaf("known-1", { modelId: MODEL_ID });
    const summary = { leafId: "known-1", modelId: MODEL_ID, connected: true, removed: false };
    const list = await rig.command("gateway*listLeaves");
    expect(list).toMatchObject({ status: 200, payload: expect.arrayContaining([expect.objectContaining(summary)]) });
    const one = await rig.command("gateway*getLeaf", { leafId: "known-1" });
    expect(one).toMatchObject({
      status: 200,
      payload: { ...summary, component: expect.stringMatching(/^known_1_[0-9a-f]{8}$/) },
    });
    await rig.closeLeaf(leaf);
    await expect
      .poll(async () => (await rig.command("gateway*getLeaf", { leafId: "known-1" })).payload, WITHIN)
      .toMatchObject({ connected: false });
  });

  it("answer 404 for an unknown leaf and an unknown command, and 400 for a payload that names no leaf", async () => {
    expect(await rig.command("gateway*getLeaf", { leafId: "nobody" })).toMatchObject({ status: 404 });
    expect(await rig.command("gateway*explode", {})).toMatchObject({ status: 404 });
    expect(await rig.command("gateway*getLeaf", {})).toMatchObject({ status: 400 });
    expect(await rig.command("gateway*sendCloudToDevice", { leafId: "nobody", payload: 1 })).toMatchObject({
      status: 404,
    });
  });

  it("removeLeaf takes its reported part away, and it gets its desired properties again only after confirmLeaf", async () => {
    const leaf = await rig.connectLeaf("removed1");
    const twin = await leaf.getTwin();
    await new Promise<void>((resolve, reject) => {
      twin.properties.reported["update"]({ a: 1 }, (error: Error | null) => (error ? reject(error) : resolve()));
    });
    await rig.setDesired({ removed1: { __t: "c", b: 2 } });
    await expect.poll(() => rig.reported("removed1"), WITHIN).toEqual({ __t: "c", a: 1 });
    await rig.closeLeaf(leaf);
    expect(await rig.command("gateway*removeLeaf", { leafId: "removed1" })).toMatchObject({ status: 200 });
    await expect.poll(() => rig.reported("removed1"), WITHIN).toBeUndefined();
    const again = await rig.connectLeaf("removed1");
    expect((await again.getTwin()).properties.desired).not.toHaveProperty("b");
    expect(await rig.command("gateway*confirmLeaf", { leafId: "removed1" })).toMatchObject({ status: 200 });
    await rig.closeLeaf(again);
    const last = await rig.connectLeaf("removed1");
    await expect.poll(async () => (await last.getTwin()).properties.desired, WITHIN).toMatchObject({ b: 2 });
  });
});

describe("the gateway's configuration by desired properties", () => {
  it("is acknowledged with 200 and the version, and a bad value with 400 while the others count", async () => {
    await rig.setDesired({ gateway: { __t: "c", commandTimeoutSecs: 7, logLevel: "warn" } });
    await expect
      .poll(() => rig.reported("gateway"), WITHIN)
      .toMatchObject({
        commandTimeoutSecs: { value: 7, ac: 200, av: rig.moduleTwin().desiredVersion },
        logLevel: { value: "warn", ac: 200 },
      });
    await rig.setDesired({ gateway: { commandTimeoutSecs: "long", timeToLiveSecs: 60 } });
    await expect
      .poll(() => rig.reported("gateway"), WITHIN)
      .toMatchObject({
        commandTimeoutSecs: { ac: 400, av: rig.moduleTwin().desiredVersion },
        timeToLiveSecs: { value: 60, ac: 200, av: rig.moduleTwin().desiredVersion },
      });
  });

  it("keeps the value that was good, without edgeHub and over restarts, and says so", async () => {
    const config = () => rig.gateway.config();
    await rig.setDesired({ gateway: { __t: "c", maxPendingCommandsPerLeaf: 3 } });
    await expect.poll(() => config().maxPendingCommandsPerLeaf, WITHIN).toBe(3);
    await rig.setDesired({ gateway: { maxPendingCommandsPerLeaf: "few" } });
    const acknowledged = { maxPendingCommandsPerLeaf: { value: "few", ac: 400, av: rig.moduleTwin().desiredVersion } };
    await expect.poll(() => rig.reported("gateway"), WITHIN).toMatchObject(acknowledged);
    expect(config().maxPendingCommandsPerLeaf).toBe(3);
    await rig.stopGateway();
    await rig.hub.killEdge("keep");
    await rig.startGateway();
    expect(config().maxPendingCommandsPerLeaf).toBe(3);
    await rig.hub.startEdge();
    await vi.waitUntil(() => rig.gateway.relay.linkUp, WITHIN);
    expect(rig.reported("gateway")).toMatchObject(acknowledged);
  });

  it("is acknowledged with the newer version when the same was desired again while nobody listened", async () => {
    await rig.setDesired({ gateway: { __t: "c", spillAfterMs: 150 } });
    await expect.poll(() => rig.reported("gateway"), WITHIN).toMatchObject({ spillAfterMs: { ac: 200 } });
    await rig.stopGateway();
    await rig.setDesired({ gateway: { spillAfterMs: 160 } });
    await rig.setDesired({ gateway: { spillAfterMs: 150 } });
    await rig.startGateway();
    await expect
      .poll(() => rig.reported("gateway"), WITHIN)
      .toMatchObject({ spillAfterMs: { value: 150, ac: 200, av: rig.moduleTwin().desiredVersion } });
  });
});
