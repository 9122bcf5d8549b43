import { ClassicLevel } from "classic-level";
import { describe, expect, test } from "vitest";
import { decodeCounters, USAGE_KEY } from "../../../src/store/format.ts";
import { folderBytes } from "../../../src/store/recovery.ts";
import { append, entry, LevelRig, leafId, settle } from "../../support/store-samples.ts";

describe("group commit", () => {
  test("everything that arrives while a write is being synced shares the next one", async () => {
    await using rig = await LevelRig.create();
    await using store = await rig.open();
    const first = store.commit([append(1)]);
    await new Promise((resolve) => setImmediate(resolve));
    const others = Array.from({ length: 200 }, (_, at) => store.commit([append(at + 2)]));
    await Promise.all([first, ...others]);
    expect(rig.metrics.value("store_commits_total")).toBeLessThanOrEqual(3);
    expect(store.usage().entries).toBe(201);
    expect(rig.metrics.observed("store_commit_seconds")).toHaveLength(rig.metrics.value("store_commits_total"));
    expect(rig.metrics.value("store_outbox_entries")).toBe(201);
    expect(rig.metrics.value("store_bytes_written_total")).toBeGreaterThan(201 * 50);
  });

  test("a commit that cannot be written at all fails alone", async () => {
    await using rig = await LevelRig.create();
    await using store = await rig.open();
    const good = store.commit([append(1)]);
    const bad = store.commit([append(2), append(-3)]);
    const later = store.commit([append(4)]);
    await expect(bad).rejects.toMatchObject({ code: "INVARIANT" });
    await Promise.all([good, later]);
    expect((await store.outbox(0, 10)).map(({ seq }) => seq)).toEqual([1, 4]);
  });

  test("a commit of nothing costs nothing", async () => {
    await using rig = await LevelRig.create();
    await using store = await rig.open();
    await store.commit([]);
    expect(rig.metrics.value("store_commits_total")).toBe(0);
  });
});

describe("the head of the outbox", () => {
  test("follows what is settled and is there after a restart, so that reads never start in front of tombstones", async () => {
    await using rig = await LevelRig.create();
    {
      await using store = await rig.open();
      await store.commit(Array.from({ length: 100 }, (_, at) => append(10 * (at + 1))));
      for (let at = 0; at < 50; at += 1) await store.commit([settle(10 * (at + 1))]);
    }
    const raw = new ClassicLevel<Buffer, Buffer>(rig.folder, { keyEncoding: "buffer", valueEncoding: "buffer" });
    const counters = decodeCounters((await raw.get(USAGE_KEY)) ?? Buffer.alloc(0));
    await raw.close();
    expect(counters).toMatchObject({ kind: "ok", value: { entries: 50, lastSeq: 1_000, head: 500 } });
    await using store = await rig.open();
    expect((await store.outbox(0, 1)).map(({ seq }) => seq)).toEqual([510]);
  });
});

describe("the room of what was settled is given back", () => {
  const MB = 1_000_000;
  const payload = "x".repeat(60_000);

  test("when a queue has drained", async () => {
    await using rig = await LevelRig.create();
    await using store = await rig.open({ compactBytes: 4 * MB });
    const seqs = Array.from({ length: 200 }, (_, at) => at + 1);
    for (let at = 0; at < 200; at += 50) await store.commit(seqs.slice(at, at + 50).map((seq) => append(seq, payload)));
    expect(await folderBytes(rig.folder)).toBeGreaterThan(12 * MB);
    // In one commit: what it has settled is not below the head yet when the commit is made.
    await store.commit(seqs.map((seq) => settle(seq)));
    await expect.poll(() => folderBytes(rig.folder), { timeout: 30_000 }).toBeLessThan(MB);
    expect(store.usage()).toEqual({ entries: 0, bytes: 0, lastSeq: 200 });
  });

  test("among entries that wait for ever", async () => {
    await using rig = await LevelRig.create();
    await using store = await rig.open({ compactBytes: 2 * MB });
    // So many that LevelDB keeps the tombstones in several tables, of which only the first is below the head.
    const seqs = Array.from({ length: 800 }, (_, at) => at + 1);
    const waiting = seqs.filter((seq) => seq % 80 === 1);
    for (let at = 0; at < 800; at += 50) await store.commit(seqs.slice(at, at + 50).map((seq) => append(seq, payload)));
    expect(await folderBytes(rig.folder)).toBeGreaterThan(40 * MB);
    await store.commit(seqs.filter((seq) => !waiting.includes(seq)).map((seq) => settle(seq)));
    await expect.poll(() => folderBytes(rig.folder), { timeout: 30_000 }).toBeLessThan(4 * MB);
    expect((await store.outbox(0, 100)).map(({ seq }) => seq)).toEqual(waiting);
  });
});

test("large messages are read in pages that do not fill the memory, and all of them", async () => {
  await using rig = await LevelRig.create();
  await using store = await rig.open();
  const large = { ...entry(1).message, payload: new Uint8Array(256 * 1024).fill(7) };
  for (let seq = 1; seq <= 40; seq += 1)
    await store.commit([{ kind: "append", entry: { ...entry(seq), leafId: leafId("big"), message: large } }]);
  const found = await store.outbox(0, 100);
  expect(found.map(({ seq }) => seq)).toEqual(Array.from({ length: 40 }, (_, at) => at + 1));
  expect(found.every(({ message }) => Buffer.from(message.payload).equals(large.payload))).toBe(true);
});
