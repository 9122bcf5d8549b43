/** `npm run test:e2e [-- vitest arguments]`: the container suite alone. With CI=1 it brings up what is missing. (Ryuk sweeps for testcontainers, in an image of its own.) */
import { spawnSync } from "node:child_process";
import { prepareContainers } from "./containers.ts";

const prepared = prepareContainers((process.env["CI"] ?? "") !== "");
if (prepared.kind !== "ready") {
  console.error(prepared.reason);
  process.exit(1);
}
for (const line of prepared.skipped) console.log(`SKIPPED: ${line}`);
const args = ["run", "--project", "e2e", ...prepared.args, ...process.argv.slice(2)];
const { status } = spawnSync("vitest", args, {
  stdio: "inherit",
  env: { ...process.env, TESTCONTAINERS_RYUK_DISABLED: "true" },
});
prepared.stop();
process.exit(status ?? 1);
