/** Restarts and cuts of whole containers under a leaf that is never told to do anything. */
import azureIotDevice from "azure-iot-device";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ContainerWorld, WITHIN } from "./container-world.ts";
import { type Program, report, roundTrip, startProgram, telemetryArrives } from "./round-trip.ts";

const { Message } = azureIotDevice;
const TIMEOUT_MS = 300_000;
/** The same program, with another revision in its label: what the Edge agent sees as an update. */
const NEXT_IMAGE = "iotedge-pnp-gateway:test-next";

let world: ContainerWorld;
let leaf: Program;

beforeAll(async () => {
  world = await ContainerWorld.start({ leaves: ["leaf1"] });
  leaf = await startProgram(world, "leaf1");
}, TIMEOUT_MS);

afterAll(async () => {
  await world?.[Symbol.asyncDispose]();
}, TIMEOUT_MS);

test(
  "what a leaf sends while the hub's container is stopped arrives when it runs again",
  async () => {
    await world.cloud.stop();
    await speaks("hub-away");
    await world.resumeCloud();
    await heard("hub-away");
    await roundTrip(world, leaf, "hub-back");
  },
  TIMEOUT_MS,
);

test(
  "an uplink that is cut costs a connected leaf nothing, and all arrives when it is healed",
  async () => {
    let disconnects = 0;
    const count = (): void => {
      disconnects += 1;
    };
    leaf.client.on("disconnect", count);
    await world.cutUplink();
    await speaks("uplink-cut");
    await world.cloud.setDesired({ leaf1: { __t: "c", target: "told-while-cut" } });
    await world.healUplink();
    await heard("uplink-cut");
    await expect.poll(() => leaf.patches.map((patch) => patch["target"]), WITHIN).toContain("told-while-cut");
    await roundTrip(world, leaf, "uplink-back");
    leaf.client.off("disconnect", count);
    expect(disconnects).toBe(0);
  },
  TIMEOUT_MS,
);

test(
  "a gateway that is killed and made anew on its volume keeps what was acknowledged",
  async () => {
    await world.cutUplink();
    await speaks("before-the-kill");
    await world.removeGateway("SIGKILL");
    await world.startGateway();
    await heard("before-the-kill");
    await roundTrip(world, leaf, "after-the-kill");
  },
  TIMEOUT_MS,
);

test(
  "an update to another image ends the gateway with 0 within the grace, and its successor goes on with the volume",
  async () => {
    await world.cutUplink();
    await speaks("before-the-update");
    const { ExitCode } = await world.removeGateway("SIGTERM");
    expect(ExitCode).toBe(0);
    await world.startGateway({ image: NEXT_IMAGE });
    await heard("before-the-update");
    await roundTrip(world, leaf, "after-the-update");
  },
  TIMEOUT_MS,
);

/** Resolves when the gateway has taken telemetry and a reported property. */
async function speaks(mark: string): Promise<void> {
  await leaf.client.sendEvent(new Message(JSON.stringify({ mark })));
  await report(leaf, { mark });
}

async function heard(mark: string): Promise<void> {
  await telemetryArrives(world, "leaf1", mark);
  await expect.poll(() => world.cloud.reported("leaf1"), WITHIN).toMatchObject({ mark });
}
