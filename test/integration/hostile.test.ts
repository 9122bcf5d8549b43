/** G5, G7: whatever anybody on the network does, a well-behaved leaf's telemetry flows: nothing lost, no reconnect, every PUBACK in time. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ATTACKS } from "./hostile-attacks.ts";
import { GoodLeaf, HostileWorld } from "./hostile-world.ts";

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
      const from = good.acknowledged.length;
      const working = good.work(over.signal);
      await attack(world, `evil${at}`);
      over.abort();
      await working;
      const took = good.tookMs.slice(from).toSorted((a, b) => a - b);
      console.log(
        at,
        took.length,
        "p50",
        took[took.length >> 1]?.toFixed(1),
        "p99",
        took[Math.floor(took.length * 0.99)]?.toFixed(1),
        "max",
        took.at(-1)?.toFixed(1),
        "rss",
        world.residentMegabytes().toFixed(0),
      );
      console.log(
        world.gateway.output
          .split("\n")
          .filter((l) => !l.includes("a leaf was refused"))
          .slice(-40)
          .map((l) => l.slice(0, 300))
          .join("\n"),
      );
      expect(good.harm).toEqual([]);
      expect(good.acknowledged.length).toBeGreaterThan(from);
      await world.until("all messages", () => new Set(world.messagesOf("good")).size >= good.acknowledged.length);
      expect(world.gateway.output).not.toMatch(/defect|could not be served|could not be handled/);
      expect(world.residentMegabytes()).toBeLessThan(600);
    },
  );
});
