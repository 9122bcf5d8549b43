/** What every dialect owes: its wire table, and that nothing on the wire can make it throw. A new dialect is found by itself. */
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Frame, type JsonObject, type LeafId, type LeafNotice, parseLeafId } from "../../src/core/message.ts";
import { dialectNamed, dialects } from "../../src/translate/dialects.ts";

interface WireTable {
  readonly leaf: string;
  readonly connect: readonly { client: string; clientId: string; username?: string; meaning: JsonObject }[];
  readonly subscribe: readonly { client: string; filter: string; meaning?: string }[];
  readonly says: readonly (Omit<Frame, "payload" | "qos"> & { client: string; payload: string; meaning: JsonObject })[];
  readonly hears: readonly { what: string; notice: JsonObject; topic: string; payload: string; qos: number }[];
}

function wireTable(dialect: string): WireTable {
  return JSON.parse(readFileSync(new URL(`../fixtures/wire/${dialect}.json`, import.meta.url), "utf8")) as WireTable;
}

function leafIdOf(text: string): LeafId {
  const id = parseLeafId(text);
  if (id === undefined) throw new Error(`${text} is no leaf id`);
  return id;
}

/** A telemetry's payload is compared apart; reasons are for people. */
function comparable(value: object): JsonObject {
  const { telemetry, reason: _reason, ...rest } = JSON.parse(JSON.stringify(value)) as JsonObject;
  const { system, properties } = (telemetry ?? {}) as JsonObject;
  return telemetry === undefined ? rest : { ...rest, system: system ?? null, properties: properties ?? null };
}

function noticeOf(row: JsonObject): LeafNotice {
  if (row["kind"] !== "cloud-to-device") return row as unknown as LeafNotice;
  const { kind, payload, system, properties } = row as unknown as Record<"kind" | "payload", string> &
    Record<"system" | "properties", Record<string, string>>;
  return { kind: kind as "cloud-to-device", message: { payload: Buffer.from(payload), system, properties } };
}

const awkward = fc.constantFrom("+", "#", "/", "\0", "%", "=", "&", "$.", "?", "\ud800", "é", "a");
const text = fc.oneof(
  fc.string({ unit: "binary", maxLength: 40 }),
  fc.array(awkward, { maxLength: 6 }).map((parts) => parts.join("")),
);
const texts = fc.dictionary(text, text, { maxKeys: 6 });
const json = fc.jsonValue({ maxDepth: 4 });
const section = fc.dictionary(text, json, { maxKeys: 6 });

const notices: fc.Arbitrary<LeafNotice> = fc
  .record({ rid: fc.uuid(), version: fc.nat(), status: fc.integer({ min: 400, max: 599 }), name: text, section, json })
  .chain(({ rid, version, status, name, section: patch, json: payload }) =>
    fc.oneof(
      fc
        .record({ payload: fc.uint8Array(), system: texts, properties: texts })
        .map((message) => ({ kind: "cloud-to-device", message })),
      fc.constantFrom(
        { kind: "twin", rid, desired: patch, desiredVersion: version, reported: patch, reportedVersion: version },
        { kind: "reported-accepted", rid, version },
        { kind: "twin-refused", rid, status, reason: name, timestampUtc: "2026-01-02T03:04:05Z" },
        { kind: "desired", patch, version },
        { kind: "command", rid, name, payload },
      ),
    ),
  ) as fc.Arbitrary<LeafNotice>;

test("a dialect is found by its name", () => {
  for (const dialect of dialects) expect(dialectNamed(dialect.name)).toBe(dialect);
  expect(dialectNamed("esperanto")).toBeUndefined();
});

describe.each(dialects)("dialect $name", (dialect) => {
  const table = wireTable(dialect.name);
  const leaf = leafIdOf(table.leaf);

  test.each(table.connect)("connect: $client", ({ clientId, username, meaning }) => {
    expect(comparable(dialect.parseConnect({ clientId, username }))).toEqual(meaning);
  });

  test.each(table.subscribe)("subscribe: $client", ({ filter, meaning }) => {
    expect(dialect.channel(leaf, filter)).toBe(meaning);
  });

  test("the session of an SDK opens every channel, that of messages which are acknowledged with QoS 1", () => {
    const session = dialect.session(leaf).map(({ filter, qos }) => [dialect.channel(leaf, filter), qos]);
    expect(new Map(session as [string, number][])).toEqual(
      new Map([
        ["twin-answers", 0],
        ["desired", 0],
        ["commands", 0],
        ["cloud-to-device", 1],
      ]),
    );
  });

  test.each(table.says)("says: $client", ({ client: _client, meaning, payload, ...frame }) => {
    const bytes = new TextEncoder().encode(payload);
    const request = dialect.parse(leaf, { ...frame, payload: bytes, qos: 1 });
    expect(comparable(request)).toEqual(meaning);
    if (request.kind === "telemetry") expect(request.telemetry.payload).toBe(bytes);
  });

  test.each(table.hears)("hears: $what", ({ notice, topic, payload, qos }) => {
    const frame = dialect.format(leaf, noticeOf(notice));
    expect({ ...frame, payload: new TextDecoder().decode(frame.payload) }).toEqual({ topic, payload, qos });
  });

  test("whoever refuses or ignores says why", () => {
    for (const { client: _client, meaning: _meaning, payload, ...frame } of table.says) {
      const request = dialect.parse(leaf, { ...frame, payload: new TextEncoder().encode(payload), qos: 0 });
      if ("reason" in request) expect(request.reason).not.toBe("");
    }
  });

  test("parse never throws, whatever topic and bytes", () => {
    const pieces = fc.constantFrom(
      ...table.says.flatMap(({ topic }) => topic.split(/(?<=[/?&=])/)),
      "%",
      "%ff",
      "\0",
      "/",
    );
    const topics = fc.oneof(
      text,
      fc.array(fc.oneof(pieces, text), { maxLength: 12 }).map((parts) => parts.join("")),
    );
    const payloads = fc.oneof(
      fc.uint8Array({ maxLength: 60 }),
      fc
        .oneof(
          text,
          json.map((value) => JSON.stringify(value)),
        )
        .map((body) => Buffer.from(body)),
    );
    const kinds = ["telemetry", "twin-get", "reported", "command-answer", "twin-invalid", "close", "ignored"];
    fc.assert(
      fc.property(topics, payloads, fc.boolean(), (topic, payload, will) => {
        expect(kinds).toContain(dialect.parse(leaf, { topic, payload, qos: 1, will }).kind);
      }),
      { numRuns: 2_000 },
    );
  });

  test("connecting and subscribing never throw, and an accepted id is the claimed one", () => {
    const pieces = fc.constantFrom(
      "/",
      "?",
      "&",
      "=",
      "api-version=1",
      "model-id=",
      "dtmi:a:A;1",
      "leaf1",
      "%",
      ...table.connect.map(({ username = "" }) => username),
    );
    const names = fc.array(fc.oneof(pieces, text), { maxLength: 10 }).map((parts) => parts.join(""));
    fc.assert(
      fc.property(fc.oneof(fc.constant("leaf1"), text), fc.option(names, { nil: undefined }), (clientId, username) => {
        const claim = dialect.parseConnect({ clientId, username });
        if (claim.kind === "leaf") expect(claim.leafId).toBe(clientId);
        dialect.channel(leaf, username ?? clientId);
      }),
      { numRuns: 2_000 },
    );
  });

  test("what a leaf hears always fits into MQTT: no wildcard, no NUL, no over-long topic", () => {
    fc.assert(
      fc.property(notices, (notice) => {
        const { topic } = dialect.format(leaf, notice);
        expect(topic).not.toMatch(/[+#\0]/);
        expect(Buffer.byteLength(topic)).toBeLessThanOrEqual(65_535);
      }),
      { numRuns: 1_000 },
    );
  });

  test("100,000 nested lists neither overflow the stack nor come through", () => {
    const deep = new TextEncoder().encode(`${"[".repeat(100_000)}${"]".repeat(100_000)}`);
    for (const { topic } of table.says) {
      const request = dialect.parse(leaf, { topic, payload: deep, qos: 1 });
      expect(request.kind).not.toBe("reported");
      if (request.kind === "command-answer") expect(JSON.stringify(request.payload).length).toBeLessThan(200);
    }
  });
});
