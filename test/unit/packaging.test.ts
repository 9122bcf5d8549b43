/** Images, module description and manifest say the same as the program, in every place. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { mergeConfig } from "../../src/config.ts";
import type { JsonObject } from "../../src/core/message.ts";
import { parseManifest } from "../../src/manifest.ts";

const read = (path: string): string => readFileSync(join(import.meta.dirname, "../..", path), "utf8");
const json = <T>(path: string): T => JSON.parse(read(path)) as T;

const ARCHITECTURES = {
  amd64: { debian: "amd64", node: "linux-x64", base: "node:22-bookworm-slim", described: "amd64" },
  arm32v7: {
    debian: "armhf",
    node: "linux-arm",
    base: "arm32v7/node:22-bookworm-slim",
    described: "32-bit ARM (armv7)",
  },
  arm64v8: { debian: "arm64", node: "linux-arm64", base: "arm64v8/node:22-bookworm-slim", described: "64-bit ARM" },
};
const names = Object.keys(ARCHITECTURES) as (keyof typeof ARCHITECTURES)[];
const { version, devDependencies } = json<{ version: string; devDependencies: Record<string, string> }>("package.json");
const defaults = (() => {
  const merged = mergeConfig({}, {});
  if (merged.kind === "invalid") throw new Error("the defaults are invalid");
  return merged.config;
})();
const manifest = (() => {
  const parsed = parseManifest(json<JsonObject>("deployment.template.json"));
  if (typeof parsed === "string") throw new Error(parsed);
  return parsed;
})();

test("the three Dockerfiles differ in the lines that name the architecture, and in no other", () => {
  const neutral = names.map((name) => {
    const { base, debian, described, node } = ARCHITECTURES[name];
    return read(`Dockerfile.${name}`)
      .replace(`for ${described}.`, "for ARCH.")
      .replace(/^FROM (?:--platform=\S+ )?node:22-bookworm-slim AS build$/m, "FROM BUILD")
      .replace(new RegExp(`^FROM (?:--platform=linux/arm(?:/v7|64) )?${base}$`, "m"), "FROM TARGET")
      .replace(`base.name="${base}"`, 'base.name="TARGET"')
      .replace(`--add-architecture ${debian} `, "--add-architecture DEBIAN ")
      .replace(`tini:${debian} `, "tini:DEBIAN ")
      .replace(`! -name ${node} `, "! -name NODE ");
  });
  expect(neutral[0]).toContain("FROM TARGET");
  expect(new Set(neutral).size).toBe(1);
});

test.each(names)("Dockerfile.%s says what the program's defaults and its version are", (name) => {
  const text = read(`Dockerfile.${name}`);
  expect(text).toContain(`org.opencontainers.image.version="${version}"`);
  expect(text).toContain(`EXPOSE ${defaults.tlsPort}\n`);
  expect(text).toContain("GATEWAY_STATE=/data");
  expect(text).toMatch(/COPY --from=build --chown=1000:1000 \/volumes\/ \/$/m);
  expect(text).toMatch(/^USER 1000:1000$/m);
  expect(text).toContain(`node:${devDependencies["node"]?.split(".")[0]}-`);
  expect(text).not.toMatch(/<<|^# syntax=|COPY --link/m);
});

test("module.json names the Dockerfiles and the version", () => {
  const { image } = json<{ image: { tag: { version: string; platforms: Record<string, string> } } }>("module.json");
  expect(image.tag).toEqual({
    version,
    platforms: Object.fromEntries(names.map((name) => [name, `./Dockerfile.${name}`])),
  });
});

test("the manifest's module has this version, the leaves' port, the state folder and every limit", () => {
  const [gateway] = manifest.modules;
  expect(gateway?.name).toBe("pnpGateway");
  expect(read("deployment.template.json")).toContain(`"version": "${version}"`);
  expect(gateway?.createOptions).toMatchObject({
    ExposedPorts: { [`${defaults.tlsPort}/tcp`]: {} },
    HostConfig: {
      PortBindings: { [`${defaults.tlsPort}/tcp`]: [{ HostPort: "8883" }] },
      Binds: expect.arrayContaining([expect.stringMatching(/:\/data$/)]),
    },
  });
  expect(manifest.storeAndForward).toEqual({ timeToLiveSecs: defaults.timeToLiveSecs });
});

test("docs/deploy.md explains every placeholder", () => {
  const page = read("docs/deploy.md");
  const placeholders = new Set(
    ["deployment.template.json", "module.json"]
      .flatMap((file) => [...read(file).matchAll(/\$\{(\w+)\}/g)])
      .map(([, name]) => name),
  );
  expect(placeholders.size).toBeGreaterThan(0);
  for (const name of placeholders) expect(page).toMatch(new RegExp(`^\\| .*\`${name}\`.* \\| .+ \\|$`, "m"));
});
