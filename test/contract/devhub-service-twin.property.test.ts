/** The cloud's twin as a whole: whatever is written in whatever order, these hold. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Json, JsonObject } from "../../src/core/message.ts";
import { IotHubCloud } from "../../src/devhub/cloud.ts";
import { bytesOf, faultOf } from "../../src/devhub/cloud-limits.ts";
import { applyPatch, differencePatch, isObject, isSame, patchFor } from "../../src/devhub/cloud-twin.ts";

const GW = { deviceId: "edge1", moduleId: "gw" };

/** Few names, so that documents meet; names that break code which follows prototypes among them. */
const name = fc.constantFrom("a", "b", "c", "__proto__", "constructor", "toString");
const scalar = fc.oneof(
  fc.integer({ min: -9, max: 9 }),
  fc.boolean(),
  fc.constantFrom("", "x", "2026-01-02T03:04:05Z"),
);

function objectOf(value: fc.Arbitrary<Json>): fc.Arbitrary<JsonObject> {
  return fc.array(fc.tuple(name, value), { maxLength: 5 }).map((entries) => Object.fromEntries(entries));
}

function tree(nullable: boolean): fc.Arbitrary<JsonObject> {
  const { root } = fc.letrec<{ root: JsonObject; value: Json }>((tie) => ({
    root: objectOf(tie("value") as fc.Arbitrary<Json>),
    value: fc.oneof(
      { maxDepth: 4 },
      nullable ? fc.option(scalar, { nil: null }) : scalar,
      fc.array(scalar, { maxLength: 3 }),
      tie("root") as fc.Arbitrary<JsonObject>,
    ),
  }));
  return root;
}

const document = tree(false);
const patch = tree(true);

describe("patches", () => {
  it("lead from any document to any other as their difference", () => {
    fc.assert(
      fc.property(document, document, (from, to) => {
        expect(isSame(applyPatch(from, differencePatch(from, to)), to)).toBe(true);
      }),
    );
  });

  it("change nothing when they are applied again", () => {
    fc.assert(
      fc.property(document, patch, (base, change) => {
        const once = applyPatch(base, change);
        expect(isSame(applyPatch(once, change), once)).toBe(true);
      }),
    );
  });

  it("leave no null behind, however deep", () => {
    fc.assert(
      fc.property(document, patch, (base, change) => {
        expect(JSON.stringify(applyPatch(base, change))).not.toContain("null");
      }),
    );
  });

  it("are empty between equal documents and only then", () => {
    fc.assert(
      fc.property(document, document, (from, to) => {
        expect(Object.keys(differencePatch(from, to)).length === 0).toBe(isSame(from, to));
      }),
    );
  });

  it("touch nothing that they do not name", () => {
    fc.assert(
      fc.property(document, patch, (base, change) => {
        const after = applyPatch(base, change);
        for (const [key, value] of Object.entries(base)) {
          if (!Object.hasOwn(change, key)) expect(Object.getOwnPropertyDescriptor(after, key)?.value).toEqual(value);
        }
      }),
    );
  });

  it("replace as the difference that a replacement stands for", () => {
    fc.assert(
      fc.property(document, patch, (base, asked) => {
        const replaced = applyPatch(base, patchFor(base, asked, "replace"));
        expect(isSame(replaced, applyPatch({}, asked))).toBe(true);
      }),
    );
  });
});

describe("the twin", () => {
  type Step = { kind: "update" | "replace" | "reported"; patch: JsonObject } | { kind: "tags"; patch: JsonObject };
  const step: fc.Arbitrary<Step> = fc.record({
    kind: fc.constantFrom("update" as const, "replace" as const, "reported" as const, "tags" as const),
    patch,
  });

  function perform(cloud: IotHubCloud, { kind, patch: change }: Step): void {
    if (kind === "reported") cloud.patchReported(GW, change);
    else if (kind === "tags") cloud.updateTwin(GW, { tags: change }, "update");
    else cloud.updateTwin(GW, { desired: change }, kind);
  }

  it("counts each section's accepted changes one by one and never back", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 12 }), (steps) => {
        const cloud = new IotHubCloud();
        cloud.ensureModule(GW);
        for (const each of steps) {
          const before = cloud.twin(GW);
          perform(cloud, each);
          const after = cloud.twin(GW);
          const grown = (section: "desiredVersion" | "reportedVersion") =>
            (after?.[section] ?? 0) - (before?.[section] ?? 0);
          expect(grown("desiredVersion")).toBe(each.kind === "update" || each.kind === "replace" ? 1 : 0);
          expect(grown("reportedVersion")).toBe(each.kind === "reported" ? 1 : 0);
        }
      }),
    );
  });

  it("is what a listener makes of the notifications alone", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 12 }), (steps) => {
        const cloud = new IotHubCloud();
        cloud.ensureModule(GW);
        let followed: JsonObject = {};
        let version = 1;
        cloud.onDesired((_id, change, next) => {
          expect(next).toBe(version + 1);
          version = next;
          followed = applyPatch(followed, change);
        });
        for (const each of steps) perform(cloud, each);
        expect(isSame(followed, cloud.twin(GW)?.desired ?? null)).toBe(true);
        expect(version).toBe(cloud.twin(GW)?.desiredVersion);
      }),
    );
  });

  it("has metadata for every property and for nothing else", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 12 }), (steps) => {
        const cloud = new IotHubCloud();
        cloud.ensureModule(GW);
        for (const each of steps) perform(cloud, each);
        const twin = cloud.fullTwin(GW);
        for (const section of [twin?.desired, twin?.reported]) {
          expect(shapeOf(section?.metadata ?? {})).toEqual(shapeOf(section?.properties ?? {}));
        }
      }),
    );
  });

  it("comes back from its folder as it was", () => {
    const folder = mkdtempSync(join(tmpdir(), "cloud-"));
    try {
      fc.assert(
        fc.property(fc.array(step, { maxLength: 5 }), (steps) => {
          const cloud = new IotHubCloud(folder);
          cloud.recreate(GW);
          for (const each of steps) perform(cloud, each);
          const again = new IotHubCloud(folder);
          expect(again.twin(GW)).toEqual(cloud.twin(GW));
          expect(again.policyKey("service")).toBe(cloud.policyKey("service"));
        }),
        { numRuns: 25 },
      );
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  it("survives any document that JSON can spell, and refuses rather than breaks", () => {
    fc.assert(
      fc.property(fc.json({ maxDepth: 14 }), (text) => {
        const value = JSON.parse(text) as Json;
        const cloud = new IotHubCloud();
        cloud.ensureModule(GW);
        if (!isObject(value)) return;
        const outcome = cloud.patchReported(GW, value);
        if (faultOf("reported", value) === undefined) expect(outcome.kind).toBe("accepted");
        else expect(cloud.twin(GW)).toMatchObject({ reported: {}, reportedVersion: 1 });
      }),
    );
  });

  it("refuses a document of 100,000 levels without walking it", () => {
    const depth = 100_000;
    const cloud = new IotHubCloud();
    cloud.ensureModule(GW);
    for (const text of [
      `${'{"n":'.repeat(depth)}1${"}".repeat(depth)}`,
      `{"n":${"[".repeat(depth)}${"]".repeat(depth)}}`,
    ]) {
      const deep = JSON.parse(text) as JsonObject;
      expect(cloud.patchReported(GW, deep).kind).toBe("refused");
      expect(cloud.updateTwin(GW, { desired: deep }, "replace").kind).toBe("refused");
    }
  });

  it("counts bytes as IoT Hub does: controls free, numbers 8, booleans 4, names in UTF-8", () => {
    expect(bytesOf({ ä: "a\u0001b", n: 1, t: true, o: { k: [1, "x"] } })).toBe(2 + 2 + 1 + 8 + 1 + 4 + 1 + 1 + 8 + 1);
  });
});

/** Names only, so that properties and metadata can be compared. */
function shapeOf(value: Json): Json {
  if (!isObject(value)) return {};
  const members = Object.entries(value).filter(([key]) => !key.startsWith("$"));
  return Object.fromEntries(members.map(([key, member]) => [key, shapeOf(member)]));
}
