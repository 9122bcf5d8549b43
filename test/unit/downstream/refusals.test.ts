/** The lines that refusals make: once per leaf, reason and minute, and never a flood, whoever pretends to be whom. */
import { describe, expect, test } from "vitest";
import { Refusals } from "../../../src/downstream/refusals.ts";
import { ManualClock } from "../../support/manual-clock.ts";
import { RecordingLog } from "../../support/recording-log.ts";
import { RecordingMetrics } from "../../support/recording-metrics.ts";

function make() {
  const [clock, log, metrics] = [new ManualClock(), new RecordingLog(), new RecordingMetrics()];
  return { clock, log, metrics, refusals: new Refusals({ clock, log, metrics }) };
}

describe("Refusals", () => {
  test("are written once per leaf, reason and minute", async () => {
    const { clock, log, refusals } = make();
    const refuse = () => {
      for (const leafId of ["a", "b", undefined])
        for (const reason of ["rate", "credentials"] as const) refusals.refused(reason, { leafId, remoteAddress: "x" });
    };
    for (let round = 0; round < 5; round += 1) refuse();
    expect(log.lines).toHaveLength(6);
    await clock.advance(60_000);
    refuse();
    expect(log.lines).toHaveLength(12);
  });

  test("of one address under ever new names are thirty lines a minute, all of them counted, and others still have theirs", async () => {
    const { clock, log, metrics, refusals } = make();
    for (let at = 0; at < 10_000; at += 1)
      refusals.refused("credentials", { leafId: `made-up-${at}`, remoteAddress: "10.0.0.66" });
    expect(log.lines).toHaveLength(30);
    refusals.refused("credentials", { leafId: "honest", remoteAddress: "10.0.0.7" });
    expect(log.lines.at(-1)?.fields).toMatchObject({ leafId: "honest" });
    expect(metrics.value("leaf_refused_total", { reason: "credentials" })).toBe(10_001);
    await clock.advance(60_000);
    refusals.refused("credentials", { leafId: "next", remoteAddress: "10.0.0.66" });
    expect(log.lines.slice(-2).map(({ event, fields }) => [event, fields["refusals"]])).toEqual([
      ["more refusals than are worth a line each", 9_970],
      ["a leaf was refused", undefined],
    ]);
  });

  test("of a thousand addresses are three hundred lines, and what is remembered has an end", () => {
    const { log, refusals } = make();
    for (let at = 0; at < 20_000; at += 1)
      refusals.refused("tls", { leafId: undefined, remoteAddress: `10.0.${at % 250}.${Math.floor(at / 250)}` });
    expect(log.lines).toHaveLength(300);
    expect(refusals.remembered).toBeLessThanOrEqual(4_096);
  });
});
