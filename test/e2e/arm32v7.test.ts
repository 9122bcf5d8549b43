/**
 * The image for 32-bit ARM under emulation: the same round trip, and the volume over a replacement. Nothing is measured here, and the base
 * image may be a stand-in with another Node than 22.
 */
import { afterAll, beforeAll, expect, test } from "vitest";
import { ContainerWorld } from "./container-world.ts";
import { report, roundTrip, startProgram } from "./round-trip.ts";

const TIMEOUT_MS = 400_000;

let world: ContainerWorld;

beforeAll(async () => {
  world = await ContainerWorld.start({ architecture: "arm32v7", leaves: ["leaf1"] });
}, TIMEOUT_MS);

afterAll(async () => {
  await world?.[Symbol.asyncDispose]();
}, TIMEOUT_MS);

test(
  "the gateway serves a leaf on 32-bit ARM, with its native store, also after it was replaced",
  async () => {
    const { output } = await world.gateway.exec(["node", "-p", "process.arch + ' ' + process.versions.node"]);
    expect(output).toMatch(/^arm (20|22|24)\./);
    const leaf = await startProgram(world, "leaf1");
    await roundTrip(world, leaf, "emulated");
    await world.cutUplink();
    await report(leaf, { mark: "kept" });
    expect((await world.removeGateway("SIGTERM")).ExitCode).toBe(0);
    await world.startGateway();
    await expect
      .poll(() => world.cloud.reported("leaf1"), { timeout: 180_000, interval: 200 })
      .toMatchObject({
        mark: "kept",
      });
  },
  TIMEOUT_MS,
);
