/**
 * What attacks cost a well-behaved leaf: its PUBACK times during each attack beside its quiet ones before. Attackers, hub and the leaf
 * share this process and the machine with the gateway's, so that the figures hold what the attackers themselves take.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { ATTACKS } from "../test/support/hostile-attacks.ts";
import { GoodLeaf, HostileWorld } from "../test/support/hostile-world.ts";
import { percentile } from "./percentile.ts";
import type { Section } from "./report.ts";

const QUIET_MS = 5_000;
/** Of about a second each. */
const ROUNDS = 3;

interface Figures {
  readonly count: number;
  readonly p50: number;
  readonly p99: number;
  readonly busyShare: number;
}

export async function hostile(): Promise<Section> {
  const world = await HostileWorld.start();
  try {
    return await underAttack(world);
  } finally {
    await world[Symbol.asyncDispose]();
  }
}

async function underAttack(world: HostileWorld): Promise<Section> {
  const good = await GoodLeaf.connect(world, "good");
  const measured = async (work: () => Promise<void>): Promise<Figures> => {
    const over = new AbortController();
    const [from, fromMs, fromBusyMs] = [good.tookMs.length, performance.now(), world.busyMs()];
    const working = good.work(over.signal, 5);
    await work();
    over.abort();
    await working;
    if (good.harm.length > 0) throw new Error(good.harm.join("; "));
    const took = good.tookMs.slice(from).toSorted((a, b) => a - b);
    const busyShare = (world.busyMs() - fromBusyMs) / (performance.now() - fromMs);
    return { count: took.length, p50: percentile(took, 0.5), p99: percentile(took, 0.99), busyShare };
  };
  // The first seconds of a process are not what it is like later.
  await measured(() => sleep(QUIET_MS));
  const quiet = await measured(() => sleep(QUIET_MS));
  const rows = [row("nothing else happens", quiet, quiet)];
  for (const [at, [name, attack]] of Object.entries(ATTACKS).entries()) {
    const during = await measured(async () => {
      for (let round = 0; round < ROUNDS; round += 1) await attack(world, `evil${at}-${round}`);
    });
    rows.push(row(name, during, quiet));
  }
  return {
    title: "A well-behaved leaf under attack",
    head: ["while", "messages", "p50 ms", "p99 ms", "p99 of quiet", "gateway busy"],
    rows,
    note: "Goal: p99 within 3 times its quiet value. No message was lost, no PUBACK took longer than 2 s, and the leaf never reconnected.",
  };
}

function row(name: string, { busyShare, count, p50, p99 }: Figures, quiet: Figures): readonly string[] {
  return [
    name,
    String(count),
    p50.toFixed(1),
    p99.toFixed(1),
    `${(p99 / quiet.p99).toFixed(1)}x`,
    `${Math.round(busyShare * 100)} %`,
  ];
}
