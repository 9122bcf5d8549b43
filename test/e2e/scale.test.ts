/** Two hundred leaves within the manifest's memory limit. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { ContainerWorld, WITHIN } from "./container-world.ts";
import { type RawLeaf, type RawLeafOptions, startRawLeaf } from "./raw-leaf.ts";

const TIMEOUT_MS = 400_000;
const LEAVES = Array.from({ length: 200 }, (_, index) => `leaf${index}`);

let world: ContainerWorld;

beforeAll(async () => {
  world = await ContainerWorld.start({ leaves: LEAVES });
}, TIMEOUT_MS);

afterAll(async () => {
  await world?.[Symbol.asyncDispose]();
}, TIMEOUT_MS);

test(
  "200 leaves connect over TLS, publish, report and are told, within the memory that the manifest allows",
  async () => {
    await using leaves = new RawLeaves();
    for (let from = 0; from < LEAVES.length; from += 20) {
      const some = LEAVES.slice(from, from + 20).map((leafId) => startRawLeaf(rawLeaf(leafId)));
      leaves.all.push(...(await Promise.all(some)));
    }
    for (let round = 0; round < 5; round += 1) {
      await Promise.all(leaves.all.map((leaf) => leaf.publish({ round })));
    }
    expect(new Set(await Promise.all(leaves.all.map((leaf) => leaf.report({ n: 1 }))))).toEqual(new Set(["204"]));
    await world.cloud.setDesired(Object.fromEntries(LEAVES.map((leafId) => [leafId, { __t: "c", n: 2 }])));
    await expect.poll(() => leaves.all.filter(({ patches }) => patches.length > 0).length, WITHIN).toBe(200);
    const reported = async () => Object.keys((await world.cloud.moduleTwin()).reported);
    await expect
      .poll(async () => (await reported()).filter((name) => name.startsWith("leaf")).length, WITHIN)
      .toBe(200);
    const heard = () =>
      new Set(
        world.cloud.messages.map(({ applicationProperties: { leafId }, body }) => `${leafId}${JSON.stringify(body)}`),
      );
    await expect.poll(() => [...heard()].filter((mark) => mark.startsWith("leaf")).length, WITHIN).toBe(1_000);
    expect(await world.gatewayState()).toMatchObject({ Running: true, OOMKilled: false });
  },
  TIMEOUT_MS,
);

function rawLeaf(leafId: string): RawLeafOptions {
  return { port: world.leafPort, caPem: world.cloud.caPem, leafId, key: world.leafKey(leafId) };
}

class RawLeaves implements AsyncDisposable {
  readonly all: RawLeaf[] = [];

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.all.map((leaf) => leaf[Symbol.asyncDispose]()));
  }
}
