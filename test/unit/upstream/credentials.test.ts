import { describe, expect, it } from "vitest";
import { GatewayError } from "../../../src/core/errors.ts";
import { connectionStringCredentials, edgeCredentials } from "../../../src/upstream/credentials.ts";

const EDGE = {
  IOTEDGE_WORKLOADURI: "unix:///var/run/iotedge/workload.sock",
  IOTEDGE_DEVICEID: "edge1",
  IOTEDGE_MODULEID: "gw",
  IOTEDGE_MODULEGENERATIONID: "637",
  IOTEDGE_IOTHUBHOSTNAME: "hub.example",
  IOTEDGE_GATEWAYHOSTNAME: "edge.local",
  IOTEDGE_AUTHSCHEME: "SasToken",
};
const KEY = Buffer.from("0123456789").toString("base64");
const TEXT = `HostName=hub.example;DeviceId=edge1;ModuleId=gw;SharedAccessKey=${KEY}`;

describe("edgeCredentials", () => {
  it("is undefined where there is nothing of IoT Edge", () => {
    expect(edgeCredentials({ PATH: "/bin", IOTEDGE_AUTHSCHEME: "sasToken" })).toBeUndefined();
  });

  it("takes the module's identity and the way to the workload API from the environment", () => {
    expect(edgeCredentials(EDGE)).toMatchObject({
      identity: { deviceId: "edge1", moduleId: "gw", hubHostName: "hub.example", gatewayHostName: "edge.local" },
      workload: {
        uri: "unix:///var/run/iotedge/workload.sock",
        moduleId: "gw",
        generationId: "637",
        apiVersion: undefined,
      },
      nested: false,
    });
  });

  it("dials the hub itself without a gateway host name, and knows a parent", () => {
    const { IOTEDGE_GATEWAYHOSTNAME: _none, ...rest } = EDGE;
    expect(edgeCredentials({ ...rest, IOTEDGE_PARENTHOSTNAME: "parent" })).toMatchObject({
      identity: { gatewayHostName: "hub.example" },
      nested: true,
    });
  });

  it("names what is missing", () => {
    const { IOTEDGE_MODULEGENERATIONID: _none, ...rest } = EDGE;
    expect(() => edgeCredentials(rest)).toThrow(/IOTEDGE_MODULEGENERATIONID/);
    expect(() => edgeCredentials({ ...EDGE, IOTEDGE_AUTHSCHEME: "x509" })).toThrow(/x509/);
  });

  it("prefers the simulator's connection string", () => {
    const credentials = edgeCredentials({ ...EDGE, EdgeHubConnectionString: `${TEXT};GatewayHostName=sim:8883` });
    expect(credentials).toMatchObject({ identity: { gatewayHostName: "sim:8883" }, workload: undefined });
  });
});

describe("connectionStringCredentials", () => {
  it("reads its parts in any case, and a key that ends in =", async () => {
    const credentials = connectionStringCredentials(TEXT.replace("HostName", "hostname"), { ca: "PEM" });
    expect(credentials.identity).toEqual({
      deviceId: "edge1",
      moduleId: "gw",
      hubHostName: "hub.example",
      gatewayHostName: "hub.example",
    });
    expect(await credentials.trustedCa(undefined)).toBe("PEM");
  });

  it("names what is missing without saying what is there", () => {
    const attempt = () => connectionStringCredentials(`HostName=h;SharedAccessKey=${KEY}`);
    expect(attempt).toThrow(GatewayError);
    expect(attempt).toThrow(/DeviceId, ModuleId/);
    expect(attempt).not.toThrow(new RegExp(KEY));
  });

  it("refuses a CA file that cannot be read only when connecting", async () => {
    const credentials = connectionStringCredentials(TEXT, { caFile: "/does/not/exist.pem" });
    await expect(credentials.trustedCa(undefined)).rejects.toThrow(/ENOENT/);
  });
});
