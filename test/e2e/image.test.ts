/** The image as a deployment runs it: what leaves of any make get through it, and what holds it in. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { ContainerWorld } from "./container-world.ts";
import { deployedGateway } from "./manifest.ts";
import { roundTrip, startProgram } from "./round-trip.ts";

const TIMEOUT_MS = 240_000;
const { hostConfig } = deployedGateway();

let world: ContainerWorld;

beforeAll(async () => {
  world = await ContainerWorld.start({ leaves: ["leaf1"] });
}, TIMEOUT_MS);

afterAll(async () => {
  await world?.[Symbol.asyncDispose]();
}, TIMEOUT_MS);

test(
  "a leaf's telemetry, twin and commands pass over TLS from an empty volume on",
  async () => {
    const program = await startProgram(world, "leaf1");
    await roundTrip(world, program, "first");
    await program.client.close();
  },
  TIMEOUT_MS,
);

test(
  "the limits of the manifest are in force in the container",
  async () => {
    const { gateway } = world;
    const { HostConfig } = await world.engine.container.getById(gateway.getId()).inspect();
    expect(HostConfig).toMatchObject({
      Memory: hostConfig.Memory,
      ReadonlyRootfs: true,
      CapDrop: ["ALL"],
      SecurityOpt: ["no-new-privileges"],
    });
    const { output } = await gateway.exec(["cat", "/proc/1/status"]);
    expect(output).toMatch(/^Uid:\t1000\t1000\t1000\t1000$/m);
    expect(output).toMatch(/^CapBnd:\t0+$/m);
    expect(output).toMatch(/^NoNewPrivs:\t1$/m);
    const write = (path: string) =>
      gateway.exec(["node", "-e", `require("node:fs").writeFileSync(${JSON.stringify(path)}, "x")`]);
    expect((await write("/app/x")).output).toContain("EROFS");
    expect((await write("/config/x")).output).toContain("EROFS");
    expect((await write("/data/x")).exitCode).toBe(0);
  },
  TIMEOUT_MS,
);

test(
  "the image's health check passes while it runs, and fails when the gateway does not answer",
  async () => {
    const check = (port: string) =>
      world.gateway.exec(["node", "dist/healthcheck.js"], { env: { GATEWAY_OPS_PORT: port } });
    expect((await check("9601")).exitCode).toBe(0);
    expect((await check("9")).exitCode).toBe(1);
  },
  TIMEOUT_MS,
);
