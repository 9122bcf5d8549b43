/** Credentials: tokens as the SDK itself makes them, keys of leaves and groups, certificates; sure refusals and unsure ones. */
import { createHmac, X509Certificate } from "node:crypto";
import azureIotCommon from "azure-iot-common";
import { beforeAll, describe, expect, test } from "vitest";
import { parseLeafId } from "../../../src/core/message.ts";
import { createLeafAuthenticator, type LeafAuthOptions } from "../../../src/downstream/leaf-auth.ts";
import type { LeafSecrets } from "../../../src/downstream/leaf-secrets.ts";
import { deriveLeafKey } from "../../../src/downstream/sas-token.ts";
import type { Authentication } from "../../../src/flow/ports.ts";
import { ManualClock } from "../../support/manual-clock.ts";
import { type Authority, type Issued, makeAuthority, selfSigned } from "../../support/test-certificates.ts";

const { SharedAccessSignature } = azureIotCommon;

const HUB = "hub.azure-devices.net";
const PRIMARY = Buffer.from("primary key of leaf one").toString("base64");
const SECONDARY = Buffer.from("secondary key of leaf one").toString("base64");
const GROUP = Buffer.from("the group's key").toString("base64");
const GRACE_MS = 300_000;

const NO_SECRETS: LeafSecrets = { keys: new Map(), groupKeys: [], thumbprints: new Map(), authorities: [] };
const ONE_LEAF: LeafSecrets = { ...NO_SECRETS, keys: new Map([["leaf-1", [PRIMARY, SECONDARY]]]) };

interface Attempt {
  readonly leaf?: string;
  readonly password?: string;
  readonly certificate?: Uint8Array;
  readonly issuers?: readonly Uint8Array[];
}

const clock = new ManualClock();
const nowSecs = Math.floor(clock.now() / 1000);

async function attempt(
  { leaf = "leaf-1", password, certificate, issuers = [] }: Attempt,
  options: Partial<LeafAuthOptions> = {},
): Promise<Authentication> {
  const leafId = parseLeafId(leaf);
  if (leafId === undefined) throw new Error("no leaf id");
  const authenticator = createLeafAuthenticator({
    mode: "enforce",
    secrets: () => ONE_LEAF,
    hostNames: [HUB, "gateway.local"],
    denied: () => [],
    clock,
    clockIsSet: () => true,
    ...options,
  });
  const bytes = password === undefined ? undefined : Buffer.from(password);
  return authenticator.authenticate({
    leafId,
    password: bytes,
    certificate,
    issuers,
    remoteAddress: "x",
    plain: false,
  });
}

/** As Node's SDK does it: `encodeUriComponentStrict` of host and device. */
function sdkToken(key: string, resource = `${HUB}/devices/leaf-1`, expirySecs = nowSecs + 3600): string {
  const encoded = resource.split("/").map(azureIotCommon.encodeUriComponentStrict).join("%2F");
  return SharedAccessSignature.create(encoded, "", key, expirySecs).toString();
}

/** Any resource text, signed as it stands. */
function rawToken(key: string, sr: string, se: number | string = nowSecs + 3600, more = ""): string {
  const sig = createHmac("sha256", Buffer.from(key, "base64")).update(`${sr}\n${se}`).digest("base64");
  return `SharedAccessSignature sr=${sr}&sig=${encodeURIComponent(sig)}&se=${se}${more}`;
}

const good = { kind: "accepted", closeAtMs: (nowSecs + 3600) * 1000 + GRACE_MS };
const code = (authentication: Authentication) =>
  authentication.kind === "refused" ? authentication.code : authentication.kind;

describe("tokens", () => {
  test("the SDK's own token with the primary or the secondary key is good, and the connection ends with it", async () => {
    expect(await attempt({ password: sdkToken(PRIMARY) })).toEqual(good);
    expect(await attempt({ password: sdkToken(SECONDARY) })).toEqual(good);
  });

  test.each([
    ["the resource raw, as the C SDK sends it", rawToken(PRIMARY, `${HUB}/devices/leaf-1`)],
    ["lower-case hex", rawToken(PRIMARY, `${HUB}%2fdevices%2fleaf-1`)],
    ["ids encoded twice, as .NET does with a hardware signer", rawToken(PRIMARY, `${HUB}%2Fdevices%2Fleaf%252D1`)],
    ["host and id in other case", rawToken(PRIMARY, `${HUB.toUpperCase()}%2Fdevices%2FLEAF-1`)],
    ["the gateway's own name as host", rawToken(PRIMARY, "gateway.local%2Fdevices%2Fleaf-1")],
    [
      "the gateway's own name with the port that was dialled",
      rawToken(PRIMARY, "gateway.local%3A8884%2Fdevices%2Fleaf-1"),
    ],
    ["an empty policy name", rawToken(PRIMARY, `${HUB}%2Fdevices%2Fleaf-1`, undefined, "&skn=")],
    ["a field that nobody knows", rawToken(PRIMARY, `${HUB}%2Fdevices%2Fleaf-1`, undefined, "&xyz=1")],
  ])("%s is good", async (_what, password) => {
    expect(await attempt({ password })).toEqual(good);
  });

  test.each([
    ["raw, as the C SDK sends it", (id: string) => `${HUB}/devices/${id}`],
    ["encoded, as all others do", (id: string) => `${HUB}%2Fdevices%2F${encodeURIComponent(id)}`],
    ["with raw slashes and an encoded id", (id: string) => `${HUB}/devices/${encodeURIComponent(id)}`],
  ])("an id with everything that IoT Hub allows is good: %s", async (_what, resource) => {
    for (const id of ["leaf.1:a%b$c@d", "100%", "a%41", "a-1:.+%_#*?!(),=@;$'Z"]) {
      const secrets = () => ({ ...NO_SECRETS, keys: new Map([[id, [PRIMARY]]]) });
      expect(await attempt({ leaf: id, password: rawToken(PRIMARY, resource(id)) }, { secrets })).toEqual(good);
    }
  });

  test("fields come in any order", async () => {
    const [prefix, fields = ""] = sdkToken(PRIMARY).split(" ");
    expect(await attempt({ password: `${prefix} ${fields.split("&").toReversed().join("&")}` })).toEqual(good);
  });

  test.each([
    ["another key", sdkToken(GROUP)],
    ["another device", sdkToken(PRIMARY, `${HUB}/devices/leaf-2`)],
    ["another hub", sdkToken(PRIMARY, "other.azure-devices.net/devices/leaf-1")],
    ["another host at a port", rawToken(PRIMARY, "other.local%3A8884%2Fdevices%2Fleaf-1")],
    ["a module", sdkToken(PRIMARY, `${HUB}/devices/leaf-1/modules/m`)],
    ["a whole hub", sdkToken(PRIMARY, HUB)],
    ["a policy", rawToken(PRIMARY, `${HUB}%2Fdevices%2Fleaf-1`, undefined, "&skn=iothubowner")],
    ["a resource that was changed after signing", sdkToken(PRIMARY).replace("%2Fdevices", "%2fdevices")],
    ["an expiry that was changed after signing", sdkToken(PRIMARY).replace(/se=\d+/, `se=${nowSecs + 9999}`)],
    ["a field twice", `${sdkToken(PRIMARY)}&se=${nowSecs + 9999}`],
    ["an expiry that is no number", rawToken(PRIMARY, `${HUB}%2Fdevices%2Fleaf-1`, "1e9")],
    ["two blanks", sdkToken(PRIMARY).replace(" ", "  ")],
    ["a signature that is no base64", sdkToken(PRIMARY).replace(/sig=[^&]+/, "sig=%zz")],
    ["no signature", sdkToken(PRIMARY).replace(/sig=[^&]+&/, "")],
    ["a connection string", `HostName=${HUB};DeviceId=leaf-1;SharedAccessKey=${PRIMARY}`],
    ["the bare key", PRIMARY],
  ])("%s is refused for sure", async (_what, password) => {
    expect(code(await attempt({ password }))).toBe(5);
  });

  test("a token is good for five minutes beyond its expiry, for clocks that differ, and not longer", async () => {
    const expired = (secs: number) => sdkToken(PRIMARY, undefined, nowSecs - secs);
    expect(await attempt({ password: expired(299) })).toMatchObject({ kind: "accepted" });
    expect(code(await attempt({ password: expired(300) }))).toBe(5);
  });

  test("a token is good again and again", async () => {
    const password = sdkToken(PRIMARY);
    for (let round = 0; round < 3; round += 1) expect(await attempt({ password })).toEqual(good);
  });

  test("a leaf that nobody knows is refused for sure", async () => {
    expect(code(await attempt({ leaf: "leaf-9", password: sdkToken(PRIMARY, `${HUB}/devices/leaf-9`) }))).toBe(5);
  });

  test.each(["__proto__", "constructor", "toString"])(
    "%s is an id like any other, which nobody knows",
    async (leaf) => {
      const id = parseLeafId(leaf);
      if (id === undefined) return; // an underscore is legal in ids, all three are
      expect(code(await attempt({ leaf, password: sdkToken(PRIMARY, `${HUB}/devices/${leaf}`) }))).toBe(5);
    },
  );
});

describe("group keys", () => {
  const secrets = () => ({ ...ONE_LEAF, groupKeys: [GROUP] });
  const derived = (leaf: string) => createHmac("sha256", Buffer.from(GROUP, "base64")).update(leaf).digest("base64");

  test("a leaf's key is derived from the group's as DPS derives it [documented example]", () => {
    // The example of "Symmetric key attestation" with its master key and its registration id.
    const key = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==";
    expect(deriveLeafKey(key, "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6")).toBe(
      "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc=",
    );
  });

  test("a leaf without a key of its own uses the group's", async () => {
    const password = sdkToken(derived("leaf-7"), `${HUB}/devices/leaf-7`);
    expect(await attempt({ leaf: "leaf-7", password }, { secrets })).toEqual(good);
    expect(code(await attempt({ leaf: "leaf-8", password }, { secrets }))).toBe(5);
  });

  test("a leaf's own key takes the place of the group's", async () => {
    expect(code(await attempt({ password: sdkToken(derived("leaf-1")) }, { secrets }))).toBe(5);
    expect(await attempt({ password: sdkToken(PRIMARY) }, { secrets })).toEqual(good);
  });
});

describe("what may be different in a minute is 3", () => {
  const password = sdkToken(PRIMARY);

  test.each([
    ["the clock is not set", { clockIsSet: () => false }],
    ["the keys are not read", { secrets: () => undefined }],
    ["no host name is known", { hostNames: [] }],
  ])("%s", async (_what, options) => {
    expect(code(await attempt({ password }, options))).toBe(3);
  });
});

describe("modes", () => {
  test("in development whoever comes is believed, and never closed for a token", async () => {
    const believed = { kind: "accepted", closeAtMs: undefined };
    const options = { mode: "development" as const, clockIsSet: () => false, secrets: () => undefined };
    for (const password of [undefined, "", "anything", sdkToken(GROUP, undefined, 1)])
      expect(await attempt(password === undefined ? {} : { password }, options)).toEqual(believed);
  });

  test("without any credentials a leaf is refused for sure", async () => {
    expect(code(await attempt({}))).toBe(5);
    expect(code(await attempt({ password: "" }))).toBe(5);
  });

  test("a denied leaf is refused in every mode, from the moment it is denied", async () => {
    let denied: readonly string[] = [];
    const options = { denied: () => denied };
    expect(await attempt({ password: sdkToken(PRIMARY) }, options)).toEqual(good);
    denied = ["leaf-1"];
    expect(code(await attempt({ password: sdkToken(PRIMARY) }, options))).toBe(5);
    expect(code(await attempt({}, { ...options, mode: "development" }))).toBe(5);
  });
});

describe("certificates", () => {
  let authority: Authority;
  let stranger: Authority;
  let leaf: Issued;
  const DAY_MS = 24 * 3_600_000;
  const fromMs = clock.now() - DAY_MS;
  const untilMs = clock.now() + DAY_MS;
  const accepted = { kind: "accepted", closeAtMs: untilMs + GRACE_MS };

  beforeAll(async () => {
    authority = await makeAuthority("Plant CA", { fromMs, untilMs });
    stranger = await makeAuthority("Plant CA", { fromMs, untilMs }); // the same name, another key
    leaf = await authority.issue("CN=leaf-1,O=Plant", { fromMs, untilMs });
  });

  const byAuthority = (...authorities: readonly Authority[]) => ({
    secrets: () => ({ ...NO_SECRETS, authorities: authorities.map(({ pem }) => new X509Certificate(pem)) }),
  });
  const byThumbprint = (...thumbprints: readonly string[]) => ({
    secrets: () => ({ ...NO_SECRETS, thumbprints: new Map([["leaf-1", thumbprints]]) }),
  });

  test("a certificate of a known authority in the leaf's name is good", async () => {
    expect(await attempt({ certificate: leaf.der }, byAuthority(stranger, authority))).toEqual(accepted);
  });

  test("one in another's name, of another authority, or signed by itself is refused", async () => {
    const options = byAuthority(authority);
    const cases = [
      await authority.issue("CN=leaf-2", { fromMs, untilMs }),
      await authority.issue("CN=LEAF-1", { fromMs, untilMs }),
      await authority.issue("O=leaf-1", { fromMs, untilMs }),
      await authority.issue("CN=leaf-1,CN=leaf-2", { fromMs, untilMs }),
      await stranger.issue("CN=leaf-1", { fromMs, untilMs }),
      await selfSigned("CN=leaf-1", { fromMs, untilMs }),
    ];
    for (const { der } of cases) expect(code(await attempt({ certificate: der }, options))).toBe(5);
    expect(code(await attempt({ certificate: Buffer.from("no certificate") }, options))).toBe(5);
  });

  test("authorities in between may come with the leaf: each has to be one, in time, and lead to a known one", async () => {
    const options = byAuthority(authority);
    const times = { fromMs, untilMs };
    const below = await authority.issueAuthority("Hall 1", times);
    const further = await below.issueAuthority("Line 7", times);
    const { der } = await further.issue("CN=leaf-1", times);
    const chain = [further.der, below.der];
    expect(await attempt({ certificate: der, issuers: chain }, options)).toEqual(accepted);
    expect(await attempt({ certificate: der, issuers: [...chain.toReversed(), authority.der] }, options)).toEqual(
      accepted,
    );
    expect(await attempt({ certificate: der, issuers: [further.der] }, byAuthority(below))).toEqual(accepted);
    const other = await stranger.issueAuthority("Hall 1", times);
    const late = await authority.issueAuthority("Late", { fromMs, untilMs: clock.now() - 1_000 });
    const none = await authority.issueAuthority("None", { ...times, isAuthority: false });
    const constrained = await authority.issueAuthority("Constrained", { ...times, isConstrained: true });
    const cases = [
      { certificate: der, issuers: [] },
      { certificate: der, issuers: [below.der] },
      { certificate: der, issuers: [further.der, other.der] },
      { certificate: der, issuers: [Buffer.from("no certificate")] },
      { certificate: (await other.issue("CN=leaf-1", times)).der, issuers: [other.der, stranger.der] },
      ...(await Promise.all(
        [late, none, constrained].map(async (one) => ({
          certificate: (await one.issue("CN=leaf-1", times)).der,
          issuers: [one.der],
        })),
      )),
      // Round and round: each has issued the other.
      { certificate: stranger.der, issuers: [stranger.der, stranger.der] },
    ];
    for (const one of cases) expect(code(await attempt(one, options))).toBe(5);
  });

  test("the leaf's id may stand as a DNS name as well, to the letter and alone", async () => {
    const options = byAuthority(authority);
    const named = (dnsNames: readonly string[], subject = "CN=something else") =>
      authority.issue(subject, { fromMs, untilMs, dnsNames });
    for (const { der } of [
      await named(["leaf-1"]),
      await named(["other", "leaf-1"]),
      await named(["leaf-1"], "O=Plant"),
    ])
      expect(await attempt({ certificate: der }, options)).toEqual(accepted);
    for (const { der } of [
      await named(["leaf-2"]),
      await named(["*"]),
      await named(["x, DNS:leaf-1"]),
      await named(["x, DNS:leaf-1, DNS:y"]),
    ])
      expect(code(await attempt({ certificate: der }, options))).toBe(5);
  });

  test("by authority it has to be one for clients: servers' certificates of the same authority are nobody's", async () => {
    const [serverAuth, clientAuth] = ["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"];
    const used = (...uses: readonly string[]) => authority.issue("CN=leaf-1", { fromMs, untilMs, uses });
    const server = await used(serverAuth);
    expect(code(await attempt({ certificate: server.der }, byAuthority(authority)))).toBe(5);
    for (const { der } of [await used(clientAuth), await used(serverAuth, clientAuth), await used("2.5.29.37.0")])
      expect(await attempt({ certificate: der }, byAuthority(authority))).toEqual(accepted);
    const { fingerprint256 } = new X509Certificate(server.pem);
    expect(await attempt({ certificate: server.der }, byThumbprint(fingerprint256))).toEqual(accepted);
  });

  test("dates count, the leaf's and the authority's", async () => {
    const late = await authority.issue("CN=leaf-1", { fromMs, untilMs: clock.now() - 1_000 });
    const early = await authority.issue("CN=leaf-1", { fromMs: clock.now() + 2_000, untilMs });
    for (const { der } of [late, early])
      expect(code(await attempt({ certificate: der }, byAuthority(authority)))).toBe(5);
    const old = await makeAuthority("Old CA", { fromMs, untilMs: clock.now() - 1_000 });
    const { der } = await old.issue("CN=leaf-1", { fromMs, untilMs });
    expect(code(await attempt({ certificate: der }, byAuthority(old)))).toBe(5);
  });

  test("the connection ends with the first certificate that ends, the leaf's or one above it", async () => {
    const soonMs = clock.now() + 3_600_000;
    const ends = { kind: "accepted", closeAtMs: soonMs + GRACE_MS };
    const short = await authority.issue("CN=leaf-1", { fromMs, untilMs: soonMs });
    expect(await attempt({ certificate: short.der }, byAuthority(authority))).toEqual(ends);
    expect(
      await attempt({ certificate: short.der }, byThumbprint(new X509Certificate(short.pem).fingerprint256)),
    ).toEqual(ends);
    const hall = await authority.issueAuthority("Hall 1", { fromMs, untilMs: soonMs });
    const below = await hall.issue("CN=leaf-1", { fromMs, untilMs });
    expect(await attempt({ certificate: below.der, issuers: [hall.der] }, byAuthority(authority))).toEqual(ends);
    expect(await attempt({ certificate: below.der }, byAuthority(hall))).toEqual(ends);
  });

  test("what a certificate has signed that is no authority's is worth nothing", async () => {
    const pretender = await makeAuthority("Plant CA", { fromMs, untilMs, isAuthority: false });
    const { der } = await pretender.issue("CN=leaf-1", { fromMs, untilMs });
    expect(code(await attempt({ certificate: der }, byAuthority(pretender)))).toBe(5);
  });

  test("by thumbprint any certificate is good, whatever its name, in each usual spelling", async () => {
    const own = await selfSigned("CN=whatever", { fromMs, untilMs });
    const { fingerprint, fingerprint256 } = new X509Certificate(own.pem);
    for (const thumbprint of [fingerprint, fingerprint256, fingerprint.replaceAll(":", "").toLowerCase()])
      expect(await attempt({ certificate: own.der }, byThumbprint("00".repeat(20), thumbprint))).toEqual(accepted);
    expect(code(await attempt({ certificate: leaf.der }, byThumbprint(fingerprint)))).toBe(5);
  });

  test("a leaf with thumbprints is not let in by an authority", async () => {
    const secrets = () => ({
      ...NO_SECRETS,
      thumbprints: new Map([["leaf-1", ["00".repeat(20)]]]),
      authorities: [new X509Certificate(authority.pem)],
    });
    expect(code(await attempt({ certificate: leaf.der }, { secrets }))).toBe(5);
  });

  test("a token counts before a certificate, as at edgeHub", async () => {
    expect(code(await attempt({ certificate: leaf.der, password: "x" }, byAuthority(authority)))).toBe(5);
  });

  test("a certificate that nobody can judge yet is 3", async () => {
    expect(code(await attempt({ certificate: leaf.der }, { ...byAuthority(authority), clockIsSet: () => false }))).toBe(
      3,
    );
  });
});
