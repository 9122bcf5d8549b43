import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createCertificateSource, renewalDelayMs } from "../../../src/upstream/certificate-source.ts";
import type { ServerCertificate, WorkloadClient } from "../../../src/upstream/workload.ts";
import { ManualClock } from "../../support/manual-clock.ts";
import { RecordingLog } from "../../support/recording-log.ts";

const DAY_MS = 24 * 3_600_000;

class Issuer implements WorkloadClient {
  readonly issued: string[] = [];
  failing = false;
  readonly #clock: ManualClock;

  constructor(clock: ManualClock) {
    this.#clock = clock;
  }
  async trustBundle(): Promise<undefined> {
    return undefined;
  }
  async sign(): Promise<never> {
    throw new Error("not here");
  }
  async serverCertificate(serverName: string): Promise<ServerCertificate> {
    if (this.failing) throw new Error("the workload API answered 500");
    this.issued.push(serverName);
    return {
      serverName,
      chain: `chain ${this.issued.length}`,
      privateKey: "key",
      expiresMs: this.#clock.now() + 30 * DAY_MS,
    };
  }
}

function make(serverNames: readonly string[]) {
  const clock = new ManualClock();
  const issuer = new Issuer(clock);
  const log = new RecordingLog();
  const source = createCertificateSource({ workload: issuer, serverNames, clock, log, random: () => 0.5 });
  const changes: string[][] = [];
  const changed = (certificates: readonly ServerCertificate[]): void => {
    changes.push(certificates.map(({ serverName, chain }) => `${serverName} ${chain}`));
  };
  return { clock, issuer, log, source, changes, changed };
}

describe("createCertificateSource", () => {
  it("has one certificate for each name, in the order of the names", async () => {
    const { source, changed } = make(["edge.local", "10.0.0.5"]);
    expect((await source.open(changed)).map(({ serverName }) => serverName)).toEqual(["edge.local", "10.0.0.5"]);
    await source[Symbol.asyncDispose]();
  });

  it("waits for the workload API at the start", async () => {
    const { source, changed, issuer, clock, log } = make(["edge.local"]);
    issuer.failing = true;
    const opening = source.open(changed);
    await clock.advance(10_000);
    expect(new Set(log.events())).toEqual(new Set(["no server certificate yet, leaves cannot connect"]));
    issuer.failing = false;
    await clock.advance(10_000);
    expect(await opening).toHaveLength(1);
    await source[Symbol.asyncDispose]();
  });

  it("renews long before expiry, and tells of it", async () => {
    const { source, changed, changes, clock } = make(["edge.local"]);
    await source.open(changed);
    await clock.advance(15 * DAY_MS);
    expect(changes).toEqual([]);
    await clock.advance(6 * DAY_MS);
    expect(changes).toEqual([["edge.local chain 2"]]);
    await source[Symbol.asyncDispose]();
  });

  it("keeps the old certificate while renewing fails, and warns", async () => {
    const { source, changed, changes, issuer, clock, log } = make(["edge.local"]);
    await source.open(changed);
    issuer.failing = true;
    await clock.advance(25 * DAY_MS);
    expect(changes).toEqual([]);
    const validUntil = expect.stringMatching(/^\d{4}-\d\d-\d\dT/);
    expect(log.lines).toContainEqual({
      level: "warn",
      fields: { serverName: "edge.local", error: expect.any(String), validUntil },
      event: "no new server certificate, the old one stays in use",
    });
    issuer.failing = false;
    await clock.advance(60_000);
    expect(changes).toEqual([["edge.local chain 2"]]);
    await source[Symbol.asyncDispose]();
  });

  it("renews soon after the clock was set forward past the expiry", async () => {
    const { source, changed, changes, clock } = make(["edge.local"]);
    await source.open(changed);
    clock.jump(400 * DAY_MS);
    await clock.advance(2 * 3_600_000);
    expect(changes).toHaveLength(1);
    await source[Symbol.asyncDispose]();
  });

  it("stops when it is disposed of, even before the first certificate", async () => {
    const { source, changed, issuer, clock } = make(["edge.local"]);
    issuer.failing = true;
    const opening = source.open(changed);
    await clock.advance(1);
    const refused = expect(opening).rejects.toThrow(/closed/);
    await source[Symbol.asyncDispose]();
    await refused;
  });
});

describe("renewalDelayMs", () => {
  it("leaves at least a quarter of a certificate's life, and never spins", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: -DAY_MS, max: 400 * DAY_MS }),
        fc.double({ min: 0, max: 0.999, noNaN: true }),
        (leftMs, random) => {
          const delayMs = renewalDelayMs(leftMs, 0, random);
          expect(delayMs).toBeGreaterThanOrEqual(30_000);
          if (leftMs > 120_000) expect(delayMs).toBeLessThan(leftMs * 0.75);
        },
      ),
    );
  });
});
