/**
 * What in a deployment manifest would break the gateway's promises, or its users' patience: `iotedge-pnp-gateway manifest check FILE`.
 * Pure. Invariants: never throws; the template of this repository has no findings; a finding names where it is and what to write.
 */
import { CONFIG_KEYS, environmentName, isConfigKey, isLive, mergeConfig, problemsOf } from "./config.ts";
import { GATEWAY_COMPONENT } from "./core/component-name.ts";
import { CLOUD_TO_DEVICE_INPUT, TELEMETRY_OUTPUT } from "./core/endpoints.ts";
import { isJsonObject } from "./core/merge-patch.ts";
import type { Json } from "./core/message.ts";
import { error, type Finding, type Manifest, type ModuleEntry, parseManifest, warning } from "./manifest.ts";
import { checkContainer, checkPorts } from "./manifest-container.ts";

/** `moduleName`: which module is the gateway, where its image and environment do not tell. */
export function checkManifest(document: Json, moduleName?: string): readonly Finding[] {
  const manifest = parseManifest(document);
  if (typeof manifest === "string") return [error("manifest", manifest)];
  const gateway = gatewayOf(manifest, moduleName);
  const name = gateway?.name ?? moduleName;
  if (name === undefined) return [error("manifest", "no module in it looks like the gateway: name it with --module")];
  return [
    ...checkDesired(manifest, name),
    ...(gateway === undefined ? [] : checkModule(manifest, gateway)),
    ...(manifest.isLayer ? checkRouteNames(manifest, name) : checkBase(manifest, name)),
  ];
}

function gatewayOf({ desired, modules }: Manifest, moduleName: string | undefined): ModuleEntry | undefined {
  if (moduleName !== undefined) return modules.find(({ name }) => name === moduleName);
  const looksLikeIt = ({ env, image, name }: ModuleEntry): boolean =>
    /pnp-?gateway/i.test(`${image} ${name}`) || Object.keys(env).some((key) => key.startsWith("GATEWAY_"));
  const layer = Object.keys(desired).find((name) => `${DESIRED_PREFIX}${GATEWAY_COMPONENT}` in (desired[name] ?? {}));
  const named =
    layer === undefined
      ? undefined
      : { name: layer, image: undefined, env: {}, createOptions: {}, startupOrder: undefined };
  return modules.find(looksLikeIt) ?? named;
}

// ------------------------------------------------------------------------------------------------ desired properties

const DESIRED_PREFIX = "properties.desired.";

function checkDesired(manifest: Manifest, name: string): Finding[] {
  const findings: Finding[] = [];
  for (const [key, value] of Object.entries(manifest.desired[name] ?? {})) {
    const where = `${name}.${key}`;
    const component = key.startsWith(DESIRED_PREFIX) ? key.slice(DESIRED_PREFIX.length) : undefined;
    if (component === undefined) {
      findings.push(
        error(
          where,
          "replaces the whole desired section at every deployment, and with it the desired properties of all leaves: configure by environment or file, or set properties.desired.gateway in a layered deployment",
        ),
      );
    } else if (!manifest.isLayer) {
      findings.push(error(where, "single properties can only be set by a layered deployment"));
    } else if (component.split(".")[0] !== GATEWAY_COMPONENT) {
      findings.push(
        warning(where, "belongs to a leaf: the deployment and whoever commands that leaf will overwrite each other"),
      );
    } else findings.push(...checkGatewaySection(where, component, value));
  }
  return findings;
}

function checkGatewaySection(where: string, component: string, value: Json): Finding[] {
  const [, ...path] = component.split(".");
  const [single] = path;
  const properties = single === undefined && isJsonObject(value) ? value : { [single ?? ""]: value };
  return Object.entries(properties).flatMap(([key, desired]) => {
    if (key === "__t") return [];
    if (!isConfigKey(key)) return [error(`${where}.${key}`, "there is no such key")];
    if (!isLive(key))
      return [error(`${where}.${key}`, `takes effect at a start only: set ${environmentName(key)} in the environment`)];
    return problemsOf(key, desired).map((problem) => error(`${where}.${key}`, problem));
  });
}

// ------------------------------------------------------------------------------------------------ the module

function checkModule(manifest: Manifest, gateway: ModuleEntry): Finding[] {
  const { config, findings } = checkEnvironment(gateway);
  const orderOfHub = manifest.edgeHub?.startupOrder;
  if (orderOfHub !== undefined && gateway.startupOrder !== undefined && gateway.startupOrder <= orderOfHub)
    findings.push(
      warning(`${gateway.name}.startupOrder`, "starts before edgeHub, and logs that it is away until it comes"),
    );
  if (gateway.createOptions === undefined)
    return [...findings, error(`${gateway.name}.settings.createOptions`, "is no JSON object")];
  // A layer that changes the environment alone has none.
  if (manifest.isLayer && gateway.image === undefined) return findings;
  return [
    ...findings,
    ...checkPorts(gateway.name, gateway.createOptions, config, manifest.edgeHub),
    ...checkContainer(gateway.name, gateway.createOptions, gateway.env["GATEWAY_STATE"] ?? "/data"),
  ];
}

const PLACEHOLDER = /\$\{?[A-Za-z_]/;
/** A connection string, or 32 or 64 bytes in base64, as IoT Hub and DPS make keys. */
const SECRET = /SharedAccessKey=|SharedAccessSignature|^(?:[A-Za-z0-9+/]{43}=|[A-Za-z0-9+/]{86}==)$/;

function checkEnvironment({ env, name }: ModuleEntry) {
  const findings: Finding[] = [];
  const where = (variable: string): string => `${name}.env.${variable}`;
  const known: Record<string, string> = {};
  const names = new Set(CONFIG_KEYS.map(environmentName));
  for (const [variable, value] of Object.entries(env)) {
    if (SECRET.test(value))
      findings.push(
        warning(
          where(variable),
          "looks like a key: whoever may read $edgeAgent's twin can read it. Keep keys in files on the device",
        ),
      );
    // What the tooling puts there later cannot be judged; the name can.
    if (!PLACEHOLDER.test(value) || !names.has(variable)) known[variable] = value;
  }
  const merged = mergeConfig({}, known);
  if (merged.kind === "invalid") {
    findings.push(...merged.problems.map(({ key, problem }) => error(where(key), problem)));
    return { config: undefined, findings };
  }
  return { config: merged.config, findings };
}

// ------------------------------------------------------------------------------------------------ edgeHub and its routes

function checkBase(manifest: Manifest, name: string): Finding[] {
  const findings = [...checkRouteNames(manifest, name), ...checkEdgeHub(manifest.edgeHub)];
  const routed = Object.values(manifest.routes)
    .map(parseRoute)
    .filter((route) => isFromTelemetry(route.from, name));
  const toCloud = routed.filter(({ into }) => into.toLowerCase() === "$upstream");
  if (toCloud.length === 0)
    findings.push(
      error(
        "$edgeHub.routes",
        `no route brings the output "${TELEMETRY_OUTPUT}" to the cloud, and edgeHub acknowledges and drops what no route matches: add "FROM /messages/modules/${name}/outputs/* INTO $upstream"`,
      ),
    );
  else if (toCloud.every(({ condition }) => condition !== ""))
    findings.push(warning("$edgeHub.routes", "what does not meet the route's WHERE is acknowledged and dropped"));
  if (manifest.storeAndForward === undefined)
    findings.push(
      warning("$edgeHub.storeAndForwardConfiguration", "is missing: say how long edgeHub keeps messages in an outage"),
    );
  return findings;
}

interface Route {
  readonly from: string;
  readonly condition: string;
  readonly into: string;
}

function parseRoute(text: string): Route {
  const [, from = "", condition = "", into = ""] =
    /^\s*FROM\s+(\S+)\s+(?:WHERE\s+(.*?)\s+)?INTO\s+(.*?)\s*$/is.exec(text) ?? [];
  return { from, condition: condition.toLowerCase() === "true" ? "" : condition, into };
}

/** edgeHub matches a source with `*` for the rest of a path. */
function isFromTelemetry(from: string, name: string): boolean {
  const path = `/messages/modules/${name}/outputs/${TELEMETRY_OUTPUT}`.toLowerCase();
  const source = from.toLowerCase();
  return source === path || (source.endsWith("*") && path.startsWith(source.slice(0, -1)));
}

/** Names of ours that no output or input has. */
function checkRouteNames({ routes }: Manifest, name: string): Finding[] {
  return Object.entries(routes).flatMap(([route, text]) => {
    const { from, into } = parseRoute(text);
    const [, output] = new RegExp(`^/messages/modules/${escaped(name)}/outputs/([^*]+)$`, "i").exec(from) ?? [];
    const [, input] = new RegExp(`/modules/${escaped(name)}/inputs/([^"']+)`, "i").exec(into) ?? [];
    const where = `$edgeHub.routes.${route}`;
    return [
      ...(from === "" ? [error(where, "is no route: FROM <source> [WHERE <condition>] INTO <sink>")] : []),
      ...(output === undefined || output === TELEMETRY_OUTPUT
        ? []
        : [error(where, `the gateway has no output "${output}", only "${TELEMETRY_OUTPUT}"`)]),
      ...(input === undefined || input === CLOUD_TO_DEVICE_INPUT
        ? []
        : [error(where, `the gateway has no input "${input}", only "${CLOUD_TO_DEVICE_INPUT}"`)]),
    ];
  });
}

function escaped(text: string): string {
  return text.replaceAll(/[^A-Za-z0-9_]/g, String.raw`\$&`);
}

const MIN_BATCH = 100;

function checkEdgeHub(edgeHub: ModuleEntry | undefined): Finding[] {
  if (edgeHub === undefined) return [error("edgeHub", "is missing in systemModules")];
  const { createOptions, image = "" } = edgeHub;
  // edgeHub looks for them in any case, and IoT Edge's own examples differ.
  const env = Object.fromEntries(Object.entries(edgeHub.env).map(([name, value]) => [name.toLowerCase(), value]));
  const batch = env["maxupstreambatchsize"] ?? "10";
  const protocol = env["upstreamprotocol"] ?? "Amqp";
  const storageFolder = env["storagefolder"] ?? "";
  const binds = JSON.stringify(createOptions?.["HostConfig"] ?? {});
  const findings: [boolean, Finding][] = [
    [
      /^amqp(?:ws)?$/i.test(protocol),
      error(
        "edgeHub.env.UpstreamProtocol",
        `with ${protocol} edgeHub throws acknowledged messages away in some outages, and sends one at a time: Amqp or AmqpWs`,
      ),
    ],
    [
      Number(batch) >= MIN_BATCH || PLACEHOLDER.test(batch),
      warning(
        "edgeHub.env.MaxUpstreamBatchSize",
        `${batch} messages go to the cloud per round trip, of all leaves together: ${MIN_BATCH}`,
      ),
    ],
    [
      storageFolder !== "" && binds.includes(storageFolder),
      warning("edgeHub.env.storageFolder", "is not bound to the host: edgeHub's store ends with its container"),
    ],
    [
      !/:1\.6\.[01](?:$|-)/.test(image),
      warning("edgeHub.settings.image", "1.6.0 and 1.6.1 are reported to lose the CONNECT of Node modules"),
    ],
  ];
  return findings.filter(([isFine]) => !isFine).map(([, finding]) => finding);
}
