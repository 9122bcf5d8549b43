/** Deployment manifests: what the check finds, what rendering makes of the template, and that neither drifts from the code. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { applyPatch } from "../../src/core/merge-patch.ts";
import type { Json, JsonObject } from "../../src/core/message.ts";
import { parseManifest } from "../../src/manifest.ts";
import { checkManifest } from "../../src/manifest-check.ts";
import { renderManifest } from "../../src/manifest-render.ts";

const read = (path: string): string => readFileSync(join(import.meta.dirname, "../..", path), "utf8");
const template = JSON.parse(read("deployment.template.json")) as JsonObject;
const layer = JSON.parse(read("deployment.layered.example.json")) as JsonObject;

function changed(patch: JsonObject, of: JsonObject = template): JsonObject {
  return applyPatch(of, { modulesContent: patch });
}
const desired = (patch: JsonObject): JsonObject => ({ "properties.desired": patch });
const module = (patch: JsonObject): JsonObject => changed({ $edgeAgent: desired({ modules: { pnpGateway: patch } }) });
const hostConfig = (patch: JsonObject): JsonObject => module({ settings: { createOptions: { HostConfig: patch } } });
const environment = (name: string, value: Json): JsonObject => module({ env: { [name]: { value } } });
const edgeHub = (patch: JsonObject): JsonObject =>
  changed({ $edgeAgent: desired({ systemModules: { edgeHub: patch } }) });
const hubEnvironment = (name: string, value: Json): JsonObject =>
  edgeHub({ env: { [name]: value === null ? null : { value } } });
const routes = (patch: JsonObject): JsonObject => changed({ $edgeHub: desired({ routes: patch }) });

describe("the check of a manifest", () => {
  test("finds nothing in the template and in the layered example", () => {
    expect(checkManifest(template)).toEqual([]);
    expect(checkManifest(layer)).toEqual([]);
  });

  test.each<[string, JsonObject, RegExp]>([
    ["desired properties of the module", changed({ pnpGateway: desired({}) }), /overwrite|replaces the whole desired/],
    [
      "a single desired property in a base deployment",
      changed({ pnpGateway: { "properties.desired.gateway": {} } }),
      /layered/,
    ],
    ["an unknown variable", environment("GATEWAY_NO_SUCH", "1"), /GATEWAY_NO_SUCH: there is no such key/],
    ["a bad value of a variable", environment("GATEWAY_TLS_PORT", "many"), /GATEWAY_TLS_PORT/],
    ["no binding of the leaves' port", hostConfig({ PortBindings: null }), /lacks 8883\/tcp/],
    ["the network of the host", hostConfig({ NetworkMode: "host" }), /NetworkMode/],
    ["no volume for the state", hostConfig({ Binds: ["/srv/x:/config:ro"] }), /nothing is mounted at \/data/],
    ["create options that are no JSON", module({ settings: { createOptions: "{" } }), /is no JSON object/],
    [
      "edgeHub on the leaves' port",
      edgeHub({
        settings: { createOptions: { HostConfig: { PortBindings: { "8883/tcp": [{ HostPort: "8883" }] } } } },
      }),
      /takes port 8883 of the host/,
    ],
    ["MQTT upstream", hubEnvironment("UpstreamProtocol", "Mqtt"), /throws acknowledged messages away/],
    ["no route", routes({ pnpGatewayToUpstream: null }), /no route brings the output "telemetry"/],
    [
      "a route of another module",
      routes({ pnpGatewayToUpstream: "FROM /messages/modules/other/* INTO $upstream" }),
      /no route/,
    ],
    [
      "a route of an output that there is not",
      routes({ a: "FROM /messages/modules/pnpGateway/outputs/out1 INTO $upstream" }),
      /no output "out1"/,
    ],
    [
      "a route to an input that there is not",
      routes({ a: 'FROM /messages/* INTO BrokeredEndpoint("/modules/pnpGateway/inputs/in1")' }),
      /no input "in1"/,
    ],
    ["a text that is no route", routes({ a: "everything to the cloud" }), /is no route/],
    ["no gateway at all", changed({ $edgeAgent: desired({ modules: null }) }), /name it with --module/],
    ["no manifest at all", {}, /modulesContent/],
  ])("refuses %s", (_, manifest, problem) => {
    const errors = checkManifest(manifest).filter(({ level }) => level === "error");
    expect(errors.map(({ where, problem: found }) => `${where}: ${found}`).join("\n")).toMatch(problem);
  });

  test.each<[string, JsonObject, RegExp]>([
    [
      "a key in the environment",
      environment("KEY", Buffer.alloc(32, 7).toString("base64")),
      /env.KEY: looks like a key/,
    ],
    ["a connection string in the environment", environment("S", "HostName=h;SharedAccessKey=x"), /looks like a key/],
    [
      "another port than the SDKs dial",
      hostConfig({ PortBindings: { "8883/tcp": [{ HostPort: "8884" }] } }),
      /dial port 8883/,
    ],
    ["small batches", hubEnvironment("MaxUpstreamBatchSize", "10"), /10 messages go to the cloud per round trip/],
    ["the default of the batch size", hubEnvironment("MaxUpstreamBatchSize", null), /10 messages/],
    ["edgeHub's store in its container", hubEnvironment("storageFolder", null), /ends with its container/],
    [
      "an edgeHub that loses CONNECTs",
      edgeHub({ settings: { image: "mcr.microsoft.com/azureiotedge-hub:1.6.1" } }),
      /1\.6\.1/,
    ],
    ["a start before edgeHub", module({ startupOrder: 0 }), /starts before edgeHub/],
    ["a root that can be written", hostConfig({ ReadonlyRootfs: null }), /ReadonlyRootfs/],
    ["capabilities", hostConfig({ CapDrop: null }), /CapDrop/],
    ["new privileges", hostConfig({ SecurityOpt: ["seccomp=default"] }), /no-new-privileges/],
    ["no bound of its processes", hostConfig({ PidsLimit: null }), /PidsLimit/],
    ["no bound of its memory", hostConfig({ Memory: null }), /Memory/],
    ["a log that grows", hostConfig({ LogConfig: null }), /LogConfig/],
    [
      "a condition on the only route",
      routes({ pnpGatewayToUpstream: "FROM /messages/* WHERE a = 1 INTO $upstream" }),
      /WHERE/,
    ],
    ["no store and forward", changed({ $edgeHub: desired({ storeAndForwardConfiguration: null }) }), /storeAndForward/],
  ])("warns of %s", (_, manifest, problem) => {
    const findings = checkManifest(manifest);
    expect(findings.filter(({ level }) => level === "error")).toEqual([]);
    expect(findings.map(({ where, problem: found }) => `${where}: ${found}`).join("\n")).toMatch(problem);
  });

  test("reads edgeHub's environment as edgeHub does: names in whatever case", () => {
    const renamed = edgeHub({ env: { storageFolder: null, StorageFolder: { value: "/iotedge/storage" } } });
    expect(checkManifest(renamed)).toEqual([]);
    const lower = edgeHub({ env: { UpstreamProtocol: null, upstreamprotocol: { value: "MqttWs" } } });
    expect(checkManifest(lower)).toMatchObject([{ level: "error", where: "edgeHub.env.UpstreamProtocol" }]);
  });

  test("takes every route that edgeHub would match", () => {
    for (const from of [
      "/*",
      "/messages/*",
      "/messages/modules/*",
      "/messages/modules/pnpGateway/*",
      "/messages/modules/PNPGATEWAY/outputs/telemetry",
    ]) {
      expect(checkManifest(routes({ pnpGatewayToUpstream: `FROM ${from} INTO $upstream` }))).toEqual([]);
    }
    const withPriority = { route: "FROM /messages/* INTO $upstream", priority: 1, timeToLiveSecs: 60 };
    expect(checkManifest(routes({ pnpGatewayToUpstream: withPriority }))).toEqual([]);
  });

  test("lets gateway and edgeHub have the same port on different addresses of the host", () => {
    const at = (HostIp: string): JsonObject => ({ PortBindings: { "8883/tcp": [{ HostIp, HostPort: "8883" }] } });
    const both = (ours: string, theirs: string): JsonObject =>
      changed({
        $edgeAgent: desired({
          modules: { pnpGateway: { settings: { createOptions: { HostConfig: at(ours) } } } },
          systemModules: { edgeHub: { settings: { createOptions: { HostConfig: at(theirs) } } } },
        }),
      });
    expect(checkManifest(both("10.0.0.2", "10.0.0.1"))).toEqual([]);
    expect(checkManifest(both("0.0.0.0", "10.0.0.1"))).toHaveLength(1);
  });

  test("judges the gateway's desired properties in a layer, and warns of those of leaves", () => {
    const own = (patch: JsonObject, component = "gateway"): JsonObject => ({
      modulesContent: { $edgeAgent: {}, pnpGateway: { [`properties.desired.${component}`]: patch } },
    });
    expect(checkManifest(own({ spillAfterMs: "fast" }), "pnpGateway")).toMatchObject([{ level: "error" }]);
    expect(checkManifest(own({ nothing: 1 }), "pnpGateway")).toMatchObject([{ problem: "there is no such key" }]);
    expect(checkManifest(own({ tlsPort: 1 }), "pnpGateway")).toMatchObject([
      { problem: expect.stringContaining("GATEWAY_TLS_PORT") },
    ]);
    expect(checkManifest(own({ a: 1 }, "leaf1"), "pnpGateway")).toMatchObject([{ level: "warning" }]);
  });

  test("never throws, whatever the document is", () => {
    const section = fc.jsonValue().map((value) => value as Json);
    fc.assert(
      fc.property(section, section, section, (agent, hub, own) => {
        checkManifest(agent);
        checkManifest(changed({ $edgeAgent: agent, $edgeHub: hub, pnpGateway: own }), "pnpGateway");
        checkManifest(module({ settings: agent, env: hub }));
        checkManifest(hostConfig({ Binds: agent, PortBindings: hub, Mounts: own }));
      }),
    );
  });
});

describe("rendering", () => {
  const values = {
    CONTAINER_REGISTRY_SERVER: "registry.example",
    CONTAINER_REGISTRY_USERNAME: "user",
    CONTAINER_REGISTRY_PASSWORD: "secret",
    GATEWAY_IMAGE: "registry.example/iotedge-pnp-gateway:0.1.0-arm64v8",
  };

  test("fills the placeholders and makes texts of the create options, which mean the same", () => {
    const rendered = renderManifest(template, values);
    if (rendered.kind !== "ok") throw new Error(JSON.stringify(rendered));
    expect(JSON.stringify(rendered.manifest)).not.toMatch(/\$\{|\$schema-template/);
    const [before, after] = [parseManifest(template), parseManifest(rendered.manifest)];
    if (typeof before === "string" || typeof after === "string") throw new Error("no manifest");
    const image = values.GATEWAY_IMAGE;
    expect(after).toEqual({ ...before, modules: before.modules.map((entry) => ({ ...entry, image })) });
    expect(checkManifest(rendered.manifest)).toEqual([]);
  });

  test("cuts long create options into pieces that mean the same, and refuses what Edge agent could not put together", () => {
    const withBinds = (count: number): JsonObject =>
      hostConfig({ Binds: Array.from({ length: count }, (_, index) => `/srv/${index}-${"x".repeat(80)}:/data`) });
    const rendered = renderManifest(withBinds(20), values);
    if (rendered.kind !== "ok") throw new Error(JSON.stringify(rendered));
    expect(JSON.stringify(rendered.manifest)).toContain('"createOptions03"');
    const [before, after] = [parseManifest(withBinds(20)), parseManifest(rendered.manifest)];
    if (typeof before === "string" || typeof after === "string") throw new Error("no manifest");
    expect(after.modules[0]?.createOptions).toEqual(before.modules[0]?.createOptions);
    expect(renderManifest(withBinds(60), values)).toMatchObject({ kind: "invalid" });
  });

  test("lists every placeholder without a value", () => {
    expect(renderManifest(template, {})).toEqual({ kind: "missing", names: Object.keys(values).toSorted() });
    expect(renderManifest([], values)).toMatchObject({ kind: "invalid" });
  });
});
