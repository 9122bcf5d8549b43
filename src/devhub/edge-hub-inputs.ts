/** Messages to a module's inputs: one at a time, in order, repeated until the module acknowledges. */

import type { EdgeConnection } from "./edge-mqtt-connection.ts";
import { formatBag } from "./edge-mqtt-topics.ts";

export interface InputMessage {
  readonly body: string | Uint8Array;
  readonly properties?: Readonly<Record<string, string>>;
  /** By wire key without `$.`; `cdid` and `cmid` name the sender. */
  readonly system?: Readonly<Record<string, string>>;
}

/** `lost`: the module is subscribed to inputs, but not to this one; edgeHub does not try that again. */
export type InputOutcome = "acknowledged" | "lost";

interface WaitingInput {
  readonly input: string;
  readonly message: InputMessage;
  settle(outcome: InputOutcome): void;
}

export interface InputTarget {
  readonly connection: EdgeConnection;
  /** The filters that count as input subscriptions. */
  readonly filters: readonly string[];
}

export class ModuleInputs {
  readonly #waiting: WaitingInput[] = [];
  readonly #topicRoot: string;
  /** The module's connection and filters, or undefined while it is away or not subscribed to inputs at all. */
  readonly #target: () => InputTarget | undefined;
  #busy = false;

  constructor(deviceId: string, moduleId: string, target: () => InputTarget | undefined) {
    this.#topicRoot = `devices/${deviceId}/modules/${moduleId}/inputs`;
    this.#target = target;
  }

  /** Settles when the module has acknowledged, however long it is away. */
  send(input: string, message: InputMessage): Promise<InputOutcome> {
    return new Promise((resolve) => {
      this.#waiting.push({ input, message, settle: resolve });
      this.changed();
    });
  }

  /** The module connected or subscribed. */
  changed(): void {
    // #run settles its promises itself and does not throw.
    if (!this.#busy) void this.#run();
  }

  async #run(): Promise<void> {
    this.#busy = true;
    for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
      const target = this.#target();
      if (target === undefined) break;
      const outcome = await this.#deliver(target, first);
      if (outcome === "again") continue;
      this.#waiting.shift();
      first.settle(outcome);
    }
    this.#busy = false;
  }

  async #deliver(target: InputTarget, { input, message }: WaitingInput): Promise<InputOutcome | "again"> {
    // edgeHub always writes a bag; the Node SDK needs the segment even when it is empty.
    const bag = formatBag(message.properties ?? {}, message.system ?? {});
    const topic = `${this.#topicRoot}/${input}/${bag}`;
    if (!target.filters.some((filter) => topic.startsWith(filter.slice(0, -1)))) return "lost";
    const body = typeof message.body === "string" ? Buffer.from(message.body) : message.body;
    return (await target.connection.sendAcknowledged(topic, body)) ? "acknowledged" : "again";
  }
}
