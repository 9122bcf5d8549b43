/** `npm start` as a user runs it: hub and gateway come up together, serve, and go together. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import mqtt from "mqtt";
import { expect, onTestFinished, test, vi } from "vitest";
import { freePort } from "../support/gateway-process.ts";

const ROOT = join(import.meta.dirname, "../..");
const WITHIN = { timeout: 60_000, interval: 50 };

interface Started {
  readonly npm: ChildProcess;
  readonly environment: NodeJS.ProcessEnv;
  /** Both streams. */
  said(): string;
  /** When every process that could still write has ended. */
  readonly ended: Promise<number | null>;
}

async function npmStart(own: Readonly<Record<string, string>>): Promise<Started> {
  const folder = mkdtempSync(join(tmpdir(), "npm-start-"));
  const hubPorts = ["MQTT", "PLAIN_MQTT", "SERVICE", "METRICS", "PROBE"].map((name) => [`DEVHUB_${name}_PORT`, "0"]);
  const environment = {
    ...process.env,
    ...Object.fromEntries(hubPorts),
    GATEWAY_STATE: folder,
    GATEWAY_OPS_PORT: "0",
    ...own,
  };
  const npm = spawn("npm", ["start"], {
    cwd: ROOT,
    env: environment,
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  let said = "";
  for (const stream of [npm.stdout, npm.stderr]) stream.on("data", (chunk: Buffer) => (said += chunk.toString()));
  const ended = new Promise<number | null>((resolve) => npm.once("close", (code) => resolve(code)));
  onTestFinished(async () => {
    // Whatever a failed test has left of the whole group.
    if (npm.pid !== undefined) spawnSync("kill", ["-KILL", "--", `-${npm.pid}`]);
    await ended;
    rmSync(folder, { recursive: true, force: true });
  });
  return { npm, environment, said: () => said, ended };
}

test.each(["SIGINT", "SIGTERM"] as const)(
  "a leaf's message is seen from the second terminal, and %s ends all of it",
  async (signal) => {
    const [tls, plain] = [await freePort(), await freePort()];
    const started = await npmStart({ GATEWAY_TLS_PORT: String(tls), GATEWAY_PLAIN_PORT: String(plain) });
    await vi.waitUntil(() => started.said().includes("In a second terminal"), WITHIN);
    expect(started.said()).toContain(`localhost:${plain} (plain MQTT)`);
    const leaf = await mqtt.connectAsync(`mqtt://127.0.0.1:${plain}`, {
      clientId: "leaf2",
      username: "any.azure-devices.net/leaf2/?api-version=2021-04-12",
      password: "any",
      protocolVersion: 4,
    });
    await leaf.publishAsync("devices/leaf2/messages/events/", '{"temperature": 21}', { qos: 1 });
    await leaf.endAsync();
    const hub = (...words: string[]): string =>
      spawnSync(process.execPath, ["src/devhub/cli.ts", ...words], {
        cwd: ROOT,
        env: started.environment,
        encoding: "utf8",
      }).stdout;
    await vi.waitUntil(() => hub("leaves").includes("leaf2"), WITHIN);
    // As a terminal does it, to the whole group; or as whoever ends npm alone.
    if (signal === "SIGINT") spawnSync("kill", [`-${signal.slice(3)}`, "--", `-${started.npm.pid}`]);
    else started.npm.kill(signal);
    await started.ended;
  },
);

test("a port that is taken is an error that names the setting, and nothing stays behind", async () => {
  const other = createServer();
  await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void other.close());
  const address = other.address();
  const taken = typeof address === "object" && address !== null ? address.port : 0;
  const started = await npmStart({ GATEWAY_TLS_PORT: String(taken), GATEWAY_PLAIN_PORT: "0" });
  expect(await started.ended).toBe(1);
  expect(started.said()).toMatch(/PORT_TAKEN: .*tlsPort/);
});
