/** What every store promises: run for the one on disk and for the one in memory, so that tests on the fake mean something. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { OutboxEntry } from "../../src/core/message.ts";
import { entryBytes } from "../../src/core/outbox.ts";
import type { Store, Write } from "../../src/flow/ports.ts";
import { FaultyStore } from "../support/faulty-store.ts";
import { ManualClock } from "../support/manual-clock.ts";
import { emptyDisk, MemoryStore } from "../support/memory-store.ts";
import {
  append,
  cloudToDevice,
  collect,
  entry,
  LevelRig,
  leafId,
  leafRecord,
  message,
  settle,
} from "../support/store-samples.ts";

/** `open` gives the store of one and the same disk; dispose one before the next. */
interface StoreRig extends AsyncDisposable {
  open(): Promise<Store>;
}

async function memoryRig(): Promise<StoreRig> {
  const disk = emptyDisk();
  return { open: async () => new MemoryStore(disk), [Symbol.asyncDispose]: async () => undefined };
}

async function faultyRig(): Promise<StoreRig> {
  const disk = emptyDisk();
  const open = async () => new FaultyStore(new MemoryStore(disk), new ManualClock(), () => "none");
  return { open, [Symbol.asyncDispose]: async () => undefined };
}

describe.each([
  { name: "LevelDB store", create: (): Promise<StoreRig> => LevelRig.create(), runs: 30 },
  { name: "memory store", create: memoryRig, runs: 300 },
  { name: "faulty store without misfortune", create: faultyRig, runs: 100 },
])("$name", ({ create, runs }) => {
  /** Performs `before`, starts the store again, performs `after`. */
  async function acrossRestart(before: (store: Store) => Promise<void>, after: (store: Store) => Promise<void>) {
    await using rig = await create();
    {
      await using store = await rig.open();
      await before(store);
    }
    await using store = await rig.open();
    await after(store);
  }

  test("a new store is empty", async () => {
    await using rig = await create();
    await using store = await rig.open();
    expect(await store.outbox(0, 10)).toEqual([]);
    expect(await collect(store.leaves())).toEqual([]);
    expect(await collect(store.retained())).toEqual([]);
    expect(await collect(store.setAside())).toEqual([]);
    expect(await collect(store.cloudToDevice())).toEqual([]);
    expect(await store.meta("boot-id")).toBeUndefined();
    expect(store.usage()).toEqual({ entries: 0, bytes: 0, lastSeq: 0 });
  });

  test("what was committed is there after a restart", async () => {
    const record = leafRecord("leaf-1", { modelId: "dtmi:a;1", missed: { from: { x: 1 }, touched: { x: null } } });
    const aside = { entry: entry(9), reason: "refused", setAsideMs: 77 };
    await acrossRestart(
      (store) =>
        store.commit([
          { kind: "leaf", record },
          append(1),
          settle(2, true),
          { kind: "set-aside", entry: aside },
          { kind: "cloud-to-device", entry: cloudToDevice("leaf-1", 4) },
          { kind: "meta", key: "module-desired", value: { desired: { a: null }, version: 2 } },
        ]),
      async (store) => {
        expect(await collect(store.leaves())).toStrictEqual([record]);
        expect(await store.outbox(0, 10)).toStrictEqual([entry(1)]);
        expect(await collect(store.retained())).toStrictEqual([entry(2)]);
        expect(await collect(store.setAside())).toStrictEqual([aside]);
        expect(await collect(store.cloudToDevice())).toStrictEqual([cloudToDevice("leaf-1", 4)]);
        expect(await store.meta("module-desired")).toStrictEqual({ desired: { a: null }, version: 2 });
        expect(store.usage()).toEqual({ entries: 1, bytes: entryBytes(entry(1).message), lastSeq: 9 });
      },
    );
  });

  test("a payload comes back byte by byte and property names are ordinary keys", async () => {
    const bytes = Uint8Array.from({ length: 256 }, (_, at) => at);
    const properties = Object.fromEntries([
      ["__proto__", "p"],
      ["constructor", "c"],
      ["%2B\u0000ü", ""],
    ]);
    const odd: OutboxEntry = { ...entry(1), message: { payload: bytes, system: { sub: "l" }, properties } };
    const record = leafRecord("leaf-1", { reported: JSON.parse('{"__proto__": {"a": 1}, "toString": 2}') });
    await acrossRestart(
      (store) =>
        store.commit([
          { kind: "append", entry: odd },
          { kind: "leaf", record },
        ]),
      async (store) => {
        const [found] = await store.outbox(0, 1);
        expect(found).toStrictEqual(odd);
        expect(Object.keys(found?.message.properties ?? {})).toEqual(Object.keys(properties));
        const [leaf] = await collect(store.leaves());
        expect(JSON.stringify(leaf?.reported)).toBe('{"__proto__":{"a":1},"toString":2}');
      },
    );
  });

  test("entries come in order of their number, from behind the one asked for, at most so many", async () => {
    await using rig = await create();
    await using store = await rig.open();
    await store.commit([300, 2, 256, 65_536, 1].map((seq) => append(seq)));
    const seqs = async (after: number, limit: number) => (await store.outbox(after, limit)).map(({ seq }) => seq);
    expect(await seqs(0, 10)).toEqual([1, 2, 256, 300, 65_536]);
    expect(await seqs(2, 2)).toEqual([256, 300]);
    expect(await seqs(65_536, 2)).toEqual([]);
    await store.commit([settle(1), settle(256)]);
    expect(await seqs(0, 2)).toEqual([2, 300]);
  });

  test("an entry that comes back with a lower number than the others is found first", async () => {
    await using rig = await create();
    await using store = await rig.open();
    await store.commit([1, 2, 3, 4].map((seq) => append(seq)));
    await store.commit([settle(1, true), settle(2), settle(3)]);
    await store.commit([settle(4)]);
    await store.commit([
      { kind: "append", entry: entry(1) },
      { kind: "forget", upToSeq: 1 },
    ]);
    expect((await store.outbox(0, 10)).map(({ seq }) => seq)).toEqual([1]);
    expect(await collect(store.retained())).toEqual([]);
  });

  test("an entry appended twice or settled twice counts once", async () => {
    await using rig = await create();
    await using store = await rig.open();
    await store.commit([append(1, "a"), append(2, "b")]);
    await store.commit([append(1, "longer than before")]);
    expect(store.usage().entries).toBe(2);
    const [first, second] = await store.outbox(0, 2);
    expect(first?.message).toEqual(message("longer than before", { leafId: "leaf-1" }));
    await store.commit([settle(1)]);
    await store.commit([settle(1)]);
    expect(store.usage()).toEqual({
      entries: 1,
      bytes: second === undefined ? 0 : entryBytes(second.message),
      lastSeq: 2,
    });
  });

  test("the last number is never given out again, not even when everything was settled before a restart", async () => {
    await acrossRestart(
      async (store) => {
        await store.commit([append(7), append(8)]);
        await store.commit([settle(7), settle(8)]);
      },
      async (store) => expect(store.usage()).toEqual({ entries: 0, bytes: 0, lastSeq: 8 }),
    );
  });

  test("entries of before a restart are settled by their number alone", async () => {
    await acrossRestart(
      (store) => store.commit([append(1), append(2), append(3)]),
      async (store) => {
        await store.commit([settle(2)]);
        expect(store.usage().entries).toBe(2);
        await store.commit([settle(1), settle(3)]);
        expect(store.usage()).toEqual({ entries: 0, bytes: 0, lastSeq: 3 });
      },
    );
  });

  test("retained entries are kept until they are forgotten, in order, whatever comes in the same commit", async () => {
    await using rig = await create();
    await using store = await rig.open();
    await store.commit([append(1), append(2), append(3)]);
    await store.commit([settle(2, true), settle(1, true)]);
    expect(await collect(store.retained())).toEqual([entry(1), entry(2)]);
    await store.commit([
      settle(3, true),
      { kind: "forget", upToSeq: 2 },
      settle(5, true),
      { kind: "forget", upToSeq: 4 },
    ]);
    expect(await collect(store.retained())).toEqual([entry(5)]);
    await store.commit([settle(4, true)]);
    expect(await collect(store.retained())).toEqual([entry(4), entry(5)]);
    await store.commit([{ kind: "forget", upToSeq: 10 }]);
    expect(await collect(store.retained())).toEqual([]);
  });

  test("a removed leaf takes its own queued messages along and nobody else's", async () => {
    await using rig = await create();
    await using store = await rig.open();
    await store.commit([
      { kind: "leaf", record: leafRecord("a") },
      { kind: "leaf", record: leafRecord("a1") },
      { kind: "cloud-to-device", entry: cloudToDevice("a", 1) },
      { kind: "cloud-to-device", entry: cloudToDevice("a1", 2) },
      { kind: "cloud-to-device", entry: cloudToDevice("b", 3) },
    ]);
    await store.commit([
      { kind: "cloud-to-device", entry: cloudToDevice("a", 4) },
      { kind: "leaf-removed", leafId: leafId("a") },
      { kind: "cloud-to-device-done", leafId: leafId("b"), seq: 3 },
    ]);
    expect((await collect(store.leaves())).map((record) => record.leafId)).toEqual(["a1"]);
    expect(await collect(store.cloudToDevice())).toEqual([cloudToDevice("a1", 2)]);
  });

  test("set aside entries come in order and go one by one", async () => {
    await using rig = await create();
    await using store = await rig.open();
    const aside = (seq: number) => ({ entry: entry(seq), reason: `why ${seq}`, setAsideMs: seq });
    await store.commit([
      { kind: "set-aside", entry: aside(20) },
      { kind: "set-aside", entry: aside(3) },
    ]);
    expect(await collect(store.setAside())).toEqual([aside(3), aside(20)]);
    await store.commit([{ kind: "set-aside-removed", seq: 3 }]);
    expect(await collect(store.setAside())).toEqual([aside(20)]);
  });

  test("commits of the same moment take effect in the order of their calls", async () => {
    await using rig = await create();
    await using store = await rig.open();
    const values = Array.from({ length: 50 }, (_, at) => at);
    await Promise.all(values.map((value) => store.commit([{ kind: "meta", key: "last-time", value }])));
    expect(await store.meta("last-time")).toBe(49);
    await Promise.all([store.commit([append(1)]), store.commit([settle(1)]), store.commit([])]);
    expect(store.usage().entries).toBe(0);
  });

  test("a commit after the store was closed is refused", async () => {
    await using rig = await create();
    const store = await rig.open();
    await store[Symbol.asyncDispose]();
    await expect(store.commit([append(1)])).rejects.toMatchObject({ code: "STORE_FAILED" });
  });

  test("commits asked for before the store is closed are kept", async () => {
    await using rig = await create();
    const store = await rig.open();
    const commits = [1, 2, 3].map((seq) => store.commit([append(seq)]));
    await store[Symbol.asyncDispose]();
    await Promise.all(commits);
    await using again = await rig.open();
    expect(again.usage().entries).toBe(3);
  });

  test("behaves like a plain array through commits, settlements, restarts and reads of any size", {
    timeout: 60_000,
  }, async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(anyStep(), { maxLength: 40 }), async (steps) => {
        await using rig = await create();
        let store = await rig.open();
        const model = new Model();
        for (const step of steps) {
          switch (step.kind) {
            case "commit": {
              await Promise.all(step.groups.map((writes) => store.commit(writes)));
              for (const write of step.groups.flat()) model.apply(write);
              break;
            }
            case "restart":
              await store[Symbol.asyncDispose]();
              store = await rig.open();
              break;
            case "read":
              expect(await store.outbox(step.after, step.limit)).toEqual(model.read(step.after, step.limit));
              break;
          }
          expect(store.usage()).toEqual(model.usage());
        }
        expect(await store.outbox(0, 1_000)).toEqual(model.read(0, 1_000));
        expect(await collect(store.retained())).toEqual(model.retained);
        await store[Symbol.asyncDispose]();
      }),
      { numRuns: runs },
    );
  });
});

/** The outbox as two plain arrays. */
class Model {
  outbox: OutboxEntry[] = [];
  retained: OutboxEntry[] = [];
  lastSeq = 0;

  apply(write: Write): void {
    if (write.kind === "append") {
      this.lastSeq = Math.max(this.lastSeq, write.entry.seq);
      this.outbox = inOrder([...this.outbox.filter(({ seq }) => seq !== write.entry.seq), write.entry]);
    } else if (write.kind === "settle") {
      this.lastSeq = Math.max(this.lastSeq, write.seq);
      this.outbox = this.outbox.filter(({ seq }) => seq !== write.seq);
      if (write.retain !== undefined)
        this.retained = inOrder([...this.retained.filter(({ seq }) => seq !== write.seq), write.retain]);
    } else if (write.kind === "forget") {
      this.retained = this.retained.filter(({ seq }) => seq > write.upToSeq);
    }
  }

  read(after: number, limit: number): readonly OutboxEntry[] {
    return this.outbox.filter(({ seq }) => seq > after).slice(0, limit);
  }

  usage() {
    const bytes = this.outbox.reduce(
      (sum, { message: { payload, ...rest } }) => sum + entryBytes({ payload, ...rest }),
      0,
    );
    return { entries: this.outbox.length, bytes, lastSeq: this.lastSeq };
  }
}

function inOrder(entries: readonly OutboxEntry[]): OutboxEntry[] {
  return entries.toSorted((a, b) => a.seq - b.seq);
}

type ModelStep =
  | { readonly kind: "commit"; readonly groups: readonly (readonly Write[])[] }
  | { readonly kind: "restart" }
  | { readonly kind: "read"; readonly after: number; readonly limit: number };

function anyStep(): fc.Arbitrary<ModelStep> {
  const seq = fc.integer({ min: 1, max: 30 });
  const write: fc.Arbitrary<Write> = fc.oneof(
    { weight: 4, arbitrary: fc.tuple(seq, fc.string({ maxLength: 8 })).map(([at, text]) => append(at, text)) },
    { weight: 4, arbitrary: fc.tuple(seq, fc.boolean()).map(([at, retain]) => settle(at, retain)) },
    { weight: 1, arbitrary: seq.map((upToSeq): Write => ({ kind: "forget", upToSeq })) },
  );
  const groups = fc.array(fc.array(write, { maxLength: 6 }), { minLength: 1, maxLength: 4 });
  return fc.oneof(
    { weight: 6, arbitrary: groups.map((all): ModelStep => ({ kind: "commit", groups: all })) },
    { weight: 1, arbitrary: fc.constant<ModelStep>({ kind: "restart" }) },
    {
      weight: 2,
      arbitrary: fc
        .tuple(fc.integer({ min: 0, max: 31 }), fc.integer({ min: 1, max: 10 }))
        .map(([after, limit]): ModelStep => ({ kind: "read", after, limit })),
    },
  );
}
