/** The forwarder on the real SDK, before an edgeHub that cannot bear one of its messages. */
import { expect, test } from "vitest";
import { parseLeafId } from "../../src/core/message.ts";
import { Forwarder } from "../../src/flow/forwarder.ts";
import type { HubHandler } from "../../src/flow/ports.ts";
import { makeUpstream } from "../support/edgehub-rig.ts";
import { MemoryStore } from "../support/memory-store.ts";
import { startRawEdgeHub } from "../support/raw-edgehub.ts";
import { RecordingLog } from "../support/recording-log.ts";
import { RELAY_SETTINGS } from "../support/relay-world.ts";
import { noMetrics, RecordingHub, realClock, telemetry, until } from "../support/upstream-harness.ts";

test("G1 a message at which edgeHub's decoder closes the connection is set aside; all others arrive, each leaf's in order", async () => {
  // The decoder sees it before whatever is in front of it was handled: nothing of that is acknowledged any more.
  await using edge = await startRawEdgeHub({
    packet: (connection, packet) => {
      if (packet.cmd !== "publish" || !packet.payload.toString().includes("poison")) return false;
      connection.socket.destroy();
      return true;
    },
  });
  const log = new RecordingLog();
  const upstream = makeUpstream(edge.credentials, log);
  const forwarder = new Forwarder({
    store: new MemoryStore(),
    upstream,
    clock: realClock,
    metrics: noMetrics,
    log,
    settings: () => RELAY_SETTINGS,
    statusMessage: () => telemetry("status"),
    lookAtEdgeHub: async () => undefined,
  });
  const hub = new RecordingHub();
  hub.onLink = (state) => forwarder.link(state);
  await forwarder.start(false);
  await upstream.open(hub satisfies HubHandler);
  const leaf = parseLeafId("leaf1");
  if (leaf === undefined) throw new Error("no leaf id");
  const safe = Array.from({ length: 60 }, (_, n) =>
    forwarder.enqueue(leaf, telemetry(n === 20 ? "poison" : String(n))),
  );
  await until("the message aside", () => forwarder.setAside.size === 1, 60_000);
  expect(await Promise.all(safe)).toEqual(safe.map(() => ({ kind: "safe" })));
  await until("an empty outbox", () => forwarder.depth === 0);
  const arrived = edge.published.map(({ payload }) => payload.toString()).filter((text) => text !== "status");
  const expected = Array.from({ length: 60 }, (_, n) => String(n)).filter((text) => text !== "20");
  // Again and again perhaps, but never a first one before an earlier one.
  expect([...new Set(arrived)]).toEqual(expected);
  await forwarder.close();
  await upstream[Symbol.asyncDispose]();
});
