/** When the module twin is read, and what a read may and may not do [design section 6]. */
import { describe, expect, test } from "vitest";
import type { ModelLeaf } from "../support/model-leaves.ts";
import { connectedWorld, type RelayWorld } from "../support/relay-world.ts";

/** Something asks for a read. */
function wantRead(world: RelayWorld): void {
  world.wan.handler?.wan("away");
  world.wan.handler?.wan("online");
}

describe("G4 versions", () => {
  test("an edgeHub whose store is behind is not taken for a module twin made anew", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.read();
    for (let n = 1; n <= 4; n += 1) world.hub.desire({ leaf1: { target: n } });
    await world.pass(10);
    const { version, desired } = world.hub;
    await leaf.report({ target: { value: 4, ac: 200, av: version } });
    await world.pass(30_000);
    world.hub.version = 2;
    world.hub.desired = { leaf1: { target: 1 } };
    world.wan.fromStore = 1;
    world.hub.link("down");
    world.hub.link("up");
    await world.pass(100);
    expect(leaf.connected).toBe(true);
    expect(leaf.desired).toEqual({ target: 4 });
    world.hub.version = version;
    world.hub.desired = desired;
    await world.pass(30_000);
    expect(world.hub.reported["leaf1"]).toMatchObject({ target: { value: 4, ac: 200, av: version } });
    expect(leaf.desiredVersion).toBe(version);
  });
});

describe("G4 versions, while nobody can tell who answers reads", () => {
  async function blindWorld(): Promise<RelayWorld> {
    const world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.read();
    for (let n = 1; n <= 4; n += 1) world.hub.desire({ leaf1: { target: n } });
    await world.pass(10);
    await leaf.report({ target: { value: 4, ac: 200, av: world.hub.version } });
    await world.pass(30_000);
    world.wan.reads = undefined;
    return world;
  }

  test("an edgeHub that came up behind what it once said, and answers at once, does not bring back what is old", async () => {
    await using world = await blindWorld();
    const leaf = world.leaves.leaf("leaf1");
    const { version, desired } = world.hub;
    world.hub.version = 2;
    world.hub.desired = { leaf1: { target: 1 } };
    world.hub.link("down");
    world.hub.link("up");
    await world.pass(15_000);
    expect(leaf.connected).toBe(true);
    expect(leaf.desired).toEqual({ target: 4 });
    world.hub.version = version;
    world.hub.desired = desired;
    await world.pass(60_000);
    expect(leaf.connected).toBe(true);
    expect(world.hub.reported["leaf1"]).toMatchObject({ target: { value: 4, ac: 200, av: version } });
  });

  test("a module twin made anew is believed when all reads of half a minute agree", async () => {
    await using world = await blindWorld();
    const leaf = world.leaves.leaf("leaf1");
    world.hub.recreate();
    world.hub.link("up");
    await world.pass(60_000);
    expect(world.leaves.drops).toEqual(["leaf1"]);
    await leaf.connect({ subscribe: true });
    await leaf.read();
    expect(leaf.desired).toEqual({});
    expect(world.hub.reported["leaf1"]).toMatchObject({ target: { value: 4, ac: 203, av: 0 } });
  });
});

describe("G3 desired", () => {
  test("a read waits for what is under way, and what comes meanwhile waits for the read", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    const before = world.hub.reads;
    world.hub.slow = "messages";
    const first = leaf.telemetry(1);
    await world.pass(1);
    wantRead(world);
    await world.pass(1_000);
    expect(world.hub.reads).toBe(before);
    world.hub.slow = "reads";
    world.hub.release();
    await world.pass(10);
    expect(world.hub.reads).toBe(before + 1);
    const taken = world.hub.telemetry.length;
    const second = leaf.telemetry(2);
    await world.pass(1_000);
    expect(await Promise.all([first, second])).toEqual([{ kind: "done" }, { kind: "done" }]);
    expect(world.hub.telemetry).toHaveLength(taken);
    world.hub.slow = false;
    world.hub.release();
    await world.pass(1_000);
    expect(world.hub.telemetry).toHaveLength(taken + 1);
  });

  test("nothing is read while the WAN is away, and once the moment it returns", async () => {
    await using world = await connectedWorld();
    const before = world.hub.reads;
    world.wan.handler?.wan("away");
    world.hub.link("down");
    world.hub.link("up");
    // More than two of the periodic reads.
    await world.pass(3_000_000);
    expect(world.hub.reads).toBe(before);
    world.wan.handler?.wan("online");
    await world.pass(100);
    expect(world.hub.reads).toBe(before + 1);
  });

  test("a read that a broken link swallowed is made again as soon as there is another link", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.read();
    world.hub.deaf = true;
    world.hub.desire({ leaf1: { target: 1 } });
    world.hub.deaf = false;
    world.hub.slow = "reads";
    wantRead(world);
    await world.pass(10);
    world.hub.slow = false;
    world.hub.link("down");
    // The read has not failed yet when the next link is up.
    world.hub.link("up");
    await world.pass(100);
    expect(leaf.desired).toEqual({ target: 1 });
  });

  test("a change that arrives during a read reaches its leaf though the read fails", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.read();
    world.hub.slow = "reads";
    world.hub.readsFail = true;
    wantRead(world);
    await world.pass(10);
    world.hub.desire({ leaf1: { target: 1 } });
    world.hub.desire({ leaf1: { other: 2 } });
    world.hub.release();
    await world.pass(10);
    expect(leaf.desired).toEqual({ target: 1, other: 2 });
    expect(leaf.versions.at(-1)).toBe(world.hub.version);
  });

  test("more changes than can be held during a read are found by the next one", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.read();
    world.hub.slow = "reads";
    wantRead(world);
    await world.pass(10);
    for (let n = 1; n <= 250; n += 1) world.hub.desire({ leaf1: { [`p${n % 7}`]: n } });
    world.hub.slow = false;
    world.hub.release();
    await world.pass(10_000);
    expect(leaf.desired).toEqual(world.hub.desired["leaf1"]);
    expect(leaf.versions).toEqual([...leaf.versions].toSorted((a, b) => a - b));
  });
});

describe("while the WAN is taken for away, rightly or not", () => {
  test("a change that was missed arrives all the same, in an hour or so", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.read();
    world.wan.tell("away");
    world.hub.deaf = true;
    world.hub.desire({ leaf1: { target: 1 } });
    const { reads } = world.hub;
    await world.pass(45 * 60_000);
    expect(world.hub.reads).toBe(reads);
    await world.pass(30 * 60_000);
    expect(leaf.desired).toEqual({ target: 1 });
    await world.pass(24 * 3_600_000);
    expect(world.hub.reads - reads).toBeLessThan(30);
  });

  test("a line that was seen to return is worth a read, although nobody had seen it go", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.read();
    world.wan.handler?.wan("online");
    world.hub.deaf = true;
    world.hub.desire({ leaf1: { target: 1 } });
    await world.pass(1_000);
    expect(leaf.desired).toEqual({});
    world.wan.handler?.wan("online");
    await world.pass(1_000);
    expect(leaf.desired).toEqual({ target: 1 });
  });

  test("a notification that shows a gap is followed by a read at once: it came from the cloud", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.read();
    world.wan.tell("away");
    world.hub.deaf = true;
    world.hub.desire({ leaf1: { target: 1 } });
    world.hub.deaf = false;
    world.hub.desire({ leaf1: { other: 2 } });
    await world.pass(1_000);
    expect(leaf.desired).toEqual({ target: 1, other: 2 });
  });

  test("a flood of changes costs no read each, once one has shown that the cloud is there", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    world.wan.tell("away");
    const { reads } = world.hub;
    for (let n = 0; n < 100; n += 1) {
      world.hub.desire({ leaf1: { target: n } });
      await world.pass(20);
    }
    expect(leaf.desired).toEqual({ target: 99 });
    expect(world.hub.reads - reads).toBeLessThan(5);
  });

  /** Target 1 is written anew beside another property, and edgeHub's comparison tells of the other alone. */
  const [rewritten, comparison] = [{ leaf1: { target: 1, other: 2 } }, { leaf1: { other: 2 } }];

  async function leafAtTarget1(world: RelayWorld): Promise<ModelLeaf> {
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    world.hub.desire({ leaf1: { target: 1 } });
    await world.pass(1_000);
    return leaf;
  }

  test("what comes first after an outage may be edgeHub's comparison, which hides values that were written anew", async () => {
    await using world = await connectedWorld();
    const leaf = await leafAtTarget1(world);
    world.wan.tell("away");
    world.hub.desire(rewritten, comparison);
    await world.pass(1_000);
    world.wan.tell("online");
    await world.pass(1_000);
    expect(leaf.toldAt.get("target")).toBe(world.hub.version);
  });

  test("it is not held back while reads fail, and what it hid comes with the first that does not", async () => {
    await using world = await connectedWorld();
    const leaf = await leafAtTarget1(world);
    world.wan.tell("away");
    world.hub.readsFail = true;
    world.hub.desire(rewritten, comparison);
    await world.pass(1_000);
    expect(leaf.desired).toEqual({ target: 1, other: 2 });
    expect(leaf.toldAt.get("target")).toBe(world.hub.version - 1);
    world.hub.readsFail = false;
    world.wan.tell("online");
    await world.pass(30_000);
    expect(leaf.toldAt.get("target")).toBe(world.hub.version);
  });
});

test("a read that shows nothing new costs the disk nothing", async () => {
  await using world = await connectedWorld();
  const leaf = world.leaves.leaf("leaf1");
  await leaf.connect({ subscribe: true });
  world.hub.desire({ leaf1: { target: 1 } });
  await leaf.report({ a: 1 });
  await world.pass(30_000);
  wantRead(world);
  await world.pass(30_000);
  const { commits } = world.store;
  const { reads } = world.hub;
  for (let n = 0; n < 3; n += 1) {
    world.hub.desired = structuredClone(world.hub.desired);
    wantRead(world);
    await world.pass(1_000);
  }
  expect(world.hub.reads).toBeGreaterThanOrEqual(reads + 3);
  expect(world.store.commits).toBe(commits);
});

test("G8 a link on which no twin read is ever answered is made anew, after a while", async () => {
  await using world = await connectedWorld();
  const leaf = world.leaves.leaf("leaf1");
  await leaf.connect({ subscribe: true });
  world.hub.slow = "reads";
  world.hub.readsFail = true;
  world.hub.deaf = true;
  world.hub.desire({ leaf1: { target: 1 } });
  wantRead(world);
  // Each read is given up by the link after 90 s.
  let [reads, waitedMs] = [0, 0];
  for (let n = 0; n < 200 && world.hub.isUp; n += 1) {
    await world.pass(10_000);
    waitedMs = reads === world.hub.reads ? waitedMs + 10_000 : 0;
    reads = world.hub.reads;
    if (waitedMs === 90_000) world.hub.release();
  }
  expect(world.hub.isUp).toBe(false);
  world.hub.slow = false;
  world.hub.readsFail = false;
  world.hub.link("up");
  await world.pass(1_000);
  expect(leaf.desired).toEqual({ target: 1 });
});

describe("what is desired of the gateway itself", () => {
  const version = (world: RelayWorld): number | undefined => world.gatewayDesired.at(-1)?.version;

  test("is judged again when it is written once more as it was, since somebody waits for an answer", async () => {
    await using world = await connectedWorld();
    world.hub.desire({ gateway: { commitIntervalMs: 50 } });
    await world.pass(100);
    world.hub.desire({ gateway: { commitIntervalMs: 50 } });
    await world.pass(100);
    expect(version(world)).toBe(world.hub.version);
    world.hub.desire({ leaf1: { target: 1 } });
    await world.pass(100);
    expect(version(world)).toBe(world.hub.version - 1);
  });

  test("is judged again after a version that was missed, which may have been its own", async () => {
    await using world = await connectedWorld();
    world.hub.desire({ gateway: { commitIntervalMs: 50 } });
    await world.pass(100);
    world.hub.deaf = true;
    world.hub.desire({ gateway: { commitIntervalMs: 50 } });
    wantRead(world);
    await world.pass(100);
    expect(version(world)).toBe(world.hub.version);
    const judged = world.gatewayDesired.length;
    wantRead(world);
    await world.pass(100);
    expect(world.gatewayDesired).toHaveLength(judged);
  });
});

describe("G1 telemetry", () => {
  test("goes on while a push is not answered and a read waits for it", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    world.hub.slow = "patches";
    await leaf.report({ a: 1 });
    await world.pass(6_000);
    wantRead(world);
    await world.pass(10);
    const before = world.hub.telemetry.length;
    expect(await leaf.telemetry({ n: 1 })).toEqual({ kind: "done" });
    expect(world.hub.telemetry).toHaveLength(before + 1);
    world.hub.slow = false;
    world.hub.release();
  });

  test("is not sent during a read, also when edgeHub turns out to be another one meanwhile", async () => {
    await using world = await connectedWorld({ settings: { durability: "power-safe" } });
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    world.wan.handler?.edgeHubInstance("first");
    const sent = leaf.telemetry({ n: 1 });
    await world.pass(1_000);
    expect(await sent).toEqual({ kind: "done" });
    world.hub.slow = "reads";
    wantRead(world);
    await world.pass(10);
    const before = world.hub.telemetry.length;
    world.wan.handler?.edgeHubInstance("second");
    await world.pass(1_000);
    expect(world.hub.telemetry).toHaveLength(before);
    world.hub.slow = false;
    world.hub.release();
    await world.pass(1_000);
    expect(world.hub.telemetry).toHaveLength(before + 1);
  });

  test("has as long as a read took before the next one, when reads take long and bring nothing", async () => {
    await using world = await connectedWorld();
    world.hub.slow = "reads";
    world.hub.readsFail = true;
    wantRead(world);
    const before = world.hub.reads;
    await world.pass(40_000);
    world.hub.release();
    await world.pass(35_000);
    expect(world.hub.reads).toBe(before + 1);
    await world.pass(10_000);
    expect(world.hub.reads).toBe(before + 2);
    world.hub.slow = false;
    world.hub.release();
  });
});
