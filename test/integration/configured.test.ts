/** Settings of the whole gateway that are felt only from outside: which doors are open, how the log is written. */
import mqtt from "mqtt";
import { expect, test } from "vitest";
import { startRig, WITHIN } from "../support/gateway-rig.ts";
import { events, userName } from "../support/leaf-client.ts";

test("a leaf comes in over WebSocket where that is asked for, and the log is one that IoT Edge can filter", async () => {
  await using rig = await startRig({
    config: { webSocketEnabled: true, webSocketPort: 0, webSocketBind: "127.0.0.1", logFormat: "iotedge" },
  });
  const leaf = mqtt.connect(`wss://localhost:${rig.gateway.broker.ports.webSocket}/$iothub/websocket`, {
    clientId: "web-1",
    username: userName("web-1"),
    ca: rig.caPem,
    protocolVersion: 4,
    reconnectPeriod: 0,
  });
  await new Promise((resolve, reject) => leaf.once("connect", resolve).once("error", reject));
  await leaf.publishAsync(events("web-1"), JSON.stringify({ temperature: 21 }), { qos: 1 });
  await expect.poll(() => rig.eventsOf("web-1"), WITHIN).toHaveLength(1);
  await leaf.endAsync();
  expect(rig.log.length).toBeGreaterThan(0);
  for (const line of rig.log) expect(line).toMatch(/^<[3467]> \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \+00:00 \S/);
});

test("no door is open that nobody asked for", async () => {
  await using rig = await startRig({ config: { plainEnabled: false } });
  expect(Object.keys(rig.gateway.broker.ports)).toEqual(["tls"]);
});
