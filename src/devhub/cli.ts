/** `npm run hub -- <command>`: the process around the command line. */

import { runCli } from "./cli-run.ts";

const enough = new AbortController();
process.once("SIGINT", () => enough.abort());
process.once("SIGTERM", () => enough.abort());
// The reader of a pipe may go first: `npm run hub -- events | head`.
process.stdout.on("error", () => enough.abort());

process.exitCode = await runCli(process.argv.slice(2), {
  environment: process.env,
  print: (line) => console.log(line),
  complain: (line) => console.error(line),
  signal: enough.signal,
});
