/** The real upstream against packets that no honest edgeHub sends, and the bytes that it sends itself. */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Upstream } from "../../src/flow/ports.ts";
import type { UpstreamLimits } from "../../src/upstream/module-upstream.ts";
import { makeUpstream } from "../support/edgehub-rig.ts";
import { type RawConnection, type RawEdgeHub, type RawScript, startRawEdgeHub } from "../support/raw-edgehub.ts";
import { RecordingLog } from "../support/recording-log.ts";
import { RecordingHub, telemetry, until } from "../support/upstream-harness.ts";

let edge: RawEdgeHub;
let upstream: Upstream;
let hub: RecordingHub;
let log: RecordingLog;
let crashes: unknown[] = [];
const onCrash = (reason: unknown): void => {
  crashes.push(reason);
};

async function start(script: RawScript = {}, limits: Partial<UpstreamLimits> = {}): Promise<void> {
  edge = await startRawEdgeHub(script);
  hub = new RecordingHub();
  log = new RecordingLog();
  upstream = makeUpstream(edge.credentials, log, limits);
  await upstream.open(hub);
}

async function startUp(script: RawScript = {}, limits: Partial<UpstreamLimits> = {}): Promise<RawConnection> {
  await start(script, limits);
  await until("the link", () => hub.isUp);
  const [connection] = edge.connections;
  if (connection === undefined) throw new Error("no connection");
  return connection;
}

const answerTwin = (status: number, body: string): RawScript => ({
  twin: (connection, { rid }) => connection.publish(`$iothub/twin/res/${status}/?$rid=${rid}`, body),
});

beforeEach(() => {
  crashes = [];
  process.on("unhandledRejection", onCrash);
  process.on("uncaughtException", onCrash);
});
afterEach(async () => {
  await upstream[Symbol.asyncDispose]();
  await edge[Symbol.asyncDispose]();
  process.off("unhandledRejection", onCrash);
  process.off("uncaughtException", onCrash);
  expect(crashes).toEqual([]);
});

describe("what it sends", () => {
  it("connects as the module with its model and a keep-alive that notices a dead peer", async () => {
    await startUp();
    expect(edge.connects[0]).toMatchObject({ clientId: "edge1/gw", clean: false, keepalive: 4 });
    expect(edge.connects[0]?.username).toMatch(
      /^hub\.example\/edge1\/gw\/\?api-version=[\d-]+&model-id=dtmi:iotedgePnpGateway:Gateway;1&DeviceClientType=.*iotedge-pnp-gateway%2Ftest/,
    );
  });

  it("percent-encodes whatever would end the connection or the message", async () => {
    await startUp();
    const nasty = "a+b#c*d'e/f&g=h?i%j \u00e9\u{1f600}\u0000$";
    await upstream.send(
      "telemetry",
      telemetry('"\u00e9"', { sub: "leaf1__s", ct: "application/json;v=1" }, { [nasty]: nasty, empty: "" }),
    );
    const [packet] = edge.published;
    const bag = packet?.topic.slice("devices/edge1/modules/gw/messages/events/".length) ?? "";
    expect(bag).not.toMatch(/[+# ]/);
    expect(bag.endsWith("/")).toBe(true);
    const pairs = bag
      .slice(0, -1)
      .split("&")
      .map((pair) => pair.split("=").map(decodeURIComponent));
    expect(pairs).toEqual([
      ["$.on", "telemetry"],
      [nasty, nasty],
      ["empty", ""],
      ["$.sub", "leaf1__s"],
      ["$.ct", "application/json;v=1"],
    ]);
    expect(packet?.payload.toString()).toBe('"\u00e9"');
    expect(packet?.qos).toBe(1);
  });

  it("sends bytes that are no text unchanged", async () => {
    await startUp();
    const payload = Uint8Array.from({ length: 256 }, (_, byte) => byte);
    expect(await upstream.send("telemetry", { payload, system: {}, properties: {} })).toEqual({ kind: "accepted" });
    expect(Buffer.from(edge.published[0]?.payload ?? "").equals(payload)).toBe(true);
  });

  it("loses none of the keys that the SDK drops or takes for its own", async () => {
    await startUp();
    await upstream.send(
      "telemetry",
      telemetry(
        "1",
        { sub: "mine", on: "other", ctime: "t" },
        { Authorization: "a", "iothub-to": "b", "dt-subject": "theirs", "$.sub": "theirs" },
      ),
    );
    const bag = decodeURIComponent(edge.published[0]?.topic.split("/").at(-2) ?? "");
    expect(bag.split("&").sort()).toEqual(
      [
        "$.on=telemetry",
        "$.sub=mine",
        "Authorization=a",
        "iothub-to=b",
        "iothub-creation-time-utc=t",
        "leaf-$.sub=theirs",
        "leaf-dt-subject=theirs",
      ].sort(),
    );
  });

  it.each([
    ["a body that edgeHub would close the connection for", telemetry("x".repeat(262_144))],
    ["properties that no topic can hold", telemetry("1", {}, { big: "\u{1f600}".repeat(10_000) })],
    ["a property that has no UTF-8 form", telemetry("1", {}, { half: "\ud800" })],
  ])("rejects %s, and the link stays", async (_, message) => {
    await startUp();
    expect(await upstream.send("telemetry", message)).toMatchObject({ kind: "failed", fault: { kind: "rejected" } });
    expect(await upstream.send("telemetry", telemetry("2"))).toEqual({ kind: "accepted" });
    expect(hub.links).toEqual(["up"]);
    expect(edge.published).toHaveLength(1);
  });
});

describe("what it survives", () => {
  it.each([
    [500, ""],
    [200, ""],
    [200, "no json"],
    [200, "[1]"],
    [200, '{"desired":5}'],
    [200, "{"],
    [404, '{"errorCode":404001,"message":"no such thing"}'],
  ])("a twin read answered %i with the body %j", async (status, body) => {
    await startUp(answerTwin(status, body));
    expect(await upstream.getTwin()).toMatchObject({ kind: "failed" });
    expect(hub.links).toEqual(["up"]);
  });

  it("a twin without $version, as edgeHub gives it that never saw the cloud", async () => {
    await startUp(answerTwin(200, '{"desired":{},"reported":{"a":1,"$version":3}}'));
    expect(await upstream.getTwin()).toMatchObject({
      kind: "read",
      twin: { desired: {}, desiredVersion: undefined, reported: { a: 1 } },
    });
  });

  it("keys that are names of Object.prototype", async () => {
    await startUp(
      answerTwin(200, '{"desired":{"__proto__":{"x":1},"constructor":2,"$version":4},"reported":{"__proto__":5}}'),
    );
    const read = await upstream.getTwin();
    expect(JSON.stringify(read)).toContain('{"__proto__":{"x":1},"constructor":2}');
    expect(JSON.stringify(read)).toContain('"reported":{"__proto__":5}');
    expect(read).toMatchObject({ twin: { desiredVersion: 4 } });
  });

  it("an error with a body, as IoT Hub gives it", async () => {
    await startUp(answerTwin(429, '{"errorCode":429001,"message":"too many"}'));
    expect(await upstream.patchReported({ a: 1 })).toEqual({
      kind: "failed",
      fault: { kind: "throttled", reason: "status 429: too many" },
    });
  });

  it("answers that nobody asked for, or with a status that is none", async () => {
    const connection = await startUp({
      twin: (to, { rid }) => {
        to.publish("$iothub/twin/res/200/?$rid=somebody-else", "{}");
        to.publish("$iothub/twin/res/", "{}");
        to.publish(`$iothub/twin/res/abc/?$rid=${rid}`, '{"desired":{},"reported":{}}');
      },
    });
    expect(await upstream.getTwin()).toMatchObject({ kind: "failed", fault: { kind: "transient" } });
    connection.publish("$iothub/twin/res/204/?$rid=%zz", "");
    expect(hub.links).toEqual(["up"]);
  });

  it.each(["no json", "", "[1]", "null", '{"a":1}', '{"$version":"7"}', '{"$version":1.5}'])(
    "a desired patch %j: dropped, and the twin is to be read again",
    async (body) => {
      const connection = await startUp();
      connection.publish("$iothub/twin/PATCH/properties/desired/?$version=7", body);
      await until("the request for a read", () => hub.renewals === 1);
      connection.publish("$iothub/twin/PATCH/properties/desired/?$version=8", '{"a":null,"$version":8}');
      await until("the next patch", () => hub.patches.length === 1);
      expect(hub.patches).toEqual([{ patch: { a: null }, version: 8 }]);
    },
  );

  it.each([
    ["$iothub/methods/POST//?$rid=1", "{}"],
    ["$iothub/methods/POST/noRid/", "{}"],
    ["$iothub/methods/POST/notJson/?$rid=1", "{"],
    ["devices/edge1/modules/gw/inputs/in/%zz=1", "{}"],
    ["devices/edge1/modules/gw/inputs/", "{}"],
    ["$iothub/", "{}"],
    ["foo", "{}"],
  ])("a message on %s with the body %j", async (topic, body) => {
    const connection = await startUp();
    connection.publish(topic, body);
    connection.publish("$iothub/methods/POST/next/?$rid=2", "1");
    await until("the next command", () => hub.commands.some(({ name }) => name === "next"));
    expect(hub.commands).toHaveLength(1);
    expect(hub.links).toEqual(["up"]);
  });

  it("an input's property without a value", async () => {
    const connection = await startUp();
    connection.publish("devices/edge1/modules/gw/inputs/in/%24.mid=7&novalue&empty=", "x");
    await until("the input", () => hub.inputs.length === 1);
    expect(hub.inputs[0]?.message).toMatchObject({ system: { mid: "7" }, properties: { novalue: "", empty: "" } });
  });

  it("commands and inputs that come with the CONNACK of a kept session", async () => {
    await startUp({
      packet: (connection, packet) => {
        if (packet.cmd !== "connect") return false;
        connection.socket.cork();
        connection.send({ cmd: "connack", returnCode: 0, sessionPresent: true });
        connection.publish("$iothub/methods/POST/early/?$rid=1", "");
        connection.publish("devices/edge1/modules/gw/inputs/in/", "early");
        connection.socket.uncork();
        return true;
      },
    });
    await until("both", () => hub.commands.length === 1 && hub.inputs.length === 1);
    expect(hub.links).toEqual(["up"]);
  });

  it("a subscription that is refused: it tries again instead of being deaf", async () => {
    let refusals = 2;
    await start({
      packet: (connection, packet) => {
        if (
          packet.cmd !== "subscribe" ||
          !packet.subscriptions.some(({ topic }) => topic.startsWith("$iothub/methods")) ||
          refusals === 0
        )
          return false;
        refusals -= 1;
        connection.send({ cmd: "suback", messageId: packet.messageId ?? 0, granted: [128] });
        return true;
      },
    });
    await until("the link", () => hub.isUp);
    expect(edge.connects.length).toBe(3);
    expect(hub.links).toEqual(["up"]);
  });

  it.each(["a|b", "a^b`c", "a b", "50%", "a%20b", "käse", "a#b", "a?b", "=61", "*", "~!&'+_"])(
    "a command with the name %s",
    async (name) => {
      const connection = await startUp();
      connection.publish(`$iothub/methods/POST/${name}/?$rid=1f`, "5");
      await until("the command", () => hub.commands.length === 1);
      expect(hub.commands[0]).toMatchObject({ name, payload: 5 });
      await until("its answer", () => edge.published.some(({ topic }) => topic === "$iothub/methods/res/200/?$rid=1f"));
    },
  );

  it("a session that is gone when the token is renewed: a new link, with its subscriptions", async () => {
    await startUp({}, { tokenValidSecs: 20, tokenMarginSecs: 19 });
    await until("the second link", () => hub.ups === 2);
    expect(log.text).toContain("edgeHub had lost the session");
    expect(hub.links.slice(0, 3)).toEqual(["up", "down", "up"]);
  });

  it("a subscription that is never answered", async () => {
    let deaf = true;
    await start(
      {
        packet: (_, packet) => deaf && packet.cmd === "subscribe",
      },
      { connectMs: 300 },
    );
    await until("the second attempt", () => edge.connects.length > 1);
    deaf = false;
    await until("the link", () => hub.isUp);
    expect(hub.links).toEqual(["up"]);
  });

  it("a packet that is no MQTT", async () => {
    const connection = await startUp();
    connection.socket.write(Buffer.from([0x00, 0xff, 0xff, 0xff, 0xff, 0xff]));
    await until("a new link", () => hub.ups === 2);
  });
});

describe("an edgeHub that loses what comes with the end of the TLS handshake", () => {
  it("is connected to by holding CONNECT back, and it is said why", async () => {
    await start({ deafAfterTlsMs: 100 }, { connectMs: 500 });
    await until("the link", () => hub.isUp);
    expect(log.lines.filter(({ fields }) => "hint" in fields)).toHaveLength(1);
    upstream.reopen("the test says so");
    const attempts = edge.connections.size;
    await until("the next link", () => hub.ups === 2);
    expect(edge.connects).toHaveLength(2);
    expect(attempts).toBeLessThanOrEqual(1);
  });

  it("that never answers CONNECT gets the hint after three attempts", async () => {
    await start({ packet: (_, packet) => packet.cmd === "connect" }, { connectMs: 200, holdConnectMs: 50 });
    await until("the hint", () => log.lines.some(({ event }) => event.includes("does not answer CONNECT")));
    expect(log.lines.filter(({ fields }) => "hint" in fields)).toHaveLength(1);
    expect(hub.links).toEqual([]);
  });
});
