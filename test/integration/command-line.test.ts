/** The program as people and scripts call it: what it prints, and its exit codes. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";

const ROOT = join(import.meta.dirname, "../..");
const TEMPLATE = join(ROOT, "deployment.template.json");
const STACK = /\n\s+at /;
const folder = mkdtempSync(join(tmpdir(), "command-line-"));

afterAll(() => rmSync(folder, { recursive: true, force: true }));

function run(args: readonly string[], env: Readonly<Record<string, string>> = {}) {
  const { status, stderr, stdout } = spawnSync(process.execPath, [join(ROOT, "src/main.ts"), ...args], {
    encoding: "utf8",
    env,
  });
  return { status, stderr, stdout };
}

function file(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

describe("the program", () => {
  it("lists every problem of file and environment under its name, and ends with 1", () => {
    const config = file("bad.yaml", "tlsPort: many\nnothing: 1\n");
    const { status, stderr } = run([], { GATEWAY_CONFIG: config, GATEWAY_SPILL_AFTER_MS: "-1", GATEWAY_NO_SUCH: "1" });
    expect(status).toBe(1);
    for (const name of ["CONFIG_INVALID", "tlsPort", "nothing", "GATEWAY_SPILL_AFTER_MS", "GATEWAY_NO_SUCH"])
      expect(stderr).toContain(name);
  });

  it("tells a leaf's component and the configuration of file and environment", () => {
    expect(run(["leaf", "name", "thermo1"])).toMatchObject({ status: 0, stdout: "thermo1\n" });
    expect(run(["config"], { GATEWAY_TLS_PORT: "9" }).stdout).toContain("GATEWAY_TLS_PORT=9\n");
  });

  it("says what there is when it is asked for something else", () => {
    for (const words of [
      ["explode"],
      ["leaf"],
      ["leaf", "name"],
      ["manifest", "check"],
      ["config", "x"],
      ["--explode"],
    ]) {
      const { status, stderr } = run(words);
      expect({ words, status }).toEqual({ words, status: 2 });
      expect(stderr).toContain(words.join(" "));
      expect(stderr).toContain("manifest check <file>");
      expect(stderr).not.toMatch(STACK);
    }
    for (const words of [["help"], ["--help"], ["leaf", "-h"]]) {
      const { status, stderr, stdout } = run(words);
      expect({ words, status, stderr }).toEqual({ words, status: 0, stderr: "" });
      expect(stdout).toContain("manifest check <file>");
    }
  });

  it("says which file cannot be read", () => {
    const missing = join(folder, "missing");
    const calls = [
      run(["model", missing]),
      run(["manifest", "check", missing]),
      run(["model", file("list.json", "[]")], { GATEWAY_MODELS_FOLDER: missing }),
    ];
    expect(calls.map(({ status }) => status)).toEqual([2, 2, 1]);
    for (const { stderr } of calls) {
      expect(stderr).toContain(missing);
      expect(stderr).not.toMatch(STACK);
    }
  });

  it("ends the check of a manifest with 0, 1 or 2: fine, errors, no JSON", () => {
    expect(run(["manifest", "check", TEMPLATE])).toMatchObject({ status: 0 });
    const bad = readFileSync(TEMPLATE, "utf8").replace("/outputs/*", "/outputs/out1");
    const { status, stdout } = run(["manifest", "check", file("bad.json", bad)]);
    expect(status).toBe(1);
    expect(stdout).toMatch(/^error: .*no output "out1"/m);
    expect(run(["manifest", "check", file("no.json", "{")])).toMatchObject({ status: 2 });
  });

  it("renders a manifest that passes the check, or names what the environment lacks", () => {
    const lacking = run(["manifest", "render", TEMPLATE], { GATEWAY_IMAGE: "image" });
    expect(lacking).toMatchObject({ status: 2, stdout: "" });
    expect(lacking.stderr).toContain("CONTAINER_REGISTRY_SERVER");
    const registry = { SERVER: "r", USERNAME: "u", PASSWORD: "p" };
    const names = Object.entries(registry).map(([name, value]) => [`CONTAINER_REGISTRY_${name}`, value]);
    const { status, stdout } = run(["manifest", "render", TEMPLATE], {
      GATEWAY_IMAGE: "image",
      ...Object.fromEntries(names),
    });
    expect(status).toBe(0);
    expect(run(["manifest", "check", file("rendered.json", stdout)])).toMatchObject({ status: 0 });
  });
});
