/**
 * The image's HEALTHCHECK: asks the running gateway whether it is alive. Loads next to nothing, since a small board runs it every
 * minute. Where to ask stands in the state folder, since the port may come from a file or be any free one.
 */
import { readFileSync } from "node:fs";
import { get } from "node:http";
import { join } from "node:path";

const TIMEOUT_MS = 15_000;

const url = healthUrl(process.env["GATEWAY_STATE"] ?? "./.gateway");
// Who has switched the endpoint off has no other sign of life than the process itself.
if (url === "") process.exit(0);
const request = get(url, { timeout: TIMEOUT_MS, agent: false }, (response) => {
  process.exit(response.statusCode === 200 ? 0 : 1);
});
request.on("timeout", () => process.exit(1));
request.on("error", () => process.exit(1));

function healthUrl(stateFolder: string): string {
  try {
    return readFileSync(join(stateFolder, "health-url"), "utf8").trim();
  } catch {
    // Not started yet, or a disk that takes nothing: the default.
    return "http://127.0.0.1:9601/healthz";
  }
}
