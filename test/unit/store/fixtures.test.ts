/** Stored files of each format version: fixtures are added, never edited. */
import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ClassicLevel } from "classic-level";
import { describe, expect, test } from "vitest";
import type { Store } from "../../../src/flow/ports.ts";
import { damagedKey, seqKey } from "../../../src/store/format.ts";
import { append, collect, entry, LevelRig, leafRecord } from "../../support/store-samples.ts";

const V1 = new URL("../../fixtures/store/v1/", import.meta.url).pathname;

async function seqsOf(store: Store): Promise<readonly number[]> {
  return (await store.outbox(0, 10_000)).map(({ seq }) => seq);
}

describe("format version 1", () => {
  test("a database of this version opens with everything in it", async () => {
    await using rig = await LevelRig.onCopyOf(join(V1, "good"));
    await using store = await rig.open();
    expect(await collect(store.leaves())).toStrictEqual([
      leafRecord("thermostat-1", {
        modelId: "dtmi:com:example:Thermostat;1",
        desired: { targetTemperature: 21.5 },
        missed: { from: { targetTemperature: 20 }, touched: { targetTemperature: 21.5 } },
      }),
      leafRecord("thermostat-2", { removed: true }),
    ]);
    expect(await store.outbox(0, 10)).toStrictEqual([4, 5, 6, 7, 8].map((seq) => entry(seq)));
    expect(await collect(store.retained())).toStrictEqual([entry(1)]);
    expect((await collect(store.setAside())).map((aside) => [aside.entry.seq, aside.reason])).toEqual([
      [2, "the hub refused it"],
    ]);
    expect((await collect(store.cloudToDevice())).map(({ seq }) => seq)).toEqual([3]);
    expect(await store.meta("module-desired")).toEqual({ desired: { gateway: { logLevel: "debug" } }, version: 12 });
    expect(store.usage()).toMatchObject({ entries: 5, lastSeq: 8 });
    expect(rig.log.events("error")).toEqual([]);
  });

  test("a log that ends in the middle of a record loses that record and nothing before it", async () => {
    await using rig = await LevelRig.onCopyOf(join(V1, "truncated"));
    await using store = await rig.open();
    // The last commit settled 3: without it, 3 is still there, and the counters agree.
    expect(await seqsOf(store)).toEqual([3, 4, 5, 6, 7, 8]);
    expect(store.usage()).toMatchObject({ entries: 6, lastSeq: 8 });
    expect(rig.metrics.total("store_damaged_total")).toBe(0);
  });

  test("an entry with a wrong checksum is kept aside, counted, and the others go on", async () => {
    await using rig = await LevelRig.onCopyOf(join(V1, "bad-checksum"));
    {
      await using store = await rig.open();
      expect((await store.outbox(0, 3)).map(({ seq }) => seq)).toEqual([4, 6, 7]);
      expect(store.usage().entries).toBe(4);
      expect(rig.metrics.value("store_damaged_total", { what: "entry" })).toBe(1);
      expect(rig.log.events("error")).toEqual(["a stored entry is damaged, it is kept aside and the others go on"]);
      expect(await seqsOf(store)).toEqual([4, 6, 7, 8]);
    }
    const raw = new ClassicLevel<Buffer, Buffer>(rig.folder, { keyEncoding: "buffer", valueEncoding: "buffer" });
    expect(await raw.get(damagedKey(seqKey("outbox", 5)))).toBeInstanceOf(Buffer);
    await raw.close();
  });

  test("a database of a newer gateway is refused and left as it is", async () => {
    await using rig = await LevelRig.onCopyOf(join(V1, "future-version"));
    await expect(rig.open()).rejects.toMatchObject({
      code: "STATE_FORMAT",
      message: expect.stringContaining("format 2"),
    });
    await expect(rig.open()).rejects.toMatchObject({ code: "STATE_FORMAT" });
    expect(await readdir(rig.parent)).toEqual(["store"]);
  });
});

describe("two gateways on one folder", () => {
  test("the second one is refused with a message that says what to do", async () => {
    await using rig = await LevelRig.create();
    await using store = await rig.open();
    await expect(rig.open()).rejects.toMatchObject({
      code: "STATE_LOCKED",
      message: expect.stringMatching(/another gateway.*GATEWAY_STATE/),
    });
    await store.commit([append(1)]);
    expect(store.usage().entries).toBe(1);
  });

  test("a folder that cannot be made is said", async () => {
    await using rig = await LevelRig.create();
    await writeFile(rig.folder, "a file");
    await expect(rig.open()).rejects.toMatchObject({ code: "STORE_FAILED" });
  });
});
