/**
 * The certificates of one Edge device: root CA -> Edge CA -> server certificates, as aziot-edged issues them.
 * Leaves and modules trust the root (the trust bundle); a server's chain ends at the Edge CA.
 */

import "reflect-metadata";
import { randomBytes, webcrypto } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { isIP } from "node:net";
import { join } from "node:path";
import * as x509 from "@peculiar/x509";

export interface ServerCertificate {
  /** PKCS#8 PEM. */
  readonly privateKeyPem: string;
  /** The certificate and the Edge CA's, PEM. */
  readonly chainPem: string;
  readonly expiration: Date;
}

export interface CertificateAuthority {
  /** The trust bundle: the root CA, PEM. */
  readonly rootPem: string;
  /** `names` become the only SANs: DNS, or IP when a name parses as one. Each call makes a new key and certificate. */
  issue(names: readonly string[], lifeMs: number, key: "rsa" | "ec"): Promise<ServerCertificate>;
}

interface Signer {
  readonly certificate: x509.X509Certificate;
  readonly key: webcrypto.CryptoKey;
}

const EC = { name: "ECDSA", namedCurve: "P-256" };
const EC_SIGNING = { name: "ECDSA", hash: "SHA-256" };
const RSA = {
  name: "RSASSA-PKCS1-v1_5",
  hash: "SHA-256",
  modulusLength: 2048,
  publicExponent: new Uint8Array([1, 0, 1]),
};
const CA_LIFE_MS = 10 * 365 * 24 * 3_600_000;
/** Certificates begin a little earlier, for clients whose clock is behind. */
const BACKDATE_MS = 5 * 60_000;

/** The authority kept in `folder`, made at the first call; without a folder it lives as long as the process. */
export async function openCertificateAuthority(folder: string | undefined): Promise<CertificateAuthority> {
  const stored = folder === undefined ? undefined : await readAuthority(folder);
  const { root, edge } = stored ?? (await makeAuthority());
  if (folder !== undefined && stored === undefined) await writeAuthority(folder, root.certificate, edge);
  return {
    rootPem: root.certificate.toString("pem"),
    issue: (names, lifeMs, key) => issueServer(edge, names, lifeMs, key),
  };
}

async function makeAuthority(): Promise<{ root: Signer; edge: Signer }> {
  const root = await issueCa("CN=Development Hub Root CA", undefined);
  return { root, edge: await issueCa("CN=Development Hub Edge CA", root) };
}

async function issueCa(subject: string, issuer: Signer | undefined): Promise<Signer> {
  const keys = await webcrypto.subtle.generateKey(EC, true, ["sign", "verify"]);
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: randomBytes(12).toString("hex"),
    subject,
    issuer: issuer?.certificate.subject ?? subject,
    notBefore: new Date(Date.now() - BACKDATE_MS),
    notAfter: new Date(Date.now() + CA_LIFE_MS),
    publicKey: keys.publicKey,
    signingKey: issuer?.key ?? keys.privateKey,
    signingAlgorithm: EC_SIGNING,
    extensions: [
      new x509.BasicConstraintsExtension(true, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { certificate, key: keys.privateKey };
}

async function issueServer(
  edge: Signer,
  names: readonly string[],
  lifeMs: number,
  key: "rsa" | "ec",
): Promise<ServerCertificate> {
  const keys = await webcrypto.subtle.generateKey(key === "rsa" ? RSA : EC, true, ["sign", "verify"]);
  const expiration = new Date(Math.min(Date.now() + lifeMs, edge.certificate.notAfter.getTime()));
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: randomBytes(12).toString("hex"),
    subject: [{ CN: [names[0] ?? "unnamed"] }],
    issuer: edge.certificate.subject,
    notBefore: new Date(Date.now() - BACKDATE_MS),
    notAfter: expiration,
    publicKey: keys.publicKey,
    signingKey: edge.key,
    signingAlgorithm: EC_SIGNING,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature | x509.KeyUsageFlags.keyEncipherment, true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
      new x509.SubjectAlternativeNameExtension(
        names.map((name) => ({ type: isIP(name) === 0 ? "dns" : "ip", value: name })),
      ),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      await x509.AuthorityKeyIdentifierExtension.create(edge.certificate.publicKey),
    ],
  });
  return {
    privateKeyPem: await exportKey(keys.privateKey),
    chainPem: `${certificate.toString("pem")}\n${edge.certificate.toString("pem")}\n`,
    expiration,
  };
}

/** A gateway host name may carry a port, which is no part of a certificate's name. */
export function withoutPort(host: string): string {
  return host.replace(/^([^:]+):\d+$/, "$1");
}

async function exportKey(key: webcrypto.CryptoKey): Promise<string> {
  return x509.PemConverter.encode(await webcrypto.subtle.exportKey("pkcs8", key), "PRIVATE KEY");
}

async function writeAuthority(folder: string, root: x509.X509Certificate, edge: Signer): Promise<void> {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "root-ca.pem"), root.toString("pem"));
  writeFileSync(join(folder, "edge-ca.key.pem"), await exportKey(edge.key), { mode: 0o600 });
  // Last, since its presence says that the other two are whole.
  writeFileSync(join(folder, "edge-ca.pem"), edge.certificate.toString("pem"));
}

/** The root's key is not kept: it has signed the only certificate that it ever signs. */
async function readAuthority(folder: string): Promise<{ root: Pick<Signer, "certificate">; edge: Signer } | undefined> {
  try {
    const certificate = new x509.X509Certificate(readFileSync(join(folder, "edge-ca.pem"), "utf8"));
    const root = new x509.X509Certificate(readFileSync(join(folder, "root-ca.pem"), "utf8"));
    const pem = readFileSync(join(folder, "edge-ca.key.pem"), "utf8");
    const key = await webcrypto.subtle.importKey("pkcs8", x509.PemConverter.decodeFirst(pem), EC, true, ["sign"]);
    return { root: { certificate: root }, edge: { certificate, key } };
  } catch {
    return undefined;
  }
}
