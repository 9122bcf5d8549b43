/** The leaf broker's sockets: TLS and plain TCP, certificates and their renewal, ports that are taken, connections without end. */
import { connect as connectPlain, createServer, type Socket } from "node:net";
import { connect as connectTls, type PeerCertificate, type TLSSocket } from "node:tls";
import { beforeAll, describe, expect, test } from "vitest";
import type { CertificateSource, ListenerOptions, ServerCertificate } from "../../src/downstream/listeners.ts";
import type { LeafAuthenticator } from "../../src/flow/ports.ts";
import { LeafBrokerRig, until } from "../support/leaf-broker-rig.ts";
import { mqttLeaf, RawLeaf } from "../support/leaf-client.ts";
import { type Authority, makeAuthority, selfSigned } from "../support/test-certificates.ts";

const HOST = "127.0.0.1";

class Certificates implements CertificateSource {
  #current: readonly ServerCertificate[];
  #changed: () => void = () => undefined;

  constructor(...certificates: readonly ServerCertificate[]) {
    this.#current = certificates;
  }

  current(): readonly ServerCertificate[] {
    return this.#current;
  }

  onChange(listener: () => void): void {
    this.#changed = listener;
  }

  renew(...certificates: readonly ServerCertificate[]): void {
    this.#current = certificates;
    this.#changed();
  }
}

let authority: Authority;
let gatewayCertificate: ServerCertificate;
let otherCertificate: ServerCertificate;

async function certificateFor(serverName: string): Promise<ServerCertificate> {
  const { key, pem } = await authority.issue(`CN=${serverName}`, { dnsNames: [serverName] });
  return { serverName, chain: pem, privateKey: key };
}

beforeAll(async () => {
  authority = await makeAuthority("Edge CA");
  gatewayCertificate = await certificateFor("gateway.local");
  otherCertificate = await certificateFor("other.local");
});

function tls(certificates: CertificateSource): Partial<ListenerOptions> {
  return { tls: { host: HOST, port: 0, certificates } };
}

function dialTls(rig: LeafBrokerRig, options: object = {}): Promise<TLSSocket> {
  const socket = connectTls({
    host: HOST,
    port: rig.broker.ports.tls ?? 0,
    servername: "gateway.local",
    ca: authority.pem,
    ...options,
  });
  return new Promise((resolve, reject) => {
    socket.once("secureConnect", () => resolve(socket));
    socket.once("error", reject);
  });
}

function dialPlain(port: number | undefined): Promise<Socket> {
  const socket = connectPlain(port ?? 0, HOST);
  return new Promise((resolve, reject) => {
    socket.once("connect", () => resolve(socket));
    socket.once("error", reject);
  });
}

function nameOf(certificate: PeerCertificate): unknown {
  return certificate.subject.CN;
}

describe("TLS", () => {
  test("an SDK-like client connects, verified, without a certificate of its own", async () => {
    await using rig = await LeafBrokerRig.start({ listeners: tls(new Certificates(gatewayCertificate)) });
    const socket = await dialTls(rig);
    expect(socket.authorized).toBe(true);
    const client = mqttLeaf(socket, "leaf-1");
    await new Promise((resolve) => client.once("connect", resolve));
    expect(rig.handler.connects[0]?.remoteAddress).toMatch(/127\.0\.0\.1$/);
    await client.endAsync();
  });

  test("a client certificate reaches the authenticator, whoever signed it", async () => {
    const seen: (string | undefined)[] = [];
    const authenticator: LeafAuthenticator = {
      authenticate: async ({ certificate, plain }) => {
        expect(plain).toBe(false);
        seen.push(certificate === undefined ? undefined : Buffer.from(certificate).toString("hex"));
        return { kind: "accepted", closeAtMs: undefined };
      },
    };
    await using rig = await LeafBrokerRig.start({
      authenticator,
      listeners: tls(new Certificates(gatewayCertificate)),
    });
    const own = await selfSigned("CN=leaf-1");
    const leaf = new RawLeaf(await dialTls(rig, { cert: own.pem, key: own.key }));
    expect((await leaf.connect("leaf-1")).code).toBe(0);
    expect((await new RawLeaf(await dialTls(rig)).connect("leaf-2")).code).toBe(0);
    expect(seen).toEqual([own.der.toString("hex"), undefined]);
  });

  test.each(["TLSv1.2", "TLSv1.3"] as const)(
    "over %s the authorities that a leaf sends along are there at every connect, though its SDK would resume the session",
    async (maxVersion) => {
      const seen: (readonly string[])[] = [];
      const authenticator: LeafAuthenticator = {
        authenticate: async ({ issuers = [] }) => {
          seen.push(issuers.map((issuer) => Buffer.from(issuer).toString("hex")));
          return { kind: "accepted", closeAtMs: undefined };
        },
      };
      await using rig = await LeafBrokerRig.start({
        authenticator,
        listeners: tls(new Certificates(gatewayCertificate, otherCertificate)),
      });
      const hall = await (await makeAuthority("Plant CA")).issueAuthority("Hall 1");
      const { key, pem } = await hall.issue("CN=leaf-1");
      for (const servername of ["gateway.local", "other.local"]) {
        let session: Buffer | undefined;
        for (let n = 0; n < 2; n += 1) {
          const socket = await dialTls(rig, { cert: `${pem}\n${hall.pem}`, key, maxVersion, servername, session });
          socket.on("session", (ticket) => (session = ticket));
          expect((await new RawLeaf(socket).connect(`leaf-${seen.length}`)).code).toBe(0);
          expect(socket.isSessionReused()).toBe(false);
          session ??= socket.getSession();
        }
      }
      expect(seen).toEqual(Array.from({ length: 4 }, () => [hall.der.toString("hex")]));
    },
  );

  test.each(["TLSv1.2", "TLSv1.3"])("%s is spoken", async (version) => {
    await using rig = await LeafBrokerRig.start({ listeners: tls(new Certificates(gatewayCertificate)) });
    const socket = await dialTls(rig, { minVersion: version, maxVersion: version });
    expect(socket.getProtocol()).toBe(version);
    socket.destroy();
  });

  test("TLS 1.1 is not", async () => {
    await using rig = await LeafBrokerRig.start({ listeners: tls(new Certificates(gatewayCertificate)) });
    const old = { minVersion: "TLSv1.1", maxVersion: "TLSv1.1", ciphers: "DEFAULT@SECLEVEL=0" };
    await expect(dialTls(rig, old)).rejects.toThrow();
    await until(() => rig.refused("tls") === 1);
  });

  test("a client that does not trust the certificate is told with its address, once", async () => {
    await using rig = await LeafBrokerRig.start({ listeners: tls(new Certificates(gatewayCertificate)) });
    const ca = (await makeAuthority("somebody else's CA")).pem;
    await expect(dialTls(rig, { ca })).rejects.toThrow("certificate");
    await until(() => rig.refused("tls") === 1);
    expect(rig.log.lines).toMatchObject([
      { event: "a leaf was refused", fields: { remoteAddress: HOST, detail: expect.stringContaining("trust") } },
    ]);
    const trusting = await dialTls(rig);
    trusting.destroy();
    await until(() => rig.broker.load.connections === 0);
    expect(rig.refused("tls")).toBe(1);
  });

  test("the name that a client asks for chooses the certificate; the first serves all others", async () => {
    await using rig = await LeafBrokerRig.start({
      listeners: tls(new Certificates(gatewayCertificate, otherCertificate)),
    });
    const served = async (options: object) => {
      const socket = await dialTls(rig, { rejectUnauthorized: false, ...options });
      const name = nameOf(socket.getPeerCertificate());
      socket.destroy();
      return name;
    };
    expect(await served({ servername: "other.local" })).toBe("other.local");
    expect(await served({ servername: "OTHER.local" })).toBe("other.local");
    expect(await served({ servername: "gateway.local" })).toBe("gateway.local");
    expect(await served({ servername: "nobody.local" })).toBe("gateway.local");
    expect(await served({ servername: "" })).toBe("gateway.local");
    // As C sends it when it dials an address; Node warns once and sends it too.
    expect(await served({ servername: "127.0.0.1" })).toBe("gateway.local");
  });

  test("a renewed certificate serves new connections and touches no other", async () => {
    const certificates = new Certificates(gatewayCertificate, otherCertificate);
    await using rig = await LeafBrokerRig.start({ listeners: tls(certificates) });
    const leaf = new RawLeaf(await dialTls(rig));
    await leaf.connect("leaf-1");
    const renewed = await certificateFor("gateway.local");
    certificates.renew(renewed, otherCertificate);
    const fingerprints = async (servername: string) => {
      const socket = await dialTls(rig, { servername });
      const pem = socket.getPeerCertificate().raw.toString("base64");
      socket.destroy();
      return pem;
    };
    const bare = (pem: string) => pem.replaceAll(/-----[^-]+-----|\s/g, "");
    expect(await fingerprints("gateway.local")).toBe(bare(renewed.chain));
    expect(await fingerprints("other.local")).toBe(bare(otherCertificate.chain));
    await leaf.ping();
  });

  test("a renewed certificate that cannot be used leaves the old one in place", async () => {
    const certificates = new Certificates(gatewayCertificate);
    await using rig = await LeafBrokerRig.start({ listeners: tls(certificates) });
    certificates.renew({ ...gatewayCertificate, privateKey: otherCertificate.privateKey });
    certificates.renew();
    expect(rig.log.events("error")).toHaveLength(2);
    (await dialTls(rig)).destroy();
  });

  test("a client that never ends its handshake is closed", async () => {
    await using rig = await LeafBrokerRig.start({
      limits: { tlsHandshakeTimeoutMs: 30 },
      listeners: tls(new Certificates(gatewayCertificate)),
    });
    const socket = await dialPlain(rig.broker.ports.tls);
    socket.on("error", () => undefined);
    await new Promise((resolve) => socket.once("close", resolve));
    await until(() => rig.refused("tls") === 1);
  });

  test("a socket that comes and goes without a byte is counted, and one that waits for its first byte is served", async () => {
    await using rig = await LeafBrokerRig.start({ listeners: tls(new Certificates(gatewayCertificate)) });
    (await dialPlain(rig.broker.ports.tls)).end().resume();
    await until(() => rig.refused("tls") === 1);
    const slow = await dialPlain(rig.broker.ports.tls);
    await new Promise((resolve) => setTimeout(resolve, 30));
    const socket = connectTls({ socket: slow, servername: "gateway.local", ca: authority.pem });
    await new Promise((resolve, reject) => socket.once("secureConnect", resolve).once("error", reject));
    expect((await new RawLeaf(socket).connect("leaf-1")).code).toBe(0);
  });

  test("what is no TLS at all is closed and counted", async () => {
    await using rig = await LeafBrokerRig.start({ listeners: tls(new Certificates(gatewayCertificate)) });
    const socket = await dialPlain(rig.broker.ports.tls);
    socket.on("error", () => undefined);
    socket.write("GET / HTTP/1.1\r\n\r\n");
    await new Promise((resolve) => socket.once("close", resolve));
    expect(rig.refused("tls")).toBe(1);
  });

  test("a refused leaf sees its CONNACK before the socket ends", async () => {
    await using rig = await LeafBrokerRig.start({ listeners: tls(new Certificates(gatewayCertificate)) });
    rig.handler.onAdmit = () => ({ kind: "refused", code: 5, reason: "x" });
    for (let round = 0; round < 10; round += 1) {
      const leaf = new RawLeaf(await dialTls(rig));
      expect((await leaf.connect("leaf-1")).code).toBe(5);
      await leaf.closed;
    }
  });

  test("without a certificate it does not start, and says which setting wants one", async () => {
    await expect(LeafBrokerRig.start({ listeners: tls(new Certificates()) })).rejects.toMatchObject({
      code: "CONFIG_INVALID",
      message: expect.stringContaining("tlsEnabled"),
    });
  });
});

describe("plain TCP", () => {
  const plain = { plain: { host: HOST, port: 0 } };

  test("leaves connect without TLS, and the authenticator knows", async () => {
    const seen: boolean[] = [];
    const authenticator: LeafAuthenticator = {
      authenticate: async (credentials) => {
        seen.push(credentials.plain);
        return { kind: "accepted", closeAtMs: undefined };
      },
    };
    await using rig = await LeafBrokerRig.start({ authenticator, listeners: plain });
    expect(rig.broker.ports.tls).toBeUndefined();
    const leaf = new RawLeaf(await dialPlain(rig.broker.ports.plain));
    expect((await leaf.connect("leaf-1")).code).toBe(0);
    expect(seen).toEqual([true]);
  });

  test("a port that is taken is an error that names the setting", async () => {
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(0, HOST, resolve));
    const address = other.address();
    const port = typeof address === "object" && address !== null ? address.port : 0;
    await expect(LeafBrokerRig.start({ listeners: { plain: { host: HOST, port } } })).rejects.toMatchObject({
      code: "PORT_TAKEN",
      message: expect.stringContaining("plainPort"),
    });
    await new Promise((resolve) => other.close(resolve));
  });

  test("when one listener cannot be opened the other is closed again", async () => {
    const first = await LeafBrokerRig.start({ listeners: plain });
    const taken = first.broker.ports.plain ?? 0;
    const both = { ...tls(new Certificates(gatewayCertificate)), plain: { host: HOST, port: taken } };
    await expect(LeafBrokerRig.start({ listeners: both })).rejects.toMatchObject({ code: "PORT_TAKEN" });
    await first[Symbol.asyncDispose]();
  });

  test("an address that this machine does not have is a configuration error", async () => {
    await expect(LeafBrokerRig.start({ listeners: { plain: { host: "203.0.113.1", port: 0 } } })).rejects.toMatchObject(
      { code: "CONFIG_INVALID", message: expect.stringContaining("plainBind") },
    );
  });

  test("one address has so many connections and no more, and gets them back", async () => {
    await using rig = await LeafBrokerRig.start({ limits: { maxConnectionsPerAddress: 2 }, listeners: plain });
    const [first] = [await dialPlain(rig.broker.ports.plain), await dialPlain(rig.broker.ports.plain)];
    const refused = await dialPlain(rig.broker.ports.plain);
    refused.on("error", () => undefined);
    await new Promise((resolve) => refused.once("close", resolve));
    expect(rig.refused("connections-per-address")).toBe(1);
    first?.destroy();
    await until(() => rig.broker.load.connections === 1);
    const again = new RawLeaf(await dialPlain(rig.broker.ports.plain));
    expect((await again.connect("leaf-1")).code).toBe(0);
  });

  test("strangers keep no leaf out: whoever said nothing for longest makes room", async () => {
    await using rig = await LeafBrokerRig.start({ limits: { maxConnections: 4 }, listeners: plain });
    const strangers: Socket[] = [];
    for (let at = 0; at < 10; at += 1) {
      strangers.push(await dialPlain(rig.broker.ports.plain));
      strangers.at(-1)?.on("error", () => undefined);
      strangers.at(-1)?.resume();
    }
    const leaf = new RawLeaf(await dialPlain(rig.broker.ports.plain));
    expect((await leaf.connect("leaf-1")).code).toBe(0);
    await until(() => rig.broker.load.connections === 5);
    expect(rig.refused("connections")).toBe(6);
    await until(() => strangers.filter(({ destroyed }) => destroyed).length === 6);
    expect(strangers.map(({ destroyed }) => destroyed)).toEqual([...Array(6).fill(true), ...Array(4).fill(false)]);
    for (const stranger of strangers) stranger.destroy();
  });

  test("who made room for another counts for its address no longer", async () => {
    const limits = { maxConnections: 4, maxConnectionsPerAddress: 8 };
    await using rig = await LeafBrokerRig.start({ limits, listeners: plain });
    const strangers: Socket[] = [];
    for (let n = 0; n < 20; n += 1) {
      const stranger = await dialPlain(rig.broker.ports.plain);
      stranger.on("error", () => undefined);
      strangers.push(stranger.resume());
    }
    expect((await new RawLeaf(await dialPlain(rig.broker.ports.plain)).connect("leaf-1")).code).toBe(0);
    expect(rig.refused("connections-per-address")).toBe(0);
    for (const stranger of strangers) stranger.destroy();
  });

  test("leaves are never closed to make room: far above the limit new sockets are closed without a word", async () => {
    await using rig = await LeafBrokerRig.start({ limits: { maxConnections: 2 }, listeners: plain });
    const leaves = [
      new RawLeaf(await dialPlain(rig.broker.ports.plain)),
      new RawLeaf(await dialPlain(rig.broker.ports.plain)),
    ];
    for (const [at, leaf] of leaves.entries()) expect((await leaf.connect(`leaf-${at}`)).code).toBe(0);
    const stranger = await dialPlain(rig.broker.ports.plain);
    const third = new RawLeaf(await dialPlain(rig.broker.ports.plain));
    await new Promise((resolve) => stranger.once("close", resolve).resume());
    expect((await third.connect("leaf-3")).code).toBe(3);
    expect(rig.refused("overloaded")).toBe(1);
    for (const leaf of leaves) await leaf.ping();
  });

  test("a leaf that comes back when there is no room takes its own place", async () => {
    await using rig = await LeafBrokerRig.start({ limits: { maxConnections: 1 }, listeners: plain });
    const [old, newer] = [
      new RawLeaf(await dialPlain(rig.broker.ports.plain)),
      new RawLeaf(await dialPlain(rig.broker.ports.plain)),
    ];
    expect((await old.connect("leaf-1")).code).toBe(0);
    expect((await newer.connect("leaf-1")).code).toBe(0);
    await old.closed;
  });

  test("dispose closes the port and every socket", async () => {
    const rig = await LeafBrokerRig.start({ listeners: plain });
    const { plain: port } = rig.broker.ports;
    const [silent, leaf] = [await dialPlain(port), new RawLeaf(await dialPlain(port))];
    await leaf.connect("leaf-1");
    const closed = new Promise((resolve) => silent.once("close", resolve));
    silent.resume();
    await rig.broker[Symbol.asyncDispose]();
    await Promise.all([closed, leaf.closed]);
    await expect(dialPlain(port)).rejects.toThrow("ECONNREFUSED");
  });
});
