import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseEdgeHubMetrics } from "../../../src/upstream/edgehub-metrics.ts";
import { parseMetrics, sumOf } from "../../../src/upstream/prometheus-text.ts";

const COMMON = 'iothub="h.azure-devices.net",edge_device="edge1",instance_number="6b0e-1"';
const PAGE = `# HELP edgehub_queue_length Number of messages pending to be processed for the endpoint
# TYPE edgehub_queue_length gauge
edgehub_queue_length{${COMMON},endpoint="iothub",priority="2000000000",ms_telemetry="True"} 3
edgehub_queue_length{${COMMON},endpoint="iothub",priority="0",ms_telemetry="True"} 4
edgehub_queue_length{${COMMON},endpoint="edge1/other/in",priority="0",ms_telemetry="True"} 50
edgehub_messages_sent_total{${COMMON},from="edge1/gw",to="upstream",ms_telemetry="True"} 1.5e3 1395066363000
edgehub_messages_sent_total{${COMMON},from="edge1/gw",to="edge1/other",ms_telemetry="True"} 9
edgehub_offline_duration_seconds_count{${COMMON},id="edge1/$edgeHub"} 2
edgehub_offline_duration_seconds_count{${COMMON},id="edge2/$edgeHub"} 7
edgehub_offline_duration_seconds_sum{${COMMON},id="edge1/$edgeHub"} NaN
edgehub_gettwin_total{${COMMON},source="upstream",id="edge1/gw"} 5
edgehub_gettwin_total{${COMMON},source="edge_hub",id="edge1/gw"} 8
edgehub_gettwin_total{${COMMON},source="upstream",id="edge1/other"} 100
process_cpu_seconds_total 12
`;

describe("parseEdgeHubMetrics", () => {
  it("reads the page of one module's edgeHub; what is missing is 0", () => {
    expect(parseEdgeHubMetrics(PAGE, { deviceId: "edge1", moduleId: "gw" })).toEqual({
      instance: "6b0e-1",
      backlog: 7,
      sentUpstream: 1500,
      onlineCount: 2,
      offlineCount: 0,
      cloudReads: 5,
    });
  });

  it("reads an empty page", () => {
    expect(parseEdgeHubMetrics("", { deviceId: "edge1", moduleId: "gw" })).toMatchObject({
      instance: undefined,
      backlog: 0,
    });
  });
});

describe("parseMetrics", () => {
  it("never throws", () => {
    const names = new Set(["a"]);
    fc.assert(fc.property(fc.string(), (text) => void parseMetrics(`a${text}\na{${text}} 1`, names)));
  });

  it("reads back any label and value", () => {
    const escape = (text: string) => text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
    const name = fc.stringMatching(/^[a-z_][a-z0-9_]{0,8}$/);
    const number = fc.double({ noNaN: true, noDefaultInfinity: true });
    fc.assert(
      fc.property(fc.dictionary(name, fc.string({ unit: "grapheme" })), number, (labels, value) => {
        const line = `m{${Object.entries(labels)
          .map(([key, text]) => `${key}="${escape(text)}"`)
          .join(",")}} ${value}`;
        expect(parseMetrics(line, new Set(["m"]))).toEqual([{ name: "m", labels, value: Number(String(value)) }]);
      }),
    );
  });

  it("ends a line at a line feed only: other line separators belong to a value", () => {
    for (const text of ["a\u2028b", "a\u2029b", "a\rb"])
      expect(parseMetrics(`m{l="${text}"} 1`, new Set(["m"]))).toEqual([{ name: "m", labels: { l: text }, value: 1 }]);
  });

  it("knows infinities and skips what is no number", () => {
    const samples = parseMetrics("m +Inf\nm -Inf\nm NaN\nm\nother 1", new Set(["m"]));
    expect(samples.map(({ value }) => value)).toEqual([Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]);
    expect(sumOf(samples, "missing", {})).toBe(0);
  });
});
