/**
 * Leaves of all SDKs through a whole life: first start, desired changes, telemetry, commands, messages to them, a cut, a new token, a
 * gateway that is killed, a second program of the same id. Each speaks as its SDK was measured to, with tokens that are checked.
 */
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { isJsonObject } from "../../src/core/merge-patch.ts";
import type { Json } from "../../src/core/message.ts";
import { SdkLeaf } from "../support/sdk-leaf.ts";
import { SDK_WIRES, type SdkWire } from "../support/sdk-wire.ts";
import { componentOf, SdkWorld, WAIT } from "../support/sdk-world.ts";

let world: SdkWorld;
const programs = new Map<SdkWire, SdkLeaf>();

beforeAll(async () => {
  world = await SdkWorld.start();
});

afterAll(async () => {
  for (const leaf of programs.values()) leaf.cut();
  await world[Symbol.asyncDispose]();
});

/** The leaf knows the desired values, and the hub has its acknowledgements of them. */
async function converged(leaf: SdkLeaf, target: number): Promise<void> {
  const component = componentOf(leaf.wire);
  await vi.waitFor(() => {
    expect(leaf.desired, leaf.wire.name).toMatchObject({ mode: `m${target}`, thermostat1: { target } });
    const shown = { value: target, ac: 200, av: expect.any(Number) };
    expect(world.section("reported", `${component}__thermostat1`), leaf.wire.name).toMatchObject({
      __t: "c",
      target: shown,
    });
    expect(world.section("reported", component), leaf.wire.name).toMatchObject({
      mode: { value: `m${target}`, ac: 200 },
    });
  }, WAIT);
}

function desireOf(wire: SdkWire, target: number): void {
  const component = componentOf(wire);
  world.desire({ [component]: { mode: `m${target}` }, [`${component}__thermostat1`]: { target } });
}

async function serves(leaf: SdkLeaf, payload: Json): Promise<void> {
  const component = componentOf(leaf.wire);
  await vi.waitFor(async () => {
    const answer = await world.command(`${component}__thermostat1*getMaxMinReport`, payload);
    expect(answer, leaf.wire.name).toEqual({ status: 200, payload });
  }, WAIT);
  expect(leaf.commands.at(-1)).toEqual({ name: "thermostat1*getMaxMinReport", body: JSON.stringify(payload) });
}

async function sendToDevice(leaf: SdkLeaf, text: string): Promise<void> {
  const properties = { colour: "very red", größe: "a/b&c=d", empty: "" };
  const request = { leafId: leaf.id, payload: text, properties };
  expect(await world.command("gateway*sendCloudToDevice", request)).toMatchObject({ status: 200 });
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

function programOf(wire: SdkWire): SdkLeaf {
  const leaf = programs.get(wire);
  if (leaf === undefined) throw new Error(`${wire.name} has not started`);
  return leaf;
}

const sdks = SDK_WIRES.map((wire) => ({ wire, name: wire.name }));

describe("a leaf of", () => {
  test.for(sdks)("$name starts, and hears and says everything", async ({ wire }) => {
    const leaf = new SdkLeaf(wire, world.leafOptions);
    programs.set(wire, leaf);
    desireOf(wire, 1);
    await leaf.start();
    expect(leaf.sessionPresent).toBe(false);
    await converged(leaf, 1);
    desireOf(wire, 2);
    await converged(leaf, 2);

    await leaf.telemetry("thermostat1", { temperature: 21.5 });
    expect(leaf.unacknowledged).toBe(0);
    await vi.waitFor(() => expect(world.messagesOf(wire)).toHaveLength(1), WAIT);
    const [message] = world.messagesOf(wire);
    expect(message?.system).toMatchObject({ sub: `${componentOf(wire)}__thermostat1` });
    expect(message?.properties).toMatchObject({ alert: "very high", leafId: wire.leafId });
    if (wire.userName("", "").includes("model-id"))
      expect(message?.properties["leafModelId"]).toBe("dtmi:com:example:TemperatureController;2");

    await serves(leaf, { since: "2026-01-01T00:00:00Z" });
    expect(await world.command(`${componentOf(wire)}*reboot`, null)).toMatchObject({ status: 200 });
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
      const { payload } = (await world.command("gateway*getLeaf", { leafId: wire.leafId })) as { payload: Json };
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
    await world.killGateway();
    await Promise.all([...programs.values()].map((leaf) => leaf.lost()));
    // Leaves try again while there is nobody, and are let in by the first that is there.
    await Promise.all([...[...programs.values()].map((leaf) => leaf.comeBack()), world.startGateway()]);
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
        const bodies = world.messagesOf(wire).map(({ body }) => Buffer.from(body).toString());
        expect(bodies, wire.name).toContain('"in flight"');
      }, WAIT);
    expect(leaf.complaints).toEqual([]);
  });

  test.for(sdks)(
    "a second program of $name takes the first one's place, with the same request ids",
    async ({ wire }) => {
      const first = programOf(wire);
      const second = new SdkLeaf(wire, world.leafOptions);
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
    await world.killGateway();
    await Promise.all([...programs.values()].map((leaf) => leaf.lost()));
    world.loseDisk();
    await Promise.all([...[...programs.values()].map((leaf) => leaf.comeBack()), world.startGateway()]);
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
