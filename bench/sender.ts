/**
 * Sends messages through the unmodified ModuleClient as fast as the hub acknowledges them, with the gateway's window, and says
 * how many that is each second. Arguments: the hub's address as JSON, how many messages, bytes of each, their properties as JSON.
 */
import { type HubAddress, sdkUpstream, WINDOW } from "./upstream.ts";

const [address = "", messages = "", bytes = "", properties = "{}"] = process.argv.slice(2);
const payload = Buffer.from(JSON.stringify({ pad: "x".repeat(Number(bytes) - JSON.stringify({ pad: "" }).length) }));
const send = await sdkUpstream(JSON.parse(address) as HubAddress, JSON.parse(properties) as Record<string, string>);
const startMs = performance.now();
await new Promise<void>((resolve, reject) => {
  let left = Number(messages);
  let running = 0;
  const fill = (): void => {
    for (; running < WINDOW && left > 0; left -= 1) {
      running += 1;
      send(payload, (error) => {
        running -= 1;
        if (error) reject(error);
        else if (left === 0 && running === 0) resolve();
        else fill();
      });
    }
  };
  fill();
});
console.log(JSON.stringify({ perSec: Number(messages) / ((performance.now() - startMs) / 1000) }));
process.exit(0);
