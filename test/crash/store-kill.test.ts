/** SIGKILL under load: what was called durable is there, nothing is half there (promise G1 through `kill -9` of the gateway). */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import { expect, test } from "vitest";
import { checkHistory, seeded } from "../support/store-history.ts";
import { LevelRig } from "../support/store-samples.ts";

const CHILD = new URL("../support/store-crash-child.ts", import.meta.url).pathname;
const ROUNDS = process.env["CI"] === "1" ? 100 : 10;
const SEED = Number(process.env["SEED"] ?? Date.now() % 1_000_000);

test(`${ROUNDS} kills at random moments lose nothing and leave nothing half done (SEED=${SEED})`, {
  timeout: 180_000,
}, async () => {
  await using rig = await LevelRig.create();
  const random = seeded(SEED);
  let there = 0;
  let grown = 0;
  for (let round = 0; round < ROUNDS; round += 1) {
    const child = spawn(process.execPath, [CHILD, rig.folder, String(there), "1000000", String(SEED + round)], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const acknowledged = await killAtRandom(child, random);
    await using store = await rig.open();
    const now = await checkHistory(store, Math.max(there, acknowledged));
    if (now > there) grown += 1;
    there = now;
  }
  expect(rig.metrics.total("store_damaged_total")).toBe(0);
  // The test means something only when the kills hit a store at work.
  expect(grown).toBeGreaterThan(ROUNDS / 2);
});

/** How many commits were acknowledged: all before the lowest one that is missing. */
async function killAtRandom(child: ChildProcess, random: () => number): Promise<number> {
  let output = "";
  const exit = once(child, "close");
  const { stdout } = child;
  if (stdout === null) throw new Error("the child has no output");
  const opened = new Promise<void>((resolve) => {
    stdout.on("data", (chunk) => {
      output += String(chunk);
      if (output.startsWith("open\n")) resolve();
    });
  });
  await Promise.race([opened, exit]);
  await delay(random() ** 2 * 250);
  child.kill("SIGKILL");
  await exit;
  expect(output).not.toContain("failed");
  const numbers = output.split("\n").slice(1, -1).map(Number);
  return numbers.length === 0 ? 0 : Math.max(...numbers) + 1;
}
