/** One TCP connection that is closed at once: whether a host can be reached, without a byte that somebody would have to pay for. */
import { connect } from "node:net";
import type { Clock } from "../flow/ports.ts";
import { lookupOnce } from "./lookup.ts";

export interface ProbeTarget {
  readonly host: string;
  readonly port: number;
}

/** Whether `target` accepts a connection within `timeoutMs`, its name's resolution included. Never throws. */
export async function canConnect(
  target: ProbeTarget,
  timeoutMs: number,
  clock: Clock,
  signal: AbortSignal,
): Promise<boolean> {
  const done = new AbortController();
  const socket = connect({ ...target, allowHalfOpen: false, lookup: lookupOnce });
  const reached = new Promise<boolean>((resolve) => {
    socket.once("connect", () => resolve(true));
    socket.on("error", () => resolve(false));
    socket.once("close", () => resolve(false));
  });
  const late = clock.sleep(timeoutMs, AbortSignal.any([done.signal, signal])).then(
    () => false,
    () => false,
  );
  try {
    return await Promise.race([reached, late]);
  } finally {
    done.abort();
    socket.destroy();
  }
}
