/** Twins, telemetry and metrics of the development hub around outages of the line to the cloud [iothub-mqtt.md 12.2, 12.3]. */

import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { DevHub } from "../../src/devhub/devhub.ts";
import { DESIRED, GW, METHODS, metric, RawModule, startQuickHub, TWIN_ANSWERS } from "./devhub-edge-harness.ts";

const UPSTREAM_READS = { source: "upstream", id: "edge1/gw" };

describe("edgeHub and its line to the cloud", () => {
  let hub: DevHub;
  let module: RawModule;
  beforeEach(async () => {
    hub = await startQuickHub();
    module = await RawModule.connect(hub);
    await module.subscribe(TWIN_ANSWERS, DESIRED, METHODS);
  });
  afterEach(async () => {
    await module[Symbol.asyncDispose]();
    await hub[Symbol.asyncDispose]();
  });

  const sent = () => hub.cloud.events.map((event) => event.body.toString());
  const document = async () => JSON.parse((await module.get()).text);

  describe("a twin read", () => {
    test("comes from the cloud while the line is up, with versions in the body and none in the topic", async () => {
      hub.cloud.patchDesired(GW, { a: 1 });
      const { topic, status, text } = await module.get();
      expect(status).toBe(200);
      expect(topic).not.toContain("$version");
      expect(JSON.parse(text)).toEqual({ desired: { a: 1, $version: 2 }, reported: { $version: 1 } });
    });

    test("knows no versions when the cloud was never asked", async () => {
      hub.wan.cut("silent");
      expect(await document()).toEqual({ desired: {}, reported: {} });
      await module.report({ a: 1 });
      expect(await document()).toEqual({ desired: {}, reported: { a: 1 } });
    });

    test("comes from the store in an outage, with the pending patch merged in", async () => {
      hub.cloud.patchDesired(GW, { a: 1 });
      await module.get();
      hub.wan.cut("refused");
      await module.report({ r: 1 });
      expect(await document()).toEqual({ desired: { a: 1, $version: 2 }, reported: { r: 1, $version: 1 } });
    });

    test("holds back PUBACKs and method answers of its own connection, but no ping and no other client", async () => {
      hub.register({ deviceId: "edge1", moduleId: "other" });
      hub.wan.cut("silent");
      const order: string[] = [];
      module.client.on("packetreceive", (packet) => order.push(packet.cmd === "publish" ? "answer" : packet.cmd));
      const read = module.get();
      const acknowledged = module.telemetry("", "behind");
      module.client.sendPing();
      await Promise.all([read, acknowledged]);
      expect(order).toEqual(["pingresp", "answer", "puback"]);
    });

    test("holds back more packets than edgeHub reads ahead, and then takes all of them in order", async () => {
      hub.wan.cut("refused");
      const read = module.get();
      const bodies = Array.from({ length: 300 }, (_, n) => String(n));
      const all = Promise.all(bodies.map((body) => module.telemetry("", body)));
      await read;
      await all;
      hub.wan.restore();
      await expect.poll(sent).toEqual(bodies);
    });

    test("after the line is back wakes edgeHub: at once after a quiet outage", async () => {
      hub.wan.cut("refused");
      hub.wan.restore();
      expect(hub.wan.connected).toBe(false);
      await module.get();
      expect(hub.wan.connected).toBe(true);
      expect(await metric(hub, "edgehub_gettwin_total", UPSTREAM_READS)).toBe(1);
    });

    test.each([
      ["refused", "the first", 1],
      ["silent", "only the second", undefined],
    ] as const)("after a %s outage with traffic comes from the cloud %s time", async (mode, _when, reads) => {
      hub.wan.cut(mode);
      await module.telemetry("", "queued");
      hub.wan.restore();
      await module.get();
      expect(await metric(hub, "edgehub_gettwin_total", UPSTREAM_READS)).toBe(reads);
      await module.get();
      expect(await metric(hub, "edgehub_gettwin_total", UPSTREAM_READS)).toBe((reads ?? 0) + 1);
      await expect.poll(sent).toEqual(["queued"]);
    });

    test("rewrites dates and numbers of desired, which a notification leaves alone", async () => {
      await module.get();
      hub.cloud.patchDesired(GW, { at: "2026-01-02T03:04:05.000Z", n: 1e21, list: ["2026-01-02T03:04:05+02:00"] });
      await expect.poll(() => module.desired).toHaveLength(1);
      expect(module.desired[0]).toMatchObject({ at: "2026-01-02T03:04:05.000Z" });
      const { text } = await module.get();
      expect(text).toContain('"n":1E+21');
      expect(JSON.parse(text).desired).toMatchObject({
        at: "2026-01-02T03:04:05Z",
        list: ["2026-01-02T01:04:05+00:00"],
      });
    });
  });

  describe("a reported patch", () => {
    test("is answered 204 without a version, online or not", async () => {
      for (const state of ["up", "cut"]) {
        if (state === "cut") hub.wan.cut("silent");
        expect(await module.report({ a: 1 })).toMatchObject({ status: 204, text: "" });
      }
    });

    test.each([
      ["a number", "5", 204],
      ["a list", "[1]", 204],
      ["no JSON", "{", 500],
      ["empty", "", 400],
      ["a null in a list", '{"a":[null]}', 400],
      ["a null in an object in a list", '{"a":[{"b":null}]}', 400],
      ["a dot in a key", '{"a.b":1}', 400],
      ["a version", '{"$version":1}', 400],
      ["an integer of 2^52", '{"a":4503599627370496}', 400],
      ["an integer below 2^52", '{"a":4503599627370495}', 204],
      ["11 levels of objects", nested(11), 204],
      ["12 levels of objects", nested(12), 400],
      ["10 levels of lists", `{"a":${"[".repeat(10)}${"]".repeat(10)}}`, 204],
      ["11 levels of lists", `{"a":${"[".repeat(11)}${"]".repeat(11)}}`, 400],
      ["a text of 4096 bytes", JSON.stringify({ a: "x".repeat(4096) }), 204],
      ["a text of 4097 bytes", JSON.stringify({ a: "x".repeat(4097) }), 400],
      ["more than 32 KiB", JSON.stringify({ list: Array.from({ length: 9 }, () => "x".repeat(4000)) }), 400],
    ])("that is or has %s is answered by its own rules, errors with an empty body", async (_name, body, status) => {
      expect(await module.report(body)).toMatchObject({ status, text: "" });
    });

    test("without $rid is applied and not answered", async () => {
      await module.publish("$iothub/twin/PATCH/properties/reported/", '{"a":1}');
      await expect.poll(() => hub.cloud.twin(GW)?.reported).toEqual({ a: 1 });
      expect(module.heard).toEqual([]);
    });

    test("reaches the cloud merged with the others of its interval", async () => {
      // An interval that ten patches fit into on a machine with other things to do.
      await using calm = await startQuickHub({ reportedSyncMs: 1_000 });
      await using reporter = await RawModule.connect(calm);
      await reporter.subscribe(TWIN_ANSWERS);
      await reporter.report({ first: true });
      await expect.poll(() => calm.cloud.twin(GW)?.reportedVersion).toBe(2);
      await Promise.all(Array.from({ length: 10 }, (_, at) => reporter.report({ n: at + 1 })));
      await expect.poll(() => calm.cloud.twin(GW)?.reported).toEqual({ first: true, n: 10 });
      expect(calm.cloud.twin(GW)?.reportedVersion).toBe(3);
    });

    test("is missing from a read that comes before its push", async () => {
      await module.report({ a: 1 });
      await expect.poll(() => hub.cloud.twin(GW)?.reported).toEqual({ a: 1 });
      await module.report({ a: 2 });
      expect((await document()).reported).toEqual({ a: 1, $version: 2 });
      await expect.poll(() => hub.cloud.twin(GW)?.reported).toEqual({ a: 2 });
    });

    test("loses a null when an object follows it before the push", async () => {
      await module.report({ a: { old1: 1, old2: 2 } });
      await expect.poll(() => hub.cloud.twin(GW)?.reported).toEqual({ a: { old1: 1, old2: 2 } });
      await module.report({ a: null });
      await module.report({ a: { b: 1 } });
      await expect.poll(() => hub.cloud.twin(GW)?.reported).toEqual({ a: { old1: 1, old2: 2, b: 1 } });
    });

    test("that the cloud refuses stays, goes with every later one, and the module is not told", async () => {
      // 20 KB each: edgeHub looks at the patch alone, the cloud at the whole section.
      const bulk = Object.fromEntries(Array.from({ length: 5 }, (_, n) => [`k${n}`, "x".repeat(4000)]));
      expect((await module.report({ a: bulk })).status).toBe(204);
      await expect.poll(() => hub.cloud.twin(GW)?.reported).toEqual({ a: bulk });
      expect((await module.report({ b: bulk })).status).toBe(204);
      await sleep(2 * hub.settings.reportedSyncMs);
      expect((await module.report({ c: 3 })).status).toBe(204);
      await sleep(2 * hub.settings.reportedSyncMs);
      expect(hub.cloud.twin(GW)?.reported).toEqual({ a: bulk });
      await module.report({ a: null });
      await expect.poll(() => hub.cloud.twin(GW)?.reported).toEqual({ b: bulk, c: 3 });
    });

    test("arrives with its dates rewritten", async () => {
      await module.report({ at: "2026-01-02T03:04:05.120Z", day: "2026-01-02", local: "2026-01-02T03:04:05" });
      const reported = { at: "2026-01-02T03:04:05.12Z", day: "2026-01-02", local: "2026-01-02T03:04:05" };
      await expect.poll(() => hub.cloud.twin(GW)?.reported).toEqual(reported);
    });

    test("of an outage is pushed when edgeHub resumes", async () => {
      hub.wan.cut("silent");
      await module.report({ a: 1 });
      await sleep(150);
      expect(hub.cloud.twin(GW)?.reported).toEqual({});
      hub.wan.restore();
      await expect.poll(() => hub.cloud.twin(GW)?.reported).toEqual({ a: 1 });
    });
  });

  describe("a desired change", () => {
    test("is forwarded as it is when its version is the next one", async () => {
      await module.get();
      hub.cloud.patchDesired(GW, { a: { b: 1 } });
      hub.cloud.patchDesired(GW, { a: null });
      await expect
        .poll(() => module.desired)
        .toEqual([
          { a: { b: 1 }, $version: 2 },
          { a: null, $version: 3 },
        ]);
      expect(module.heard.at(-1)?.topic).toBe("$iothub/twin/PATCH/properties/desired/?$version=3");
    });

    test("reaches a module only after its first read", async () => {
      hub.cloud.patchDesired(GW, { a: 1 });
      hub.cloud.patchDesired(GW, { b: 1 });
      await expect.poll(() => module.desired).toEqual([{ b: 1, $version: 3 }]);
    });

    test("in the moment after the subscription is never sent, and the next one brings the difference", async () => {
      await using slow = await startQuickHub({ subscriptionDelayMs: 2_000 });
      await using other = await RawModule.connect(slow);
      await other.subscribe(TWIN_ANSWERS, DESIRED);
      await other.get();
      slow.cloud.patchDesired(GW, { a: 1 });
      await sleep(2_000);
      expect(other.desired).toEqual([]);
      slow.cloud.patchDesired(GW, { b: 2 });
      await expect.poll(() => other.desired).toEqual([{ a: 1, b: 2, $version: 3 }]);
    });

    test("of a short outage is never sent, and the next one brings the difference", async () => {
      await module.get();
      hub.wan.cut("silent");
      hub.cloud.patchDesired(GW, { a: 1 });
      hub.wan.restore();
      await expect.poll(() => hub.wan.connected).toBe(true);
      await module.telemetry("");
      expect(module.desired).toEqual([]);
      hub.cloud.patchDesired(GW, { b: 2 });
      await expect.poll(() => module.desired).toEqual([{ a: 1, b: 2, $version: 3 }]);
    });

    test("of a long outage is sent as one difference when edgeHub resumes", async () => {
      hub.cloud.patchDesired(GW, { gone: 1 });
      await module.get();
      hub.wan.cut("silent");
      hub.cloud.patchDesired(GW, { a: 1 });
      hub.cloud.patchDesired(GW, { gone: null });
      await sleep(hub.settings.minTwinSyncPeriodMs + 50);
      hub.wan.restore();
      await expect.poll(() => module.desired, { timeout: 5_000 }).toEqual([{ gone: null, a: 1, $version: 4 }]);
    });

    test("of a twin made anew takes the old keys away under a low version", async () => {
      await module.get();
      hub.cloud.patchDesired(GW, { old: 1 });
      hub.cloud.patchDesired(GW, { old: 2 });
      hub.cloud.recreate(GW);
      hub.cloud.patchDesired(GW, { fresh: 1 });
      const before = [
        { old: 1, $version: 2 },
        { old: 2, $version: 3 },
      ];
      await expect.poll(() => module.desired).toEqual([...before, { old: null, fresh: 1, $version: 2 }]);
    });
  });

  describe("telemetry and metrics", () => {
    const queue = () => metric(hub, "edgehub_queue_length", { endpoint: "iothub", priority: "2000000000" });
    const sentTotal = () => metric(hub, "edgehub_messages_sent_total", { from: "edge1/gw", to: "upstream" });
    const offline = () => metric(hub, "edgehub_offline_count_total", { id: "edge1/$edgeHub" });
    const onlineAgain = () => metric(hub, "edgehub_offline_duration_seconds_count", { id: "edge1/$edgeHub" });

    test("waits in order through a cut, while the metrics show a growing queue and a standing total", async () => {
      await module.telemetry("", "0");
      await expect.poll(sent).toEqual(["0"]);
      expect([await queue(), await sentTotal(), await offline(), await onlineAgain()]).toEqual([0, 1, undefined, 1]);
      hub.wan.cut("silent");
      for (const body of ["1", "2", "3"]) await module.telemetry("", body);
      expect([await queue(), await sentTotal(), await offline(), await onlineAgain()]).toEqual([3, 1, undefined, 1]);
      await expect.poll(offline, { timeout: 5_000 }).toBe(1);
      expect(await metric(hub, "edgehub_operation_retry_total", { operation: " SendMessageToCloud" })).toBe(1);
      expect(await onlineAgain()).toBe(1);
      hub.wan.restore();
      expect(sent()).toEqual(["0"]);
      await expect.poll(sent).toEqual(["0", "1", "2", "3"]);
      expect([await queue(), await sentTotal(), await offline(), await onlineAgain()]).toEqual([0, 4, 1, 2]);
    });

    test("counts nothing offline in a quiet outage", async () => {
      hub.wan.cut("refused");
      await sleep(hub.settings.offlineNoticeMs + 50);
      hub.wan.restore();
      await expect.poll(() => hub.wan.connected).toBe(true);
      expect([await offline(), await onlineAgain()]).toEqual([undefined, 1]);
    });

    test("counts reads answered by the cloud apart from those answered from the store", async () => {
      await module.get();
      hub.wan.cut("silent");
      await module.get();
      expect(await metric(hub, "edgehub_gettwin_total", UPSTREAM_READS)).toBe(1);
      expect(await metric(hub, "edgehub_gettwin_total", { source: "edge_hub", id: "edge1/gw" })).toBe(2);
    });

    test("names the process life on every series and is new after a restart", async () => {
      const instances = async () => {
        const text = await (await fetch(hub.metricsUrl)).text();
        return new Set([...text.matchAll(/instance_number="([^"]+)"/g)].map((match) => match[1]));
      };
      const [first] = await instances();
      await hub.killEdge("keep");
      await hub.startEdge();
      const after = await instances();
      expect(after.size).toBe(1);
      expect(after.has(first)).toBe(false);
    });

    test("lets a batch through for each round trip", async () => {
      await using slow = await startQuickHub({ cloudRoundTripMs: 60, maxUpstreamBatchSize: 2 });
      await using sender = await RawModule.connect(slow);
      const sizes: number[] = [];
      for (const body of ["1", "2", "3", "4", "5"]) await sender.telemetry("", body);
      await expect
        .poll(
          () => {
            const size = slow.cloud.events.length;
            if (size !== sizes.at(-1)) sizes.push(size);
            return size;
          },
          { interval: 5 },
        )
        .toBe(5);
      expect(sizes.filter((size) => size > 0)).toEqual([2, 4, 5]);
    });

    test("goes out slowly after a restart, until something new arrives from anybody", async () => {
      await using slow = await startQuickHub({ restartDrainIntervalMs: 600_000 });
      const bodies = Array.from({ length: 250 }, (_, n) => String(n));
      slow.wan.cut("silent");
      {
        await using sender = await RawModule.connect(slow);
        await Promise.all(bodies.map((body) => sender.telemetry("", body)));
      }
      await slow.killEdge("keep");
      slow.wan.restore();
      await slow.startEdge();
      await using again = await RawModule.connect(slow);
      await again.subscribe(TWIN_ANSWERS);
      await again.get();
      expect(slow.cloud.events).toEqual([]);
      await again.telemetry("", "new");
      await expect.poll(() => slow.cloud.events.map((event) => event.body.toString())).toEqual([...bodies, "new"]);
    });

    test("drops a message that outlived its time to live", async () => {
      await using brief = await startQuickHub({ timeToLiveSecs: 0.1 });
      await using sender = await RawModule.connect(brief);
      brief.wan.cut("refused");
      await sender.telemetry("", "old");
      await sleep(150);
      brief.wan.restore();
      await expect.poll(() => brief.drops.map((drop) => drop.reason)).toEqual(["time to live"]);
      expect(brief.cloud.events).toEqual([]);
    });
  });

  test("a method call meets a module that is offline while the line is cut", async () => {
    hub.wan.cut("refused");
    expect(await hub.cloud.invoke({ id: GW, name: "x", payload: null })).toEqual({ kind: "offline" });
    expect(module.heard).toEqual([]);
  });

  test("the probe is taken while the line is up, and refused while it is cut", async () => {
    expect(await probe(hub)).toBe("taken");
    hub.wan.cut("silent");
    await expect.poll(() => probe(hub)).toBe("refused");
    hub.wan.restore();
    await expect.poll(() => probe(hub)).toBe("taken");
  });
});

function nested(levels: number): string {
  return `${'{"a":'.repeat(levels - 1)}{}${"}".repeat(levels - 1)}`;
}

function probe(hub: DevHub): Promise<"taken" | "refused"> {
  return new Promise((resolve) => {
    const socket = connect(hub.probeAddress.port, hub.probeAddress.host);
    socket.once("connect", () => resolve("taken")).once("error", () => resolve("refused"));
    socket.once("connect", () => socket.destroy());
  });
}
