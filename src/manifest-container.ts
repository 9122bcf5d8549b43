/** The checks of a manifest that concern the container: ports of the host, volumes, and what holds it in. Pure. */
import type { Config } from "./config.ts";
import { isJsonObject } from "./core/merge-patch.ts";
import type { Json, JsonObject } from "./core/message.ts";
import { error, type Finding, type ModuleEntry, warning } from "./manifest.ts";

/** The Python, .NET, C and Java SDKs dial no other. */
const LEAF_PORT = "8883";

interface Binding {
  readonly containerPort: string;
  readonly hostIp: string;
  readonly hostPort: string;
}

/** `config` is undefined where the environment is wrong: then only the ports of the host are judged. */
export function checkPorts(
  name: string,
  createOptions: JsonObject,
  config: Config | undefined,
  edgeHub: ModuleEntry | undefined,
): Finding[] {
  const bindings = portBindings(createOptions);
  const where = `${name}.settings.createOptions.HostConfig`;
  const isHostNetwork = hostConfig(createOptions)["NetworkMode"] === "host";
  return [
    ...(isHostNetwork ? [error(where, "NetworkMode host takes the module out of the network that edgeHub is in")] : []),
    ...(config === undefined ? [] : checkListeners(where, bindings, config)),
    ...checkHostPorts(name, bindings, portBindings(edgeHub?.createOptions ?? {})),
  ];
}

function checkListeners(where: string, bindings: readonly Binding[], config: Config): Finding[] {
  const published = (port: number): Binding[] => bindings.filter((binding) => binding.containerPort === String(port));
  const findings: Finding[] = [];
  const leaves = published(config.tlsPort);
  if (config.tlsEnabled && leaves.length === 0)
    findings.push(error(where, `PortBindings lacks ${config.tlsPort}/tcp: no leaf reaches the gateway`));
  else if (config.tlsEnabled && !leaves.some(({ hostPort }) => hostPort === LEAF_PORT))
    findings.push(warning(where, `the Python, .NET, C and Java SDKs dial port ${LEAF_PORT} of the host and no other`));
  if (config.plainEnabled && published(config.plainPort).length > 0)
    findings.push(warning(where, `port ${config.plainPort} carries leaves' tokens in plain text`));
  if (config.opsEnabled && published(config.opsPort).length > 0)
    findings.push(warning(where, `port ${config.opsPort} shows the status page to whoever asks`));
  return findings;
}

function checkHostPorts(name: string, ours: readonly Binding[], edgeHubs: readonly Binding[]): Finding[] {
  const clashes = edgeHubs.filter((theirs) =>
    ours.some(
      ({ hostIp, hostPort }) =>
        hostPort === theirs.hostPort && (hostIp === theirs.hostIp || hostIp === "" || theirs.hostIp === ""),
    ),
  );
  return clashes.map(({ hostPort }) =>
    error(
      "edgeHub.settings.createOptions.HostConfig.PortBindings",
      `takes port ${hostPort} of the host, as ${name} does: drop it, since modules reach edgeHub over the Edge network`,
    ),
  );
}

export function checkContainer(name: string, createOptions: JsonObject, stateFolder: string): Finding[] {
  const host = hostConfig(createOptions);
  const where = `${name}.settings.createOptions.HostConfig`;
  const warnings: [boolean, string][] = [
    [host["ReadonlyRootfs"] === true, '"ReadonlyRootfs": true keeps intruders from settling in'],
    [list(host["CapDrop"]).includes("ALL"), '"CapDrop": ["ALL"]: it needs no capabilities'],
    [hasNoNewPrivileges(host), '"SecurityOpt": ["no-new-privileges"]: nothing in it may become root'],
    [
      typeof host["PidsLimit"] === "number",
      '"PidsLimit" should bound its processes, so that nobody can use them all up',
    ],
    [typeof host["Memory"] === "number", '"Memory" should bound it, so that a defect cannot take the box down'],
    [isJsonObject(host["LogConfig"]), '"LogConfig" should rotate its log, which fills the disk otherwise'],
    [host["Privileged"] !== true, "it needs no privileges"],
  ];
  const findings = warnings.filter(([isFine]) => !isFine).map(([, problem]) => warning(where, problem));
  if (!isMounted(host, stateFolder))
    findings.push(
      error(where, `nothing is mounted at ${stateFolder}: twins, outbox and queues end with the container`),
    );
  return findings;
}

/** Docker takes three spellings. */
function hasNoNewPrivileges(host: JsonObject): boolean {
  return list(host["SecurityOpt"]).some((option) => /^no-new-privileges(?:[:=]true)?$/.test(word(option)));
}

function isMounted(host: JsonObject, folder: string): boolean {
  const binds = list(host["Binds"]).map((bind) => word(bind).split(":")[1]);
  const mounts = list(host["Mounts"]).map((mount) => (isJsonObject(mount) ? mount["Target"] : undefined));
  return [...binds, ...mounts].includes(folder);
}

function portBindings(createOptions: JsonObject): Binding[] {
  const bindings = hostConfig(createOptions)["PortBindings"];
  return Object.entries(isJsonObject(bindings) ? bindings : {}).flatMap(([port, hosts]) =>
    list(hosts)
      .filter(isJsonObject)
      .map((host) => ({
        containerPort: port.replace(/\/tcp$/, ""),
        hostIp: host["HostIp"] === "0.0.0.0" ? "" : word(host["HostIp"]),
        hostPort: word(host["HostPort"]),
      })),
  );
}

function hostConfig(createOptions: JsonObject): JsonObject {
  const host = createOptions["HostConfig"];
  return isJsonObject(host) ? host : {};
}

function list(value: Json | undefined): readonly Json[] {
  return Array.isArray(value) ? value : [];
}

function word(value: Json | undefined): string {
  return typeof value === "string" || typeof value === "number" ? String(value) : "";
}
