/** What every Upstream promises [src/flow/ports.ts], as tests for any implementation that somebody can put on a rig. */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Json, JsonObject } from "../../src/core/message.ts";
import type { CommandAnswer, Upstream } from "../../src/flow/ports.ts";
import { RecordingHub, telemetry, until } from "../support/upstream-harness.ts";

/** The far side of an Upstream under test. */
export interface UpstreamRig extends AsyncDisposable {
  readonly upstream: Upstream;
  /** Lets the link come up, and come back after each cut. */
  allowLink(): void;
  /** Breaks the link, and keeps it broken until {@link allowLink}. */
  breakLink(): void;
  /** Bodies that arrived, in order. */
  received(): string[];
  changeDesired(patch: JsonObject): void;
  command(name: string, payload: Json): Promise<CommandAnswer | undefined>;
  /** How twin requests are answered from now on. `hang`: not at all. */
  answerTwin(how: "normal" | "hang" | { readonly status: number }): void;
}

export function describeUpstream(name: string, start: () => Promise<UpstreamRig>): void {
  describe(`Upstream contract: ${name}`, () => {
    let rig: UpstreamRig;
    let hub: RecordingHub;

    beforeEach(async () => {
      rig = await start();
      hub = new RecordingHub();
      await rig.upstream.open(hub);
    });
    afterEach(async () => {
      await rig[Symbol.asyncDispose]();
    });

    async function up(): Promise<void> {
      const before = hub.ups;
      rig.allowLink();
      await until("the link", () => hub.ups > before);
    }

    it("fails every call at once while the link is down", async () => {
      const { upstream } = rig;
      for (const outcome of [
        await upstream.send("telemetry", telemetry("x")),
        await upstream.patchReported({ a: 1 }),
        await upstream.getTwin(),
      ]) {
        expect(outcome).toMatchObject({ kind: "failed", fault: { kind: "transient" } });
      }
      expect(hub.links).toEqual([]);
    });

    it("keeps the order of messages", async () => {
      await up();
      const texts = Array.from({ length: 50 }, (_, index) => `{"n":${index}}`);
      const outcomes = await Promise.all(texts.map((text) => rig.upstream.send("telemetry", telemetry(text))));
      expect(outcomes.every(({ kind }) => kind === "accepted")).toBe(true);
      await until("all messages", () => rig.received().length >= texts.length);
      expect(rig.received()).toEqual(texts);
    });

    it("reads the twin with its version and without $version inside", async () => {
      await up();
      rig.changeDesired({ interval: 5, nested: { deep: [1, { x: "y" }] } });
      const read = await rig.upstream.getTwin();
      expect(read).toMatchObject({
        kind: "read",
        twin: { desired: { interval: 5, nested: { deep: [1, { x: "y" }] } }, desiredVersion: 2 },
      });
      expect(JSON.stringify(read)).not.toContain("$version");
    });

    it("tells of a desired change with its version beside the patch", async () => {
      await up();
      // edgeHub sends changes only to those who have read their twin once.
      await rig.upstream.getTwin();
      rig.changeDesired({ leaf1: { __t: "c", a: null } });
      await until("the patch", () => hub.patches.length === 1);
      expect(hub.patches).toEqual([{ patch: { leaf1: { __t: "c", a: null } }, version: 2 }]);
    });

    it.each([
      [400, "rejected"],
      [429, "throttled"],
      [500, "transient"],
      [503, "transient"],
    ])("turns the status %i of a twin request into %s", async (status, kind) => {
      await up();
      rig.answerTwin({ status });
      expect(await rig.upstream.patchReported({ a: 1 })).toMatchObject({ kind: "failed", fault: { kind } });
      expect(await rig.upstream.getTwin()).toMatchObject({ kind: "failed", fault: { kind } });
      expect(hub.links).toEqual(["up"]);
    });

    it("accepts a reported patch that the hub takes", async () => {
      await up();
      expect(await rig.upstream.patchReported({ leaf1: { __t: "c", a: 1 } })).toEqual({ kind: "accepted" });
    });

    it("reads one twin at a time", async () => {
      await up();
      rig.answerTwin("hang");
      const first = rig.upstream.getTwin();
      expect(await rig.upstream.getTwin()).toMatchObject({
        kind: "failed",
        fault: { reason: "a twin read is under way" },
      });
      rig.breakLink();
      expect(await first).toMatchObject({ kind: "failed", fault: { kind: "transient" } });
    });

    it("fails what hangs when the link breaks, and tells of the break once", async () => {
      await up();
      rig.answerTwin("hang");
      const hanging = [rig.upstream.getTwin(), rig.upstream.patchReported({ a: 1 })];
      rig.breakLink();
      for (const outcome of await Promise.all(hanging))
        expect(outcome).toMatchObject({ kind: "failed", fault: { kind: "transient" } });
      await until("the break", () => !hub.isUp);
      expect(hub.links).toEqual(["up", "down"]);
    });

    it("comes back by itself and works as before", async () => {
      await up();
      rig.breakLink();
      await until("the break", () => !hub.isUp);
      await up();
      expect(await rig.upstream.send("telemetry", telemetry("again"))).toEqual({ kind: "accepted" });
      await rig.upstream.getTwin();
      rig.changeDesired({ a: 1 });
      await until("the patch", () => hub.patches.length === 1);
      expect(await rig.command("reboot", 1)).toEqual({ status: 200, payload: { got: 1 } });
      expect(hub.links).toEqual(["up", "down", "up"]);
    });

    it("makes a new link when asked to", async () => {
      await up();
      rig.upstream.reopen("the test says so");
      await until("the new link", () => hub.ups === 2);
      expect(hub.links).toEqual(["up", "down", "up"]);
    });

    it("hands a command of any name to the handler once and its answer to the caller", async () => {
      await up();
      expect(await rig.command("thermostat1__sensor*getMaxMinReport", { since: "2026-01-01" })).toEqual({
        status: 200,
        payload: { got: { since: "2026-01-01" } },
      });
      expect(hub.commands.map(({ name, payload }) => ({ name, payload }))).toEqual([
        { name: "thermostat1__sensor*getMaxMinReport", payload: { since: "2026-01-01" } },
      ]);
    });

    it("aborts a running command when the link breaks", async () => {
      await up();
      hub.answer = ({ signal }) =>
        new Promise((resolve) =>
          signal.addEventListener("abort", () => resolve({ status: 504, payload: null }), { once: true }),
        );
      const call = rig.command("slow", null);
      await until("the command", () => hub.commands.length === 1);
      rig.breakLink();
      await until("the abort", () => hub.commands[0]?.signal.aborted === true);
      await call;
    });

    it("tells nothing any more once it is disposed of", async () => {
      await up();
      await rig.upstream[Symbol.asyncDispose]();
      expect(hub.links).toEqual(["up", "down"]);
      rig.allowLink();
      expect(await rig.upstream.send("telemetry", telemetry("late"))).toMatchObject({ kind: "failed" });
      expect(hub.links).toEqual(["up", "down"]);
    });
  });
}
