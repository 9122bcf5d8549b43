/** `npm run hub` against a service API, with a gateway that knows two leaves. */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Json, JsonObject } from "../../src/core/message.ts";
import { parseDurationMs, parseValue } from "../../src/devhub/cli-format.ts";
import { leavesOfTwin, resolveTarget } from "../../src/devhub/cli-leaves.ts";
import { runCli } from "../../src/devhub/cli-run.ts";
import type { MethodCall, MethodOutcome } from "../../src/devhub/cloud-types.ts";
import { writeServiceFile } from "../../src/devhub/service-api-file.ts";
import { GW, type ServiceRig, startServiceRig } from "./devhub-service-harness.ts";

const LEAF1 = {
  leafId: "leaf1",
  component: "leaf1",
  components: { thermostat1: "leaf1__thermostat1", thermostat2: "leaf1__thermostat2" },
  modelId: "dtmi:com:example:TemperatureController;2",
  connected: true,
  removed: false,
};
const DOTTED = {
  ...LEAF1,
  leafId: "hall.7",
  component: "hall_7_0a1b2c3d",
  components: {},
  modelId: null,
  connected: false,
};
const GONE = { ...LEAF1, leafId: "gone", component: "gone", components: {}, removed: true };

let rig: ServiceRig;
let state: string;
let leaves: Json;
let calls: { name: string; payload: Json | undefined }[];
let controls: { name: string; args: JsonObject }[];

beforeEach(async () => {
  controls = [];
  const recorded = (name: string) => (args: JsonObject) => {
    controls.push({ name, args });
    return Promise.resolve(typeof args["forMs"] === "number" ? { endsAt: "2026-01-02T03:04:05.000Z" } : {});
  };
  const names = ["wan-down", "wan-up", "cut"];
  rig = await startServiceRig({ controls: Object.fromEntries(names.map((name) => [name, recorded(name)])) });
  leaves = [LEAF1, DOTTED, GONE];
  calls = [];
  rig.cloud.setMethodRoute((call) => Promise.resolve(answer(call)));
  state = mkdtempSync(join(tmpdir(), "cli-"));
  const caFile = join(state, "ca.pem");
  writeFileSync(caFile, rig.caPem);
  writeServiceFile(state, { url: rig.url, caFile, connectionString: rig.api.connectionString, ...GW });
});
afterEach(async () => {
  await rig[Symbol.asyncDispose]();
  rmSync(state, { recursive: true, force: true });
});

function answer({ name, payload }: MethodCall): MethodOutcome {
  if (name === "gateway*listLeaves") return { kind: "answer", status: 200, payload: leaves };
  calls.push({ name, payload });
  return { kind: "answer", status: name.endsWith("*fail") ? 404 : 200, payload: { ran: name } };
}

async function hub(...argv: string[]): Promise<{ code: number; out: string; complaint: string }> {
  const out: string[] = [];
  const complaints: string[] = [];
  const code = await runCli(argv, {
    environment: { DEVHUB_STATE: state },
    print: (line) => out.push(line),
    complain: (line) => complaints.push(line),
    signal: new AbortController().signal,
  });
  return { code, out: out.join("\n"), complaint: complaints.join("\n") };
}

const desired = () => rig.cloud.twin(GW)?.desired;

describe("set", () => {
  it.each([
    [
      "a component that only one leaf has",
      ["thermostat1.targetTemperature", "23"],
      { leaf1__thermostat1: { __t: "c", targetTemperature: 23 } },
    ],
    [
      "a leaf and its component",
      ["leaf1.thermostat2.targetTemperature", "-4.5"],
      { leaf1__thermostat2: { __t: "c", targetTemperature: -4.5 } },
    ],
    ["a leaf itself", ["leaf1.name", "kitchen"], { leaf1: { __t: "c", name: "kitchen" } }],
    ["a leaf with a dot in its id", ["hall.7.on", "true"], { hall_7_0a1b2c3d: { __t: "c", on: true } }],
    ["a component of the module", ["leaf1__thermostat1.x", "[1]"], { leaf1__thermostat1: { __t: "c", x: [1] } }],
    [
      "a part of an object",
      ["thermostat1.limits.max", "30"],
      { leaf1__thermostat1: { __t: "c", limits: { max: 30 } } },
    ],
    ["the gateway", ["gateway.spillAfterMs", "300"], { gateway: { __t: "c", spillAfterMs: 300 } }],
    ["the leaf named by --leaf", ["on", "true", "--leaf", "hall.7"], { hall_7_0a1b2c3d: { __t: "c", on: true } }],
    ["the component named by --component", ["a", "1", "--component", "leaf9__x"], { leaf9__x: { __t: "c", a: 1 } }],
  ])("writes to %s", async (_, argv, expected) => {
    const result = await hub("set", ...argv);
    expect(result).toMatchObject({ code: 0, complaint: "" });
    expect(desired()).toEqual(expected);
    expect(result.out).toContain("desired version 2");
  });

  it("writes to the only leaf when none is named", async () => {
    leaves = [LEAF1];
    expect(await hub("set", "serial", "1")).toMatchObject({ code: 0 });
    expect(desired()).toEqual({ leaf1: { __t: "c", serial: 1 } });
  });

  it("finds components in the twin while the gateway is away", async () => {
    rig.cloud.setMethodRoute(() => Promise.resolve({ kind: "offline" }));
    const marked = { __t: "c" };
    rig.cloud.patchReported(GW, { gateway: marked, leaf1: marked, leaf1__thermostat1: marked, plain: 1 });
    expect(await hub("set", "thermostat1.targetTemperature", "23")).toMatchObject({ code: 0 });
    expect(await hub("set", "serial", "7")).toMatchObject({ code: 0 });
    expect(desired()).toEqual({
      leaf1__thermostat1: { __t: "c", targetTemperature: 23 },
      leaf1: { __t: "c", serial: 7 },
    });
  });

  it("removes a property with null", async () => {
    await hub("set", "thermostat1.targetTemperature", "23");
    await hub("set", "thermostat1.targetTemperature", "null");
    expect(desired()).toEqual({ leaf1__thermostat1: { __t: "c" } });
  });

  it.each([
    ["more than one leaf could be meant", ["name", "x"], /which leaf\? Say --leaf <id>, one of leaf1, hall\.7/],
    [
      "the leaf has no such component",
      ["leaf1.cooler.on", "true"],
      /no component cooler \(it has thermostat1, thermostat2\)/,
    ],
    ["there is no such leaf", ["name", "x", "--leaf", "leaf9"], /no leaf leaf9; there are leaf1, hall\.7/],
    ["the value is broken JSON", ["leaf1.name", "{a:1}"], /not JSON.*Quote it/],
    ["the path has an empty part", ["leaf1..x", "1"], /empty part/],
    ["the value is missing", ["leaf1.name"], /a property and a value/],
    ["the hub refuses it", ["leaf1.a$b", "1"], /the hub refuses: .*not allowed/],
  ])("writes nothing and says so when %s", async (_, argv, complaint) => {
    const result = await hub("set", ...argv);
    expect(result.code).toBe(1);
    expect(result.complaint).toMatch(complaint);
    expect(desired()).toEqual({});
  });

  it("names two leaves that both have the component", async () => {
    leaves = [LEAF1, { ...LEAF1, leafId: "leaf2", component: "leaf2" }];
    expect((await hub("set", "thermostat1.x", "1")).complaint).toContain("one of leaf1, leaf2");
  });
});

describe("command", () => {
  it.each([
    [
      ["thermostat1*getMaxMinReport", "2026-01-01T00:00:00Z"],
      "leaf1__thermostat1*getMaxMinReport",
      "2026-01-01T00:00:00Z",
    ],
    [["leaf1*reboot", "3"], "leaf1*reboot", 3],
    [["leaf1.thermostat2*getMaxMinReport"], "leaf1__thermostat2*getMaxMinReport", undefined],
    [["reboot", "--leaf", "leaf1", "1"], "leaf1*reboot", 1],
    [["gateway*ping"], "gateway*ping", undefined],
    [["hall.7*blink", "{}"], "hall_7_0a1b2c3d*blink", {}],
  ])("%j calls %s", async (argv, name, payload) => {
    const result = await hub("command", ...argv);
    expect(result).toEqual({ code: 0, complaint: "", out: `200  ${JSON.stringify({ ran: name })}` });
    expect(calls).toEqual([{ name, payload }]);
  });

  it("exits with 1 when the leaf's answer is a failure", async () => {
    expect(await hub("command", "leaf1*fail")).toMatchObject({ code: 1, out: '404  {"ran":"leaf1*fail"}' });
  });
});

describe("the other commands", () => {
  it("show the module twin whole, or the part of one leaf", async () => {
    await hub("set", "thermostat1.a", "1");
    await hub("set", "hall.7.b", "2");
    expect(JSON.parse((await hub("twin")).out)).toMatchObject({
      moduleId: "gw",
      properties: { desired: { $version: 3 } },
    });
    expect((await hub("twin")).out).not.toContain("$metadata");
    expect(JSON.parse((await hub("twin", "--json")).out)).toMatchObject({
      etag: expect.any(String),
      properties: { desired: { $version: 3, $metadata: expect.any(Object) } },
    });
    const part = JSON.parse((await hub("twin", "--leaf", "leaf1")).out) as { desired: object };
    expect(part.desired).toEqual({ leaf1__thermostat1: { __t: "c", a: 1 }, $version: 3 });
  });

  it("list the leaves that are there, not the removed ones", async () => {
    expect((await hub("leaves")).out.split("\n")).toEqual([
      "LEAF    STATE      COMPONENTS                                   MODEL",
      "leaf1   connected  leaf1 leaf1__thermostat1 leaf1__thermostat2  dtmi:com:example:TemperatureController;2",
      "hall.7  away       hall_7_0a1b2c3d                              -",
    ]);
  });

  it("cut and mend the lines through the controls", async () => {
    expect((await hub("offline", "30s")).out).toContain("until 03:04:05 UTC");
    await hub("offline", "--mode", "refused");
    await hub("online");
    await hub("cut", "10");
    await hub("cut");
    await hub("control", "cut", '{"forMs":5}');
    expect(controls).toEqual([
      { name: "wan-down", args: { forMs: 30_000, mode: "silent" } },
      { name: "wan-down", args: { mode: "refused" } },
      { name: "wan-up", args: {} },
      { name: "cut", args: { forMs: 10_000 } },
      { name: "cut", args: {} },
      { name: "cut", args: { forMs: 5 } },
    ]);
    expect((await hub("control")).out).toBe("cut\nwan-down\nwan-up");
  });

  it("follow events until the user has had enough", async () => {
    const enough = new AbortController();
    const lines: string[] = [];
    const system = { ct: "application/json", sub: "leaf1__thermostat1" };
    const body = Buffer.from('{"temperature":21}');
    const beat = setInterval(() => {
      rig.cloud.deliver({ ...GW, system, properties: { leafId: "leaf1" }, body, modelId: undefined, enqueuedMs: 0 });
    }, 5);
    const code = await runCli(["events"], {
      environment: { DEVHUB_STATE: state },
      print: (line) => {
        lines.push(line);
        enough.abort();
      },
      complain: (line) => lines.push(line),
      signal: enough.signal,
    });
    clearInterval(beat);
    expect(code).toBe(0);
    expect(lines[0]).toMatch(/^\d\d:\d\d:\d\d\.\d{3}  telemetry  leaf1  leaf1__thermostat1  \{"temperature":21\}$/);
  });
});

describe("mistakes", () => {
  it("tell how to start a hub that never ran", async () => {
    rmSync(join(state, "service.json"));
    expect(await hub("leaves")).toMatchObject({ code: 1, complaint: expect.stringContaining("npm start") });
  });

  it("tell that the hub does not run now", async () => {
    await rig.api[Symbol.asyncDispose]();
    expect(await hub("leaves")).toMatchObject({
      code: 1,
      complaint: "The development hub does not answer. Start it with: npm start",
    });
  });

  it("tell that the gateway is away", async () => {
    rig.cloud.setMethodRoute(() => Promise.resolve({ kind: "offline" }));
    expect((await hub("leaves")).complaint).toContain("the gateway is not connected");
  });

  it("tell which commands and options there are", async () => {
    expect(await hub("fly")).toMatchObject({ code: 2, complaint: expect.stringContaining("twin, leaves, set") });
    expect(await hub("leaves", "--leaf", "x")).toMatchObject({
      code: 2,
      complaint: expect.stringContaining("Usage: npm run hub -- leaves"),
    });
    expect(await hub("set", "--help")).toMatchObject({ code: 0, out: expect.stringContaining("--leaf <id>") });
    expect(await hub("help", "set")).toEqual(await hub("set", "--help"));
    expect(await hub("help", "fly")).toMatchObject({ code: 2, complaint: expect.stringContaining("no command fly") });
    expect((await hub()).code).toBe(2);
    expect((await hub("toString")).code).toBe(2);
  });
});

describe("words of the command line", () => {
  it.each([
    ["30s", 30_000],
    ["500ms", 500],
    ["2m", 120_000],
    ["1h", 3_600_000],
    ["1.5s", 1_500],
    ["7", 7_000],
    ["0s", undefined],
    ["-3s", undefined],
    ["soon", undefined],
    ["3 s", undefined],
  ])("read %s as a duration", (text, ms) => {
    expect(parseDurationMs(text)).toBe(ms);
  });

  it("take what looks like JSON only as JSON", () => {
    expect(parseValue("23")).toEqual({ kind: "json", value: 23 });
    expect(parseValue("on")).toEqual({ kind: "json", value: "on" });
    expect(parseValue('"on')).toEqual({ kind: "invalid" });
  });

  it("read leaves off a twin: a leaf that has only components too, the gateway and marks not", () => {
    const section = { $version: 3, $metadata: {}, gateway: {}, b__x__y: {}, a: {}, a__t1: {}, scalar: 1 };
    expect(leavesOfTwin([section, { a__t2: {} }])).toMatchObject([
      { leafId: "a", component: "a", components: { t1: "a__t1", t2: "a__t2" } },
      { leafId: "b", component: "b", components: { x__y: "b__x__y" } },
    ]);
  });

  it("do not take a name of Object.prototype for a component", () => {
    expect(resolveTarget("toString.x", [LEAF1], undefined)).toMatchObject({ kind: "unclear" });
  });
});
