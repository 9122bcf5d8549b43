import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { CONFIG_KEYS, environmentName, isLive, mergeConfig } from "../../src/config.ts";
import type { Json } from "../../src/core/message.ts";
import { patchViolations, twinBytes } from "../../src/core/twin-limits.ts";
import { applyDesiredConfig, LiveConfig, parseLastDesired } from "../../src/live-config.ts";

function config(file: Record<string, unknown> = {}, environment: Record<string, string> = {}) {
  const result = mergeConfig(file, environment);
  if (result.kind === "invalid") throw new Error(JSON.stringify(result.problems));
  return result.config;
}

describe("layers", () => {
  test("defaults are what the design fixes", () => {
    expect(config()).toMatchObject({
      spillAfterMs: 200,
      commitIntervalMs: 100,
      timeToLiveSecs: 7_200,
      durability: "first-safe",
      reportedIntervalMs: 5_000,
      twinReadIntervalSecs: 900,
      retainAfterAckSecs: 60,
      maxTwinBytesPerLeaf: 8_192,
      tlsPort: 8883,
      authMode: "enforce",
    });
  });

  test("the environment wins over the file", () => {
    expect(config({ tlsPort: 1, spillAfterMs: 5 }, { GATEWAY_TLS_PORT: "2" })).toMatchObject({
      tlsPort: 2,
      spillAfterMs: 5,
    });
  });

  test("texts, numbers, switches, lists and objects are read from the environment", () => {
    const read = config(
      {},
      {
        GATEWAY_PLAIN_ENABLED: "true",
        GATEWAY_SERVER_NAMES: "a.example, b.example",
        GATEWAY_DENIED_LEAVES: '["x","y"]',
        GATEWAY_ALIASES: '{"leaf-1":"pump"}',
        GATEWAY_TLS_BIND: "0.0.0.0",
      },
    );
    expect(read).toMatchObject({
      plainEnabled: true,
      serverNames: ["a.example", "b.example"],
      deniedLeaves: ["x", "y"],
      aliases: { "leaf-1": "pump" },
      tlsBind: "0.0.0.0",
    });
  });

  test("every problem is listed, each under the name that the user wrote", () => {
    const result = mergeConfig({ tlsPort: "no", nothing: 1 }, { GATEWAY_SPILL_AFTER_MS: "-1", GATEWAY_NO_SUCH: "1" });
    expect(result.kind === "invalid" ? result.problems.map(({ key }) => key) : []).toEqual([
      "tlsPort",
      "nothing",
      "GATEWAY_SPILL_AFTER_MS",
      "GATEWAY_NO_SUCH",
    ]);
  });

  test("aliases must be names, unique, and not the gateway's own", () => {
    for (const aliases of [{ a: "x__y" }, { a: "gateway" }, { a: "x", b: "x" }, { a: "1x" }, { a: "x".repeat(41) }]) {
      expect(mergeConfig({ aliases }, {}).kind).toBe("invalid");
    }
    expect(mergeConfig({ aliases: { a: "x".repeat(40) } }, {}).kind).toBe("ok");
  });

  test.each([
    ["a, b", ["a", "b"]],
    ["4711", ["4711"]],
    ["4711,4712", ["4711", "4712"]],
    ['["a","b"]', ["a", "b"]],
    ["", []],
  ])("a list in the environment is written with commas or as JSON: %j", (text, deniedLeaves) => {
    expect(mergeConfig({}, { GATEWAY_DENIED_LEAVES: text })).toMatchObject({ kind: "ok", config: { deniedLeaves } });
  });

  test.each([
    { edgeHubMetricsUrl: "edgeHub:9600/metrics" },
    { edgeHubMetricsUrl: "metrics" },
    { wanProbeAddress: "proxy.example" },
    { wanProbeAddress: "http://proxy.example:3128" },
  ])("an address that could not be dialled is a problem at the start: %o", (file) => {
    expect(mergeConfig(file, {}).kind).toBe("invalid");
    expect(mergeConfig({ edgeHubMetricsUrl: "", wanProbeAddress: "proxy.example:3128" }, {}).kind).toBe("ok");
  });

  test("each key has a name of its own in the environment", () => {
    const names = CONFIG_KEYS.map(environmentName);
    expect(new Set(names).size).toBe(names.length);
    expect(environmentName("spillAfterMs")).toBe("GATEWAY_SPILL_AFTER_MS");
  });
});

describe("desired properties of the gateway's own component", () => {
  test("a live key is applied and acknowledged with 200 and the version", () => {
    const { config: applied, report } = applyDesiredConfig(config(), {}, { __t: "c", spillAfterMs: 50 }, 7);
    expect(applied.spillAfterMs).toBe(50);
    expect(report["spillAfterMs"]).toEqual({ value: 50, ac: 200, av: 7, ad: "applied" });
  });

  test("the version and the state of the whole are reported beside the acknowledgements", () => {
    expect(applyDesiredConfig(config(), {}, { spillAfterMs: 50 }, 7).report).toMatchObject({
      configVersion: 7,
      configStatus: "applied",
    });
    expect(applyDesiredConfig(config(), {}, { spillAfterMs: 0, nothing: 1 }, 8).report).toMatchObject({
      configVersion: 8,
      configStatus: expect.stringMatching(/^spillAfterMs: .+; nothing: there is no such key$/),
    });
  });

  test("a bad value keeps the desired one that was good, not that of file and environment", () => {
    const applied = applyDesiredConfig(config(), { spillAfterMs: 50 }, { spillAfterMs: "fast" }, 7);
    expect(applied.config.spillAfterMs).toBe(50);
    expect(applied.good).toEqual({ spillAfterMs: 50 });
    expect(applied.report["spillAfterMs"]).toMatchObject({ value: "fast", ac: 400, av: 7 });
  });

  test("a remembered value that this release would refuse is forgotten", () => {
    const applied = applyDesiredConfig(config(), { spillAfterMs: -1, gone: 1 }, { spillAfterMs: "fast", gone: 2 }, 7);
    expect(applied.config).toEqual(config());
    expect(applied.good).toEqual({});
  });

  test("a bad value keeps the good one and is acknowledged with 400", () => {
    const { config: applied, report, problems } = applyDesiredConfig(config(), {}, { spillAfterMs: "fast" }, 7);
    expect(applied.spillAfterMs).toBe(200);
    expect(report["spillAfterMs"]).toMatchObject({ value: "fast", ac: 400, av: 7 });
    expect(problems).toHaveLength(1);
  });

  test("acknowledgements stay small and legal, whatever is desired", () => {
    const unknown = Object.fromEntries(Array.from({ length: 3_000 }, (_, n) => [`k${n}`, n]));
    const long = Object.fromEntries(CONFIG_KEYS.map((key) => [key, "x".repeat(4_000)]));
    const odd = { "a#b": 1, "a\u00a0b": 2, deniedLeaves: ["a", null], aliases: { a: [null] } };
    for (const desired of [unknown, long, odd, { ...long, ...unknown, ...odd }]) {
      const { report } = applyDesiredConfig(config(), {}, desired, 7);
      const said = Object.fromEntries(Object.entries(report).filter(([, value]) => value !== null));
      expect(patchViolations({ gateway: said })).toEqual([]);
      expect(twinBytes(said)).toBeLessThan(8 * 1024);
    }
    const { report } = applyDesiredConfig(config(), {}, odd, 7);
    expect(report).toMatchObject({ deniedLeaves: { ac: 400, av: 7 }, "a#b": null });
  });

  test("an unknown key is 404, one that needs a restart 501", () => {
    const { report } = applyDesiredConfig(config(), {}, { nothing: 1, tlsPort: 5 }, 7);
    expect(report).toMatchObject({ nothing: { ac: 404 }, tlsPort: { ac: 501 } });
  });

  test("what is desired no more goes back to file and environment, and its report goes", () => {
    const base = config({ spillAfterMs: 300 });
    const { config: applied, report } = applyDesiredConfig(base, { spillAfterMs: 50 }, {}, 8);
    expect(applied).toEqual(base);
    expect(report["spillAfterMs"]).toBeNull();
  });

  test("whatever is desired, only live keys ever change", () => {
    fc.assert(
      fc.property(
        fc.dictionary(
          fc.constantFrom(...CONFIG_KEYS),
          fc.oneof(fc.integer(), fc.string(), fc.boolean(), fc.constant([])),
        ),
        (desired) => {
          const base = config();
          const { config: applied } = applyDesiredConfig(base, {}, desired, 1);
          for (const key of CONFIG_KEYS) if (!isLive(key)) expect(applied[key]).toEqual(base[key]);
          expect(mergeConfig({ ...applied }, {}).kind).toBe("ok");
        },
      ),
    );
  });
});

describe("the configuration in force", () => {
  const sections = fc.dictionary(
    fc.constantFrom("spillAfterMs", "logLevel", "tlsPort", "nothing"),
    fc.constantFrom<Json>(1, 2, -1, "debug", "warn", "bad", null),
  );

  test("is, key by key, the last good value since the key was last absent, whenever the gateway was killed", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(sections, fc.constantFrom("goes on", "killed"))), (history) => {
        const base = config({ spillAfterMs: 300 });
        let live = new LiveConfig({ base, changed: () => undefined });
        let memory: Json | undefined;
        const model = new Map<string, Json>();
        history.forEach(([section, fate], index) => {
          const change = live.desired(section, index + 1);
          memory = change.memory;
          if (fate === "goes on") change.apply();
          else {
            live = new LiveConfig({ base, changed: () => undefined });
            live.restore(parseLastDesired(memory, undefined, "gateway"));
          }
          for (const key of ["spillAfterMs", "logLevel"]) {
            const value = section[key];
            if (value === undefined) model.delete(key);
            else if (key === "logLevel" ? value === "debug" || value === "warn" : value === 1 || value === 2)
              model.set(key, value);
          }
          expect(live.config).toEqual({ ...base, ...Object.fromEntries(model) });
        });
      }),
    );
  });

  test("is found in a store that has only the module's desired document", () => {
    const module = { desired: { gateway: { logLevel: "debug" }, leaf1: { a: 1 } }, version: 12 };
    expect(parseLastDesired(undefined, module, "gateway")).toEqual({
      section: { logLevel: "debug" },
      version: 12,
      good: {},
    });
    expect(parseLastDesired(undefined, undefined, "gateway")).toBeUndefined();
    expect(parseLastDesired("damaged", { desired: [], version: "x" }, "gateway")).toBeUndefined();
  });
});
