/**
 * Direct methods of the module: each call goes to the handler once and is answered once. Invariants: nothing that a handler does
 * crashes the process or leaves a caller without an answer that could be given; no answer is large enough to cost the connection.
 */
import type { Json } from "../core/message.ts";
import type { CommandAnswer, HubHandler, Log } from "../flow/ports.ts";
import { describeError } from "./fault.ts";

/** Of the SDK's DeviceMethodRequest and DeviceMethodResponse what is used here. */
export interface CommandRequest {
  /** One call's own; a call that comes twice has the same. */
  readonly requestId: string;
  readonly methodName: string;
  readonly payload: unknown;
}
export interface CommandResponse {
  send(status: number, payload: unknown, done: (error?: Error) => void): void;
}

export interface CommandDeskOptions {
  readonly hub: Pick<HubHandler, "command">;
  readonly log: Log;
}

/** What edgeHub parses the status of an answer as. */
const MAX_STATUS = 2 ** 31 - 1;
/** [IoT Hub direct methods]; a packet over edgeHub's 256 KiB would close the connection. */
const MAX_ANSWER_BYTES = 128 * 1024;

export class CommandDesk {
  readonly #options: CommandDeskOptions;
  /** By request id. */
  readonly #running = new Map<string, AbortController>();

  constructor(options: CommandDeskOptions) {
    this.#options = options;
  }

  /** Never throws and never rejects: the SDK would answer the call a second time. */
  take(request: CommandRequest, response: CommandResponse): void {
    // The same call once more: its answer will have the same address, and a command runs at most once.
    if (this.#running.has(request.requestId)) return;
    void this.#serve(request, response).catch((error: unknown) => {
      this.#options.log.error(
        { command: request.methodName, error: describeError(error) },
        "a command's answer could not be given",
      );
    });
  }

  /** The connection under the calls is gone: nobody can be answered any more. */
  abort(reason: string): void {
    for (const controller of this.#running.values()) controller.abort(new Error(reason));
    this.#running.clear();
  }

  async #serve(request: CommandRequest, response: CommandResponse): Promise<void> {
    const controller = new AbortController();
    this.#running.set(request.requestId, controller);
    const answer = sendable(await this.#answer(request, controller.signal));
    if (this.#running.get(request.requestId) !== controller) return;
    this.#running.delete(request.requestId);
    await new Promise<void>((resolve, reject) => {
      response.send(answer.status, answer.payload, (error) => (error ? reject(error) : resolve()));
    });
  }

  async #answer({ methodName, payload }: CommandRequest, signal: AbortSignal): Promise<CommandAnswer> {
    try {
      // The SDK has parsed it from JSON text.
      return await this.#options.hub.command(methodName, (payload ?? null) as Json, signal);
    } catch (error) {
      this.#options.log.error({ command: methodName, error: describeError(error) }, "a command's handler failed");
      return refusal(500, "the gateway failed to handle the command");
    }
  }
}

/** The SDK refuses the status 0, and edgeHub answers 400000 for one that is no 32-bit integer. */
function sendable(answer: CommandAnswer): CommandAnswer {
  if (!Number.isInteger(answer.status) || answer.status === 0 || Math.abs(answer.status) > MAX_STATUS)
    return refusal(500, `the answer's status was ${answer.status}`);
  if (Buffer.byteLength(JSON.stringify(answer.payload) ?? "") > MAX_ANSWER_BYTES) {
    return refusal(413, `the answer is larger than ${MAX_ANSWER_BYTES} bytes`);
  }
  return answer;
}

function refusal(status: number, reason: string): CommandAnswer {
  return { status, payload: { error: reason } };
}
