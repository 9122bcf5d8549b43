import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { WanState } from "../../src/core/wan.ts";
import type { Upstream, WanHandler, WanWatch } from "../../src/flow/ports.ts";
import { createWanWatch, type WanWatchOptions } from "../../src/upstream/wan-watch.ts";
import { type EdgeHubRig, startEdgeHubRig } from "../support/edgehub-rig.ts";
import { RecordingLog } from "../support/recording-log.ts";
import { realClock, telemetry, until } from "../support/upstream-harness.ts";

const MODULE = { deviceId: "edge1", moduleId: "gw" };

class RecordingWan implements WanHandler {
  readonly states: WanState[] = [];
  readonly backlogs: number[] = [];
  readonly asOfMs: number[] = [];
  /** How often it had heard of a backlog when it heard of each instance. */
  readonly looksBefore: number[] = [];
  readonly instances: string[] = [];

  wan(state: WanState): void {
    this.states.push(state);
  }
  edgeHubInstance(instance: string): void {
    this.looksBefore.push(this.backlogs.length);
    this.instances.push(instance);
  }
  backlog(messages: number, asOfMs: number): void {
    this.backlogs.push(messages);
    this.asOfMs.push(asOfMs);
  }
}

let rig: EdgeHubRig;
let upstream: Upstream;
let watch: WanWatch;
let heard: RecordingWan;
let log: RecordingLog;

async function startWatch(options: Partial<WanWatchOptions> = {}): Promise<void> {
  watch = createWanWatch({
    metricsUrl: rig.devHub.metricsUrl,
    probe: rig.devHub.probeAddress,
    identity: MODULE,
    nested: false,
    wanProbeSecs: () => 0.05,
    clock: realClock,
    log,
    limits: { scrapeEveryMs: 30, scrapeTimeoutMs: 500, probeAwayMs: 30, probeTimeoutMs: 500 },
    ...options,
  });
  await watch.open(heard);
}

beforeEach(async () => {
  rig = await startEdgeHubRig({
    settings: { readInOutageMs: 100, wakingReadMs: 100, resumeAfterSilentMs: 500, resumeAfterRefusedMs: 500 },
  });
  ({ upstream } = rig);
  await upstream.open(rig.hub);
  await until("the link", () => rig.hub.isUp);
  heard = new RecordingWan();
  log = new RecordingLog();
});
afterEach(async () => {
  await watch[Symbol.asyncDispose]();
  await rig[Symbol.asyncDispose]();
});

describe("WanWatch", () => {
  it("finds the line up, cut, and up again", async () => {
    await startWatch();
    await until("online", () => heard.states.at(-1) === "online");
    rig.devHub.wan.cut("refused");
    await until("away", () => heard.states.at(-1) === "away");
    rig.devHub.wan.restore();
    await until("the return", () => heard.states.at(-1) === "online");
    expect(heard.states).toEqual(["online", "away", "online"]);
  });

  it("tells of a return also when nobody had seen the line go: the probe failed from the start, and edgeHub said online", async () => {
    rig.devHub.wan.cut("refused");
    await startWatch({ metricsUrl: rig.devHub.metricsUrl });
    await until("online by edgeHub's counts", () => heard.states.at(-1) === "online");
    await until("a probe that is set aside", () => log.lines.some(({ event }) => event.includes("set aside")));
    rig.devHub.wan.restore();
    await until("the return", () => heard.states.length > 1);
    expect(heard.states).toEqual(["online", "online"]);
  });

  it("no longer believes a probe that has failed for long when something comes from the cloud", async () => {
    let passedMs = 0;
    const clock = { ...realClock, steady: () => realClock.steady() + passedMs };
    await startWatch({ metricsUrl: undefined, clock });
    await until("online", () => heard.states.at(-1) === "online");
    rig.devHub.wan.cut("refused");
    await until("away", () => heard.states.at(-1) === "away");
    watch.heard();
    expect(heard.states.at(-1)).toBe("away");
    passedMs = 61_000;
    watch.heard();
    expect(heard.states.at(-1)).toBe("unknown");
  });

  it("tells of edgeHub's backlog", async () => {
    await startWatch();
    rig.devHub.wan.cut("silent");
    for (const n of [1, 2, 3]) await upstream.send("telemetry", telemetry(String(n)));
    await until("the backlog", () => heard.backlogs.at(-1) === 3);
    rig.devHub.wan.restore();
    await until("its end", () => heard.backlogs.at(-1) === 0);
  });

  it("tells of which moment the backlog is: a page that is slow in coming shows nothing newer than its request", async () => {
    const page = 'edgehub_queue_length{endpoint="iothub"} 0\n';
    let askedMs = 0;
    const slow = createServer((_request, response) => {
      askedMs = realClock.steady();
      setTimeout(() => response.end(page), 50);
    });
    await new Promise<void>((resolve) => slow.listen(0, "127.0.0.1", resolve));
    const { port } = slow.address() as AddressInfo;
    await startWatch({ metricsUrl: `http://127.0.0.1:${port}/metrics`, limits: { scrapeEveryMs: 600_000 } });
    await until("the page", () => heard.backlogs.length > 0);
    expect(heard.asOfMs[0]).toBeLessThanOrEqual(askedMs);
    await new Promise((resolve) => slow.close(resolve));
  });

  it("tells of a new edgeHub process, once", async () => {
    await startWatch();
    await until("the first look", () => heard.backlogs.length > 0);
    await rig.devHub.killEdge("keep");
    await until("the missing page", () => log.lines.some(({ level }) => level === "warn"));
    await rig.devHub.startEdge();
    await until("the restart", () => heard.instances.length > 1);
    const looks = heard.backlogs.length;
    await until("more looks", () => heard.backlogs.length > looks + 3);
    expect(new Set(heard.instances).size).toBe(2);
    // Before the first backlog that is its own.
    expect(heard.looksBefore[0]).toBe(0);
  });

  it("proves by a counter that a read came from the cloud", async () => {
    await startWatch();
    const before = (await watch.cloudReads()) ?? Number.NaN;
    await upstream.getTwin();
    expect(await watch.cloudReads()).toBe(before + 1);
    rig.devHub.wan.cut("refused");
    expect(await upstream.getTwin()).toMatchObject({ kind: "read" });
    expect(await watch.cloudReads()).toBe(before + 1);
  });

  it("proves nothing behind a parent edgeHub, or without metrics", async () => {
    await startWatch({ nested: true });
    expect(await watch.cloudReads()).toBeUndefined();
    await watch[Symbol.asyncDispose]();
    await startWatch({ metricsUrl: undefined });
    expect(await watch.cloudReads()).toBeUndefined();
  });

  it("says once that there are no metrics, and goes on with the probe", async () => {
    await startWatch({ metricsUrl: `http://127.0.0.1:${rig.devHub.probeAddress.port}/metrics` });
    await until("online by the probe", () => heard.states.at(-1) === "online");
    await until("the warning", () => log.lines.some(({ level }) => level === "warn"));
    expect(await watch.cloudReads()).toBeUndefined();
    expect(log.lines.filter(({ level }) => level === "warn")).toHaveLength(1);
    rig.devHub.wan.cut("refused");
    await until("away by the probe", () => heard.states.at(-1) === "away");
  });

  it("does not make a read wait for a page that was not there just now", async () => {
    let asked = 0;
    const mute = createServer(() => {
      asked += 1;
    });
    await new Promise<void>((resolve) => mute.listen(0, "127.0.0.1", resolve));
    const { port } = mute.address() as AddressInfo;
    await startWatch({
      metricsUrl: `http://127.0.0.1:${port}/metrics`,
      limits: { scrapeEveryMs: 600_000, scrapeTimeoutMs: 200 },
    });
    await until("the warning", () => log.lines.some(({ level }) => level === "warn"));
    expect(await watch.cloudReads()).toBeUndefined();
    expect(asked).toBe(1);
    await new Promise((resolve) => mute.close(resolve));
  });
});
