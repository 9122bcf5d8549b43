/**
 * Leaves never wait for the WAN: reads from the cache while our own read of the module twin hangs, an empty disk, an edgeHub or a
 * machine that lost what it had acknowledged, a cloud that refuses without a word (promises G1, G2, G3, G8).
 */
import { setTimeout as delay } from "node:timers/promises";
import { expect, test, vi } from "vitest";
import { MODULE, OutageWorld, WATCHDOG } from "../support/outage-world.ts";

const LONG = { timeout: 400_000 };

test.concurrent("a leaf's reads, reports and telemetry are answered while our own twin read hangs", LONG, async () => {
  await using world = await OutageWorld.start();
  const { hub } = world;
  await world.synchronised();
  const leaf = await world.leaf("patient");
  world.desire("patient", "known");
  await world.heard(leaf, "known");
  await world.settled();
  const linksBefore = await world.metric("link_attempts_total");
  hub.behaviour.twinGet = "silence";
  hub.cutConnections();
  // The link is there again and its first read hangs: nothing goes up, and everything is answered.
  await vi.waitFor(async () => {
    expect(await world.metric("link_attempts_total")).toBeGreaterThan(linksBefore);
    expect(await world.metric("link_up")).toBe(1);
  }, WATCHDOG);
  // Only from here on: on a busy machine one more may have come back before the cut.
  const readsBefore = await world.reads();
  const reply = await leaf.get();
  expect(reply?.status).toBe(200);
  expect(JSON.parse(reply?.body ?? "{}")).toMatchObject({ desired: { target: "known" } });
  expect((await leaf.report({ during: 1 }))?.status).toBe(204);
  await leaf.send();
  expect(await world.reads()).toBe(readsBefore);
  hub.behaviour.twinGet = "normal";
  await vi.waitFor(() => expect(hub.cloud.twin(MODULE)?.reported["patient"]).toMatchObject({ during: 1 }), WATCHDOG);
  await vi.waitFor(() => expect(world.numbersOf("patient")).toContain(0), WATCHDOG);
});

test.concurrent("a gateway started in an outage answers reads from its disk", LONG, async () => {
  await using world = await OutageWorld.start();
  await world.synchronised();
  const first = await world.leaf("kept");
  world.desire("kept", "known");
  await world.heard(first, "known");
  await world.stopGateway();
  world.hub.wan.cut("silent");
  await world.startGateway();
  const again = await world.leaf("kept");
  const reply = await again.get();
  expect(reply?.status).toBe(200);
  expect(JSON.parse(reply?.body ?? "{}")).toMatchObject({ desired: { target: "known" } });
});

test.concurrent.each(["silent", "refused"] as const)(
  "with an empty disk in a %s outage a read waits for the first synchronisation, and nothing waits behind it",
  LONG,
  async (mode) => {
    // A read of 20 s and another must fit into the 50 s that the GET is held, whatever else the machine does.
    await using world = await OutageWorld.start({ factor: 2, prepare: (hub) => hub.wan.cut(mode) });
    world.desire("early", "true");
    const leaf = await world.leaf("early");
    const get = leaf.getAcknowledged();
    await get.acknowledged;
    await leaf.send();
    await leaf.send();
    expect((await leaf.report({ a: 1 }))?.status).toBe(204);
    const early = await Promise.race([get.reply, delay(200).then(() => "none")]);
    expect(early).toBe("none");
    world.hub.wan.restore();
    const reply = await get.reply;
    expect(reply?.status).toBe(200);
    expect(JSON.parse(reply?.body ?? "{}")).toMatchObject({ desired: { target: "true" }, reported: { a: 1 } });
    await vi.waitFor(() => expect(world.numbersOf("early")).toEqual([0, 1]), WATCHDOG);
    await vi.waitFor(() => expect(world.hub.cloud.twin(MODULE)?.reported["early"]).toMatchObject({ a: 1 }), WATCHDOG);
  },
);

test.concurrent(
  "with an empty disk in an outage that does not end a read is answered 503, never with nothing",
  LONG,
  async () => {
    await using world = await OutageWorld.start({ factor: 10, prepare: (hub) => hub.wan.cut("silent") });
    const leaf = await world.leaf("early");
    const { reply } = leaf.getAcknowledged();
    expect((await reply)?.status).toBe(503);
    expect(world.gateway.relay.synchronised).toBe(false);
  },
);

test.concurrent(
  "power-safe: an edgeHub that lost its store gets all again, in order and with the same message ids",
  LONG,
  async () => {
    await using world = await OutageWorld.start({ settings: { GATEWAY_DURABILITY: "power-safe" } });
    const { hub } = world;
    await world.synchronised();
    const leaf = await world.leaf("safe");
    for (let n = 0; n < 20; n += 1) await leaf.send();
    await vi.waitFor(() => expect(world.numbersOf("safe")).toHaveLength(20), WATCHDOG);
    hub.wan.cut("silent");
    for (let n = 0; n < 40; n += 1) await leaf.send();
    await vi.waitFor(async () => expect(await world.metric("outbox_entries")).toBe(0), WATCHDOG);
    expect(world.numbersOf("safe")).toHaveLength(20);
    await hub.killEdge("lose");
    for (let n = 0; n < 20; n += 1) await leaf.send();
    await hub.startEdge();
    hub.wan.restore();
    await vi.waitFor(() => expect(new Set(world.numbersOf("safe")).size).toBe(80), WATCHDOG);
    const firstCopies = [...new Set(world.numbersOf("safe"))];
    expect(firstCopies).toEqual(Array.from({ length: 80 }, (_, n) => n));
    expect(await world.metric("telemetry_resent_total")).toBeGreaterThanOrEqual(40);
    expectOneIdEach(world, "safe");
  },
);

test.concurrent(
  "power-safe: after another boot of the machine what was acknowledged lately goes up again",
  LONG,
  async () => {
    await using world = await OutageWorld.start({ settings: { GATEWAY_DURABILITY: "power-safe" } });
    await world.synchronised();
    const leaf = await world.leaf("booted");
    for (let n = 0; n < 20; n += 1) await leaf.send();
    await vi.waitFor(() => expect(world.numbersOf("booted")).toHaveLength(20), WATCHDOG);
    await world.stopGateway();
    world.bootId = "another boot";
    await world.startGateway();
    await vi.waitFor(() => expect(world.numbersOf("booted")).toHaveLength(40), WATCHDOG);
    // What has arrived and is not acknowledged to the gateway yet may go twice.
    await vi.waitFor(async () => expect(await world.metric("outbox_entries")).toBe(0), WATCHDOG);
    expectOneIdEach(world, "booted");
    // The same boot again: nothing is sent a third time.
    await world.stopGateway();
    await world.startGateway();
    await world.synchronised();
    await world.settled();
    expect(world.numbersOf("booted")).toHaveLength(40);
  },
);

test.concurrent(
  "a property that the cloud refuses behind edgeHub's back is found, and the others go on",
  LONG,
  async () => {
    await using world = await OutageWorld.start({ factor: 8, settings: { GATEWAY_TWIN_READ_INTERVAL_SECS: "30" } });
    const { cloud } = world.hub;
    const takes = cloud.patchReported.bind(cloud);
    cloud.patchReported = (id, patch) =>
      JSON.stringify(patch).includes("poison") ? { kind: "refused", status: 400, message: "no" } : takes(id, patch);
    await world.synchronised();
    const leaf = await world.leaf("strange");
    expect((await leaf.report({ good: 1, bad: "poison", better: 2 }))?.status).toBe(204);
    await vi.waitFor(
      () => expect(cloud.twin(MODULE)?.reported["strange"]).toEqual({ __t: "c", good: 1, better: 2 }),
      WATCHDOG,
    );
    await vi.waitFor(async () => {
      const answer = await cloud.invoke({ id: MODULE, name: "gateway*getLeaf", payload: { leafId: "strange" } });
      expect(answer).toMatchObject({
        status: 200,
        payload: { quarantined: { "strange/bad": "the hub takes it and keeps showing another value" } },
      });
    }, WATCHDOG);
    expect((await leaf.report({ bad: "fine" }))?.status).toBe(204);
    await vi.waitFor(() => expect(cloud.twin(MODULE)?.reported["strange"]).toMatchObject({ bad: "fine" }), WATCHDOG);
  },
);

function expectOneIdEach(world: OutageWorld, leafId: string): void {
  const ids = new Map<number, Set<string | undefined>>();
  for (const { id, number } of world.arrived.get(leafId) ?? []) ids.set(number, (ids.get(number) ?? new Set()).add(id));
  expect([...ids.values()].filter((own) => own.size !== 1)).toEqual([]);
}
