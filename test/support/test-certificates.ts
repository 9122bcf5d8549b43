/** Certificates for tests: an authority, and what it signs. Keys are PKCS#8 PEM. */
import "reflect-metadata";
import { webcrypto } from "node:crypto";
import * as x509 from "@peculiar/x509";

const EC = { name: "ECDSA", namedCurve: "P-256" };
const SIGNING = { name: "ECDSA", hash: "SHA-256" };
const DAY_MS = 24 * 3_600_000;

export interface Issued {
  readonly pem: string;
  readonly der: Buffer;
  readonly key: string;
}

export interface Authority extends Issued {
  issue(subject: string, options?: IssueOptions): Promise<Issued>;
  /** One below this one. */
  issueAuthority(name: string, options?: IssueOptions): Promise<Authority>;
}

export interface IssueOptions {
  /** Milliseconds since 1970; a day before and after now by default. */
  readonly fromMs?: number;
  readonly untilMs?: number;
  readonly dnsNames?: readonly string[];
  readonly isAuthority?: boolean;
  /** Extended key usage; any use when absent. */
  readonly uses?: readonly string[];
  /** With name constraints, whatever they say. */
  readonly isConstrained?: boolean;
}

interface Signer {
  readonly issuer: string;
  readonly key: webcrypto.CryptoKey;
}

/** A root of its own; with `isAuthority: false` one that signs although it may not. */
export async function makeAuthority(name: string, options: IssueOptions = {}): Promise<Authority> {
  const keys = await makeKeys();
  return authorityOf(name, keys, { issuer: `CN=${name}`, key: keys.privateKey }, options);
}

async function authorityOf(
  name: string,
  keys: webcrypto.CryptoKeyPair,
  by: Signer,
  options: IssueOptions = {},
): Promise<Authority> {
  const own = await sign(`CN=${name}`, keys, by, { isAuthority: true, ...options });
  const signer = { issuer: `CN=${name}`, key: keys.privateKey };
  return {
    ...own,
    issue: async (subject, more) => sign(subject, await makeKeys(), signer, more),
    issueAuthority: async (below, more) => authorityOf(below, await makeKeys(), signer, more),
  };
}

export async function selfSigned(subject: string, options: IssueOptions = {}): Promise<Issued> {
  const keys = await makeKeys();
  return sign(subject, keys, { issuer: subject, key: keys.privateKey }, options);
}

async function sign(
  subject: string,
  keys: webcrypto.CryptoKeyPair,
  { issuer, key }: Signer,
  {
    fromMs = Date.now() - DAY_MS,
    untilMs = Date.now() + DAY_MS,
    dnsNames = [],
    isAuthority = false,
    uses = [],
    isConstrained = false,
  }: IssueOptions = {},
): Promise<Issued> {
  const san = dnsNames.map((value) => ({ type: "dns" as const, value }));
  const certificate = await x509.X509CertificateGenerator.create(
    {
      subject,
      issuer,
      notBefore: new Date(fromMs),
      notAfter: new Date(untilMs),
      publicKey: keys.publicKey,
      signingKey: key,
      signingAlgorithm: SIGNING,
      extensions: [
        new x509.BasicConstraintsExtension(isAuthority),
        ...(isConstrained ? [new x509.Extension("2.5.29.30", true, Buffer.from("3000", "hex"))] : []),
        ...(uses.length > 0 ? [new x509.ExtendedKeyUsageExtension([...uses])] : []),
        ...(san.length > 0 ? [new x509.SubjectAlternativeNameExtension(san)] : []),
      ],
    },
    webcrypto,
  );
  const privateKey = await webcrypto.subtle.exportKey("pkcs8", keys.privateKey);
  return {
    pem: certificate.toString("pem"),
    der: Buffer.from(certificate.rawData),
    key: x509.PemConverter.encode(privateKey, "PRIVATE KEY"),
  };
}

async function makeKeys(): Promise<webcrypto.CryptoKeyPair> {
  return (await webcrypto.subtle.generateKey(EC, true, ["sign", "verify"])) as webcrypto.CryptoKeyPair;
}
