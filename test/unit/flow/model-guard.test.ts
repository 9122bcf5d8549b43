import { expect, test } from "vitest";
import { parseModels } from "../../../src/core/dtdl.ts";
import type { LeafRecord } from "../../../src/core/leaf.ts";
import { ModelGuard } from "../../../src/flow/model-guard.ts";
import { RecordingLog } from "../../support/recording-log.ts";
import { RecordingMetrics } from "../../support/recording-metrics.ts";

test("a message with thousands of names that its model does not know costs twenty notes", () => {
  const id = "dtmi:com:example:Small;1";
  const { models } = parseModels([
    { "@context": "dtmi:dtdl:context;2", "@type": "Interface", "@id": id, contents: [] },
  ]);
  const [log, metrics] = [new RecordingLog(), new RecordingMetrics()];
  const guard = new ModelGuard({ models, policy: () => "enforce", log, metrics });
  const body = Object.fromEntries(Array.from({ length: 20_000 }, (_, at) => [`name${at}`, 1]));
  // Nothing else of the record is looked at.
  const record = { leafId: "leaf", modelId: id } as unknown as LeafRecord;
  const telemetry = { payload: Buffer.from(JSON.stringify(body)), system: {}, properties: {} };
  expect(guard.telemetry(record, telemetry)).toMatch(/name0/);
  expect(log.lines).toHaveLength(20);
  expect(metrics.value("model_violations_total", { rule: "unknown" })).toBe(20);
});
