import { Writable } from "node:stream";
import { describe, expect, test } from "vitest";
import { createLog, type LogFormat, type LogLevel, limitRepeats } from "../../../src/ops/log.ts";
import { ManualClock } from "../../support/manual-clock.ts";
import { RecordingLog } from "../../support/recording-log.ts";

function logInto(format: LogFormat, level: LogLevel = "debug") {
  const lines: string[] = [];
  const log = createLog({
    level,
    format,
    destination: { write: (line) => void lines.push(line) },
    now: () => Date.UTC(2026, 0, 2, 3, 4, 5, 678),
  });
  return { log, lines };
}

describe("JSON format", () => {
  test("a line is one JSON object with time, level, event and fields", () => {
    const { log, lines } = logInto("json");
    log.warn({ leafId: "a", count: 2 }, "something happened");
    expect(lines.map((line) => JSON.parse(line))).toEqual([
      { level: "warn", time: "2026-01-02T03:04:05.678Z", leafId: "a", count: 2, event: "something happened" },
    ]);
    expect(lines[0]?.endsWith("}\n")).toBe(true);
  });

  test("fields named like pino's own do not stand in for them", () => {
    const { log, lines } = logInto("json");
    log.error({ reason: "x" }, "y");
    expect(JSON.parse(lines[0] ?? "")).toMatchObject({ level: "error", event: "y" });
  });
});

describe("IoT Edge format", () => {
  test("a line is severity, time with zone, text", () => {
    const { log, lines } = logInto("iotedge");
    log.debug({}, "d");
    log.info({}, "i");
    log.warn({}, "w");
    log.error({ leafId: "leaf-1", reason: "two words", n: 3 }, "e");
    expect(lines).toEqual([
      "<7> 2026-01-02 03:04:05.678 +00:00 d\n",
      "<6> 2026-01-02 03:04:05.678 +00:00 i\n",
      "<4> 2026-01-02 03:04:05.678 +00:00 w\n",
      '<3> 2026-01-02 03:04:05.678 +00:00 e leafId=leaf-1 reason="two words" n=3\n',
    ]);
  });

  test("line breaks in what a leaf sent cannot forge a line", () => {
    const { log, lines } = logInto("iotedge");
    log.info({ topic: "a\n<3> forged", "x\ny": 1 }, "event\r\n<3> forged");
    expect(lines.join("").split("\n")).toHaveLength(2);
  });
});

describe("level", () => {
  test("lines below the level are not written, and the level can be changed while running", () => {
    const { log, lines } = logInto("json", "warn");
    log.info({}, "no");
    log.setLevel("debug");
    log.debug({}, "yes");
    expect(log.level).toBe("debug");
    expect(lines.map((line) => JSON.parse(line).event)).toEqual(["yes"]);
  });
});

describe("secrets", () => {
  test.each(["json", "iotedge"] as const)("no secret reaches a %s line, wherever it stands", (format) => {
    const { log, lines } = logInto(format);
    const secret = "dG9wc2VjcmV0";
    const cause = new Error(`HostName=h;DeviceId=d;SharedAccessKey=${secret}`);
    log.error(
      {
        password: secret,
        nested: { deep: [{ "shared-access-key": secret, primary: secret }] },
        token: `SharedAccessSignature sr=h&sig=${secret}&se=1`,
        uri: `sr=h&sig=${secret}&se=1`,
        failure: new Error("connect failed", { cause }),
        pem: `-----BEGIN PRIVATE KEY-----\n${secret}\n-----END PRIVATE KEY-----`,
        payload: Buffer.from(secret),
      },
      `using SharedAccessKey=${secret}`,
    );
    expect(lines.join("")).not.toContain(secret);
    expect(lines.join("")).toContain("connect failed");
    expect(lines.join("")).toContain("12 bytes");
  });

  test("fields that lead in circles or hold big numbers do not break the log", () => {
    const { log, lines } = logInto("json");
    const circle: Record<string, unknown> = { big: 1n };
    circle["self"] = circle;
    log.info(circle, "round");
    expect(JSON.parse(lines[0] ?? "")).toMatchObject({ event: "round", big: "1" });
  });

  test("an own key __proto__ is an ordinary field", () => {
    const { log, lines } = logInto("json");
    log.info(JSON.parse('{"__proto__": {"a": 1}, "constructor": 2}'), "odd");
    expect(lines[0]).toContain('"__proto__":{"a":1}');
  });
});

describe("limitRepeats", () => {
  function limited() {
    const clock = new ManualClock();
    const inner = new RecordingLog();
    return { clock, inner, log: limitRepeats(inner, clock, 60_000) };
  }

  test("writes an event of a leaf once in the window and later how often it was held back", async () => {
    const { clock, inner, log } = limited();
    for (let n = 0; n < 5; n += 1) log.warn({ leafId: "a", n }, "refused");
    await clock.advance(59_999);
    log.warn({ leafId: "a", n: 5 }, "refused");
    expect(inner.lines).toHaveLength(1);
    await clock.advance(1);
    log.warn({ leafId: "a", n: 9 }, "refused");
    expect(inner.lines.map(({ fields }) => fields)).toEqual([
      { leafId: "a", n: 0 },
      { leafId: "a", n: 5, repeated: 5 },
      { leafId: "a", n: 9 },
    ]);
  });

  test("another reason, or another address of nobody in particular, is written at once", () => {
    const { inner, log } = limited();
    for (let round = 0; round < 3; round += 1)
      for (const reason of ["rate", "identity"]) {
        log.warn({ leafId: "a", remoteAddress: `10.0.0.${round}`, reason }, "refused");
        log.warn({ remoteAddress: "10.0.0.9", reason }, "refused");
        log.warn({ remoteAddress: `10.0.1.${round}`, reason }, "refused");
      }
    const written = inner.lines.map(({ fields }) =>
      JSON.stringify([fields["leafId"] ?? fields["remoteAddress"], fields["reason"]]),
    );
    expect(written).toHaveLength(2 + 2 + 6);
    expect(new Set(written).size).toBe(written.length);
  });

  test("what was held back is told with the next line of anybody", async () => {
    const { clock, inner, log } = limited();
    log.warn({ leafId: "a" }, "refused");
    log.warn({ leafId: "a" }, "refused");
    await clock.advance(60_000);
    log.info({}, "something else");
    expect(inner.lines.map(({ event, fields }) => [event, fields["repeated"]])).toEqual([
      ["refused", undefined],
      ["refused", 1],
      ["something else", undefined],
    ]);
  });

  test("a change of state is news, however soon it comes", () => {
    const { inner, log } = limited();
    for (const state of ["online", "online", "away", "online", "online"]) log.info({ state }, "the way to the cloud");
    expect(inner.lines.map(({ fields }) => fields)).toEqual([
      { state: "online" },
      { state: "online", repeated: 1 },
      { state: "away" },
      { state: "online" },
    ]);
  });

  test("other leaves, other events and other levels are not held back", () => {
    const { inner, log } = limited();
    log.warn({ leafId: "a" }, "refused");
    log.warn({ leafId: "b" }, "refused");
    log.warn({ leafId: "a" }, "closed");
    log.error({ leafId: "a" }, "refused");
    expect(inner.lines).toHaveLength(4);
  });

  test("a reason that is a sentence is no other reason: a leaf could say another one each time", () => {
    const { inner, log } = limited();
    for (let version = 0; version < 100; version += 1)
      log.warn({ leafId: "a", reason: `version is 1, not ${version}` }, "refused");
    expect(inner.lines).toHaveLength(1);
  });

  test("a crowd of ten thousand leaves does not make it forget to write or to count", () => {
    const { inner, log } = limited();
    for (let leaf = 0; leaf < 10_000; leaf += 1) {
      log.warn({ leafId: `leaf-${leaf}` }, "refused");
      log.warn({ leafId: `leaf-${leaf}` }, "refused");
    }
    const repeated = inner.lines.filter(({ fields }) => fields["repeated"] === 1).length;
    expect(inner.lines.length - repeated).toBe(10_000);
    // The last thousand windows are still open.
    expect(repeated).toBeGreaterThanOrEqual(8_999);
  });
});

test("a stream may be the destination", () => {
  const chunks: string[] = [];
  const stream = new Writable({
    write(chunk, _encoding, done) {
      chunks.push(String(chunk));
      done();
    },
  });
  createLog({ level: "info", format: "json", destination: stream }).info({}, "to a stream");
  expect(chunks).toHaveLength(1);
});
