/** What the contract tests of the hub's service side share: a cloud behind its service API, without an edge side. */

import { openCertificateAuthority } from "../../src/devhub/certificates.ts";
import { IotHubCloud } from "../../src/devhub/cloud.ts";
import type { ControlFunctions, Identity } from "../../src/devhub/cloud-types.ts";
import { type ServiceApi, startServiceApi } from "../../src/devhub/service-api.ts";
import { type BackEnd, connectBackEnd } from "../support/back-end.ts";

const HOST_NAME = "hub.example";
export const GW = { deviceId: "edge1", moduleId: "gw" };
export const DEVICE = { deviceId: "edge1" };

export interface ServiceRig extends AsyncDisposable {
  readonly cloud: IotHubCloud;
  readonly api: ServiceApi;
  readonly caPem: string;
  readonly url: string;
  /** As the owner, or by another connection string. */
  backEnd(connectionString?: string): BackEnd;
}

export interface RigOptions {
  readonly controls?: ControlFunctions;
  readonly isConnected?: (id: Identity) => boolean;
}

export async function startServiceRig({ controls = {}, isConnected }: RigOptions = {}): Promise<ServiceRig> {
  const cloud = new IotHubCloud();
  for (const id of [DEVICE, GW]) cloud.ensureModule(id);
  const authority = await openCertificateAuthority(undefined);
  const certificate = await authority.issue([HOST_NAME, "localhost"], 3_600_000, "ec");
  const tls = { key: certificate.privateKeyPem, cert: certificate.chainPem };
  const presence = isConnected === undefined ? {} : { isConnected };
  const api = await startServiceApi({
    cloud,
    tls,
    bind: "127.0.0.1",
    port: 0,
    hostName: HOST_NAME,
    controls,
    ...presence,
  });
  const opened: BackEnd[] = [];
  return {
    cloud,
    api,
    caPem: authority.rootPem,
    url: `https://localhost:${api.port}`,
    backEnd(connectionString = api.connectionString) {
      const made = connectBackEnd({ host: "127.0.0.1", port: api.port, ca: authority.rootPem, connectionString });
      opened.push(made);
      return made;
    },
    async [Symbol.asyncDispose]() {
      for (const backEnd of opened) backEnd[Symbol.dispose]();
      await api[Symbol.asyncDispose]();
    },
  };
}
