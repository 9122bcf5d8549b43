/** The image as a deployment runs it: what leaves of any make get through it, and what holds it in. */
import { join } from "node:path";
import { GenericContainer } from "testcontainers";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { ContainerWorld, GATEWAY_HOST, WITHIN } from "./container-world.ts";
import { LABELS } from "./deployed-container.ts";
import { deployedGateway } from "./manifest.ts";
import { sasToken, userName } from "./raw-leaf.ts";
import { roundTrip, startProgram, telemetryArrives } from "./round-trip.ts";

const TIMEOUT_MS = 240_000;
const { hostConfig } = deployedGateway();
const SAMPLE = join(import.meta.dirname, "../../samples/temperature-controller.ts");

let world: ContainerWorld;

beforeAll(async () => {
  world = await ContainerWorld.start({ leaves: ["leaf1", "leaf2", "leaf3"], healthIntervalMs: 1_000 });
}, TIMEOUT_MS);

afterAll(async () => {
  await world?.[Symbol.asyncDispose]();
}, TIMEOUT_MS);

test(
  "on an empty volume, telemetry, twin and commands make the round trip over TLS",
  async () => {
    const leaf = await startProgram(world, "leaf1");
    await roundTrip(world, leaf, "first");
    const { HostConfig } = await world.engine.container.getById(world.gateway.getId()).inspect();
    expect(HostConfig.Memory).toBe(256 * 1024 * 1024);
    expect((await world.gateway.exec(["stat", "-c", "%u %a", "/data/store"])).output).toMatch(/^1000 /);
  },
  TIMEOUT_MS,
);

test(
  "a raw client of another make publishes and is commanded over TLS",
  async () => {
    await using mosquitto = await new GenericContainer("iotedge-pnp-gateway-mosquitto:test")
      .withAutoCleanup(false)
      .withLabels(LABELS)
      .withNetworkMode(world.fieldNetwork)
      .withCopyContentToContainer([{ content: world.cloud.caPem, target: "/tmp/ca.pem" }])
      .start();
    const run = (program: string, ...more: string[]) =>
      mosquitto.exec([program, ...connection("leaf2", world.leafKey("leaf2")), ...more]);
    const subscribing = run("mosquitto_sub", ..."-c -q 0 -C 1 -W 60 -v -t $iothub/methods/POST/#".split(" "));
    await vi.waitFor(async () => {
      const { payload } = await world.cloud.command("gateway*getLeaf", { leafId: "leaf2" });
      expect(payload).toMatchObject({ subscriptions: [expect.stringContaining("methods")] });
    }, WITHIN);
    // It hangs up without an answer, for which it has no words; the gateway has, whether it saw that in time or not.
    const commanding = world.cloud.command("leaf2*run", { mark: "told" });
    expect((await subscribing).output).toMatch(/^\$iothub\/methods\/POST\/run\/\?\$rid=\S+ \{"mark":"told"\}/);
    expect([404, 504]).toContain((await commanding).status);
    const topic = "devices/leaf2/messages/events/$.ct=application%2Fjson&$.ce=utf-8";
    const { exitCode, output } = await run("mosquitto_pub", "-t", topic, "-q", "1", "-m", '{"mark":"raw"}');
    expect({ exitCode, output }).toEqual({ exitCode: 0, output: "" });
    await telemetryArrives(world, "leaf2", "raw");
  },
  TIMEOUT_MS,
);

test(
  "the tutorials' temperature controller, a container beside it with the stock SDK, makes the round trip",
  async () => {
    await using _controller = await new GenericContainer("iotedge-pnp-gateway-devhub:test")
      .withAutoCleanup(false)
      .withLabels(LABELS)
      .withNetworkMode(world.fieldNetwork)
      .withCopyFilesToContainer([{ source: SAMPLE, target: "/app/samples/temperature-controller.ts" }])
      .withCopyContentToContainer([{ content: world.cloud.caPem, target: "/tmp/ca.pem" }])
      .withEntrypoint(["node"])
      .withCommand(["/app/samples/temperature-controller.ts"])
      .withEnvironment({
        LEAF_CONNECTION_STRING: world.leafConnectionString("leaf3", GATEWAY_HOST),
        LEAF_CA_FILE: "/tmp/ca.pem",
        LEAF_INTERVAL_MS: "500",
      })
      .start();
    await expect
      .poll(() => world.cloud.reported("leaf3__thermostat1"), WITHIN)
      .toMatchObject({ __t: "c", targetTemperature: { ac: expect.any(Number) } });
    await world.cloud.setDesired({ leaf3__thermostat1: { __t: "c", targetTemperature: 23.5 } });
    await expect
      .poll(() => world.cloud.reported("leaf3__thermostat1"), WITHIN)
      .toMatchObject({ targetTemperature: { value: 23.5, ac: 200 } });
    const since = new Date(Date.now() - 60_000).toISOString();
    await expect
      .poll(() => world.cloud.command("leaf3__thermostat1*getMaxMinReport", since), WITHIN)
      .toMatchObject({ status: 200, payload: { maxTemp: expect.any(Number) } });
    expect(world.cloud.messagesOf("leaf3").length).toBeGreaterThan(0);
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
  "the engine finds the container healthy, unhealthy while the gateway does not answer, and healthy again",
  async () => {
    const health = async () => (await world.gatewayState()).Health?.Status;
    const send = (signal: string) => {
      // The init is process 1; it hands on what can be handled, and these two cannot.
      const program = `const fs = require("node:fs");
        const pid = fs.readdirSync("/proc").find((id) => Number(id) > 1 && Number(id) !== process.pid && fs.readFileSync("/proc/" + id + "/cmdline", "utf8").includes("dist/main.js"));
        process.kill(Number(pid), "${signal}");`;
      return world.gateway.exec(["node", "-e", program]);
    };
    await expect.poll(health, WITHIN).toBe("healthy");
    expect(await send("SIGSTOP")).toMatchObject({ exitCode: 0, output: "" });
    await expect.poll(health, WITHIN).toBe("unhealthy");
    expect(await send("SIGCONT")).toMatchObject({ exitCode: 0, output: "" });
    await expect.poll(health, WITHIN).toBe("healthy");
  },
  TIMEOUT_MS,
);

test(
  "SIGTERM ends it at once, however early in its start it comes",
  async () => {
    for (const afterMs of [0, 50, 200, 500]) {
      const state = await world.endDuringStart(afterMs);
      // 143: before the program had a word in it; 0: by the program. 137 would be the engine's, after the grace of 10 s.
      expect([0, 143], `after ${afterMs} ms`).toContain(state.ExitCode);
    }
  },
  TIMEOUT_MS,
);

/** Of Mosquitto's clients, as the IoT Hub dialect wants it. */
function connection(leafId: string, key: string): readonly string[] {
  return `-h ${GATEWAY_HOST} -p 8883 --cafile /tmp/ca.pem -i ${leafId} -u ${userName(leafId)} -P`
    .split(" ")
    .concat(sasToken(leafId, key));
}
