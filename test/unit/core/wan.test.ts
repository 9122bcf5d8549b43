import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type EdgeHubFigures,
  INITIAL_WAN,
  judgeWan,
  type WanMemory,
  type WanObservation,
  type WanState,
} from "../../../src/core/wan.ts";

/** Figures of an edgeHub that is online; `offline: true` has it notice an outage. */
function metrics(
  atSecs: number,
  backlog: number,
  sentUpstream: number,
  counts: Partial<EdgeHubFigures> = {},
): WanObservation {
  return { kind: "metrics", atMs: atSecs * 1_000, backlog, sentUpstream, offlineCount: 0, onlineCount: 1, ...counts };
}
const OFFLINE = { offlineCount: 1, onlineCount: 1 };
const STARTING = { offlineCount: 0, onlineCount: 0 };
const missing = (atSecs: number): WanObservation => ({ kind: "metrics-missing", atMs: atSecs * 1_000 });
const probe = (atSecs: number, reached: boolean): WanObservation => ({ kind: "probe", atMs: atSecs * 1_000, reached });
const read = (atSecs: number, tookSecs: number): WanObservation => ({
  kind: "read",
  atMs: atSecs * 1_000,
  tookMs: tookSecs * 1_000,
});

const heard = (atSecs: number): WanObservation => ({ kind: "heard", atMs: atSecs * 1_000 });

const after = (observations: readonly WanObservation[]): WanMemory => observations.reduce(judgeWan, INITIAL_WAN);
const statesOf = (observations: readonly WanObservation[]): WanState[] =>
  observations.map((_, at) => after(observations.slice(0, at + 1)).state);

type Row = readonly [name: string, history: readonly (readonly [WanObservation, WanState])[]];

const TABLE: readonly Row[] = [
  [
    "nothing is known without a source",
    [
      [missing(0), "unknown"],
      [read(30, 25), "unknown"],
      [read(60, 1), "unknown"],
    ],
  ],
  [
    "a probe that never got out says nothing, one that did does",
    [
      [probe(0, false), "unknown"],
      [probe(10, true), "online"],
      [probe(20, false), "away"],
      [probe(22, true), "online"],
    ],
  ],
  [
    "metrics that vanish leave the state to the probe, or to nobody",
    [
      [metrics(0, 0, 5), "online"],
      [missing(5), "unknown"],
      [metrics(10, 0, 5, OFFLINE), "away"],
      [missing(15), "unknown"],
      [probe(16, true), "online"],
      [missing(20), "online"],
    ],
  ],
  [
    "messages that pile up while none goes out are a stall, until one goes out",
    [
      [metrics(0, 0, 100), "online"],
      [metrics(5, 3, 100), "online"],
      [metrics(10, 8, 100), "away"],
      [metrics(15, 8, 100), "away"],
      [metrics(20, 13, 100), "away"],
      [metrics(25, 4, 109), "online"],
      [metrics(30, 0, 118), "online"],
    ],
  ],
  [
    "a queue that empties without a message sent (its time to live was over) is no stall any more",
    [
      [metrics(0, 2, 100), "online"],
      [metrics(5, 7, 100), "away"],
      [metrics(10, 0, 100), "online"],
      [metrics(15, 1, 100), "online"],
    ],
  ],
  [
    "a stall stays one while messages grow too old in the queue",
    [
      [metrics(0, 2, 100), "online"],
      [metrics(5, 7, 100), "away"],
      [metrics(10, 1, 100), "away"],
      [metrics(15, 1, 101), "online"],
    ],
  ],
  [
    "messages that have only just come are no stall",
    [
      [metrics(0, 1, 100), "online"],
      [metrics(1, 2, 100), "online"],
      [metrics(1.5, 3, 100), "online"],
      [metrics(2, 4, 100), "away"],
    ],
  ],
  [
    "one message that waits alone is no stall",
    [
      [metrics(0, 1, 100), "online"],
      [metrics(60, 1, 100), "online"],
    ],
  ],
  [
    "a queue that grows while messages go out is no stall",
    [
      [metrics(0, 5, 100), "online"],
      [metrics(5, 50, 150), "online"],
      [metrics(10, 500, 200), "online"],
    ],
  ],
  [
    "edgeHub's own count says that it is offline, and when it is back",
    [
      [metrics(0, 0, 100), "online"],
      [metrics(5, 0, 100, OFFLINE), "away"],
      [metrics(10, 0, 100, { offlineCount: 1, onlineCount: 2 }), "online"],
    ],
  ],
  [
    "an edgeHub that starts is offline for who has no probe, and online for who has one that gets out",
    [
      [metrics(0, 0, 0, STARTING), "away"],
      [probe(1, true), "online"],
      [metrics(5, 0, 0, STARTING), "online"],
      [metrics(10, 3, 0, STARTING), "online"],
      [metrics(15, 8, 0, STARTING), "away"],
    ],
  ],
  [
    "counts that say offline while messages go out are not believed until they change",
    [
      [metrics(0, 0, 100, STARTING), "away"],
      [metrics(5, 0, 101, STARTING), "online"],
      [metrics(10, 0, 101, STARTING), "online"],
      [metrics(15, 0, 101, { offlineCount: 1, onlineCount: 0 }), "away"],
    ],
  ],
  [
    "another edgeHub process begins to count anew, which is no message sent",
    [
      [metrics(0, 0, 100, OFFLINE), "away"],
      [metrics(5, 4, 0, OFFLINE), "away"],
      [metrics(10, 9, 0), "away"],
    ],
  ],
  [
    "a quiet outage is seen by the probe alone, and so is its end",
    [
      [metrics(0, 0, 100), "online"],
      [probe(1, true), "online"],
      [probe(11, false), "away"],
      [metrics(12, 0, 100), "away"],
      [metrics(17, 0, 100), "away"],
      [metrics(22, 0, 100), "away"],
      [metrics(27, 0, 100), "away"],
      [probe(28, true), "online"],
      [metrics(32, 0, 100), "online"],
    ],
  ],
  [
    "the line's return counts before edgeHub notices it, for a while",
    [
      [probe(0, true), "online"],
      [metrics(0, 0, 100), "online"],
      [probe(10, false), "away"],
      [metrics(15, 9, 100), "away"],
      [metrics(20, 14, 100, OFFLINE), "away"],
      [probe(22, true), "online"],
      [metrics(25, 19, 100, OFFLINE), "online"],
      [probe(32, true), "online"],
      [metrics(141, 150, 100, OFFLINE), "online"],
      [metrics(142, 150, 100, OFFLINE), "away"],
    ],
  ],
  [
    "an outage that begins when edgeHub has shown the return is one of its own",
    [
      [probe(0, true), "online"],
      [probe(10, false), "away"],
      [probe(12, true), "online"],
      [metrics(15, 0, 100), "online"],
      [metrics(20, 0, 100, OFFLINE), "away"],
    ],
  ],
  [
    "what edgeHub says counts when only its own port is blocked",
    [
      [probe(0, true), "online"],
      [metrics(5, 0, 100, OFFLINE), "away"],
      [probe(10, true), "away"],
      [metrics(15, 0, 100, { offlineCount: 1, onlineCount: 2 }), "online"],
    ],
  ],
  [
    "the first slow read is worth one more, the next ones wait for longer and longer",
    [
      [metrics(0, 0, 100), "online"],
      [read(20, 20), "away"],
      [metrics(20.5, 0, 100), "away"],
      [metrics(21, 0, 100), "online"],
      [read(45, 24), "away"],
      [metrics(104, 0, 100), "away"],
      [metrics(105, 0, 100), "online"],
      [read(130, 24), "away"],
      [metrics(249, 0, 100), "away"],
      [metrics(250, 0, 100), "online"],
    ],
  ],
  [
    "a quick read ends the waiting for a slow one",
    [
      [metrics(0, 0, 100), "online"],
      [read(20, 20), "away"],
      [read(20.5, 0.1), "online"],
      [read(40, 15), "online"],
      [read(60, 15.001), "away"],
      [metrics(61, 0, 100), "online"],
    ],
  ],
  [
    "the line's return ends the waiting for a slow read",
    [
      [probe(0, true), "online"],
      [read(20, 20), "away"],
      [read(45, 24), "away"],
      [probe(46, true), "away"],
      [probe(56, false), "away"],
      [probe(58, true), "online"],
      [read(80, 20), "away"],
      [probe(81, true), "online"],
    ],
  ],
];

describe("the way to the cloud", () => {
  test.each(TABLE)("%s", (_, history) => {
    expect(statesOf(history.map(([observation]) => observation))).toEqual(history.map(([, state]) => state));
  });

  test("waits a quarter of an hour at most for slow reads", () => {
    const slow = Array.from({ length: 60 }, (_, at) => read(at, 20));
    expect(after([metrics(0, 0, 1), ...slow]).heldAwayUntilMs).toBe(59_000 + 900_000);
  });
});

describe("a probe that fails while edgeHub is online", () => {
  test("is set aside when it never worked, and says nothing meanwhile", () => {
    const history = [probe(0, false), metrics(1, 0, 100), metrics(6, 0, 100), probe(10, false)];
    expect(after(history)).toMatchObject({ state: "online", probeSetAside: false });
    expect(after([...history, metrics(11, 0, 100)])).toMatchObject({ state: "online", probeSetAside: true });
  });

  test("is trusted again when it works", () => {
    const history = [probe(0, false), metrics(1, 0, 1), metrics(6, 0, 1), metrics(11, 0, 1), probe(20, true)];
    expect(after(history)).toMatchObject({ state: "online", probeSetAside: false });
    expect(after([...history, probe(30, false)])).toMatchObject({ state: "away", probeSetAside: false });
  });

  test("is believed when it worked before, as long as nothing goes out: the outage may be a quiet one", () => {
    const quiet = Array.from({ length: 50 }, (_, at) => metrics(20 + at * 5, 0, 100));
    expect(after([probe(0, true), metrics(5, 0, 100), probe(10, false), ...quiet])).toMatchObject({
      state: "away",
      probeSetAside: false,
    });
  });

  test("is set aside when it worked before but messages go out all the same, again and again", () => {
    const history = [probe(0, true), metrics(5, 0, 100), probe(10, false), metrics(11, 0, 101)];
    expect(after(history).probe.disproofs).toBe(0);
    const twice = [...history, metrics(16, 0, 102), metrics(21, 0, 102), metrics(26, 0, 103)];
    expect(after(twice)).toMatchObject({ state: "away", probeSetAside: false });
    expect(after([...twice, metrics(31, 0, 104)])).toMatchObject({ state: "online", probeSetAside: true });
  });

  test("is set aside when it worked before but something comes from the cloud, long after it failed first", () => {
    const quiet = [probe(0, true), metrics(5, 0, 100), probe(10, false), metrics(15, 0, 100)];
    // Still on its way when the line was cut.
    expect(after([...quiet, heard(69)])).toMatchObject({ state: "away", probeSetAside: false });
    expect(after([...quiet, heard(70)])).toMatchObject({ state: "online", probeSetAside: true });
    expect(after([...quiet, heard(70), probe(80, true), probe(90, false)])).toMatchObject({ state: "away" });
  });

  test("leaves nothing known when it is set aside and there are no metrics", () => {
    expect(after([probe(0, true), probe(10, false), heard(70)])).toMatchObject({ state: "unknown" });
    expect(after([probe(0, true), probe(10, false), heard(70), probe(80, false)]).state).toBe("unknown");
  });

  test("is not contradicted while it works, nor are edgeHub's own figures", () => {
    expect(after([probe(0, true), heard(100), probe(101, false)])).toMatchObject({ state: "away" });
    expect(after([metrics(0, 0, 100, OFFLINE), heard(100)])).toMatchObject({ state: "away" });
  });

  test("is not disproved by an edgeHub that is offline itself", () => {
    const history = Array.from({ length: 9 }, (_, at) => metrics(at * 5, 0, 100, OFFLINE));
    expect(after([probe(0, false), ...history])).toMatchObject({ state: "away", probeSetAside: false });
  });
});

const observations: fc.Arbitrary<readonly WanObservation[]> = fc
  .array(
    fc.record({
      afterMs: fc.nat(20_000),
      what: fc.oneof(
        fc.record({
          kind: fc.constant("metrics" as const),
          backlog: fc.nat(3),
          sentUpstream: fc.nat(3),
          offlineCount: fc.nat(2),
          onlineCount: fc.nat(2),
        }),
        fc.record({ kind: fc.constant("metrics-missing" as const) }),
        fc.record({ kind: fc.constant("probe" as const), reached: fc.boolean() }),
        fc.record({ kind: fc.constant("read" as const), tookMs: fc.nat(40_000) }),
        fc.record({ kind: fc.constant("heard" as const) }),
      ),
    }),
    { maxLength: 30 },
  )
  .map((steps) => {
    let atMs = 0;
    return steps.map(({ afterMs, what }) => {
      atMs += afterMs;
      return { ...what, atMs };
    });
  });

test("whatever came before, a line that is well is online again within a quarter of an hour", () => {
  fc.assert(
    fc.property(observations, fc.boolean(), (history, hasProbe) => {
      const startSecs = (history.at(-1)?.atMs ?? 0) / 1_000;
      const well = Array.from({ length: 190 }, (_, at) => [
        metrics(startSecs + at * 5, 0, 100 + at, { offlineCount: 7, onlineCount: 8 }),
        ...(hasProbe ? [probe(startSecs + at * 5, true)] : []),
      ]).flat();
      expect(after([...history, ...well]).state).toBe("online");
    }),
  );
});

test("whatever came before, a line that is cut is away when probe or edgeHub have noticed it", () => {
  fc.assert(
    fc.property(observations, (history) => {
      const atSecs = (history.at(-1)?.atMs ?? 0) / 1_000;
      expect(after([...history, probe(atSecs, true), probe(atSecs + 1, false)]).state).toBe("away");
    }),
  );
});

test("without a source that works nothing is claimed", () => {
  fc.assert(
    fc.property(observations, (history) => {
      const blind = history.filter(({ kind }) => kind === "read" || kind === "heard" || kind === "metrics-missing");
      for (const state of statesOf(blind)) expect(state).toBe("unknown");
    }),
  );
});
