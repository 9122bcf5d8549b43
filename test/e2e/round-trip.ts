/** Everything that a leaf does, once, through the whole chain of containers. */
import azureIotDevice, { type Client as DeviceClient, type Twin } from "azure-iot-device";
import { expect, vi } from "vitest";
import type { JsonObject } from "../../src/core/message.ts";
import { type ContainerWorld, WITHIN } from "./container-world.ts";

const { Message } = azureIotDevice;

export interface Program {
  readonly leafId: string;
  readonly client: DeviceClient;
  readonly twin: Twin;
  readonly patches: readonly JsonObject[];
}

/** Does everything once at its start, as the tutorials do: no word in it about reconnecting. */
export async function startProgram(world: ContainerWorld, leafId: string): Promise<Program> {
  const client = await world.connectLeaf(leafId);
  client.onDeviceMethod("run", (_request, response) => void response.send(200, { leafId }));
  const twin: Twin = await client.getTwin();
  const patches: JsonObject[] = [];
  twin.on("properties.desired", (patch: JsonObject) => patches.push(structuredClone(patch)));
  await vi.waitFor(async () => {
    const { payload } = await world.cloud.command("gateway*getLeaf", { leafId });
    const subscriptions: unknown = expect.arrayContaining([expect.stringContaining("twin/PATCH/properties/desired")]);
    expect(payload).toMatchObject({ subscriptions });
  }, WITHIN);
  return { leafId, client, twin, patches };
}

export async function roundTrip(world: ContainerWorld, program: Program, mark: string): Promise<void> {
  const { client, leafId, patches } = program;
  await client.sendEvent(new Message(JSON.stringify({ mark })));
  await telemetryArrives(world, leafId, mark);
  await report(program, { mark });
  await expect.poll(() => world.cloud.reported(leafId), WITHIN).toMatchObject({ __t: "c", mark });
  await world.cloud.setDesired({ [leafId]: { __t: "c", target: mark } });
  await expect.poll(() => patches.map((patch) => patch["target"]), WITHIN).toContain(mark);
  await expect.poll(() => world.cloud.command(`${leafId}*run`), WITHIN).toEqual({ status: 200, payload: { leafId } });
}

export async function telemetryArrives(world: ContainerWorld, leafId: string, mark: string): Promise<void> {
  await expect
    .poll(
      () => world.cloud.messagesOf(leafId).map(({ body }) => (typeof body === "string" ? body : JSON.stringify(body))),
      WITHIN,
    )
    .toContain(JSON.stringify({ mark }));
}

/** Resolves when the leaf hears that it is taken. */
export function report({ twin }: Program, patch: JsonObject): Promise<void> {
  return new Promise((resolve, reject) => {
    twin.properties.reported["update"](patch, (error: Error | null) => (error ? reject(error) : resolve()));
  });
}
