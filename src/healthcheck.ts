/** The image's HEALTHCHECK: asks the running gateway whether it is alive. Loads nothing, since a small board runs it every minute. */
import { get } from "node:http";

const { GATEWAY_OPS_ENABLED: enabled = "true", GATEWAY_OPS_PORT: port = "9601" } = process.env;
const TIMEOUT_MS = 15_000;

// Who has switched the endpoint off has no other sign of life than the process itself.
if (enabled === "false") process.exit(0);
const request = get({ host: "127.0.0.1", port, path: "/healthz", timeout: TIMEOUT_MS, agent: false }, (response) => {
  process.exit(response.statusCode === 200 ? 0 : 1);
});
request.on("timeout", () => process.exit(1));
request.on("error", () => process.exit(1));
