/**
 * Who the module is towards edgeHub, from values alone. Invariant: each connection gets a token provider of its own, since the SDK's
 * transport never takes its listeners off a provider.
 */
import { readFile } from "node:fs/promises";
import type { SharedAccessKeyAuthenticationProvider } from "azure-iot-device";
import azureIotDevice from "azure-iot-device";
import { GatewayError } from "../core/errors.ts";
import type { Clock } from "../flow/ports.ts";
import { createTokenProvider } from "./token-provider.ts";
import type { WorkloadAccess, WorkloadClient } from "./workload.ts";

const { SharedAccessKeyAuthenticationProvider: KeyProvider } = azureIotDevice;

export interface TokenLife {
  readonly validSecs: number;
  /** A new token is made so long before the old one ends. */
  readonly marginSecs: number;
}

/** Ids and host names; `gatewayHostName` is what is dialled, and may end in `:port` in development. */
export interface ModuleIdentity {
  readonly deviceId: string;
  readonly moduleId: string;
  readonly hubHostName: string;
  readonly gatewayHostName: string;
}

export interface ModuleCredentials {
  readonly identity: ModuleIdentity;
  /** Where the workload API is; undefined for a connection string. */
  readonly workload: WorkloadAccess | undefined;
  /** True behind a parent edgeHub: what this edgeHub calls upstream is not the cloud. */
  readonly nested: boolean;
  /** A token provider for one connection. The caller listens to its `error` and calls its `stop`. */
  provider(life: TokenLife, clock: Clock, workload: WorkloadClient | undefined): SharedAccessKeyAuthenticationProvider;
  /** PEM of the certificates to trust, read anew; undefined: those that Node trusts. Rejects when it cannot be had now. */
  trustedCa(workload: WorkloadClient | undefined): Promise<string | undefined>;
}

type Environment = Readonly<Record<string, string | undefined>>;

const EDGE_VARIABLES = [
  "IOTEDGE_WORKLOADURI",
  "IOTEDGE_DEVICEID",
  "IOTEDGE_MODULEID",
  "IOTEDGE_MODULEGENERATIONID",
  "IOTEDGE_IOTHUBHOSTNAME",
] as const;

/**
 * What IoT Edge (or its simulator, by connection string) has put into the module's environment [iothub-mqtt.md 9.3].
 * undefined: nothing of it is there. Throws `CREDENTIALS_MISSING` when only a part is.
 */
export function edgeCredentials(environment: Environment): ModuleCredentials | undefined {
  const connectionString = environment["EdgeHubConnectionString"] ?? environment["IotHubConnectionString"];
  if (connectionString !== undefined) {
    return connectionStringCredentials(connectionString, { caFile: environment["EdgeModuleCACertificateFile"] });
  }
  const missing = EDGE_VARIABLES.filter((name) => (environment[name] ?? "") === "");
  if (missing.length === EDGE_VARIABLES.length) return undefined;
  if (missing.length > 0) {
    throw new GatewayError(
      "CREDENTIALS_MISSING",
      `the IoT Edge environment is incomplete: ${missing.join(", ")} not set`,
    );
  }
  const scheme = environment["IOTEDGE_AUTHSCHEME"] ?? "sasToken";
  if (scheme.toLowerCase() !== "sastoken") {
    throw new GatewayError("CREDENTIALS_MISSING", `IOTEDGE_AUTHSCHEME is ${scheme}, only sasToken exists`);
  }
  return workloadCredentials(environment);
}

function workloadCredentials(environment: Environment): ModuleCredentials {
  const value = (name: string): string => environment[name] ?? "";
  const hubHostName = value("IOTEDGE_IOTHUBHOSTNAME");
  const identity: ModuleIdentity = {
    deviceId: value("IOTEDGE_DEVICEID"),
    moduleId: value("IOTEDGE_MODULEID"),
    hubHostName,
    gatewayHostName: value("IOTEDGE_GATEWAYHOSTNAME") === "" ? hubHostName : value("IOTEDGE_GATEWAYHOSTNAME"),
  };
  return {
    identity,
    workload: {
      uri: value("IOTEDGE_WORKLOADURI"),
      moduleId: identity.moduleId,
      generationId: value("IOTEDGE_MODULEGENERATIONID"),
      apiVersion: environment["IOTEDGE_APIVERSION"],
    },
    nested: value("IOTEDGE_PARENTHOSTNAME") !== "",
    provider: (life, clock, workload) => {
      if (workload === undefined) throw new GatewayError("INVARIANT", "these credentials need the workload API");
      return createTokenProvider({ identity, life, clock, workload });
    },
    trustedCa: async (workload) => workload?.trustBundle(),
  };
}

export interface ConnectionStringTrust {
  /** PEM text. */
  readonly ca?: string | undefined;
  /** A PEM file, read at each connection. */
  readonly caFile?: string | undefined;
}

/** For development: `HostName;DeviceId;ModuleId;SharedAccessKey[;GatewayHostName]`. Throws `CREDENTIALS_MISSING` when a part is missing. */
export function connectionStringCredentials(
  connectionString: string,
  { ca, caFile }: ConnectionStringTrust = {},
): ModuleCredentials {
  const parts = new Map(
    connectionString.split(";").map((part): [string, string] => {
      const [name = "", ...rest] = part.split("=");
      return [name.trim().toLowerCase(), rest.join("=").trim()];
    }),
  );
  const missing = ["HostName", "DeviceId", "ModuleId", "SharedAccessKey"].filter(
    (name) => (parts.get(name.toLowerCase()) ?? "") === "",
  );
  if (missing.length > 0) {
    throw new GatewayError("CREDENTIALS_MISSING", `the module's connection string lacks ${missing.join(", ")}`);
  }
  const hubHostName = parts.get("hostname") ?? "";
  return {
    identity: {
      deviceId: parts.get("deviceid") ?? "",
      moduleId: parts.get("moduleid") ?? "",
      hubHostName,
      gatewayHostName: parts.get("gatewayhostname") ?? hubHostName,
    },
    workload: undefined,
    nested: false,
    provider: ({ validSecs, marginSecs }) => KeyProvider.fromConnectionString(connectionString, validSecs, marginSecs),
    trustedCa: async () => ca ?? (caFile === undefined ? undefined : await readFile(caFile, "utf8")),
  };
}
