/** G5: leaves over TLS from end to end: unmodified SDKs with X.509, and server certificates that look after themselves. */
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect as connectTls, type DetailedPeerCertificate } from "node:tls";
import azureIotDevice from "azure-iot-device";
import azureIotDeviceMqtt from "azure-iot-device-mqtt";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type GatewayRig, startRig, WITHIN } from "../support/gateway-rig.ts";
import { RawLeaf } from "../support/leaf-client.ts";
import { type Authority, type Issued, makeAuthority, selfSigned } from "../support/test-certificates.ts";
import { TravelClock } from "../support/travel-clock.ts";

const { Client, Message } = azureIotDevice;
const { Mqtt } = azureIotDeviceMqtt;
type DeviceClient = InstanceType<typeof Client>;

const MINUTE_MS = 60_000;
const KEY = Buffer.from("the group's key").toString("base64");

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "security-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function file(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

/** With X.509 the Node SDK looks at HostName alone: it is the gateway's. */
function x509Client(rig: GatewayRig, leafId: string): DeviceClient {
  return Client.fromConnectionString(`HostName=localhost:${rig.tlsPort};DeviceId=${leafId};x509=true`, Mqtt);
}

/** Telemetry, a reported property, a command and a desired change. */
async function works(rig: GatewayRig, leafId: string, client: DeviceClient, mark: string): Promise<void> {
  await client.sendEvent(new Message(mark));
  await expect.poll(() => rig.eventsOf(leafId).map(({ body }) => Buffer.from(body).toString()), WITHIN).toContain(mark);
  const component = leafId.replaceAll("-", "_");
  await expect.poll(() => rig.command(`${component}*run`, mark), WITHIN).toMatchObject({ status: 200 });
}

describe("an SDK leaf with X.509", () => {
  let authority: Authority;
  let stranger: Authority;
  let own: Issued;
  let rig: GatewayRig;
  beforeAll(async () => {
    authority = await makeAuthority("Plant CA");
    stranger = await makeAuthority("Plant CA");
    own = await selfSigned("CN=whatever");
    const { X509Certificate } = await import("node:crypto");
    const thumbprint = new X509Certificate(own.pem).fingerprint256;
    rig = await startRig({
      config: {
        authMode: "enforce",
        leafCaFile: file("ca.pem", authority.pem),
        leafThumbprintsFile: file("thumbprints.json", JSON.stringify({ thumb: thumbprint })),
      },
    });
  });
  afterAll(() => rig[Symbol.asyncDispose]());

  test.each([
    ["of the plant's authority", "plant", () => authority.issue("CN=plant")],
    ["with its id as a DNS name", "named", () => authority.issue("O=Plant", { dnsNames: ["named"] })],
    ["whose thumbprint is known", "thumb", async () => own],
    [
      "of an authority below the plant's, which it sends along",
      "chained",
      async () => {
        const hall = await authority.issueAuthority("Hall 1");
        const { key, pem } = await hall.issue("CN=chained");
        return { key, pem: `${pem}\n${hall.pem}` };
      },
    ],
  ])("%s is let in, and everything works", async (_what, leafId, issue) => {
    const { key, pem } = await issue();
    const client = await rig.openLeaf(x509Client(rig, leafId), { cert: pem, key });
    client.onDeviceMethod("run", (_request, response) => void response.send(200, leafId));
    const twin = await client.getTwin();
    await new Promise<void>((resolve, reject) => {
      twin.properties.reported["update"]({ by: leafId }, (error: Error | null) => (error ? reject(error) : resolve()));
    });
    await expect.poll(() => rig.reported(leafId), WITHIN).toMatchObject({ by: leafId });
    await works(rig, leafId, client, "over X.509");
  });

  test.each([
    ["in another leaf's name", () => authority.issue("CN=somebody")],
    ["of an authority of the same name", () => stranger.issue("CN=wanted")],
    ["signed by itself", () => selfSigned("CN=wanted")],
    ["for servers", () => authority.issue("CN=wanted", { uses: ["1.3.6.1.5.5.7.3.1"] })],
    ["that is over", () => authority.issue("CN=wanted", { untilMs: Date.now() - MINUTE_MS })],
  ])("with a certificate %s is told that it is not authorised", async (_what, issue) => {
    const { key, pem } = await issue();
    const refused = rig.openLeaf(x509Client(rig, "wanted"), { cert: pem, key });
    await expect(refused).rejects.toMatchObject({ name: "UnauthorizedError" });
  });
});

test("a connection ends 300 s after its certificate, not before, and a renewed one lets the leaf in again", async () => {
  const clock = new TravelClock();
  const authority = await makeAuthority("Plant CA", { untilMs: clock.now() + 48 * 60 * MINUTE_MS });
  await using rig = await startRig({
    clock,
    config: { authMode: "enforce", leafCaFile: file("ending-ca.pem", authority.pem) },
  });
  const leafWith = async (untilMs: number): Promise<RawLeaf> => {
    const { key, pem } = await authority.issue("CN=ending", { untilMs });
    const socket = connectTls({ host: "localhost", port: rig.tlsPort, ca: rig.caPem, cert: pem, key });
    await once(socket, "secureConnect");
    return new RawLeaf(socket);
  };
  const endsMs = clock.now() + 60 * MINUTE_MS;
  const leaf = await leafWith(endsMs);
  expect((await leaf.connect("ending")).code).toBe(0);
  clock.travel(64 * MINUTE_MS);
  await leaf.ping();
  expect(leaf.isClosed).toBe(false);
  clock.travel(MINUTE_MS + 1_000);
  await leaf.closed;
  expect(await rig.metric("leaf_tokens_expired_total")).toBe(1);
  expect((await (await leafWith(endsMs)).connect("ending")).code).toBe(5);
  const renewed = await leafWith(clock.now() + 60 * MINUTE_MS);
  expect((await renewed.connect("ending")).code).toBe(0);
  renewed.cut();
});

/** What the listener shows to whoever asks for that name. */
function shown(rig: GatewayRig, servername: string, ca: string): Promise<DetailedPeerCertificate> {
  const socket = connectTls({
    host: "127.0.0.1",
    port: rig.tlsPort,
    servername,
    ca,
    checkServerIdentity: () => undefined,
  });
  return new Promise((resolve, reject) => {
    socket.once("error", reject);
    socket.once("secureConnect", () => {
      resolve(socket.getPeerCertificate(true));
      socket.destroy();
    });
  });
}

function namesIn(certificate: DetailedPeerCertificate): readonly string[] {
  return (certificate.subjectaltname ?? "").split(", ");
}

describe("server certificates of the workload API that live ten minutes", () => {
  const NAMES = ["localhost", "gateway.plant.example", "127.0.0.1"];
  let rig: GatewayRig;
  const clock = new TravelClock();
  beforeAll(async () => {
    rig = await startRig({
      clock,
      hub: { serverCertificateLifeMs: 10 * MINUTE_MS },
      config: { authMode: "development", serverNames: NAMES },
    });
  });
  afterAll(() => rig[Symbol.asyncDispose]());

  test("are one for each name, chosen by SNI, an IP address as SNI too; the first serves everybody else", async () => {
    expect(namesIn(await shown(rig, "localhost", rig.caPem))).toContain("DNS:localhost");
    expect(namesIn(await shown(rig, "gateway.plant.example", rig.caPem))).toContain("DNS:gateway.plant.example");
    expect(namesIn(await shown(rig, "127.0.0.1", rig.caPem))).toContain("IP Address:127.0.0.1");
    expect(namesIn(await shown(rig, "unknown.example", rig.caPem))).toContain("DNS:localhost");
    expect(namesIn(await shown(rig, "", rig.caPem))).toContain("DNS:localhost");
  });

  test("are renewed ahead of their end under an SDK leaf that notices nothing; new connections get the new ones", async () => {
    const client = await rig.connectLeaf("steady");
    client.onDeviceMethod("run", (_request, response) => void response.send(200, "ok"));
    await works(rig, "steady", client, "before");
    const before = await Promise.all(NAMES.map((name) => shown(rig, name, rig.caPem)));
    const connects = await rig.metric("leaf_connects_total");

    clock.travel(7 * MINUTE_MS);
    await expect
      .poll(async () => {
        const now = await Promise.all(NAMES.map((name) => shown(rig, name, rig.caPem)));
        return now.every(({ serialNumber }, at) => serialNumber !== before[at]?.serialNumber);
      }, WITHIN)
      .toBe(true);

    await works(rig, "steady", client, "after");
    expect(await rig.metric("leaf_connects_total")).toBe(connects);
    const newcomer = await rig.connectLeaf("newcomer");
    newcomer.onDeviceMethod("run", (_request, response) => void response.send(200, "ok"));
    await works(rig, "newcomer", newcomer, "with the new certificate");
    expect(await rig.metric("leaf_connects_total")).toBe((connects ?? 0) + 1);
  });

  test("that cannot be renewed stay in use; the days left fall, and the end is warned about", async () => {
    const sample = 'certificate_days_left{server_name="localhost"}';
    const left = async () => ((await rig.metric(sample)) ?? 0) * 24 * 60;
    rig.hub.behaviour.workload.serverCertificate = "fail";
    const before = await shown(rig, "localhost", rig.caPem);
    const minutes = await left();
    expect(minutes).toBeGreaterThan(0);
    const said = (event: string) => rig.log.filter((line) => line.includes(event)).length;
    clock.travel((minutes - 0.5) * MINUTE_MS);
    await expect.poll(left, WITHIN).toBeLessThan(1);
    await expect.poll(() => said("a server certificate is near its end"), WITHIN).toBeGreaterThan(0);
    await expect.poll(() => said("no new server certificate, the old one stays in use"), WITHIN).toBeGreaterThan(0);
    expect((await shown(rig, "localhost", rig.caPem)).serialNumber).toBe(before.serialNumber);
    clock.travel(2 * 60 * MINUTE_MS);
    await expect.poll(() => said("a server certificate has expired"), WITHIN).toBeGreaterThan(0);
    rig.hub.behaviour.workload.serverCertificate = "normal";
    await expect
      .poll(
        async () => {
          clock.travel(MINUTE_MS);
          return (await shown(rig, "localhost", rig.caPem)).serialNumber;
          // Not so often that no answer of the workload API comes in time, by a clock that jumps.
        },
        { ...WITHIN, interval: 2_000 },
      )
      .not.toBe(before.serialNumber);
  });
});

describe("mounted server certificates", () => {
  test("are read again when the files change, under leaves that stay connected; a pair that does not fit is not used", async () => {
    const authority = await makeAuthority("Plant Server CA");
    const issue = () => authority.issue("CN=localhost", { dnsNames: ["localhost"] });
    const [first, second] = [await issue(), await issue()];
    const clock = new TravelClock();
    await using rig = await startRig({
      clock,
      config: {
        tlsCertFile: file("server.pem", first.pem),
        tlsKeyFile: file("server-key.pem", first.key),
        groupKeyFile: file("group", KEY),
      },
    });
    const shownNow = async () => (await shown(rig, "localhost", authority.pem)).raw.toString("hex");
    expect(await shownNow()).toBe(first.der.toString("hex"));
    const client = Client.fromConnectionString(rig.leafConnectionString("mounted"), Mqtt);
    await rig.openLeaf(client, { ca: authority.pem });

    file("server.pem", second.pem);
    clock.travel(10_000);
    await expect
      .poll(() => rig.log.filter((line) => line.includes("cannot be used")).length, WITHIN)
      .toBeGreaterThan(0);
    expect(await shownNow()).toBe(first.der.toString("hex"));

    file("server-key.pem", second.key);
    clock.travel(10_000);
    await expect.poll(shownNow, WITHIN).toBe(second.der.toString("hex"));
    await client.sendEvent(new Message("still here"));
    expect(await rig.metric("leaf_connects_total")).toBe(1);
  });
});
