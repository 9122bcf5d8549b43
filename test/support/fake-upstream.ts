/** An Upstream without a network: a script decides when the link is up and how calls end; it writes down what it was given. */
import type { Json, JsonObject, ModuleTwin, Telemetry } from "../../src/core/message.ts";
import type { CommandAnswer, HubHandler, Outcome, TwinRead, Upstream } from "../../src/flow/ports.ts";

const ACCEPTED: Outcome = { kind: "accepted" };

function transient(reason: string): Extract<Outcome, { kind: "failed" }> {
  return { kind: "failed", fault: { kind: "transient", reason } };
}

export class FakeUpstream implements Upstream {
  readonly sent: { readonly output: string; readonly message: Telemetry }[] = [];
  readonly patches: JsonObject[] = [];
  readonly reopened: string[] = [];
  reads = 0;
  twin: ModuleTwin = { desired: {}, desiredVersion: 1, reported: {} };
  /** How calls end while the link is up; the default takes everything. They may wait. */
  onSend: (output: string, message: Telemetry) => Outcome | Promise<Outcome> = () => ACCEPTED;
  onPatch: (patch: JsonObject) => Outcome | Promise<Outcome> = () => ACCEPTED;
  onRead: () => TwinRead | Promise<TwinRead> = () => ({ kind: "read", twin: this.twin, tookMs: 1 });
  /** What `reopen` does after taking the link down. */
  comesBack = true;
  #handler: HubHandler | undefined;
  #link: AbortController | undefined;
  #reading = false;
  #opened = false;

  async open(handler: HubHandler): Promise<void> {
    this.#handler = handler;
    this.#opened = true;
  }

  get isUp(): boolean {
    return this.#link !== undefined;
  }

  linkUp(): void {
    if (this.#link !== undefined || !this.#opened) return;
    this.#link = new AbortController();
    this.#handler?.link("up");
  }

  /** What is under way fails, running commands are aborted, the handler hears "down". */
  linkDown(reason = "the link was cut"): void {
    const link = this.#link;
    if (link === undefined) return;
    this.#link = undefined;
    link.abort(new Error(reason));
    this.#handler?.link("down");
  }

  renew(): void {
    this.#handler?.renewed();
  }

  /** A service changes desired properties: the next version is sent when the link is up. */
  changeDesired(patch: JsonObject): void {
    const desiredVersion = (this.twin.desiredVersion ?? 0) + 1;
    const kept = Object.entries({ ...this.twin.desired, ...patch }).filter(([, value]) => value !== null);
    this.twin = { ...this.twin, desired: Object.fromEntries(kept), desiredVersion };
    if (this.isUp) this.#handler?.desired(patch, desiredVersion);
  }

  /** undefined: the module is not connected. */
  async command(name: string, payload: Json): Promise<CommandAnswer | undefined> {
    const link = this.#link;
    if (link === undefined) return undefined;
    return this.#handler?.command(name, payload, link.signal);
  }

  async input(name: string, message: Telemetry): Promise<void> {
    if (this.isUp) await this.#handler?.input(name, message);
  }

  send(output: string, message: Telemetry): Promise<Outcome> {
    return this.#call(() => {
      this.sent.push({ output, message });
      return this.onSend(output, message);
    });
  }

  patchReported(patch: JsonObject): Promise<Outcome> {
    return this.#call(() => {
      this.patches.push(patch);
      return this.onPatch(patch);
    });
  }

  async getTwin(): Promise<TwinRead> {
    if (this.#reading) return transient("a twin read is under way");
    this.#reading = true;
    try {
      return await this.#call(() => {
        this.reads += 1;
        return this.onRead();
      });
    } finally {
      this.#reading = false;
    }
  }

  reopen(reason: string): void {
    if (!this.isUp) return;
    this.reopened.push(reason);
    this.linkDown(reason);
    if (this.comesBack) this.linkUp();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.linkDown("closed");
    this.#opened = false;
  }

  /** Never throws; a call that waits fails when the link goes. */
  async #call<T>(run: () => T | Promise<T>): Promise<T | Extract<Outcome, { kind: "failed" }>> {
    const link = this.#link;
    if (link === undefined) return transient("the link is down");
    const cut = new Promise<Extract<Outcome, { kind: "failed" }>>((resolve) => {
      link.signal.addEventListener("abort", () => resolve(transient(String(link.signal.reason))), { once: true });
    });
    return Promise.race([Promise.resolve(run()), cut]);
  }
}
