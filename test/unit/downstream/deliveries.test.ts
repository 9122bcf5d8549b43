/** One outstanding QoS 1 message, settled by its own PUBACK or by the end of the connection; QoS 0 goes by. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Frame } from "../../../src/core/message.ts";
import { Deliveries } from "../../../src/downstream/deliveries.ts";

function frame(qos: 0 | 1, name: string): Frame {
  return { topic: name, payload: Buffer.alloc(0), qos };
}

async function settle(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}

describe("Deliveries", () => {
  test("any mixture of deliveries, PUBACKs and an end keeps one outstanding, its order, and settles everything", async () => {
    const step = fc.oneof(
      fc.constantFrom<0 | 1>(0, 1).map((qos) => ({ act: "deliver" as const, qos })),
      fc.constant({ act: "acknowledge" as const }),
      fc.constant({ act: "acknowledge something else" as const }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
        const written: string[] = [];
        let [outstanding, acknowledged] = [0, 0];
        const deliveries = new Deliveries({
          maxWaiting: 1_000,
          write: async ({ topic, qos }) => {
            written.push(topic);
            outstanding += qos;
          },
          overflow: () => undefined,
        });
        const results: Promise<string>[] = [];
        const wanted = { 0: [] as string[], 1: [] as string[] };
        for (const [at, each] of steps.entries()) {
          if (each.act === "deliver") {
            wanted[each.qos].push(`${each.qos}-${at}`);
            results.push(deliveries.deliver([frame(each.qos, `${each.qos}-${at}`)]));
          } else if (each.act === "acknowledge something else") deliveries.acknowledged(60_000);
          else if (outstanding > 0) {
            outstanding -= 1;
            acknowledged += 1;
            deliveries.acknowledged(deliveries.packetId);
          }
          await settle();
          expect(outstanding).toBeLessThanOrEqual(1);
        }
        deliveries.end();
        const settled = await Promise.all(results);
        expect(settled.filter((each) => each === "delivered")).toHaveLength(wanted[0].length + acknowledged);
        expect(written.filter((name) => name.startsWith("0"))).toEqual(wanted[0]);
        const sent = written.filter((name) => name.startsWith("1"));
        expect(sent).toEqual(wanted[1].slice(0, sent.length));
      }),
    );
  });

  test("what was acknowledged is delivered, though the connection ends in the same moment", async () => {
    const deliveries = new Deliveries({ maxWaiting: 10, write: async () => undefined, overflow: () => undefined });
    const delivered = deliveries.deliver([frame(1, "x")]);
    await settle();
    deliveries.acknowledged(deliveries.packetId);
    deliveries.end();
    expect(await delivered).toBe("delivered");
  });

  test("packet ids go round and are never 0", async () => {
    const deliveries = new Deliveries({ maxWaiting: 10, write: async () => undefined, overflow: () => undefined });
    const ids = new Set<number>();
    for (let at = 0; at < 65_540; at += 1) {
      const delivered = deliveries.deliver([frame(1, "x")]);
      while (!ids.has(deliveries.packetId) && deliveries.packetId === 0) await Promise.resolve();
      await Promise.resolve();
      ids.add(deliveries.packetId);
      deliveries.acknowledged(deliveries.packetId);
      expect(await Promise.race([delivered, settle().then(() => "waits")])).toBe("delivered");
    }
    expect(ids.has(0)).toBe(false);
    expect(Math.max(...ids)).toBe(65_535);
  });

  test("more than may wait calls for the end of the connection", async () => {
    let overflows = 0;
    const deliveries: Deliveries = new Deliveries({
      maxWaiting: 2,
      write: async () => undefined,
      overflow: () => {
        overflows += 1;
        deliveries.end();
      },
    });
    const results = [0, 1, 2].map(() => deliveries.deliver([frame(1, "x")]));
    expect(await Promise.all(results)).toEqual(["offline", "offline", "offline"]);
    expect(overflows).toBe(1);
  });
});
