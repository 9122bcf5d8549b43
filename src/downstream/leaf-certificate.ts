/** Client certificates: whose it is and who says so. TLS has proved that the leaf holds the key, and nothing else. */
import { X509Certificate } from "node:crypto";

export type CertificateCheck =
  /** `untilMs`: the end of the first certificate on the way to what is known, milliseconds since 1970. */
  { readonly kind: "accepted"; readonly untilMs: number } | { readonly kind: "refused"; readonly reason: string };

export interface CertificateRules {
  /** SHA-1 or SHA-256 in hex, colons allowed; a leaf with thumbprints needs no authority. */
  readonly thumbprints: readonly string[];
  /** Each of them is trusted by itself: an intermediate one needs no root beside it. What is between may come with the leaf. */
  readonly authorities: readonly X509Certificate[];
}

/**
 * The chain is the leaf's certificate and what it sent along. Dates count either way. By authority the certificate is one for clients,
 * and names the leaf's id to the letter: as the subject's only common name, or as a DNS name.
 */
export function checkLeafCertificate(
  [der = new Uint8Array(), ...sent]: readonly Uint8Array[],
  leafId: string,
  { thumbprints, authorities }: CertificateRules,
  nowMs: number,
): CertificateCheck {
  const certificate = parseCertificate(der);
  if (certificate === undefined) return refused("the client certificate cannot be read");
  if (!isInTime(certificate, nowMs)) return refused("the client certificate is expired, or not valid yet");
  const known = new Set(thumbprints.map(plainHex));
  if (known.has(plainHex(certificate.fingerprint)) || known.has(plainHex(certificate.fingerprint256)))
    return accepted([certificate]);
  if (thumbprints.length > 0) return refused("the client certificate has none of the leaf's thumbprints");
  const between = sent.map(parseCertificate).filter((one) => one !== undefined);
  const path = pathToAuthority(certificate, between.filter(mayStandBetween), authorities);
  if (path === undefined) return refused("no known authority has issued the client certificate");
  if (!path.every((one) => isInTime(one, nowMs)))
    return refused("the certificate of an authority is expired, or not valid yet");
  // The Edge CA signs server certificates for every module on the box, in whatever name it asks for.
  if (!isForClients(certificate)) return refused("the client certificate is not one for clients");
  if (!isNamed(certificate, leafId)) return refused("the client certificate names another leaf than this one");
  return accepted([certificate, ...path]);
}

function accepted(path: readonly X509Certificate[]): CertificateCheck {
  return { kind: "accepted", untilMs: Math.min(...path.map(({ validTo }) => Date.parse(validTo))) };
}

/** Who has issued the certificate, up to a known authority; undefined when that is nobody known. */
function pathToAuthority(
  certificate: X509Certificate,
  between: readonly X509Certificate[],
  authorities: readonly X509Certificate[],
): readonly X509Certificate[] | undefined {
  const path: X509Certificate[] = [];
  for (let current = certificate; path.length <= between.length; ) {
    const known = authorities.find((authority) => isIssuedBy(current, authority));
    if (known !== undefined) return [...path, known];
    const next = between.find((one) => !path.includes(one) && isIssuedBy(current, one));
    if (next === undefined) return undefined;
    path.push(next);
    current = next;
  }
  return undefined;
}

/** The DER of the extension's object identifier, 2.5.29.30. */
const NAME_CONSTRAINTS = Buffer.from("0603551d1e", "hex");

/** An authority that may not name everybody is no authority here: its constraints would have to be judged [RFC 5280 4.2.1.10]. */
function mayStandBetween({ raw }: X509Certificate): boolean {
  return !raw.includes(NAME_CONSTRAINTS);
}

function refused(reason: string): CertificateCheck {
  return { kind: "refused", reason };
}

function parseCertificate(der: Uint8Array): X509Certificate | undefined {
  try {
    return new X509Certificate(der);
  } catch {
    return undefined;
  }
}

function isInTime({ validFrom, validTo }: X509Certificate, nowMs: number): boolean {
  return Date.parse(validFrom) <= nowMs && nowMs <= Date.parse(validTo);
}

function isIssuedBy(certificate: X509Certificate, authority: X509Certificate): boolean {
  try {
    return authority.ca && certificate.checkIssued(authority) && certificate.verify(authority.publicKey);
  } catch {
    return false; // a key of a kind that OpenSSL does not know
  }
}

const CLIENT_USES: ReadonlySet<string> = new Set(["1.3.6.1.5.5.7.3.2", "2.5.29.37.0"]);

/** Node's `keyUsage` is the extended one; without it every use is meant [RFC 5280 4.2.1.12]. */
function isForClients({ keyUsage }: X509Certificate): boolean {
  const uses: readonly string[] | undefined = keyUsage;
  return uses === undefined || uses.some((use) => CLIENT_USES.has(use));
}

function isNamed(certificate: X509Certificate, leafId: string): boolean {
  // A list when there are several: then it is nobody's.
  if (certificate.toLegacyObject().subject.CN === leafId) return true;
  // Node puts a name that holds what no id may hold in quotes, so that none can pretend to be two.
  return (certificate.subjectAltName ?? "").split(", ").includes(`DNS:${leafId}`);
}

function plainHex(thumbprint: string): string {
  return thumbprint.replaceAll(/[\s:]/g, "").toLowerCase();
}
