/**
 * Commands from the hub: to the leaf that the name says, and back. Invariant: a call is sent to its leaf at most once and answered
 * exactly once, by the leaf (its first answer wins) or by the gateway when the leaf is away or late.
 */
import { GATEWAY_COMPONENT } from "../core/component-name.ts";
import type { Json, LeafId } from "../core/message.ts";
import { formatCommandName, leafComponentOf, parseCommandName } from "../translate/pnp.ts";
import type { Downlink } from "./downlink.ts";
import type { Leaf, Leaves } from "./leaves.ts";
import type { ModelGuard } from "./model-guard.ts";
import type { Clock, CommandAnswer, Log, Metrics } from "./ports.ts";

export interface CommandSettings {
  readonly leafConnectTimeoutSecs: number;
  readonly commandTimeoutSecs: number;
  readonly maxPendingCommandsPerLeaf: number;
}

export interface CommandsOptions {
  readonly leaves: Leaves;
  readonly downlink: Downlink;
  readonly guard: ModelGuard;
  readonly own: (command: string, payload: Json) => Promise<CommandAnswer>;
  /** Differs for each process, so that an answer to a call of an earlier life of the gateway never meets a new one. */
  readonly ridPrefix: string;
  readonly settings: () => CommandSettings;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Log;
}

interface Pending {
  readonly leafId: LeafId;
  readonly answer: (answer: CommandAnswer) => void;
}

export class Commands {
  readonly #options: CommandsOptions;
  readonly #pending = new Map<string, Pending>();
  readonly #countOf = new Map<LeafId, number>();
  #lastRid = 0;

  constructor(options: CommandsOptions) {
    this.#options = options;
  }

  /** Runs a command; always resolves. `signal` aborts when nobody can be answered any more. */
  async run(name: string, payload: Json, signal: AbortSignal): Promise<CommandAnswer> {
    const { clock, log, metrics } = this.#options;
    const startedMs = clock.steady();
    const answer = await this.#route(name, payload, signal).catch((error: unknown): CommandAnswer => {
      log.error({ command: name.slice(0, 200), error: String(error) }, "a command failed in the gateway");
      return failure(500, "the gateway failed to run the command");
    });
    if (answer instanceof Failure) {
      const { payload: why, status } = answer;
      log.info({ command: name.slice(0, 200), status, reason: why.message }, "a command was not run by its leaf");
    }
    metrics.count("commands_total", { status: statusLabel(answer.status) });
    metrics.observe("command_seconds", (clock.steady() - startedMs) / 1000);
    return answer;
  }

  /** An answer of a leaf. One that nobody waits for (late, twice, invented) is dropped as edgeHub does. */
  answered(leafId: LeafId, rid: string, answer: CommandAnswer): void {
    const pending = this.#pending.get(rid);
    if (pending === undefined || pending.leafId !== leafId) {
      this.#options.metrics.count("command_answers_ignored_total");
      this.#options.log.info({ leafId, rid: rid.slice(0, 100) }, "a command's answer was dropped: nobody waits for it");
      return;
    }
    this.#pending.delete(rid);
    pending.answer(answer);
  }

  async #route(name: string, payload: Json, signal: AbortSignal): Promise<CommandAnswer> {
    const { component, command } = parseCommandName(name);
    if (component === undefined || component === GATEWAY_COMPONENT) return this.#own(command, payload);
    const leaf = this.#options.leaves.ownerOf(component);
    const part = leaf === undefined ? undefined : leafComponentOf(leaf.record, component);
    if (leaf === undefined || part === undefined || leaf.record.removed) {
      return failure(404, `no leaf has the component ${component}; gateway*listLeaves tells which there are`);
    }
    const disagreement = this.#options.guard.command(leaf.record, part.component, command, payload);
    if (disagreement !== undefined) return failure(400, disagreement);
    const { maxPendingCommandsPerLeaf } = this.#options.settings();
    const running = this.#countOf.get(leaf.id) ?? 0;
    if (running >= maxPendingCommandsPerLeaf) return failure(429, `${running} commands wait for this leaf already`);
    this.#countOf.set(leaf.id, running + 1);
    try {
      return await this.#call(leaf, formatCommandName(part.component, command), payload, signal);
    } finally {
      const after = (this.#countOf.get(leaf.id) ?? 1) - 1;
      if (after === 0) this.#countOf.delete(leaf.id);
      else this.#countOf.set(leaf.id, after);
    }
  }

  async #own(command: string, payload: Json): Promise<CommandAnswer> {
    const answer = await this.#options.own(command, payload);
    const { payload: why, status } = answer;
    if (status >= 400)
      this.#options.log.info({ command: command.slice(0, 200), status, why }, "a command to the gateway was refused");
    return answer;
  }

  async #call(leaf: Leaf, name: string, payload: Json, signal: AbortSignal): Promise<CommandAnswer> {
    const { downlink, settings } = this.#options;
    const { commandTimeoutSecs, leafConnectTimeoutSecs } = settings();
    if (!(await this.#awaitLeaf(leaf, leafConnectTimeoutSecs * 1000, signal))) {
      const what = leaf.connected ? "is connected but has not subscribed to commands" : "is not connected";
      return failure(404, `the leaf ${leaf.id} ${what}`);
    }
    const lost = failure(503, "the caller can no longer be answered");
    if (signal.aborted) return lost;
    const rid = `${this.#options.ridPrefix}${(++this.#lastRid).toString(16)}`;
    const { promise, resolve } = Promise.withResolvers<CommandAnswer>();
    this.#pending.set(rid, { leafId: leaf.id, answer: resolve });
    const done = new AbortController();
    // A leaf that works on for nobody must not keep its place among those that wait.
    const aborted = new Promise<CommandAnswer>((stop) => {
      AbortSignal.any([signal, done.signal]).addEventListener("abort", () => stop(lost), { once: true });
    });
    const timeout = this.#options.clock.sleep(commandTimeoutSecs * 1000, done.signal).then(
      () => failure(504, `the leaf ${leaf.id} has not answered within ${commandTimeoutSecs} s`),
      () => promise,
    );
    try {
      const delivered = downlink.tell(leaf, { kind: "command", rid, name, payload });
      const gone = failure(404, `the leaf ${leaf.id} went away before the command reached it`);
      const answered = delivered.then((result) => (result === "delivered" ? promise : gone));
      return await Promise.race([answered, timeout, aborted]);
    } finally {
      this.#pending.delete(rid);
      done.abort();
    }
  }

  async #awaitLeaf(leaf: Leaf, timeoutMs: number, signal: AbortSignal): Promise<boolean> {
    const { clock, leaves } = this.#options;
    if (leaves.isReady(leaf, "commands")) return true;
    if (timeoutMs <= 0) return false;
    const late = new AbortController();
    const stop = AbortSignal.any([late.signal, signal]);
    clock.sleep(timeoutMs, stop).then(
      () => late.abort(),
      () => undefined,
    );
    const ready = await leaves.untilReady(leaf, "commands", stop);
    late.abort();
    return ready;
  }
}

/** Statuses are the leaves' own integers: each other one would be a series for ever. */
function statusLabel(status: number): string {
  return status >= 100 && status < 600 ? String(status) : "other";
}

/** An answer of the gateway's own, in place of the leaf's. */
class Failure implements CommandAnswer {
  readonly status: number;
  readonly payload: { readonly message: string };

  constructor(status: number, message: string) {
    this.status = status;
    this.payload = { message };
  }
}

function failure(status: number, message: string): Failure {
  return new Failure(status, message);
}
