/** G5: leaves with keys from end to end: tokens that end and are renewed, keys that change, ids that are kept out, and secrets that stay secret. */
import { createHmac } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import azureIotDevice from "azure-iot-device";
import azureIotDeviceMqtt from "azure-iot-device-mqtt";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { mergeConfig } from "../../src/config.ts";
import { startDevHub } from "../../src/devhub/devhub.ts";
import { startGateway } from "../../src/gateway.ts";
import { type GatewayRig, startRig, WITHIN } from "../support/gateway-rig.ts";
import { events, RawLeaf } from "../support/leaf-client.ts";
import { TravelClock } from "../support/travel-clock.ts";

const { Client, Message, SharedAccessKeyAuthenticationProvider } = azureIotDevice;
const { Mqtt } = azureIotDeviceMqtt;

const HUB = "devhub.azure-devices.net";
const LOOK_AGAIN_MS = 10_000;

function key(text: string): string {
  return Buffer.from(`${text}, thirty-two bytes or more of it`).toString("base64");
}

/** As an enrolment group derives it. */
function derived(groupKey: string, leafId: string): string {
  return createHmac("sha256", Buffer.from(groupKey, "base64")).update(leafId).digest("base64");
}

function token(leafId: string, withKey: string, endsMs: number): Buffer {
  const sr = encodeURIComponent(`${HUB}/devices/${leafId}`);
  const se = Math.floor(endsMs / 1000);
  const sig = createHmac("sha256", Buffer.from(withKey, "base64")).update(`${sr}\n${se}`).digest("base64");
  return Buffer.from(`SharedAccessSignature sr=${sr}&sig=${encodeURIComponent(sig)}&se=${se}`);
}

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "security-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function file(name: string, content: unknown): string {
  const path = join(folder, name);
  writeFileSync(path, typeof content === "string" ? content : JSON.stringify(content));
  return path;
}

function raw(rig: GatewayRig): RawLeaf {
  return new RawLeaf(connect(rig.plainPort, "127.0.0.1"));
}

describe("an SDK leaf", () => {
  test("with a key of its own or of the group renews its token again and again, and nothing is lost", async () => {
    const [own, group] = [key("own"), key("group")];
    await using rig = await startRig({
      config: {
        authMode: "enforce",
        leafKeysFile: file("renewing-keys.json", { renewing: { primary: own } }),
        groupKeyFile: file("renewing-group", group),
      },
    });
    const host = `HostName=${HUB};GatewayHostName=localhost:${rig.tlsPort}`;
    const leaves = [
      ["renewing", own],
      ["member", derived(group, "member")],
    ] as const;
    const clients = [];
    for (const [leafId, leafKey] of leaves) {
      // The SDK's own renewal, of tokens of three seconds instead of an hour.
      const provider = SharedAccessKeyAuthenticationProvider.fromConnectionString(
        `${host};DeviceId=${leafId};SharedAccessKey=${leafKey}`,
        3,
        2,
      );
      clients.push({ leafId, client: await rig.openLeaf(Client.fromAuthenticationProvider(provider, Mqtt)) });
    }
    const sent = new Map(leaves.map(([leafId]) => [leafId, 0]));
    while (((await rig.metric("leaf_connects_total")) ?? 0) < 8)
      for (const { client, leafId } of clients) {
        const number = sent.get(leafId) ?? 0;
        await client.sendEvent(new Message(String(number)));
        sent.set(leafId, number + 1);
      }
    for (const [leafId, count] of sent)
      await expect
        .poll(() => new Set(rig.eventsOf(leafId).map(({ body }) => Buffer.from(body).toString())).size, WITHIN)
        .toBe(count);
    expect(await rig.metric('leaf_refused_total{reason="credentials"}')).toBeUndefined();
  });

  test("with a wrong key is told that it is not authorised, offline as well", async () => {
    await using rig = await startRig({
      config: { authMode: "enforce", leafKeysFile: file("wrong-keys.json", { wronged: { primary: key("right") } }) },
    });
    const host = `HostName=${HUB};GatewayHostName=localhost:${rig.tlsPort}`;
    const open = (leafId: string, leafKey: string) =>
      rig.openLeaf(Client.fromConnectionString(`${host};DeviceId=${leafId};SharedAccessKey=${leafKey}`, Mqtt));
    await rig.hub.killEdge("keep");
    await expect(open("wronged", key("wrong"))).rejects.toMatchObject({ name: "UnauthorizedError" });
    await expect(open("unknown", key("right"))).rejects.toMatchObject({ name: "UnauthorizedError" });
    const client = await open("wronged", key("right"));
    await client.sendEvent(new Message("offline"));
    expect(await rig.metric('leaf_refused_total{reason="credentials"}')).toBeGreaterThanOrEqual(2);
  });
});

test("a connection ends 300 s after its token, not before, and a new token lets the leaf in again", async () => {
  const clock = new TravelClock();
  const own = key("ending");
  await using rig = await startRig({
    clock,
    config: { authMode: "enforce", leafKeysFile: file("ending.json", { ending: { primary: own } }) },
  });
  const leaf = raw(rig);
  const endsMs = clock.now() + 3_600_000;
  expect((await leaf.connect("ending", { password: token("ending", own, endsMs) })).code).toBe(0);
  clock.travel(3_600_000 + 240_000);
  await leaf.ping();
  expect(leaf.isClosed).toBe(false);
  clock.travel(61_000);
  await leaf.closed;
  expect(await rig.metric("leaf_tokens_expired_total")).toBe(1);
  const [late, renewed] = [raw(rig), raw(rig)];
  expect((await late.connect("ending", { password: token("ending", own, endsMs) })).code).toBe(5);
  expect((await renewed.connect("ending", { password: token("ending", own, clock.now() + 60_000) })).code).toBe(0);
  renewed.cut();
});

describe("keys that change", () => {
  test("take effect without a restart: rotation costs no connection, and a key that is gone ends the one made with it", async () => {
    const clock = new TravelClock();
    const [first, second, third] = [key("first"), key("second"), key("third")];
    const keys = (primary: string, secondary?: string) => file("rotating.json", { rotating: { primary, secondary } });
    await using rig = await startRig({ clock, config: { authMode: "enforce", leafKeysFile: keys(first, second) } });
    const endsMs = clock.now() + 3_600_000;
    const connectWith = async (withKey: string) => {
      const leaf = raw(rig);
      return { leaf, ...(await leaf.connect("rotating", { password: token("rotating", withKey, endsMs) })) };
    };
    const lookedAgain = async () => {
      clock.travel(LOOK_AGAIN_MS);
      await new Promise((resolve) => setImmediate(resolve));
    };
    const changed = async (primary: string, secondary?: string) => {
      keys(primary, secondary);
      await lookedAgain();
    };

    const old = await connectWith(first);
    expect(old.code).toBe(0);
    // The leaf still has the first key, the second one becomes the primary; then the leaf moves on, then the first one goes.
    await changed(second, first);
    await old.leaf.ping();
    const moved = await connectWith(second);
    expect(moved.code).toBe(0);
    await old.leaf.closed;
    await changed(second, third);
    await moved.leaf.ping();
    expect((await connectWith(first)).code).toBe(5);
    await moved.leaf.ping();

    await changed(third);
    await moved.leaf.closed;
    expect((await connectWith(second)).code).toBe(5);
    expect((await connectWith(third)).code).toBe(0);

    file("rotating.json", "{ half a fi");
    await lookedAgain();
    await expect
      .poll(() => rig.log.filter((line) => line.includes("cannot be read")).length, WITHIN)
      .toBeGreaterThan(0);
    expect((await connectWith(third)).code).toBe(0);
  });
});

test("a leaf that is denied by a desired property is put out at once, and others stay", async () => {
  await using rig = await startRig();
  const [bad, good] = [raw(rig), raw(rig)];
  await bad.connect("stolen");
  await good.connect("honest");
  await rig.setDesired({ gateway: { deniedLeaves: ["stolen"] } });
  await bad.closed;
  await good.ping();
  const again = raw(rig);
  expect((await again.connect("stolen")).code).toBe(5);
  await rig.setDesired({ gateway: { deniedLeaves: null } });
  await expect.poll(async () => (await raw(rig).connect("stolen")).code, WITHIN).toBe(0);
  good.cut();
});

test("while the clock is not set nobody is judged: CONNACK 3, and let in as soon as it is", async () => {
  const own = key("early");
  const clock = new TravelClock(-10 * 365 * 24 * 3_600_000);
  await using hub = await startDevHub({ mqttPort: 0, servicePort: 0, metricsPort: 0, probePort: 0 });
  const merged = mergeConfig(
    {
      authMode: "enforce",
      leafKeysFile: file("early.json", { early: { primary: own } }),
      tlsEnabled: false,
      plainEnabled: true,
      plainPort: 0,
      opsEnabled: false,
    },
    {},
  );
  if (merged.kind === "invalid") throw new Error("the configuration is wrong");
  const stateFolder = join(folder, "early");
  const options = { config: merged.config, environment: hub.environment(), stateFolder, bootId: "b", clock };
  await using gateway = await startGateway({ ...options, logDestination: { write: () => undefined } });
  const leaf = () => new RawLeaf(connect(gateway.broker.ports.plain ?? 0, "127.0.0.1"));
  const password = token("early", own, Date.now() + 3_600_000);
  expect((await leaf().connect("early", { password })).code).toBe(3);
  // Even what is wrong for sure is not called wrong now.
  expect((await leaf().connect("early", { password: Buffer.from("nothing") })).code).toBe(3);
  clock.travel(10 * 365 * 24 * 3_600_000);
  expect((await leaf().connect("early", { password })).code).toBe(0);
});

test("no key, token or private key shows in log, metrics, twin, diagnostics or status", async () => {
  const [own, spare, group] = [key("own secret"), key("spare secret"), key("group secret")];
  await using rig = await startRig({
    config: {
      authMode: "enforce",
      logLevel: "debug",
      leafKeysFile: file("secret.json", { secretive: { primary: own, secondary: spare } }),
      groupKeyFile: file("secret-group", group),
    },
  });
  const password = token("secretive", own, Date.now() + 3_600_000);
  const wrong = token("secretive", key("wrong secret"), Date.now() + 3_600_000);
  const leaf = raw(rig);
  expect((await leaf.connect("secretive", { password })).code).toBe(0);
  leaf.publish(events("secretive"), "x");
  await leaf.pubacks(1);
  expect((await raw(rig).connect("secretive", { password: wrong })).code).toBe(5);
  const connectionString = Buffer.from(`HostName=${HUB};DeviceId=secretive;SharedAccessKey=${own}`);
  expect((await raw(rig).connect("secretive", { password: connectionString })).code).toBe(5);
  file("secret.json", `{ "secretive": { "primary": "${own}", "secondary": "no base64 ${spare}" } }`);
  await rig.restartGateway();
  await expect.poll(() => rig.gateway.relay.synchronised, WITHIN).toBe(true);
  await expect
    .poll(async () => (await rig.command("gateway*ping", {}).catch(() => undefined))?.status, WITHIN)
    .toBe(200);
  const shown = [
    rig.log.join(""),
    await rig.gateway.metricsText(),
    JSON.stringify(rig.moduleTwin()),
    JSON.stringify((await rig.command("gateway*getDiagnostics", {})).payload),
    JSON.stringify((await rig.command("gateway*getLeaf", { leafId: "secretive" })).payload),
    await (await fetch(`http://127.0.0.1:${rig.gateway.opsPort}/`)).text(),
  ].join("\n");
  const signature = /sig=([^&]+)/.exec(password.toString())?.[1] ?? "none";
  const secrets = [own, spare, group, derived(group, "secretive"), signature, decodeURIComponent(signature)];
  for (const secret of secrets) expect(shown).not.toContain(secret);
  expect(shown).not.toContain("PRIVATE KEY");
  expect(shown).toContain("secretive");
  leaf.cut();
});
