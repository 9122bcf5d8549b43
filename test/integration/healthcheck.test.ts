/** The image's health check beside a running gateway, whatever port that has. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type DevHub, startDevHub } from "../../src/devhub/devhub.ts";
import { freePort, gatewayEnvironment, spawnGateway } from "../support/gateway-process.ts";

const CHECK = new URL("../../src/healthcheck.ts", import.meta.url).pathname;

let hub: DevHub;
let folder: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "healthcheck-"));
  hub = await startDevHub({ mqttPort: 0, servicePort: 0, metricsPort: 0, probePort: 0 });
});
afterAll(async () => {
  await hub[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

async function check(): Promise<number | null> {
  const child = spawn(process.execPath, [CHECK], { env: { GATEWAY_STATE: folder }, stdio: "ignore" });
  await once(child, "close");
  return child.exitCode;
}

describe("the health check", () => {
  it("asks where the gateway listens, and fails when it is gone", async () => {
    const environment = gatewayEnvironment(hub, 0, folder, { GATEWAY_OPS_ENABLED: "true", GATEWAY_OPS_PORT: "0" });
    await using gateway = spawnGateway({ ...environment, GATEWAY_OPS_BIND: "0.0.0.0" });
    await gateway.started;
    await expect.poll(check, { timeout: 30_000 }).toBe(0);
    await gateway.kill("SIGKILL");
    expect(await check()).toBe(1);
  });

  it("passes where the endpoint is switched off", async () => {
    await using gateway = spawnGateway(gatewayEnvironment(hub, 0, folder));
    await gateway.started;
    await expect.poll(check, { timeout: 30_000 }).toBe(0);
  });
});

describe("readiness", () => {
  it("waits for the first twin read, while the gateway is alive and lets leaves in", async () => {
    await hub.killEdge("keep");
    const ops = await freePort();
    const fresh = join(folder, "fresh");
    const environment = gatewayEnvironment(hub, 0, fresh, { GATEWAY_OPS_ENABLED: "true", GATEWAY_OPS_PORT: `${ops}` });
    await using gateway = spawnGateway(environment);
    await gateway.started;
    const ask = async (path: string) => {
      const answer = await fetch(`http://127.0.0.1:${ops}${path}`);
      return [answer.status, await answer.text()] as const;
    };
    expect(await ask("/readyz")).toEqual([503, expect.stringContaining("the module twin has never been read")]);
    expect(await ask("/healthz")).toEqual([200, "ok\n"]);
    await hub.startEdge();
    await expect.poll(() => ask("/readyz"), { timeout: 30_000 }).toEqual([200, "ok\n"]);
  });
});
