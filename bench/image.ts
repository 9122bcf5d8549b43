/**
 * `npm run bench:image`: what the image weighs, needs and takes to start, as the deployment manifest runs it. Measures and asserts nothing.
 * Needs an engine (`CI=1` brings one up). Memory is the container's, without the page cache that the kernel takes back at will; ARM images
 * are weighed and not run: under emulation nothing is measured.
 */
import { spawnSync } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { prepareContainers } from "../scripts/containers.ts";
import { ContainerWorld } from "../test/e2e/container-world.ts";
import { type RawLeaf, startRawLeaf } from "../test/e2e/raw-leaf.ts";
import { during } from "./processes.ts";

const LEAVES = Array.from({ length: 200 }, (_, index) => `leaf${index}`);
const STARTS = 5;
const SETTLE_MS = 15_000;
const BASES = {
  amd64: "node:22-bookworm-slim",
  arm32v7: "arm32v7/node:22-bookworm-slim",
  arm64v8: "arm64v8/node:22-bookworm-slim",
};

const prepared = prepareContainers((process.env["CI"] ?? "") !== "");
if (prepared.kind !== "ready") {
  console.error(prepared.reason);
  process.exit(1);
}
try {
  sizes();
  await during(ContainerWorld.start({ leaves: LEAVES }), running);
} finally {
  prepared.stop();
}

function sizes(): void {
  for (const [architecture, base] of Object.entries(BASES)) {
    const [whole, below] = [bytes(`iotedge-pnp-gateway:test-${architecture}`), bytes(base)];
    if (whole === undefined || below === undefined) console.log(`${architecture}: not built here`);
    else console.log(`${architecture}: ${megabytes(whole - below)} above ${base}`);
  }
}

function bytes(image: string): number | undefined {
  const { status, stdout } = spawnSync("docker", ["image", "inspect", "--format", "{{.Size}}", image], {
    encoding: "utf8",
  });
  return status === 0 ? Number(stdout) : undefined;
}

async function running(world: ContainerWorld): Promise<void> {
  await sleep(SETTLE_MS);
  console.log(`memory at rest: ${megabytes(await memory(world))}`);
  const leaves: RawLeaf[] = [];
  for (let from = 0; from < LEAVES.length; from += 20)
    leaves.push(...(await Promise.all(LEAVES.slice(from, from + 20).map((leafId) => connect(world, leafId)))));
  await Promise.all(leaves.map((leaf) => leaf.report({ temperature: 21 })));
  let highest = 0;
  for (let round = 0; round < 60; round += 1) {
    await Promise.all(leaves.map((leaf) => leaf.publish({ temperature: 21, round })));
    highest = Math.max(highest, await memory(world));
    await sleep(1_000);
  }
  console.log(
    `memory with 200 leaves over TLS, each publishing about once a second, after a minute: ${megabytes(await memory(world))}, highest ${megabytes(highest)}`,
  );
  await Promise.all(leaves.map((leaf) => leaf[Symbol.asyncDispose]()));
  const took: number[] = [];
  for (let start = 0; start < STARTS; start += 1) took.push(await coldStart(world));
  took.sort((a, b) => a - b);
  console.log(
    `cold start of the container to the first CONNACK, 200 leaves on the volume, ${STARTS} times: ${took.map((ms) => `${ms} ms`).join(", ")}`,
  );
}

/** From the engine's start of the made container, the time that a board or an update waits. */
async function coldStart(world: ContainerWorld): Promise<number> {
  const container = world.engine.container.getById(world.gateway.getId());
  await container.stop({ t: 10 });
  const began = performance.now();
  await container.start();
  for (;;) {
    try {
      const leaf = await connect(world, "leaf0", false);
      const ms = Math.round(performance.now() - began);
      await leaf[Symbol.asyncDispose]();
      return ms;
    } catch {
      await sleep(20);
    }
  }
}

function connect(world: ContainerWorld, leafId: string, retries = true): Promise<RawLeaf> {
  return startRawLeaf({ port: world.leafPort, caPem: world.cloud.caPem, leafId, key: world.leafKey(leafId), retries });
}

/** Bytes in use, as `docker stats` counts them: without inactive files. */
async function memory(world: ContainerWorld): Promise<number> {
  const { memory_stats: stats } = await world.engine.container.getById(world.gateway.getId()).stats({ stream: false });
  const inactive = stats.stats as unknown as Readonly<Record<string, number>>;
  return stats.usage - (inactive["inactive_file"] ?? inactive["total_inactive_file"] ?? 0);
}

function megabytes(count: number): string {
  return `${(count / 1e6).toFixed(0)} MB`;
}
