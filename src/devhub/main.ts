/**
 * The development hub as a process. Configured by environment variables, all optional:
 *
 *   DEVHUB_STATE               folder where everything survives a restart (default ./.devhub)
 *   DEVHUB_PERSONALITY         edgehub | iothub
 *   DEVHUB_DEVICE_ID, DEVHUB_MODULE_ID
 *   DEVHUB_IOTHUB_HOSTNAME     goes into tokens and user names
 *   DEVHUB_GATEWAY_HOSTNAME    the name that modules dial, in edgeHub's certificate
 *   DEVHUB_BIND                127.0.0.1; 0.0.0.0 in a container
 *   DEVHUB_MQTT_PORT, DEVHUB_PLAIN_MQTT_PORT, DEVHUB_SERVICE_PORT, DEVHUB_METRICS_PORT, DEVHUB_PROBE_PORT,
 *   DEVHUB_WORKLOAD_PORT       0 takes a free one
 *   DEVHUB_WORKLOAD_SOCKET     path of the workload API's socket (default in the state folder)
 *   DEVHUB_ROUTES              routes, one per line
 *   DEVHUB_SETTINGS            JSON object with any other setting by its name in settings.ts, e.g. {"readInOutageMs":700}
 *
 * When ready it prints one JSON line: the module's environment and connection string, ports and addresses; how to be its
 * back end stands in `service.json` in the state folder, with the controls for misbehaviour at the same address. SIGTERM or
 * SIGINT ends it cleanly; SIGKILL loses nothing that was acknowledged.
 */

import { startDevHub } from "./devhub.ts";
import { parseEnvironment, sayTakenPort } from "./settings.ts";

const parsed = parseEnvironment(process.env);
if (parsed.kind === "invalid") {
  for (const problem of parsed.problems) console.error(problem);
  process.exit(2);
}
const hub = await startDevHub(parsed.settings).catch((error: unknown) => {
  console.error(sayTakenPort(error, parsed.settings) ?? error);
  process.exit(1);
});

const stop = () => {
  hub[Symbol.asyncDispose]().then(
    () => process.exit(0),
    (error: unknown) => {
      console.error(error);
      process.exit(1);
    },
  );
};
process.once("SIGTERM", stop);
process.once("SIGINT", stop);
// Last: who reads it may end us at once.
console.log(JSON.stringify(hub.announcement()));
