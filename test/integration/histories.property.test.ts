import fc from "fast-check";
import { expect, test } from "vitest";
import { live } from "../support/history.ts";
import { history, type Step } from "../support/history-steps.ts";

const RUNS = Number(process.env["HISTORIES"] ?? 300);
const SEED = process.env["SEED"] === undefined ? undefined : Number(process.env["SEED"]);

test(`G1 G2 G3 G4 G8 hold through ${RUNS} random histories of cuts, kills, full disks and twins made anew`, {
  timeout: 3_600_000,
}, async () => {
  const options = { numRuns: RUNS, ...(SEED === undefined ? {} : { seed: SEED }) };
  const result = await fc.check(
    fc.asyncProperty(history, (steps) => live(steps)),
    options,
  );
  if (result.failed)
    throw new Error(`seed ${result.seed}: ${String(result.errorInstance)}\n${JSON.stringify(result.counterexample)}`);
  expect(result.numRuns).toBe(RUNS);
});

test("power-safe holds through random histories", { timeout: 3_600_000 }, async () => {
  const runs = Math.ceil(RUNS / 5);
  const options = { numRuns: runs, ...(SEED === undefined ? {} : { seed: SEED }) };
  const result = await fc.check(
    fc.asyncProperty(history, (steps) => live(steps, { durability: "power-safe" })),
    options,
  );
  if (result.failed)
    throw new Error(`seed ${result.seed}: ${String(result.errorInstance)}\n${JSON.stringify(result.counterexample)}`);
  expect(result.numRuns).toBe(runs);
});

test("G2 G3 G4 hold through random histories where nobody can tell who answers a twin read", {
  timeout: 3_600_000,
}, async () => {
  const runs = Math.ceil(RUNS / 5);
  const options = { numRuns: runs, ...(SEED === undefined ? {} : { seed: SEED }) };
  // Nor with a watch that is wrong for ever: then only what comes from the cloud would tell, and that sets the probe aside.
  const seeing = history.map((steps) => steps.filter(({ kind }) => kind !== "blind"));
  const result = await fc.check(
    fc.asyncProperty(seeing, (steps) => live(steps, {}, { hasMetrics: false })),
    options,
  );
  if (result.failed)
    throw new Error(`seed ${result.seed}: ${String(result.errorInstance)}\n${JSON.stringify(result.counterexample)}`);
  expect(result.numRuns).toBe(runs);
});

/** Counterexamples of earlier versions, kept. */
const FOUND: readonly (readonly [name: string, steps: readonly Step[]])[] = [
  [
    "a held patch of a life that is over does not make the gateway read for ever",
    [
      { kind: "desire", leaf: 0, patch: { p: "x" }, heard: false },
      { kind: "lose-answer" },
      { kind: "desire", leaf: 1, patch: { q: 1 }, heard: true },
      { kind: "pass", ms: 30_000 },
      { kind: "recreate" },
    ],
  ],
  [
    "telemetry after a twin made anew does not take the new section for heard",
    [
      { kind: "desire", leaf: 0, patch: { p: 0 }, heard: false },
      { kind: "pass", ms: 30_000 },
      { kind: "recreate" },
      { kind: "disk", fails: 1, how: 30 },
      { kind: "link", state: "up" },
      { kind: "telemetry", leaf: 0, count: 1 },
    ],
  ],
  [
    "a SUBSCRIBE that is stored after the connection has ended opens no channel",
    [
      { kind: "desire", leaf: 0, patch: null, heard: false },
      { kind: "pass", ms: 30_000 },
      { kind: "disk", fails: 1, how: 30 },
      { kind: "connect", leaf: 2 },
      { kind: "recreate" },
      { kind: "link", state: "up" },
      { kind: "desire", leaf: 2, patch: { p: 0 }, heard: false },
    ],
  ],
  [
    "a component that was removed and made again loses its old keys, whichever notices the leaf has seen",
    [
      { kind: "desire", leaf: 1, part: true, patch: { p: 0 }, heard: true },
      { kind: "recreate" },
      { kind: "link", state: "up" },
      { kind: "desire", leaf: 1, part: true, patch: { p: null }, heard: false },
      { kind: "desire", leaf: 0, patch: { p: null }, heard: true },
      { kind: "connect", leaf: 0 },
    ],
  ],
  [
    "a twin answer on a connection that is just being closed does not count as heard",
    [
      { kind: "disk", fails: 1, how: 30 },
      { kind: "connect", leaf: 2 },
      { kind: "disk", fails: 1, how: "fail" },
      { kind: "desire", leaf: 2, patch: { p: 0 }, heard: false },
      { kind: "pass", ms: 30_000 },
      { kind: "disk", fails: 1, how: 30 },
      { kind: "recreate" },
      { kind: "connect", leaf: 2 },
      { kind: "telemetry", leaf: 0, count: 1 },
    ],
  ],
  [
    "a record whose write failed and is on disk all the same is written again even when nothing seems to change",
    [
      { kind: "disconnect", leaf: 1 },
      { kind: "disk", fails: 1, how: "fail-written" },
      { kind: "connect", leaf: 1, clean: true },
      { kind: "connect", leaf: 1, clean: false },
      { kind: "desire", leaf: 1, part: false, patch: { p: "x" }, heard: false },
      { kind: "kill", afterWrites: 0 },
    ],
  ],
  [
    "a removed leaf that is confirmed and never reads again hears what is desired",
    [
      { kind: "remove", leaf: 0, confirm: false },
      { kind: "desire", leaf: 0, part: false, patch: { p: "x" }, heard: false },
      { kind: "pass", ms: 0 },
    ],
  ],
  [
    "a change that edgeHub's comparison after an outage tells by its version alone is told to the leaf",
    [
      { kind: "connect", leaf: 2, clean: false },
      { kind: "desire", leaf: 2, part: false, patch: { p: "x" }, heard: false },
      { kind: "desire", leaf: 0, part: false, patch: { p: null }, heard: true },
      { kind: "wan", state: "cut", told: false },
      { kind: "pass", ms: 30_000 },
      { kind: "desire", leaf: 2, part: false, patch: { q: null }, heard: false },
      { kind: "pass", ms: 130_000 },
    ],
  ],
  [
    "a removal of nothing that edgeHub's comparison after an outage shows as an empty component is told to the leaf",
    [
      { kind: "connect", leaf: 2, clean: false },
      { kind: "desire", leaf: 2, part: true, patch: { p: "x" }, heard: false },
      { kind: "desire", leaf: 0, part: false, patch: { p: null }, heard: true },
      { kind: "wan", state: "cut", told: false },
      { kind: "pass", ms: 30_000 },
      { kind: "desire", leaf: 2, part: false, patch: { p: null }, heard: false },
      { kind: "pass", ms: 130_000 },
    ],
  ],
  [
    "a change that was missed reaches its leaf although the WAN is taken for away for ever",
    [
      { kind: "blind" },
      { kind: "desire", leaf: 0, part: false, patch: { p: 0 }, heard: false },
      { kind: "disconnect", leaf: 0 },
    ],
  ],
  [
    "a value that was written as it was, in an outage and beside another, is told although edgeHub's comparison hides it",
    [
      { kind: "desire", leaf: 0, part: false, patch: { p: 1 }, heard: true },
      { kind: "wan", state: "cut", told: true },
      { kind: "pass", ms: 130_000 },
      { kind: "desire", leaf: 0, part: false, patch: { p: 1, q: 2 }, heard: true },
      { kind: "wan", state: "up", told: true },
    ],
  ],
  [
    "power-safe: a backlog that was empty in the moment in which edgeHub took a message says nothing of it",
    [
      { kind: "kill", afterWrites: 0 },
      { kind: "telemetry", leaf: 0, count: 1 },
      { kind: "pass", ms: 130_000 },
      { kind: "wan", state: "cut", told: false },
      { kind: "link", state: "up" },
      { kind: "pass", ms: 130_000 },
      { kind: "edge-restart", lose: true, toldAfter: false },
      { kind: "connect", leaf: 0, clean: false },
    ],
  ],
  [
    "power-safe: what edgeHub took is not forgotten while its backlog was never seen empty",
    [
      { kind: "telemetry", leaf: 0, count: 1 },
      { kind: "wan", state: "cut", told: false },
      { kind: "pass", ms: 30_000 },
      { kind: "kill", afterWrites: 0 },
      { kind: "pass", ms: 130_000 },
      { kind: "edge-restart", lose: true, toldAfter: false },
      { kind: "report", leaf: 0, patch: {} },
    ],
  ],
];

test.each(FOUND)("%s", async (name, steps) => {
  await live(steps, name.startsWith("power-safe") ? { durability: "power-safe" } : {});
});
