/** What only the real upstream has to survive, against the development hub [azure-iot-device.md 12]. */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  credentialsThrough,
  type EdgeHubRig,
  MODULE,
  makeUpstream,
  type RigOptions,
  startEdgeHubRig,
} from "../support/edgehub-rig.ts";
import { RecordingLog } from "../support/recording-log.ts";
import { RecordingHub, telemetry, until } from "../support/upstream-harness.ts";

/** How many links the test of leaks makes; `npm test` asks for 300. */
const LINKS = Number(process.env["LINKS"] ?? 60);

let rig: EdgeHubRig;
let rejections: unknown[] = [];
const onRejection = (reason: unknown): void => {
  rejections.push(reason);
};

async function start(options: RigOptions = {}): Promise<EdgeHubRig> {
  rig = await startEdgeHubRig(options);
  return rig;
}

async function startUp(options: RigOptions = {}): Promise<EdgeHubRig> {
  await start(options);
  await rig.upstream.open(rig.hub);
  await until("the link", () => rig.hub.isUp);
  return rig;
}

async function upAgain(before: number): Promise<void> {
  await until("the next link", () => rig.hub.ups > before && rig.hub.isUp);
}

const invoke = (name: string, payload?: Parameters<EdgeHubRig["devHub"]["cloud"]["invoke"]>[0]["payload"]) =>
  rig.devHub.cloud.invoke({ id: MODULE, name, payload, responseTimeoutMs: 3_000 });

beforeEach(() => {
  rejections = [];
  process.on("unhandledRejection", onRejection);
});
afterEach(async () => {
  await rig[Symbol.asyncDispose]();
  process.off("unhandledRejection", onRejection);
  expect(rejections).toEqual([]);
  expect(rig.log.text).not.toMatch(/SharedAccessSignature sr|sig=/);
});

describe("commands", () => {
  it("hands in null for a command without a payload, which the SDK would refuse by itself", async () => {
    await startUp();
    expect(await invoke("leaf1*reboot", undefined)).toEqual({ kind: "answer", status: 200, payload: { got: null } });
    expect(rig.hub.commands.map(({ name, payload }) => ({ name, payload }))).toEqual([
      { name: "leaf1*reboot", payload: null },
    ]);
  });

  it("answers 500 and lives on when the handler throws", async () => {
    await startUp();
    rig.hub.answer = async () => {
      throw new Error("a defect");
    };
    expect(await invoke("broken", 1)).toMatchObject({ kind: "answer", status: 500 });
    expect(rig.log.lines.some(({ level }) => level === "error")).toBe(true);
    rig.hub.answer = async () => ({ status: 200, payload: "well" });
    expect(await invoke("whole", 1)).toEqual({ kind: "answer", status: 200, payload: "well" });
  });

  it.each([0, 1.5, Number.NaN])("answers 500 for the status %s, which cannot go over the wire", async (status) => {
    await startUp();
    rig.hub.answer = async () => ({ status, payload: null });
    expect(await invoke("odd", 1)).toMatchObject({ kind: "answer", status: 500 });
  });

  it("answers 413 instead of losing the connection to an answer that is too large", async () => {
    await startUp();
    rig.hub.answer = async () => ({ status: 200, payload: "x".repeat(300_000) });
    expect(await invoke("flood", 1)).toMatchObject({ kind: "answer", status: 413 });
    expect(rig.hub.links).toEqual(["up"]);
  });

  it("runs commands side by side and gives each its own answer", async () => {
    await startUp();
    const release: (() => void)[] = [];
    rig.hub.answer = ({ payload }) => new Promise((resolve) => release.push(() => resolve({ status: 200, payload })));
    const calls = [1, 2, 3].map((payload) => invoke("same", payload));
    await until("three commands", () => release.length === 3);
    for (const go of release.reverse()) go();
    expect(await Promise.all(calls)).toEqual([1, 2, 3].map((payload) => ({ kind: "answer", status: 200, payload })));
  });
});

describe("connecting", () => {
  it("keeps trying until edgeHub is there", async () => {
    await start();
    await rig.devHub.killEdge("keep");
    await rig.upstream.open(rig.hub);
    await until("a failed attempt", () => rig.proxy.accepted > 1);
    await rig.devHub.startEdge();
    rig.proxy.target = { port: rig.devHub.mqttPort };
    await until("the link", () => rig.hub.isUp);
    expect(await rig.upstream.send("telemetry", telemetry("1"))).toEqual({ kind: "accepted" });
  });

  it("keeps trying while its credentials are refused", async () => {
    await start();
    rig.devHub.behaviour.connections = { connack: 5 };
    await rig.upstream.open(rig.hub);
    await until("refusals", () => rig.proxy.accepted > 2);
    expect(rig.hub.links).toEqual([]);
    rig.devHub.behaviour.connections = "accept";
    await until("the link", () => rig.hub.isUp);
  });

  it("gives up on a hub that accepts and says nothing, and tries again", async () => {
    await start({ limits: { connectMs: 500 } });
    rig.proxy.mode = { kind: "silent" };
    await rig.upstream.open(rig.hub);
    await until("the second attempt", () => rig.proxy.accepted > 1);
    rig.proxy.mode = { kind: "pass" };
    await until("the link", () => rig.hub.isUp);
  });

  it.each(["fail", "hang"] as const)("keeps trying while signing tokens does: %s", async (sign) => {
    await start({ limits: { connectMs: 500 } });
    rig.devHub.behaviour.workload.sign = sign;
    await rig.upstream.open(rig.hub);
    await until("a warning", () => rig.log.lines.some(({ level }) => level === "warn"));
    rig.devHub.behaviour.workload.sign = "normal";
    await until("the link", () => rig.hub.isUp);
    // The client whose token came too late must not connect and throw the new one out.
    expect(await rig.upstream.send("telemetry", telemetry("1"))).toEqual({ kind: "accepted" });
    expect(rig.hub.links).toEqual(["up"]);
  });

  it.each(["fail", "hang"] as const)("keeps trying while the trust bundle does: %s", async (trustBundle) => {
    await start({ limits: { connectMs: 500 } });
    rig.devHub.behaviour.workload.trustBundle = trustBundle;
    await rig.upstream.open(rig.hub);
    await until("a warning", () => rig.log.lines.some(({ level }) => level === "warn"));
    rig.devHub.behaviour.workload.trustBundle = "normal";
    await until("the link", () => rig.hub.isUp);
  });

  it("never trusts a hub whose certificate is of another root", async () => {
    await start({ limits: { connectMs: 500 } });
    const hub = new RecordingHub();
    const log = new RecordingLog();
    const strangers = makeUpstream(
      { ...credentialsThrough(rig.devHub, rig.proxy.port), trustedCa: async () => undefined },
      log,
    );
    await strangers.open(hub);
    await until("a warning", () => log.lines.some(({ level }) => level === "warn"));
    expect(log.text).toMatch(/certificate/);
    expect(hub.links).toEqual([]);
    await strangers[Symbol.asyncDispose]();
    await rig.upstream.open(rig.hub);
  });

  it("announces the gateway's model", async () => {
    await startUp();
    await rig.upstream.send("telemetry", telemetry("1"));
    await until("the message", () => rig.devHub.cloud.events.length === 1);
    expect(rig.devHub.cloud.events[0]?.modelId).toBe("dtmi:iotedgePnpGateway:Gateway;1");
  });
});

describe("losing the link", () => {
  it("has its methods, desired patches, inputs and twin back after edgeHub lost its sessions", async () => {
    await startUp();
    await rig.devHub.killEdge("lose");
    await rig.devHub.startEdge();
    rig.proxy.target = { port: rig.devHub.mqttPort };
    await upAgain(1);
    expect(await rig.upstream.getTwin()).toMatchObject({ kind: "read" });
    rig.devHub.cloud.patchDesired(MODULE, { a: 1 });
    await until("the patch", () => rig.hub.patches.length === 1);
    expect(await invoke("reboot", 1)).toMatchObject({ kind: "answer", status: 200 });
    expect(await rig.devHub.sendInput("gw", "c2d", { body: "hello" })).toBe("acknowledged");
    await until("the input", () => rig.hub.inputs.length === 1);
    expect(await rig.upstream.patchReported({ a: 1 })).toEqual({ kind: "accepted" });
  });

  it("notices a cut by its reset, and a silent peer by its pings", async () => {
    await startUp({ limits: { keepaliveSecs: 1 } });
    rig.proxy.reset();
    await until("the reset", () => rig.hub.links.length >= 2);
    await upAgain(1);
    rig.proxy.mode = { kind: "silent" };
    await until("the silence", () => !rig.hub.isUp);
    rig.proxy.mode = { kind: "pass" };
    await upAgain(2);
  });

  it("notices a peer whose answers are lost", async () => {
    await startUp({ limits: { keepaliveSecs: 1 } });
    rig.proxy.mode = { kind: "half-open" };
    await until("the silence", () => !rig.hub.isUp);
    rig.proxy.mode = { kind: "pass" };
    await upAgain(1);
  });

  it("fails messages in flight and takes them again afterwards", async () => {
    await startUp();
    rig.devHub.behaviour.puback = "drop";
    const inFlight = [1, 2, 3].map((n) => rig.upstream.send("telemetry", telemetry(String(n))));
    await until("the messages", () => rig.devHub.cloud.events.length === 3);
    rig.proxy.reset();
    for (const outcome of await Promise.all(inFlight))
      expect(outcome).toMatchObject({ kind: "failed", fault: { kind: "transient" } });
    rig.devHub.behaviour.puback = "normal";
    await upAgain(1);
    expect(await rig.upstream.send("telemetry", telemetry("4"))).toEqual({ kind: "accepted" });
  });

  it("makes a new link when nothing is acknowledged any more", async () => {
    await startUp({ limits: { pubackMs: 500 } });
    rig.devHub.behaviour.puback = "drop";
    expect(await rig.upstream.send("telemetry", telemetry("1"))).toMatchObject({
      kind: "failed",
      fault: { kind: "transient" },
    });
    expect(rig.hub.links).toEqual(["up", "down"]);
    rig.devHub.behaviour.puback = "normal";
    await upAgain(1);
  });

  it("does not take missing acknowledgements for a fault while a twin read hangs", async () => {
    await startUp({ limits: { pubackMs: 500, twinMs: 2_500 } });
    rig.devHub.behaviour.puback = { delayMs: 1_800 };
    rig.devHub.behaviour.twinGet = "silence";
    const read = rig.upstream.getTwin();
    expect(await rig.upstream.send("telemetry", telemetry("1"))).toEqual({ kind: "accepted" });
    expect(await read).toMatchObject({ kind: "failed", fault: { kind: "transient" } });
    expect(rig.hub.links).toEqual(["up"]);
  });

  it("leaves the link alone when a twin read is not answered, and makes a new one when a patch is not", async () => {
    await startUp({ limits: { twinMs: 300 } });
    rig.devHub.behaviour.twinGet = "silence";
    expect(await rig.upstream.getTwin()).toMatchObject({ kind: "failed", fault: { kind: "transient" } });
    expect(rig.hub.links).toEqual(["up"]);
    rig.devHub.behaviour.twinPatch = "silence";
    expect(await rig.upstream.patchReported({ a: 1 })).toMatchObject({ kind: "failed", fault: { kind: "transient" } });
    expect(rig.hub.links.slice(0, 2)).toEqual(["up", "down"]);
  });

  it("closes within its limit when edgeHub does not answer any more", async () => {
    await startUp({ limits: { closeMs: 200 } });
    rig.devHub.behaviour.puback = "drop";
    const hanging = rig.upstream.send("telemetry", telemetry("1"));
    rig.proxy.mode = { kind: "silent" };
    await rig.upstream[Symbol.asyncDispose]();
    expect(await hanging).toMatchObject({ kind: "failed" });
    expect(rig.hub.links).toEqual(["up", "down"]);
  });

  it("leaves nothing behind over many links", async () => {
    await startUp({ limits: { backoffBaseMs: 1, backoffCapMs: 1 } });
    const resources = (): number => process.getActiveResourcesInfo().length;
    let before = 0;
    for (let made = 1; made <= LINKS; made += 1) {
      if (made === 20) before = resources();
      // In turn: cut from outside, asked for, and in the middle of a send.
      if (made % 3 === 0) rig.proxy.reset();
      else rig.upstream.reopen("the test says so");
      if (made % 3 === 1) await rig.upstream.send("telemetry", telemetry("x"));
      await upAgain(made);
    }
    expect(resources() - before).toBeLessThan(10);
    expect(rig.proxy.open).toBe(1);
    expect(await rig.upstream.send("telemetry", telemetry("last"))).toEqual({ kind: "accepted" });
  });
});

describe("token renewal", () => {
  const shortTokens = { tokenValidSecs: 20, tokenMarginSecs: 19 };

  it("keeps the link, tells of the renewal, and has everything afterwards", async () => {
    await startUp({ limits: shortTokens });
    await until("the renewal", () => rig.hub.renewals > 0);
    expect(await rig.upstream.send("telemetry", telemetry("1"))).toEqual({ kind: "accepted" });
    expect(await rig.upstream.getTwin()).toMatchObject({ kind: "read" });
    expect(await invoke("reboot", 1)).toMatchObject({ kind: "answer", status: 200 });
    expect(rig.hub.links).toEqual(["up"]);
  });

  it("fails a read whose answer a renewal has swallowed, so that another can be asked for", async () => {
    await startUp({ limits: { ...shortTokens, twinMs: 30_000 } });
    rig.devHub.behaviour.twinGet = "silence";
    expect(await rig.upstream.getTwin()).toMatchObject({
      kind: "failed",
      fault: { reason: expect.stringContaining("renewed") },
    });
    rig.devHub.behaviour.twinGet = "normal";
    expect(await rig.upstream.getTwin()).toMatchObject({ kind: "read" });
  });

  it("survives that it fails, and connects again once tokens can be had", async () => {
    await startUp({ limits: { tokenValidSecs: 2, tokenMarginSecs: 1 } });
    rig.devHub.behaviour.workload.sign = "fail";
    await until("the end of the link", () => !rig.hub.isUp);
    rig.devHub.behaviour.workload.sign = "normal";
    await upAgain(1);
  });
});

describe("module inputs", () => {
  it("arrive with system and application properties told apart", async () => {
    await startUp();
    const message = {
      body: Buffer.from([0xff, 0x00]),
      properties: { leafId: "a b+c" },
      system: { mid: "7", ct: "application/json", cdid: "edge1" },
    };
    expect(await rig.devHub.sendInput("gw", "c2d", message)).toBe("acknowledged");
    await until("the input", () => rig.hub.inputs.length === 1);
    const [heard] = rig.hub.inputs;
    expect(heard?.name).toBe("c2d");
    expect(Buffer.from(heard?.message.payload ?? [])).toEqual(Buffer.from([0xff, 0x00]));
    expect(heard?.message.properties).toEqual({ leafId: "a b+c" });
    expect(heard?.message.system).toMatchObject({ mid: "7", ct: "application/json", cdid: "edge1" });
  });

  it("that waited for a kept session are not lost at the next connect", async () => {
    await startUp();
    rig.proxy.mode = { kind: "refuse" };
    rig.proxy.reset();
    await until("the break", () => !rig.hub.isUp);
    const sent = rig.devHub.sendInput("gw", "c2d", { body: "waiting" });
    rig.proxy.mode = { kind: "pass" };
    expect(await sent).toBe("acknowledged");
    await until("the input", () => rig.hub.inputs.length === 1);
  });
});
