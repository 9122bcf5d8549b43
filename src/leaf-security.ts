/**
 * What the leaves' listeners need from outside, kept fresh while they run: server certificates (workload API or mounted files) and
 * the leaves' keys (mounted files). Invariant: something bad never replaces something good; it is said, and the good one stays.
 */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import type { Config } from "./config.ts";
import { GatewayError } from "./core/errors.ts";
import { createLeafAuthenticator } from "./downstream/leaf-auth.ts";
import {
  type LeafSecretFiles,
  type LeafSecrets,
  type LeafSecretsResult,
  parseLeafSecrets,
} from "./downstream/leaf-secrets.ts";
import type { CertificateSource, ServerCertificate } from "./downstream/listeners.ts";
import type { Clock, LeafAuthenticator, Log, Metrics } from "./flow/ports.ts";
import { createCertificateSource } from "./upstream/certificate-source.ts";
import type { ModuleCredentials } from "./upstream/credentials.ts";
import { createWorkloadClient } from "./upstream/workload.ts";

export interface LeafSecurityOptions {
  readonly config: Config;
  readonly credentials: ModuleCredentials;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
}

export interface ServerCertificates extends AsyncDisposable {
  readonly source: CertificateSource;
}

/** Mounted files are looked at so often: file events do not cross every kind of mount. */
const LOOK_AGAIN_MS = 10_000;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

/** Hosts that leaves dial: what the configuration says, else the name of the Edge device. */
function serverNames(config: Config, { identity }: ModuleCredentials): readonly string[] {
  // A port is how development dials edgeHub, and no part of a certificate's name.
  return config.serverNames.length > 0
    ? config.serverNames
    : [identity.gatewayHostName.split(":")[0] ?? identity.gatewayHostName];
}

/** Resolves when there is a certificate for each server name; undefined when TLS is off. */
export async function openServerCertificates(options: LeafSecurityOptions): Promise<ServerCertificates | undefined> {
  const { config, credentials } = options;
  if (!config.tlsEnabled) return undefined;
  if (config.tlsCertFile !== "" || config.tlsKeyFile !== "") return fromFiles(options);
  if (credentials.workload !== undefined) return fromWorkload(options);
  throw new GatewayError(
    "CONFIG_INVALID",
    "without the workload API of IoT Edge the TLS listener needs tlsCertFile and tlsKeyFile, or tlsEnabled: false",
  );
}

async function fromWorkload({
  config,
  clock,
  credentials,
  log,
  metrics,
}: LeafSecurityOptions): Promise<ServerCertificates> {
  if (credentials.workload === undefined) throw new GatewayError("INVARIANT", "no workload API");
  const workload = createWorkloadClient(credentials.workload, clock);
  const issuer = createCertificateSource({
    workload,
    serverNames: serverNames(config, credentials),
    clock,
    log,
    random: Math.random,
  });
  const kept = new Kept<readonly ServerCertificate[]>(await issuer.open((next) => kept.replace(next)));
  const watch = watchExpiry(kept, { clock, log, metrics });
  return { source: sourceOf(kept), [Symbol.asyncDispose]: () => disposeBoth(watch, issuer) };
}

async function fromFiles({
  config,
  clock,
  credentials,
  log,
  metrics,
}: LeafSecurityOptions): Promise<ServerCertificates> {
  const read = (): readonly ServerCertificate[] => {
    const chain = readFileSync(config.tlsCertFile, "utf8");
    const privateKey = readFileSync(config.tlsKeyFile, "utf8");
    if (!new X509Certificate(chain).checkPrivateKey(createPrivateKey(privateKey)))
      throw new Error("the key does not belong to the certificate");
    return serverNames(config, credentials).map((serverName) => ({ serverName, chain, privateKey }));
  };
  let first: readonly ServerCertificate[];
  try {
    first = read();
  } catch (error) {
    throw new GatewayError("CONFIG_INVALID", `tlsCertFile and tlsKeyFile cannot be used: ${String(error)}`, {
      cause: error,
    });
  }
  const kept = new Kept(first);
  const reading = repeat(clock, LOOK_AGAIN_MS, () => {
    try {
      const next = read();
      if (next[0]?.chain !== kept.value[0]?.chain) kept.replace(next);
    } catch (error) {
      log.warn({ error: String(error) }, "the mounted server certificate cannot be used, the old one stays");
    }
  });
  const watch = watchExpiry(kept, { clock, log, metrics });
  return { source: sourceOf(kept), [Symbol.asyncDispose]: () => disposeBoth(watch, reading) };
}

interface LeafAuthenticatorOptions extends LeafSecurityOptions {
  readonly denied: () => readonly string[];
  readonly clockIsSet: () => boolean;
  /** The files say something else than before: who was let in may not be now. */
  readonly changed: () => void;
}

/** Who may connect, by the configuration and by files whose changes take effect without a restart. */
export function openLeafAuthenticator(options: LeafAuthenticatorOptions): LeafAuthenticator & AsyncDisposable {
  const { changed, clock, clockIsSet, config, credentials, denied, log } = options;
  let secrets: LeafSecrets | undefined;
  let before: LeafSecretFiles | undefined;
  const read = (): boolean => {
    const result = attempt(() => {
      const files = readSecretFiles(config);
      if (before !== undefined && sameFiles(files, before)) return undefined;
      const parsed = parseLeafSecrets(files);
      if (parsed.kind === "ok") before = files;
      return parsed;
    });
    if (result === undefined) return false;
    if (result.kind === "ok") secrets = result.secrets;
    else log.error({ problems: result.problems }, "the leaves' keys cannot be read, those from before stay");
    return result.kind === "ok";
  };
  read();
  const reading = repeat(clock, LOOK_AGAIN_MS, () => {
    if (!read()) return;
    log.info({}, "the leaves' keys have changed");
    changed();
  });
  const hostNames = [...config.hubHostNames, credentials.identity.hubHostName, ...serverNames(config, credentials)];
  const authenticator = createLeafAuthenticator({
    mode: config.authMode,
    secrets: () => secrets,
    hostNames,
    denied,
    clock,
    clockIsSet,
  });
  return {
    authenticate: (leaf) => authenticator.authenticate(leaf),
    [Symbol.asyncDispose]: () => reading[Symbol.asyncDispose](),
  };
}

function readSecretFiles(config: Config): LeafSecretFiles {
  return {
    leafKeys: textOf(config.leafKeysFile),
    groupKey: textOf(config.groupKeyFile),
    leafThumbprints: textOf(config.leafThumbprintsFile),
    leafCa: textOf(config.leafCaFile),
  };
}

function sameFiles(a: LeafSecretFiles, b: LeafSecretFiles): boolean {
  return (
    a.leafKeys === b.leafKeys &&
    a.groupKey === b.groupKey &&
    a.leafThumbprints === b.leafThumbprints &&
    a.leafCa === b.leafCa
  );
}

function attempt(read: () => LeafSecretsResult | undefined): LeafSecretsResult | undefined {
  try {
    return read();
  } catch (error) {
    return { kind: "invalid", problems: [String(error)] };
  }
}

function textOf(path: string): string | undefined {
  return path === "" ? undefined : readFileSync(path, "utf8");
}

/** A value that others want to hear of when it changes. */
class Kept<T> {
  value: T;
  readonly #listeners: (() => void)[] = [];

  constructor(value: T) {
    this.value = value;
  }

  replace(value: T): void {
    this.value = value;
    for (const listener of this.#listeners) listener();
  }

  onChange(listener: () => void): void {
    this.#listeners.push(listener);
  }
}

function sourceOf(kept: Kept<readonly ServerCertificate[]>): CertificateSource {
  return { current: () => kept.value, onChange: (listener) => kept.onChange(listener) };
}

/** Renewed certificates never get there: with so little of its life left something is wrong. */
const WARN_BELOW = 0.2;

/** Shows the days left, and warns each hour while a certificate is near its end or beyond. */
function watchExpiry(
  kept: Kept<readonly ServerCertificate[]>,
  { clock, log, metrics }: Pick<LeafSecurityOptions, "clock" | "log" | "metrics">,
): AsyncDisposable {
  const saidAtMs = new Map<string, number>();
  const isNews = (serverName: string): boolean => {
    const nowMs = clock.steady();
    if (nowMs - (saidAtMs.get(serverName) ?? Number.NEGATIVE_INFINITY) < HOUR_MS) return false;
    saidAtMs.set(serverName, nowMs);
    return true;
  };
  const show = (): void => {
    for (const { chain, serverName } of kept.value) {
      const { validFrom, validTo } = new X509Certificate(chain);
      const [fromMs, untilMs] = [Date.parse(validFrom), Date.parse(validTo)];
      const leftMs = untilMs - clock.now();
      metrics.gauge("certificate_days_left", leftMs / DAY_MS, { server_name: serverName });
      const about = { serverName, until: new Date(untilMs).toISOString() };
      if (leftMs >= WARN_BELOW * (untilMs - fromMs) || !isNews(serverName)) continue;
      if (leftMs <= 0) log.error(about, "a server certificate has expired: leaves cannot connect");
      else log.warn(about, "a server certificate is near its end and was not renewed");
    }
  };
  show();
  kept.onChange(show);
  return repeat(clock, 60_000, show);
}

function repeat(clock: Clock, everyMs: number, work: () => void): AsyncDisposable {
  const stopping = new AbortController();
  const loop = async (): Promise<void> => {
    for (;;) {
      await clock.sleep(everyMs, stopping.signal);
      work();
    }
  };
  // Ends by the abort alone: `work` catches what can go wrong.
  const running = loop().catch(() => undefined);
  return {
    [Symbol.asyncDispose]: async () => {
      stopping.abort();
      await running;
    },
  };
}

async function disposeBoth(first: AsyncDisposable, second: AsyncDisposable): Promise<void> {
  await first[Symbol.asyncDispose]();
  await second[Symbol.asyncDispose]();
}
