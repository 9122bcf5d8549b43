/** The files that say who the leaves are: every problem is named, no secret is quoted. */
import { describe, expect, test } from "vitest";
import { parseLeafSecrets } from "../../../src/downstream/leaf-secrets.ts";
import { makeAuthority, selfSigned } from "../../support/test-certificates.ts";

const KEY = Buffer.from("a key").toString("base64");
const OTHER = Buffer.from("another key").toString("base64");

function problems(files: Parameters<typeof parseLeafSecrets>[0]): readonly string[] {
  const result = parseLeafSecrets(files);
  return result.kind === "invalid" ? result.problems : [];
}

describe("parseLeafSecrets", () => {
  test("reads keys, group keys, thumbprints and authorities", async () => {
    const [one, two] = [await makeAuthority("One"), await makeAuthority("Two")];
    const result = parseLeafSecrets({
      leafKeys: JSON.stringify({ a: { primary: KEY, secondary: OTHER }, b: { primary: KEY } }),
      groupKey: `${KEY}\n${OTHER}\n`,
      leafThumbprints: JSON.stringify({ a: "AA:".repeat(19).concat("aa"), b: ["b".repeat(64)] }),
      leafCa: `${one.pem}\n# another\n${two.pem}\n`,
    });
    if (result.kind !== "ok") throw new Error(result.problems.join());
    const { secrets } = result;
    expect([...secrets.keys]).toEqual([
      ["a", [KEY, OTHER]],
      ["b", [KEY]],
    ]);
    expect(secrets.groupKeys).toEqual([KEY, OTHER]);
    expect([...secrets.thumbprints.keys()]).toEqual(["a", "b"]);
    expect(secrets.authorities.map(({ subject }) => subject)).toEqual(["CN=One", "CN=Two"]);
  });

  test("files that are not configured leave nothing", () => {
    expect(parseLeafSecrets({})).toEqual({
      kind: "ok",
      secrets: { keys: new Map(), groupKeys: [], thumbprints: new Map(), authorities: [] },
    });
  });

  test("__proto__ is a leaf id like any other", () => {
    const result = parseLeafSecrets({ leafKeys: `{"__proto__": {"primary": "${KEY}"}}` });
    expect(result.kind === "ok" && [...result.secrets.keys]).toEqual([["__proto__", [KEY]]]);
  });

  test.each([
    ["leafKeysFile", { leafKeys: "no json" }],
    ["leafKeysFile", { leafKeys: "[]" }],
    ["leafKeysFile", { leafKeys: `{"a": {}}` }],
    ["leafKeysFile", { leafKeys: `{"a": null}` }],
    ["leafKeysFile", { leafKeys: `{"a": {"primary": "not base64!"}}` }],
    ["leafKeysFile", { leafKeys: `{"a": {"primary": "${KEY}", "secondary": 7}}` }],
    ["groupKeyFile", { groupKey: "" }],
    ["groupKeyFile", { groupKey: `${KEY} ${KEY} ${KEY}` }],
    ["groupKeyFile", { groupKey: "no key!" }],
    ["leafThumbprintsFile", { leafThumbprints: `{"a": "abc"}` }],
    ["leafThumbprintsFile", { leafThumbprints: `{"a": []}` }],
    ["leafCaFile", { leafCa: "nothing" }],
    ["leafCaFile", { leafCa: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----" }],
  ])("%s: names the setting for %j", (setting, files) => {
    expect(problems(files)).toEqual([expect.stringContaining(setting)]);
  });

  test("a certificate that is no authority's is a problem", async () => {
    const { pem } = await selfSigned("CN=leaf-1");
    expect(problems({ leafCa: pem })).toHaveLength(1);
  });

  test("all problems of all files are told at once, and none quotes a key", () => {
    const found = problems({
      leafKeys: `{"a": {"primary": "secret!"}, "b": 1}`,
      groupKey: "secret!",
      leafCa: "secret!",
    });
    expect(found).toHaveLength(4);
    expect(found.join()).not.toContain("secret");
  });
});
