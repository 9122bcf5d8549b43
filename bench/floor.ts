/**
 * The floor: the same job without any of the gateway's work. A bare aedes acknowledges a leaf's message after a bare mqtt.js publish
 * of its bytes was acknowledged by the hub, with the gateway's window. With `sdk` the unmodified ModuleClient stands in place of mqtt.js.
 * Arguments: the hub's address as JSON, `bare` or `sdk`.
 */
import { createServer } from "node:net";
import { Aedes } from "aedes";
import { bareUpstream, type HubAddress, sdkUpstream, WINDOW } from "./upstream.ts";

const [address = "", upstreamKind = "bare"] = process.argv.slice(2);
const hub = JSON.parse(address) as HubAddress;
const publish = await (upstreamKind === "sdk" ? sdkUpstream(hub) : bareUpstream(hub));
const waiting: (() => void)[] = [];
let running = 0;

const broker = await Aedes.createBroker({
  concurrency: 0,
  authorizePublish: (_client, { payload }, done) => {
    const send = (): void => {
      running += 1;
      publish(Buffer.from(payload), (error) => {
        running -= 1;
        done(error ?? null);
        waiting.shift()?.();
      });
    };
    if (running < WINDOW) send();
    else waiting.push(send);
  },
});
const server = createServer((socket) => broker.handle(socket));
server.listen({ host: "127.0.0.1", port: 0 }, () => {
  const bound = server.address();
  console.log(JSON.stringify({ plain: typeof bound === "object" ? bound?.port : undefined }));
});
process.once("SIGTERM", () => process.exit(0));
