import { X509Certificate } from "node:crypto";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { connect, createServer } from "node:tls";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { DevHub } from "../../src/devhub/devhub.ts";
import { createWorkloadClient, type WorkloadAccess, type WorkloadClient } from "../../src/upstream/workload.ts";
import { startTestHub } from "../support/edgehub-rig.ts";
import { realClock } from "../support/upstream-harness.ts";

let devHub: DevHub;
let workload: WorkloadClient;
let access: WorkloadAccess;

beforeEach(async () => {
  devHub = await startTestHub({ workloadPort: 0 });
  const environment = devHub.environment();
  access = {
    uri: environment["IOTEDGE_WORKLOADURI"] ?? "",
    moduleId: "gw",
    generationId: environment["IOTEDGE_MODULEGENERATIONID"] ?? "",
  };
  workload = createWorkloadClient(access, realClock, 20_000);
});
afterEach(async () => {
  await devHub[Symbol.asyncDispose]();
});

describe("workload client", () => {
  it("gets a server certificate for one name that leaves can verify with the trust bundle", async () => {
    const certificate = await workload.serverCertificate("edge.local", Date.now() + 86_400_000);
    expect(certificate.serverName).toBe("edge.local");
    expect(new X509Certificate(certificate.chain).checkHost("edge.local")).toBe("edge.local");
    expect(certificate.expiresMs).toBeGreaterThan(Date.now() + 3_600_000);

    const server = createServer({ cert: certificate.chain, key: certificate.privateKey }).listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    const ca = await workload.trustBundle();
    expect(ca).toContain("BEGIN CERTIFICATE");
    const socket = connect({ port, host: "127.0.0.1", servername: "edge.local", ...(ca === undefined ? {} : { ca }) });
    await once(socket, "secureConnect");
    expect(socket.authorized).toBe(true);
    socket.destroy();
    server.close();
  });

  it("issues a new certificate at each call", async () => {
    const first = await workload.serverCertificate("a", Date.now() + 1e6);
    const second = await workload.serverCertificate("a", Date.now() + 1e6);
    expect(second.privateKey).not.toBe(first.privateKey);
  });

  it("speaks to simulators over HTTP as well", async () => {
    const overHttp = createWorkloadClient({ ...access, uri: devHub.workloadHttpUri ?? "" }, realClock);
    expect(await overHttp.sign(Buffer.from("x"))).toEqual(await workload.sign(Buffer.from("x")));
  });

  it("signs what it is given and nothing else", async () => {
    expect(await workload.sign(Buffer.from("a"))).not.toEqual(await workload.sign(Buffer.from("b")));
    expect(await workload.sign(Buffer.from("a"))).toHaveLength(32);
  });

  it.each(["fail", "hang"] as const)("rejects, in time, when the API does: %s", async (answer) => {
    devHub.behaviour.workload = { sign: answer, trustBundle: answer, serverCertificate: answer };
    const impatient = createWorkloadClient(access, realClock, 100);
    await expect(impatient.sign(Buffer.from("x"))).rejects.toThrow();
    await expect(impatient.trustBundle()).rejects.toThrow();
    await expect(impatient.serverCertificate("a", 0)).rejects.toThrow();
  });

  it("stops waiting when it is told to", async () => {
    devHub.behaviour.workload.sign = "hang";
    const stop = new AbortController();
    const asked = createWorkloadClient(access, realClock).sign(Buffer.from("x"), stop.signal);
    stop.abort(new Error("no longer wanted"));
    await expect(asked).rejects.toThrow("no longer wanted");
  });

  it("rejects where there is no API", async () => {
    const nowhere = createWorkloadClient({ ...access, uri: "unix:///does/not/exist.sock" }, realClock);
    await expect(nowhere.trustBundle()).rejects.toThrow(/ENOENT/);
  });
});
