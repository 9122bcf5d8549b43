/** What tests of the upstream share: a handler that writes down what it hears, a clock on real time. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Json, JsonObject, Telemetry } from "../../src/core/message.ts";
import type { Clock, CommandAnswer, HubHandler, Metrics } from "../../src/flow/ports.ts";

export const realClock: Clock = {
  now: () => Date.now(),
  steady: () => performance.timeOrigin + performance.now(),
  sleep: async (ms, signal) => {
    try {
      await sleep(ms, undefined, signal === undefined ? {} : { signal });
    } catch {
      throw signal?.reason ?? new Error("aborted");
    }
  },
};

export const noMetrics: Metrics = { count: () => undefined, gauge: () => undefined, observe: () => undefined };

/** Resolves once `holds` is true; rejects after `withinMs`, a watchdog only. */
export async function until(what: string, holds: () => boolean, withinMs = 20_000): Promise<void> {
  const deadline = Date.now() + withinMs;
  while (!holds()) {
    if (Date.now() > deadline) throw new Error(`waited ${withinMs} ms for ${what}`);
    await sleep(5);
  }
}

export interface HeardCommand {
  readonly name: string;
  readonly payload: Json;
  readonly signal: AbortSignal;
}

export class RecordingHub implements HubHandler {
  readonly links: ("up" | "down")[] = [];
  readonly patches: { readonly patch: JsonObject; readonly version: number }[] = [];
  readonly commands: HeardCommand[] = [];
  readonly inputs: { readonly name: string; readonly message: Telemetry }[] = [];
  renewals = 0;
  answer: (command: HeardCommand) => Promise<CommandAnswer> = async ({ payload }) => ({
    status: 200,
    payload: { got: payload },
  });
  onLink: (state: "up" | "down") => void = () => undefined;

  get isUp(): boolean {
    return this.links.at(-1) === "up";
  }
  get ups(): number {
    return this.links.filter((state) => state === "up").length;
  }

  link(state: "up" | "down"): void {
    this.links.push(state);
    this.onLink(state);
  }
  renewed(): void {
    this.renewals += 1;
  }
  desired(patch: JsonObject, version: number): void {
    this.patches.push({ patch, version });
  }
  command(name: string, payload: Json, signal: AbortSignal): Promise<CommandAnswer> {
    const heard = { name, payload, signal };
    this.commands.push(heard);
    return this.answer(heard);
  }
  async input(name: string, message: Telemetry): Promise<void> {
    this.inputs.push({ name, message });
  }
}

export function telemetry(
  text: string,
  system: Telemetry["system"] = {},
  properties: Telemetry["properties"] = {},
): Telemetry {
  return { payload: Buffer.from(text), system, properties };
}
