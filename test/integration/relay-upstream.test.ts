/** What edgeHub's side of the relay does to it: messages it cannot bear, changes it misses, callers it loses. */
import { describe, expect, test } from "vitest";
import type { JsonObject } from "../../src/core/message.ts";
import { RecordingLog } from "../support/recording-log.ts";
import { RecordingMetrics } from "../support/recording-metrics.ts";
import { connectedWorld, RelayWorld } from "../support/relay-world.ts";

describe("G1 telemetry", () => {
  test("a message that edgeHub closes the connection for is set aside, and all others arrive in order", async () => {
    const log = new RecordingLog();
    await using world = await connectedWorld({ log });
    const [first, second] = [world.leaves.leaf("leaf1"), world.leaves.leaf("leaf2")];
    for (const leaf of [first, second]) await leaf.connect({ subscribe: false });
    const body = (message: { payload: Uint8Array }) => new TextDecoder().decode(message.payload);
    world.hub.closesFor = (message) => body(message).includes("poison");
    const sent: Promise<unknown>[] = [];
    for (let n = 0; n < 40; n += 1) {
      sent.push(first.telemetry(n === 7 ? { poison: n } : { n }), second.telemetry({ n }));
    }
    for (let round = 0; round < 60; round += 1) {
      await world.pass(1_000);
      world.hub.link("up");
    }
    for (const each of await Promise.all(sent)) expect(each).toEqual({ kind: "done" });
    const arrived = (leafId: string) => [
      ...new Set(
        world.hub.telemetry
          .filter(({ properties }) => properties["leafId"] === leafId)
          .map((message) => (JSON.parse(body(message)) as { n: number }).n),
      ),
    ];
    const all = Array.from({ length: 40 }, (_, n) => n);
    expect(arrived("leaf1")).toEqual(all.filter((n) => n !== 7));
    expect(arrived("leaf2")).toEqual(all);
    expect(log.events("error")).toEqual(["the hub refuses a message, it is set aside"]);
    expect(world.store.usage().entries).toBe(0);
  });

  test.each([5, 50, 500])(
    "costs the disk nothing at %i messages a second while edgeHub is prompt, twin reads included",
    async (rate) => {
      await using world = await connectedWorld({ settings: { twinReadIntervalSecs: 10 } });
      const leaves = Array.from({ length: 5 }, (_, n) => world.leaves.leaf(`leaf${n}`));
      for (const leaf of leaves) await leaf.connect({ subscribe: false });
      // As much as a slow card takes; the window of 16 then carries 800 a second.
      world.hub.latencyMs = 20;
      await world.pass(30_000);
      const { commits } = world.store;
      const { reads } = world.hub;
      const sent: Promise<unknown>[] = [];
      for (let ms = 0; ms < 30_000; ms += 1_000 / rate) {
        sent.push(leaves[sent.length % leaves.length]?.telemetry(sent.length) ?? Promise.reject(new Error("no leaf")));
        await world.pass(1_000 / rate);
      }
      await world.pass(1_000);
      for (const each of await Promise.all(sent)) expect(each).toEqual({ kind: "done" });
      expect(world.hub.reads - reads).toBeGreaterThan(1);
      expect(world.store.commits).toBe(commits);
    },
  );

  test("a message that was on its way each time when edgeHub died soon after its start is not taken for the cause", async () => {
    const log = new RecordingLog();
    await using world = await connectedWorld({ log });
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: false });
    let upMs = world.clock.steady();
    let lives = 0;
    world.hub.closesFor = ({ properties }) =>
      properties["leafId"] !== undefined && lives < 12 && world.clock.steady() - upMs < 1_000;
    const up = (): void => {
      if (world.hub.isUp) return;
      lives += 1;
      upMs = world.clock.steady();
      world.hub.link("up");
    };
    world.hub.link("down");
    up();
    const sent = [leaf.telemetry(1), leaf.telemetry(2)];
    for (let round = 0; round < 60; round += 1) {
      await world.pass(1_000);
      up();
    }
    expect(await Promise.all(sent)).toEqual([{ kind: "done" }, { kind: "done" }]);
    expect(log.events("error")).toEqual([]);
    expect([...new Set(arrivals(world))]).toEqual([1, 2]);
  });

  test("goes on over links that never hold for long, whatever failed on them before", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: false });
    const sent = Array.from({ length: 40 }, (_, n) => leaf.telemetry(n));
    world.hub.slow = "messages";
    for (let round = 0; round < 40; round += 1) {
      world.hub.slow = round < 3 ? "messages" : false;
      world.hub.link("up");
      await world.pass(1_000);
      world.hub.link("down");
      await world.pass(100);
    }
    await Promise.all(sent);
    expect([...new Set(arrivals(world))]).toEqual(Array.from({ length: 40 }, (_, n) => n));
  });

  /** The first of two waits for edgeHub's answer, the second has been refused for the moment. */
  async function worldWithFailure(): Promise<RelayWorld> {
    const world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: false });
    world.hub.slow = "messages";
    const first = leaf.telemetry(1);
    await world.pass(1);
    world.hub.mode = "refuse";
    const second = leaf.telemetry(2);
    await world.pass(1);
    world.hub.mode = "good";
    world.hub.slow = false;
    // They become safe on our disk.
    await world.pass(1_000);
    expect(await Promise.all([first, second])).toEqual([{ kind: "done" }, { kind: "done" }]);
    return world;
  }

  function arrivals({ hub }: RelayWorld): number[] {
    const ofLeaf = hub.telemetry.filter(({ properties }) => properties["leafId"] !== undefined);
    return ofLeaf.map(({ payload }) => JSON.parse(new TextDecoder().decode(payload)) as number);
  }

  test("nothing newer goes while a message that failed waits for its next try", async () => {
    await using world = await worldWithFailure();
    const third = world.leaves.leaf("leaf1").telemetry(3);
    await world.pass(1_000);
    expect(arrivals(world)).toEqual([1]);
    world.hub.release();
    await world.pass(10_000);
    expect(await third).toEqual({ kind: "done" });
    expect(arrivals(world)).toEqual([1, 2, 3]);
  });

  test("sixteen messages at most are under way", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: false });
    world.hub.slow = "messages";
    const sent = Array.from({ length: 40 }, (_, n) => leaf.telemetry(n));
    await world.pass(10);
    expect(arrivals(world)).toHaveLength(16);
    world.hub.slow = false;
    world.hub.release();
    await world.pass(1_000);
    expect(await Promise.all(sent)).toEqual(sent.map(() => ({ kind: "done" })));
    expect(arrivals(world)).toEqual(sent.map((_, n) => n));
  });

  test("what has outlived its time when the link is back is not sent, and counted", async () => {
    const metrics = new RecordingMetrics();
    await using world = await connectedWorld({ metrics, settings: { timeToLiveSecs: 60 } });
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: false });
    world.hub.link("down");
    const old = leaf.telemetry(1);
    await world.pass(59_000);
    const young = leaf.telemetry(2);
    // Between two sweeps: only whoever takes it to send it can notice.
    await world.pass(1_500);
    world.hub.link("up");
    await world.pass(1_000);
    expect(await Promise.all([old, young])).toEqual([{ kind: "done" }, { kind: "done" }]);
    expect(arrivals(world)).toEqual([2]);
    expect(metrics.value("telemetry_dropped_total", { reason: "expired" })).toBe(1);
  });

  test("messages that fail in another order than they went in go again in their own", async () => {
    await using world = await worldWithFailure();
    world.hub.link("down");
    await world.pass(10);
    world.hub.link("up");
    await world.pass(10_000);
    expect(arrivals(world)).toEqual([1, 1, 2]);
  });
});

describe("G3 desired", () => {
  test("one patch for a hundred leaves, one never seen and what is no component reaches each with its own part", async () => {
    await using world = await connectedWorld({ settings: { maxLeaves: 200 } });
    const leaves = Array.from({ length: 100 }, (_, n) => world.leaves.leaf(`leaf${n}`));
    for (const leaf of leaves) {
      await leaf.connect({ subscribe: true });
      await leaf.read();
    }
    const patch = Object.fromEntries(leaves.map(({ id }, n): [string, JsonObject] => [id, { __t: "c", target: n }]));
    world.hub.desire({ ...patch, stranger: { __t: "c", target: 5 }, number: 7, list: [1], gateway__x: { a: 1 } });
    await world.pass(100);
    for (const [n, leaf] of leaves.entries()) {
      expect(leaf.desired).toEqual({ target: n });
      expect(leaf.desiredVersion).toBe(world.hub.version);
    }
    world.hub.desire({
      leaf1: null,
      leaf2: 5,
      leaf3: ["a"],
      leaf4: { __t: "c" },
      leaf5: { target: [1, [2]] },
      leaf6: {},
    });
    await world.pass(100);
    expect([1, 2, 3, 4, 5, 6].map((n) => leaves[n]?.desired)).toEqual([
      {},
      {},
      {},
      { target: 4 },
      { target: [1, [2]] },
      { target: 6 },
    ]);
    const stranger = world.leaves.leaf("stranger");
    await stranger.connect({ subscribe: true });
    await stranger.read();
    await world.pass(10);
    expect(stranger.desired).toEqual({ target: 5 });
  });

  test("a change in the moment in which edgeHub has not told the cloud of our subscription yet is found soon", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    await leaf.read();
    world.hub.link("down");
    world.hub.link("up");
    await world.pass(50);
    world.hub.deaf = true;
    world.hub.desire({ leaf1: { target: 1 } });
    world.hub.deaf = false;
    await world.pass(25_000);
    expect(leaf.desired).toEqual({ target: 1 });
  });
});

describe("G6 commands", () => {
  test("whose caller was lost with the link do not keep others waiting, and their answers meet nobody", async () => {
    await using world = await connectedWorld();
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    leaf.answerCommands = () => undefined;
    const lost = Array.from({ length: 16 }, (_, n) => world.hub.command("leaf1*slow", n));
    await world.pass(10);
    expect(leaf.commands).toHaveLength(16);
    expect(await world.hub.command("leaf1*one", 1)).toMatchObject({ status: 429 });
    world.hub.link("down");
    world.hub.link("up");
    await Promise.all(lost);
    leaf.answerCommands = (name) => ({ status: 200, payload: name });
    expect(await world.hub.command("leaf1*fast", 1)).toEqual({ status: 200, payload: "fast" });
    expect(leaf.commands.filter(({ name }) => name === "slow")).toHaveLength(16);
  });

  test("fill no memory with series of their own, whatever statuses a leaf answers with", async () => {
    const metrics = new RecordingMetrics();
    await using world = new RelayWorld({ metrics });
    await world.start();
    world.hub.link("up");
    await world.pass(1_000);
    const leaf = world.leaves.leaf("leaf1");
    await leaf.connect({ subscribe: true });
    let status = 0;
    leaf.answerCommands = () => ({ status, payload: null });
    for (status of [200, 599, 600, 99, -5, 123_456_789]) {
      expect(await world.hub.command("leaf1*any", null)).toMatchObject({ status });
    }
    expect(metrics.value("commands_total", { status: "200" })).toBe(1);
    expect(metrics.value("commands_total", { status: "other" })).toBe(4);
    expect(metrics.total("commands_total")).toBe(6);
  });
});
