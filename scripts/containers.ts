/**
 * Brings up what the container suite needs: an engine, the base images, the images under test.
 *
 * Outside CI nothing is installed: an engine that answers is used, base images come from a registry or are there. In CI the scripts in
 * test/e2e/engine install and start an engine where none answers, and build stand-ins for base images that cannot be pulled; an engine
 * that was started for this is stopped again.
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const ENGINE = join(import.meta.dirname, "../test/e2e/engine");
/** Of every container, network and volume that the tests make. */
const TEST_LABEL = "iotedge-pnp-gateway.test=true";
const MODULE = "iotedge-pnp-gateway";
const ARM_TEST = "test/e2e/arm32v7.test.ts";

const TESTED_DOCKERFILES = [
  { file: "Dockerfile.amd64", tag: `${MODULE}:test-amd64`, args: [] },
  // What the Edge agent takes for an update: the same program, another image.
  { file: "Dockerfile.amd64", tag: `${MODULE}:test-next`, args: ["--build-arg", "REVISION=next"] },
  { file: "test/e2e/Dockerfile.devhub", tag: `${MODULE}-devhub:test`, args: [] },
  { file: "test/e2e/Dockerfile.mosquitto", tag: `${MODULE}-mosquitto:test`, args: [] },
];
const FOREIGN_DOCKERFILES = [
  { file: "Dockerfile.arm32v7", tag: `${MODULE}:test-arm32v7`, args: [] },
  { file: "Dockerfile.arm64v8", tag: `${MODULE}:test-arm64v8`, args: [] },
];

export type Prepared =
  | {
      readonly kind: "ready";
      /** For vitest: what cannot run on this machine. */
      readonly args: readonly string[];
      readonly skipped: readonly string[];
      /** Ends the engine if it was started for this. */
      readonly stop: () => void;
    }
  | { readonly kind: "unavailable"; readonly reason: string }
  | { readonly kind: "failed"; readonly reason: string };

const DOCKER_TIMEOUT_MS = 300_000;
const HOW = "`CI=1 npm test` as root on Debian brings up everything; elsewhere install Docker and let it pull node:22-bookworm-slim";

export function prepareContainers(mayInstall: boolean): Prepared {
  const wasThere = docker(["version", "--format", "{{.Server.Version}}"]);
  if (!wasThere && !mayInstall) return { kind: "unavailable", reason: `no Docker engine answers; ${HOW}` };
  const stop = (): void => {
    if (mayInstall) run("ensure-docker", ["sweep", TEST_LABEL]);
    if (!wasThere) run("ensure-docker", ["stop"]);
  };
  const prepared = mayInstall ? prepareAll(stop) : prepareWhatIsThere(stop);
  if (prepared.kind !== "ready") stop();
  return prepared;
}

/** From a machine with nothing: whatever is missing is a failure. */
function prepareAll(stop: () => void): Prepared {
  const all = [...TESTED_DOCKERFILES, ...FOREIGN_DOCKERFILES];
  const files = [...new Set(all.map(({ file }) => file))];
  const steps: readonly (readonly [string, () => boolean])[] = [
    ["engine", () => run("ensure-docker", ["start"]) && run("ensure-docker", ["emulate", "arm", "aarch64"])],
    ["base images", () => run("make-base-images", files)],
    ["images", () => all.every(build)],
  ];
  for (const [name, step] of steps) {
    const started = Date.now();
    const isDone = step();
    console.log(`containers, ${name}: ${Math.round((Date.now() - started) / 1_000)} s`);
    if (!isDone) return { kind: "failed", reason: `${name} could not be brought up` };
  }
  return { kind: "ready", args: [], skipped: [], stop };
}

/** On a developer's machine: what it cannot do is left out and said. */
function prepareWhatIsThere(stop: () => void): Prepared {
  const missing = baseImages(TESTED_DOCKERFILES.map(({ file }) => file)).find((name) => !hasImage(name));
  if (missing !== undefined) return { kind: "unavailable", reason: `${missing} cannot be pulled; ${HOW}` };
  if (!TESTED_DOCKERFILES.every(build)) return { kind: "failed", reason: "an image could not be built" };
  const foreign = FOREIGN_DOCKERFILES.slice(0, 1);
  const [arm] = foreign;
  const canRunArm =
    arm !== undefined && baseImages([arm.file]).every(hasImage) && build(arm) && docker(["run", "--rm", "--entrypoint", "node", arm.tag, "--version"]);
  if (canRunArm) return { kind: "ready", args: [], skipped: [], stop };
  const skipped = [`${ARM_TEST}: this engine has or runs no images for linux/arm/v7 (docs/testing.md says how it can)`];
  return { kind: "ready", args: [`--exclude=${ARM_TEST}`], skipped, stop };
}

/** The external ones; both stages of a file, without those that are named after an earlier stage. */
function baseImages(files: readonly string[]): string[] {
  const texts = files.map((file) => readFileSync(file, "utf8"));
  return [...new Set(texts.flatMap((text) => [...text.matchAll(/^FROM (?:--platform=\S+ )?(\S+)/gm)].map(([, name = ""]) => name)))];
}

function hasImage(name: string): boolean {
  return docker(["image", "inspect", name]) || docker(["pull", "--quiet", ...platformOf(name), name]);
}

function platformOf(name: string): string[] {
  return name.startsWith("arm32v7/") ? ["--platform", "linux/arm/v7"] : [];
}

function build({ args, file, tag }: (typeof TESTED_DOCKERFILES)[number]): boolean {
  return run("build-image", [file, tag, ".", ...args], ["ignore", "ignore", "inherit"]);
}

function docker(args: readonly string[]): boolean {
  return spawnSync("docker", args, { stdio: "ignore", timeout: DOCKER_TIMEOUT_MS }).status === 0;
}

type Stdio = "ignore" | "inherit" | ["ignore", "ignore", "inherit"];

function run(script: string, args: readonly string[], stdio: Stdio = "inherit"): boolean {
  return spawnSync(join(ENGINE, script), args, { stdio }).status === 0;
}
