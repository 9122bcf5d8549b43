/** What the disk costs: acknowledging while the link is down, bytes written for each byte of telemetry, and a long queue. */
import { join } from "node:path";
import { type Front, type Hub, sendBare, startGateway, startHub } from "./hub.ts";
import { during } from "./processes.ts";
import type { Section } from "./report.ts";
import { heard, type LoadRun, runLoad } from "./throughput.ts";

const LEAVES = 100;
const MEASURED_BYTES = 300;
/** Enough to be warm. */
const BARE_MESSAGES = 100_000;
const AS_THE_GATEWAY_SENDS = {
  "$.mid": "01234567-89ab-cdef-0123-456789abcdef",
  "$.sub": "bench99",
  "iothub-creation-time-utc": "2026-01-01T00:00:00.000Z",
  leafId: "bench99",
  leafModelId: "dtmi:com:example:Thermostat;1",
};

/** A queue of a million messages is beyond the default limit on purpose. */
const ROOMY = { GATEWAY_MAX_SIZE_BYTES: "8000000000" };

/** Hub and gateway, the hub killed when `isDown`: its ports then refuse. */
function withGateway<R>(folder: string, isDown: boolean, use: (front: Front, hub: Hub) => Promise<R>): Promise<R> {
  return during(startHub(join(folder, "hub")), (hub) =>
    during(startGateway(hub, join(folder, "gateway"), ROOMY), async (front) => {
      if (isDown) await hub.process.kill();
      return use(front, hub);
    }),
  );
}

export async function outage(folder: string): Promise<Section> {
  const run = await withGateway(folder, true, (front) =>
    runLoad(front, { leaves: LEAVES, window: 4, payloadBytes: 256, warmMs: 2_000, measureMs: 5_000 }),
  );
  return {
    title: `Link down: ${LEAVES} leaves, 256-byte JSON, QoS 1, window 4`,
    head: ["acknowledged messages/s", "PUBACK p50 ms", "p99 ms", "CPU ms per 1,000", "RSS MB"],
    rows: [
      [
        (run.acked / run.seconds).toFixed(0),
        run.p50Ms.toFixed(1),
        run.p99Ms.toFixed(1),
        (((run.end.cpuMs - run.begin.cpuMs) / run.acked) * 1000).toFixed(0),
        run.end.rssMb.toFixed(0),
      ],
    ],
    note: "Goal on a desktop core: 25,000 messages/s.",
  };
}

export async function writes(folder: string): Promise<Section> {
  const rows: string[][] = [];
  for (const isDown of [false, true]) {
    await withGateway(join(folder, String(isDown)), isDown, async (front) => {
      for (const perSec of [5, 50, 500]) {
        const run = await runLoad(front, {
          leaves: Math.min(LEAVES, perSec),
          window: 4,
          payloadBytes: MEASURED_BYTES,
          warmMs: 2_000,
          measureMs: 8_000,
          perSec,
        });
        const written = run.end.writtenBytes - run.begin.writtenBytes;
        rows.push([isDown ? "down" : "up", String(perSec), costOf(run, written), run.p99Ms.toFixed(1)]);
      }
    });
  }
  return {
    title: `Bytes written for each byte of payload: ${MEASURED_BYTES}-byte messages`,
    head: ["link", "messages/s", "written/payload", "PUBACK p99 ms"],
    rows,
    note: "By the process's write_bytes, whole pages. Targets: below 0.1 with the link up, below 5 with the link down at 50 messages/s.",
  };
}

function costOf(run: LoadRun, written: number): string {
  return (written / (run.acked * MEASURED_BYTES)).toFixed(2);
}

export async function queue(folder: string, messages: number): Promise<Section> {
  await withGateway(folder, true, (front) =>
    runLoad(front, { leaves: LEAVES, window: 16, payloadBytes: MEASURED_BYTES, warmMs: 0, measureMs: 0, messages }),
  );
  const row = await during(startHub(join(folder, "hub")), async (hub) => {
    const startMs = performance.now();
    const drained = await during(startGateway(hub, join(folder, "gateway"), ROOMY), async (front) => {
      const startedMs = performance.now();
      const { rssMb } = front.process.usage();
      // The status message of the link is one more.
      await heard(hub, messages, 60_000 + messages);
      const perSec = messages / ((performance.now() - startedMs) / 1000);
      return { startSecs: (startedMs - startMs) / 1000, rssMb, peakRssMb: front.process.usage().peakRssMb, perSec };
    });
    const barePerSec = await sendBare(hub, BARE_MESSAGES, MEASURED_BYTES);
    const samePerSec = await sendBare(hub, BARE_MESSAGES, MEASURED_BYTES, AS_THE_GATEWAY_SENDS);
    return [
      String(messages),
      drained.startSecs.toFixed(2),
      drained.rssMb.toFixed(0),
      drained.peakRssMb.toFixed(0),
      drained.perSec.toFixed(0),
      barePerSec.toFixed(0),
      (drained.perSec / barePerSec).toFixed(2),
      samePerSec.toFixed(0),
      (drained.perSec / samePerSec).toFixed(2),
    ];
  });
  return {
    title: `A queue of ${messages.toLocaleString("en")} messages of ${MEASURED_BYTES} bytes`,
    head: [
      "messages",
      "start-up s",
      "RSS MB at start",
      "peak RSS MB",
      "drained messages/s",
      "bare sendEvent/s",
      "of it",
      "the same with our properties/s",
      "of it",
    ],
    rows: [row],
    note: "Targets for 1,000,000 (`--large`): start-up under 5 s, memory under 200 MB, 0.8 of what the unmodified ModuleClient alone sends.",
  };
}
