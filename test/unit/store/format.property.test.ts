import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { LeafRecord } from "../../../src/core/leaf.ts";
import type { Json, OutboxEntry, Telemetry } from "../../../src/core/message.ts";
import {
  areaOf,
  areaRange,
  cloudToDeviceKey,
  cloudToDeviceRange,
  type Decoded,
  decodeCloudToDevice,
  decodeCounters,
  decodeLeaf,
  decodeMeta,
  decodeOutboxEntry,
  decodeSetAside,
  decodeVersion,
  encodeCloudToDevice,
  encodeCounters,
  encodeLeaf,
  encodeMeta,
  encodeOutboxEntry,
  encodeSetAside,
  encodeVersion,
  keySeq,
  leafKey,
  metaKey,
  seqKey,
  seqRange,
  USAGE_KEY,
  VERSION_KEY,
} from "../../../src/store/format.ts";
import { leafId, leafRecord } from "../../support/store-samples.ts";

const seq = fc.oneof(
  fc.integer({ min: 1, max: 1_000 }),
  fc.maxSafeNat().filter((n) => n > 0),
);
const strings = fc
  .array(
    fc.tuple(fc.oneof(fc.constantFrom("__proto__", "constructor", ""), fc.string({ unit: "binary" })), fc.string()),
    { maxLength: 5 },
  )
  .map((pairs): Record<string, string> => Object.fromEntries(pairs));
const PLAIN = { noNullPrototype: true };
const message: fc.Arbitrary<Telemetry> = fc.record(
  {
    payload: fc.uint8Array({ maxLength: 300 }).map((bytes) => new Uint8Array(bytes)),
    system: strings,
    properties: strings,
  },
  PLAIN,
);
const leaf = fc
  .string({ unit: fc.constantFrom(...Array.from("abcXYZ019-:.+%_#*?!(),=@;$'")), minLength: 1, maxLength: 128 })
  .map(leafId);
const ms = fc.double({ min: 0, max: 4e12, noNaN: true }).filter((n) => !Object.is(n, -0));
const json = fc.jsonValue().map((value): Json => JSON.parse(JSON.stringify(value)));
const entry: fc.Arbitrary<OutboxEntry> = fc.record({ seq, leafId: leaf, message, enqueuedMs: ms }, PLAIN);

describe("values", () => {
  test("an outbox entry comes back as it was", () => {
    fc.assert(
      fc.property(entry, (given) => {
        const key = seqKey("outbox", given.seq);
        expect(decodeOutboxEntry(key, encodeOutboxEntry(key, given))).toStrictEqual({ kind: "ok", value: given });
      }),
    );
  });

  test("an entry set aside and a cloud-to-device message come back as they were", () => {
    fc.assert(
      fc.property(entry, fc.string(), ms, (inner, reason, setAsideMs) => {
        const aside = { entry: inner, reason, setAsideMs };
        const asideKey = seqKey("setAside", inner.seq);
        expect(decodeSetAside(asideKey, encodeSetAside(asideKey, aside))).toStrictEqual({ kind: "ok", value: aside });
        const queued = { leafId: inner.leafId, seq: inner.seq, message: inner.message, expiresMs: setAsideMs };
        const key = cloudToDeviceKey(queued.leafId, queued.seq);
        expect(decodeCloudToDevice(key, encodeCloudToDevice(key, queued))).toStrictEqual({ kind: "ok", value: queued });
      }),
    );
  });

  test("a leaf's record comes back as it was, with what is undefined in it", () => {
    const object = fc.dictionary(fc.string(), json, PLAIN);
    const missed = fc.record({ from: object, touched: object }, PLAIN);
    const record = fc
      .record(
        {
          modelId: fc.option(fc.string(), { nil: undefined }),
          missed: fc.option(missed, { nil: undefined }),
          desired: object,
          reported: object,
          removed: fc.boolean(),
        },
        PLAIN,
      )
      .map((change): LeafRecord => leafRecord("leaf-1", change));
    fc.assert(
      fc.property(record, (given) => {
        const key = leafKey(given.leafId);
        const decoded = decodeLeaf(key, encodeLeaf(key, given));
        expect(decoded).toStrictEqual({ kind: "ok", value: given });
      }),
    );
  });

  test("any JSON, the counters and the version come back as they were", () => {
    const count = fc.maxSafeNat();
    fc.assert(
      fc.property(
        json,
        fc.record({ entries: count, bytes: count, lastSeq: count, head: count }, PLAIN),
        (value, counters) => {
          const key = metaKey("module-desired");
          expect(decodeMeta(key, encodeMeta(key, value))).toStrictEqual({ kind: "ok", value });
          expect(decodeCounters(encodeCounters(counters))).toStrictEqual({ kind: "ok", value: counters });
        },
      ),
    );
    expect(decodeVersion(encodeVersion(7))).toEqual({ kind: "ok", value: 7 });
  });
});

describe("damage", () => {
  const decoders: readonly ((key: Buffer, sealed: Buffer) => Decoded<unknown>)[] = [
    decodeOutboxEntry,
    decodeSetAside,
    decodeCloudToDevice,
    decodeLeaf,
    decodeMeta,
    (_, sealed) => decodeCounters(sealed),
    (_, sealed) => decodeVersion(sealed),
  ];

  test("any bytes are either damaged or a value, never an exception", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), fc.constantFrom(...decoders), (bytes, decode) => {
        expect(decode(seqKey("outbox", 1), Buffer.from(bytes)).kind).toBe("damaged");
      }),
    );
  });

  test("one flipped bit anywhere in the value or its key is seen", () => {
    fc.assert(
      fc.property(entry, fc.nat(), fc.integer({ min: 0, max: 7 }), fc.boolean(), (given, position, bit, inKey) => {
        const key = seqKey("outbox", given.seq);
        const sealed = encodeOutboxEntry(key, given);
        const target = inKey ? key : sealed;
        const at = position % target.length;
        target[at] = (target[at] ?? 0) ^ (1 << bit);
        expect(decodeOutboxEntry(key, sealed).kind).toBe("damaged");
      }),
    );
  });

  test("a value cut short anywhere is seen", () => {
    fc.assert(
      fc.property(entry, fc.nat(), (given, position) => {
        const key = seqKey("outbox", given.seq);
        const sealed = encodeOutboxEntry(key, given);
        expect(decodeOutboxEntry(key, sealed.subarray(0, position % sealed.length)).kind).toBe("damaged");
      }),
    );
  });
});

describe("keys", () => {
  test("the order of bytes is the order of numbers", () => {
    fc.assert(
      fc.property(seq, seq, (a, b) => {
        expect(Math.sign(Buffer.compare(seqKey("outbox", a), seqKey("outbox", b)))).toBe(Math.sign(a - b));
        expect(keySeq(seqKey("retained", a))).toBe(a);
        const { gt, lt } = seqRange("outbox", a);
        const key = seqKey("outbox", b);
        expect(Buffer.compare(key, gt) > 0 && Buffer.compare(key, lt) < 0).toBe(b > a);
      }),
    );
  });

  test("a leaf's messages lie in its own range and in no other leaf's", () => {
    fc.assert(
      fc.property(leaf, leaf, seq, (one, other, at) => {
        const { gt, lt } = cloudToDeviceRange(one);
        const key = cloudToDeviceKey(other, at);
        expect(Buffer.compare(key, gt) > 0 && Buffer.compare(key, lt) < 0).toBe(one === other);
      }),
    );
  });

  test("each key lies in its area", () => {
    const keys = {
      outbox: seqKey("outbox", 1),
      retained: seqKey("retained", 2),
      setAside: seqKey("setAside", 3),
      leaf: leafKey(leafId("a")),
      meta: metaKey("boot-id"),
      cloudToDevice: cloudToDeviceKey(leafId("a"), 1),
    } as const;
    for (const area of ["outbox", "retained", "setAside", "leaf", "meta", "cloudToDevice"] as const) {
      expect(areaOf(keys[area])).toBe(area);
      expect(Buffer.compare(keys[area], areaRange(area).gt)).toBe(1);
      expect(Buffer.compare(keys[area], areaRange(area).lt)).toBe(-1);
    }
    expect([areaOf(VERSION_KEY), areaOf(USAGE_KEY), areaOf(Buffer.from("~"))]).toEqual(["version", "usage", undefined]);
  });

  test("a number that is none is a defect", () => {
    for (const wrong of [-1, 1.5, Number.NaN, 2 ** 53])
      expect(() => seqKey("outbox", wrong)).toThrow("sequence number");
  });
});
