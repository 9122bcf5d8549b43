/** Torn, lost and overwritten files: what is readable goes on, what is not is said, nothing is thrown away. */
import { cp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { Store } from "../../src/flow/ports.ts";
import { append, collect, LevelRig, leafRecord, settle } from "../support/store-samples.ts";

const V1 = new URL("../fixtures/store/v1/", import.meta.url).pathname;

async function seqsOf(store: Store): Promise<readonly number[]> {
  return (await store.outbox(0, 10_000)).map(({ seq }) => seq);
}

/** A database with `count` entries, closed. */
async function filled(count: number, text = "x".repeat(200)): Promise<LevelRig> {
  const rig = await LevelRig.create();
  await using store = await rig.open();
  for (let from = 1; from <= count; from += 500) {
    const seqs = Array.from({ length: Math.min(500, count - from + 1) }, (_, at) => from + at);
    await store.commit(seqs.map((seq) => append(seq, `${text} ${seq}`)));
  }
  await store.commit([{ kind: "leaf", record: leafRecord("leaf-1") }]);
  return rig;
}

async function files(rig: LevelRig, suffix: string): Promise<readonly string[]> {
  const names = (await readdir(rig.folder)).filter((name) => name.endsWith(suffix)).toSorted();
  return names.map((name) => join(rig.folder, name));
}

async function largest(paths: readonly string[]): Promise<string> {
  const sized = await Promise.all(paths.map(async (path) => ({ path, size: (await stat(path)).size })));
  return sized.toSorted((a, b) => b.size - a.size)[0]?.path ?? "";
}

async function overwrite(path: string, from: number, bytes: number, filler = 0xa5): Promise<void> {
  const content = await readFile(path);
  content.fill(filler, from, Math.min(content.length, from + bytes));
  await writeFile(path, content);
}

/** Names that a salvage leaves beside the folder. */
async function beside(rig: LevelRig): Promise<readonly string[]> {
  return (await readdir(rig.parent))
    .filter((name) => name !== "store")
    .map((name) => name.replace(/\d{4}-.*/, "<date>"));
}

describe("a database that cannot be opened", () => {
  const damages: readonly { name: string; damage: (rig: LevelRig) => Promise<void> }[] = [
    { name: "CURRENT is gone", damage: async (rig) => rm(join(rig.folder, "CURRENT")) },
    { name: "CURRENT is garbage", damage: (rig) => writeFile(join(rig.folder, "CURRENT"), "garbage\n") },
    { name: "CURRENT is empty", damage: (rig) => writeFile(join(rig.folder, "CURRENT"), "") },
    {
      name: "the manifest is gone",
      damage: async (rig) => {
        for (const name of await readdir(rig.folder)) if (name.startsWith("MANIFEST")) await rm(join(rig.folder, name));
      },
    },
    {
      name: "the manifest is garbage",
      damage: async (rig) => {
        for (const name of await readdir(rig.folder))
          if (name.startsWith("MANIFEST")) await overwrite(join(rig.folder, name), 0, 1_000_000);
      },
    },
  ];

  test.each(damages)(
    "$name: it is set aside, everything readable is taken over, and it is said",
    async ({ damage }) => {
      await using rig = await filled(3_000);
      await damage(rig);
      await using store = await rig.open();
      expect(await seqsOf(store)).toEqual(Array.from({ length: 3_000 }, (_, at) => at + 1));
      expect((await collect(store.leaves())).map(({ leafId }) => leafId)).toEqual(["leaf-1"]);
      expect(store.usage().entries).toBe(3_000);
      expect(store.usage().lastSeq).toBeGreaterThan(3_000);
      expect(await beside(rig)).toEqual(["store.damaged-<date>"]);
      expect(rig.metrics.value("store_damaged_total", { what: "database" })).toBe(1);
      expect(rig.log.events("error")).toHaveLength(2);
      await store.commit([settle(1), append(4_000_000)]);
      expect(store.usage().entries).toBe(3_000);
    },
  );

  test("a lost table costs its own entries, not the others", async () => {
    // Enough for several tables, since one is about 4 MB.
    await using rig = await filled(30_000, "x".repeat(500));
    // An open takes away what a compaction has left behind: what is there then holds entries.
    await (await rig.open())[Symbol.asyncDispose]();
    const tables = await files(rig, ".ldb");
    expect(tables.length).toBeGreaterThan(1);
    await rm(tables[0] ?? "");
    await using store = await rig.open();
    const found = (await store.outbox(0, 30_000)).length;
    expect(found).toBeGreaterThan(0);
    expect(found).toBeLessThan(30_000);
    expect(store.usage().entries).toBe(found);
    expect(rig.metrics.value("store_damaged_total", { what: "database" })).toBe(1);
  });

  test("a salvage that was cut off by a crash is done again, or finished when only the renames were missing", async () => {
    await using rig = await filled(100);
    await cp(rig.folder, `${rig.folder}.salvage`, { recursive: true });
    await cp(join(V1, "good"), `${rig.folder}.rebuilt`, { recursive: true });
    await writeFile(join(rig.folder, "CURRENT"), "");
    {
      await using store = await rig.open();
      expect(store.usage().entries).toBe(100);
    }
    await cp(rig.folder, `${rig.folder}.rebuilt`, { recursive: true });
    await rm(rig.folder, { recursive: true });
    await using store = await rig.open();
    expect(store.usage().entries).toBe(100);
    expect(await beside(rig)).toEqual(["store.damaged-<date>"]);
  });
});

describe("a database that is damaged inside", () => {
  test("a damaged part of the log is said and the counters are counted anew", async () => {
    await using rig = await filled(400);
    const log = await largest(await files(rig, ".log"));
    await overwrite(log, 40_000, 2_000);
    await using store = await rig.open();
    expect(rig.metrics.value("store_damaged_total", { what: "log" })).toBe(1);
    expect(rig.log.events("error")).toEqual(["the newest part of the database was damaged and is lost"]);
    const seqs = await seqsOf(store);
    expect(store.usage().entries).toBe(seqs.length);
    expect(store.usage().lastSeq).toBeGreaterThanOrEqual(1_000_000);
  });

  test("damaged bytes in a table cost the entries they hit; the rest is read, and the next write salvages", async () => {
    await using rig = await filled(30_000, "x".repeat(500));
    const table = await largest(await files(rig, ".ldb"));
    const { size } = await stat(table);
    await overwrite(table, Math.floor(size / 3), 3_000);
    await using store = await rig.open();
    const before = (await store.outbox(0, 30_000)).length;
    expect(before).toBeGreaterThan(29_900);
    expect(before).toBeLessThan(30_000);
    await store.commit([append(30_001)]);
    const seqs = await seqsOf(store);
    expect(seqs.at(-1)).toBeDefined();
    const all = await store.outbox(0, 40_000);
    expect(all.length).toBe(store.usage().entries);
    expect(all.at(-1)?.seq).toBe(30_001);
    expect(
      all.every(({ seq, message }) => seq === 30_001 || Buffer.from(message.payload).toString().endsWith(` ${seq}`)),
    ).toBe(true);
    expect(rig.metrics.total("store_damaged_total")).toBeGreaterThan(0);
  });
});
