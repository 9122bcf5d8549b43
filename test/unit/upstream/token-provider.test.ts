import { describe, expect, it } from "vitest";
import { createTokenProvider } from "../../../src/upstream/token-provider.ts";
import type { WorkloadClient } from "../../../src/upstream/workload.ts";
import { ManualClock } from "../../support/manual-clock.ts";

const identity = { deviceId: "edge1", moduleId: "gw", hubHostName: "hub.example", gatewayHostName: "edge.local" };

class Signer implements WorkloadClient {
  asked = 0;
  answer: (signal: AbortSignal | undefined) => Promise<Buffer> = async () => Buffer.from("digest");

  async trustBundle(): Promise<undefined> {
    return undefined;
  }
  async serverCertificate(): Promise<never> {
    throw new Error("not here");
  }
  sign(_data: Uint8Array, signal?: AbortSignal): Promise<Buffer> {
    this.asked += 1;
    return this.answer(signal);
  }
}

function make() {
  const clock = new ManualClock(Date.now());
  const workload = new Signer();
  const provider = createTokenProvider({ identity, life: { validSecs: 3_600, marginSecs: 900 }, clock, workload });
  const errors: unknown[] = [];
  const renewed: unknown[] = [];
  provider.on("error", (error) => errors.push(error));
  provider.on("newTokenAvailable", (credentials) => renewed.push(credentials));
  return { clock, workload, provider, errors, renewed };
}

describe("createTokenProvider", () => {
  it("signs for the module's resource at its hub", async () => {
    const { provider } = make();
    const { sharedAccessSignature } = await provider.getDeviceCredentials();
    expect(String(sharedAccessSignature)).toMatch(
      /^SharedAccessSignature sr=hub\.example%2Fdevices%2Fedge1%2Fmodules%2Fgw&sig=ZGlnZXN0&se=\d+$/,
    );
    provider.stop();
  });

  it("tries once for the first token of a connection", async () => {
    const { provider, workload } = make();
    workload.answer = async () => {
      throw new Error("500");
    };
    await expect(provider.getDeviceCredentials()).rejects.toThrow("500");
    expect(workload.asked).toBe(1);
  });

  it("keeps asking for a renewal while the old token is good, without ending the connection", async () => {
    const { provider, workload, clock, errors, renewed } = make();
    await provider.getDeviceCredentials();
    const good = workload.answer;
    workload.answer = async () => {
      throw new Error("500");
    };
    // The public way to have it renewed at once.
    provider.setTokenRenewalValues(3_600, 900);
    await clock.advance(60_000);
    expect(workload.asked).toBeGreaterThan(5);
    expect(errors).toEqual([]);
    workload.answer = good;
    await clock.advance(10_000);
    expect(renewed).toHaveLength(1);
    provider.stop();
  });

  it("gives a renewal up before the old token runs out", async () => {
    const { provider, workload, clock, errors } = make();
    await provider.getDeviceCredentials();
    workload.answer = async () => {
      throw new Error("500");
    };
    provider.setTokenRenewalValues(3_600, 900);
    await clock.advance(900_000);
    expect(errors).toHaveLength(1);
  });

  it("hands out nothing after stop, and can be used again", async () => {
    const { provider, workload } = make();
    let release = (): void => undefined;
    workload.answer = () =>
      new Promise((resolve) => {
        release = () => resolve(Buffer.from("digest"));
      });
    const first = provider.getDeviceCredentials();
    provider.stop();
    release();
    await expect(first).rejects.toThrow(/over/);
    workload.answer = async () => Buffer.from("digest");
    await provider.getDeviceCredentials();
    provider.stop();
  });
});
