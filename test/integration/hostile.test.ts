/**
 * G5, G7: whatever anybody on the network does, a well-behaved leaf's telemetry flows: nothing lost, no reconnect, every PUBACK in time.
 * What the attacks cost it in latency is a figure of `npm run bench -- hostile`.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ATTACKS } from "../support/hostile-attacks.ts";
import { GoodLeaf, HostileWorld } from "../support/hostile-world.ts";

/** Some 170 are in use when nothing happens. */
const MAX_MEGABYTES = 500;

let world: HostileWorld;
let good: GoodLeaf;
beforeAll(async () => {
  world = await HostileWorld.start();
  good = await GoodLeaf.connect(world, "good");
});
afterAll(() => world[Symbol.asyncDispose]());

describe("a well-behaved leaf works on during", () => {
  test.each(Object.entries(ATTACKS).map(([name, attack], at) => ({ name, attack, at })))(
    "$name",
    async ({ attack, at }) => {
      const over = new AbortController();
      const before = good.acknowledged.length;
      const working = good.work(over.signal);
      await attack(world, `evil${at}`);
      over.abort();
      await working;
      expect(good.harm).toEqual([]);
      expect(good.acknowledged.length).toBeGreaterThan(before);
      await world.until("its messages at the hub", () => {
        const arrived = new Set(world.messagesOf("good"));
        return good.acknowledged.every((text) => arrived.has(text));
      });
      expect(world.gateway.output).not.toMatch(/"level":"error"|could not be (?:served|handled)/);
      expect(world.residentMegabytes()).toBeLessThan(MAX_MEGABYTES);
    },
  );
});
