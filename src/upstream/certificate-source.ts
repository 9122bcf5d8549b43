/**
 * Server certificates for the leaves' listeners: one for each server name, renewed well before it expires. Invariant: while a
 * certificate is valid it stays in use until a newer one is there; a failing renewal is warned about and tried again.
 */
import type { Clock, Log } from "../flow/ports.ts";
import { describeError } from "./fault.ts";
import type { ServerCertificate, WorkloadClient } from "./workload.ts";

export interface CertificateSource extends AsyncDisposable {
  /**
   * Resolves when there is a certificate for each name, however long that takes; from then on `changed` gets all of them, in the
   * order of the names, each time one was renewed. Rejects only when disposed before.
   */
  open(changed: (certificates: readonly ServerCertificate[]) => void): Promise<readonly ServerCertificate[]>;
}

export interface CertificateSourceOptions {
  readonly workload: WorkloadClient;
  readonly serverNames: readonly string[];
  readonly clock: Clock;
  readonly log: Log;
  readonly random: () => number;
  /** What is asked for; IoT Edge decides. */
  readonly lifeMs?: number;
}

const DAY_MS = 24 * 3_600_000;
const DEFAULT_LIFE_MS = 30 * DAY_MS;
const RETRY_MS = 30_000;
/** While there is none at all, leaves cannot connect. */
const FIRST_RETRY_MS = 2_000;
/** The wall clock is looked at again at least so often: it may be set while we wait. */
const LONGEST_WAIT_MS = 3_600_000;

/** How long after `nowMs` a certificate is to be renewed: at two thirds of what is left, a little earlier at random. */
export function renewalDelayMs(expiresMs: number, nowMs: number, random: number): number {
  return Math.max(RETRY_MS, (expiresMs - nowMs) * (2 / 3) * (1 - 0.1 * random));
}

export function createCertificateSource(options: CertificateSourceOptions): CertificateSource {
  const { workload, serverNames, clock, log, random, lifeMs = DEFAULT_LIFE_MS } = options;
  const stopping = new AbortController();
  const { signal } = stopping;
  const current = new Map<string, ServerCertificate>();
  const running: Promise<void>[] = [];

  const inOrder = (): ServerCertificate[] => serverNames.flatMap((name) => current.get(name) ?? []);

  async function issue(serverName: string): Promise<boolean> {
    try {
      const certificate = await workload.serverCertificate(serverName, clock.now() + lifeMs, signal);
      current.set(serverName, certificate);
      log.info({ serverName, expires: new Date(certificate.expiresMs).toISOString() }, "server certificate issued");
      return true;
    } catch (error) {
      if (signal.aborted) throw error;
      const old = current.get(serverName);
      const fields = { serverName, error: describeError(error) };
      if (old === undefined) log.warn(fields, "no server certificate yet, leaves cannot connect");
      else
        log.warn(
          { ...fields, validUntil: new Date(old.expiresMs).toISOString() },
          "no new server certificate, the old one stays in use",
        );
      return false;
    }
  }

  async function keepFresh(
    serverName: string,
    changed: (certificates: readonly ServerCertificate[]) => void,
  ): Promise<void> {
    for (;;) {
      const expiresMs = current.get(serverName)?.expiresMs ?? 0;
      const dueMs = clock.now() + renewalDelayMs(expiresMs, clock.now(), random());
      while (clock.now() < dueMs) await clock.sleep(Math.min(LONGEST_WAIT_MS, dueMs - clock.now()), signal);
      while (!(await issue(serverName))) await clock.sleep(RETRY_MS, signal);
      changed(inOrder());
    }
  }

  return {
    async open(changed) {
      for (const name of serverNames) while (!(await issue(name))) await clock.sleep(FIRST_RETRY_MS, signal);
      for (const name of serverNames) {
        running.push(
          keepFresh(name, changed).catch((error: unknown) => {
            if (!signal.aborted)
              log.error({ serverName: name, error: describeError(error) }, "certificate renewal stopped");
          }),
        );
      }
      return inOrder();
    },
    async [Symbol.asyncDispose]() {
      stopping.abort(new Error("the certificate source was closed"));
      await Promise.all(running);
    },
  };
}
