/**
 * One connection's life: one SDK client, used once and thrown away. Invariants: every wait has a limit; when the session ends,
 * whatever was asked of it settles at once, its socket is gone, and nothing that the SDK does later reaches anybody.
 */
import azureIotCommon from "azure-iot-common";
import type { Message, ModuleClient, SharedAccessKeyAuthenticationProvider } from "azure-iot-device";
import azureIotDevice from "azure-iot-device";
import type { JsonObject, Telemetry } from "../core/message.ts";
import type { Clock, HubHandler, Log, Metrics, Outcome, TwinRead } from "../flow/ports.ts";
import { CommandDesk } from "./command-desk.ts";
import type { ModuleCredentials } from "./credentials.ts";
import { ANY_COMMAND, EdgeHubMqtt } from "./edgehub-mqtt.ts";
import { type Envelope, seal, unseal } from "./envelope.ts";
import { describeError, failed, faultOfError, faultOfStatus, isSuccess, transient } from "./fault.ts";
import { commandNameOf, DESIRED_PREFIX, type TwinAnswer } from "./packet-guard.ts";
import { PendingRequests } from "./pending-requests.ts";
import { isJsonObject, parseDesiredPatch, parseModuleTwin } from "./twin-document.ts";
import { type Reached, Wire } from "./wire.ts";
import type { WorkloadClient } from "./workload.ts";

const { NoRetry } = azureIotCommon;
const { ModuleClient: SdkClient, Message: SdkMessage } = azureIotDevice;

/** Times of the link; tests divide them. */
export interface LinkLimits {
  /** Trust bundle, token, TCP, TLS and CONNACK together; the same again for the subscriptions. */
  readonly connectMs: number;
  readonly closeMs: number;
  readonly twinMs: number;
  /** How long a message may stay without PUBACK, not counting the time in which a twin request of ours has no answer. */
  readonly pubackMs: number;
  /** A dead peer is noticed after two of these [azure-iot-device.md 3]. */
  readonly keepaliveSecs: number;
  readonly tokenValidSecs: number;
  readonly tokenMarginSecs: number;
}

export const DEFAULT_LINK_LIMITS: LinkLimits = {
  connectMs: 10_000,
  closeMs: 3_000,
  twinMs: 90_000,
  pubackMs: 45_000,
  keepaliveSecs: 4,
  tokenValidSecs: 3_600,
  tokenMarginSecs: 900,
};

export interface LinkSessionOptions {
  readonly credentials: ModuleCredentials;
  readonly workload: WorkloadClient | undefined;
  readonly modelId: string;
  readonly productInfo: string;
  readonly hub: HubHandler;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly limits: LinkLimits;
  /** See {@link Wire}. */
  readonly holdConnectMs: number;
}

interface Made {
  readonly client: ModuleClient;
  readonly transport: EdgeHubMqtt;
}

const ACCEPTED: Outcome = { kind: "accepted" };

export class LinkSession {
  readonly #options: LinkSessionOptions;
  readonly #wire: Wire;
  readonly #pending: PendingRequests;
  readonly #commands: CommandDesk;
  readonly #over = new AbortController();
  #provider: SharedAccessKeyAuthenticationProvider | undefined;
  #client: ModuleClient | undefined;
  #transport: EdgeHubMqtt | undefined;
  #up = false;
  #reading = false;

  constructor(options: LinkSessionOptions) {
    this.#options = options;
    this.#wire = new Wire({
      connectTimeoutMs: options.limits.connectMs,
      holdConnectMs: options.holdConnectMs,
      sessionLost: () => this.end("edgeHub had lost the session when the token was renewed"),
    });
    this.#pending = new PendingRequests(options.clock);
    this.#commands = new CommandDesk(options);
  }

  /** Aborted, with an Error that says why, once the session is over, whoever ended it. */
  get over(): AbortSignal {
    return this.#over.signal;
  }

  /** How far its connection came. */
  get reached(): Reached {
    return this.#wire.reached;
  }

  /** Connects, subscribes, tells the handler "up". Rejects when that fails or takes too long; the session is over then. */
  async open(): Promise<void> {
    const { limits } = this.#options;
    try {
      await this.#within(limits.connectMs, "the connection", this.#connect());
      await this.#within(limits.connectMs, "the subscriptions", this.#subscribe());
    } catch (error) {
      this.end(describeError(error));
      throw error;
    }
    this.#up = true;
    this.#tell(() => this.#options.hub.link("up"));
    // After "up": a handler hears nothing of a link that it does not know of.
    this.#transport?.release();
    void this.#watchPubacks().catch((error: unknown) => this.end(describeError(error)));
  }

  /** Ends the session at once, cutting the connection without a word. Tells the handler "down" when it was told "up". */
  end(reason: string): void {
    if (this.over.aborted) return;
    const wasUp = this.#up;
    this.#up = false;
    this.#over.abort(new Error(reason));
    this.#wire.cut();
    this.#provider?.stop();
    this.#commands.abort(reason);
    this.#pending.refuse(reason);
    if (wasUp) this.#tell(() => this.#options.hub.link("down"));
  }

  /** Says goodbye: waits, within the limit, for what is unacknowledged. */
  async close(): Promise<void> {
    if (this.#client !== undefined && this.#up) {
      // How a close fails tells nothing: the connection is cut anyway.
      await this.#within(this.#options.limits.closeMs, "closing", this.#client.close()).catch(() => undefined);
    }
    this.end("closed");
  }

  async send(output: string, message: Telemetry): Promise<Outcome> {
    const sealed = seal(output, message);
    if (sealed.kind === "unsendable") return failed({ kind: "rejected", reason: sealed.reason });
    return this.#pending.ask<Outcome>("message", undefined, (settle) => {
      this.#ready().client.sendOutputEvent(output, toSdkMessage(sealed.envelope), (error) => {
        settle(error ? failed(faultOfError(error)) : ACCEPTED);
      });
    });
  }

  async patchReported(patch: JsonObject): Promise<Outcome> {
    const readMs = this.#pending.readMs();
    const passed = (): void => {
      // Without a read that hangs, this silence means that answers do not reach us any more: only a fresh client subscribes anew.
      if (this.#pending.readMs() === readMs) this.end("edgeHub does not answer reported patches");
    };
    return this.#pending.ask<Outcome>("twin", { ms: this.#options.limits.twinMs, passed }, (settle) => {
      this.#ready().transport.patchReported(patch, (error, answer) => {
        settle(error === undefined ? patchOutcome(answer) : failed(faultOfError(error)));
      });
    });
  }

  /** A read that fails leaves the session alone: pings tell whether the connection lives. */
  async getTwin(): Promise<TwinRead> {
    if (this.#reading) return transient("a twin read is under way");
    const { clock, limits } = this.#options;
    const startMs = clock.steady();
    this.#reading = true;
    this.#pending.readStarted();
    const read = await this.#pending.ask<TwinRead>("twin", { ms: limits.twinMs, passed: () => undefined }, (settle) => {
      this.#ready().transport.readTwin((error, answer) => {
        settle(error === undefined ? twinRead(answer, clock.steady() - startMs) : failed(faultOfError(error)));
      });
    });
    this.#pending.readEnded();
    this.#reading = false;
    return read;
  }

  async #connect(): Promise<void> {
    const { credentials, workload, limits, clock, modelId, productInfo } = this.#options;
    const ca = await credentials.trustedCa(workload);
    this.over.throwIfAborted();
    const provider = credentials.provider(
      { validSecs: limits.tokenValidSecs, marginSecs: limits.tokenMarginSecs },
      clock,
      workload,
    );
    this.#provider = provider;
    // Without this listener a failing renewal would end the process [azure-iot-device.md 0/9].
    provider.on("error", (error: unknown) => this.end(`the token could not be renewed: ${describeError(error)}`));
    const client = this.#makeClient(provider);
    await client.setOptions({
      modelId,
      productInfo,
      keepalive: limits.keepaliveSecs,
      ...(ca === undefined ? {} : { ca }),
    });
    this.over.throwIfAborted();
    await client.open();
  }

  #makeClient(provider: SharedAccessKeyAuthenticationProvider): ModuleClient {
    const transport = new EdgeHubMqtt({
      provider,
      wire: this.#wire,
      malformed: (topic, reason) => this.#malformed(topic, reason),
    });
    this.#transport = transport;
    // The SDK wants to make the transport itself; a constructor that returns an object makes `new` return that one.
    const client = SdkClient.fromAuthenticationProvider(provider, function transportMadeBefore() {
      return transport;
    });
    this.#client = client;
    client.setRetryPolicy(new NoRetry());
    client.on("error", (error: unknown) => this.end(describeError(error)));
    client.on("disconnect", (result?: { transportObj?: unknown }) =>
      this.end(describeError(result?.transportObj ?? "disconnected")),
    );
    // Runs after the transport's own listener: what is asked from here on is parked until the new connection is there.
    provider.on("newTokenAvailable", () => this.#renewed());
    return client;
  }

  async #subscribe(): Promise<void> {
    const { client, transport } = this.#made();
    const { hub, log } = this.#options;
    // The transport holds back what arrives, so that nothing is lost before the handlers stand.
    await Promise.all([
      settled((done) => transport.enableMethods(done)),
      settled((done) => transport.enableTwinDesiredPropertiesUpdates(done)),
      settled((done) => transport.enableInputMessages(done)),
    ]);
    client.onMethod(ANY_COMMAND, (request, response) => {
      if (request === undefined || response === undefined) return;
      const { payload, requestId } = request;
      this.#commands.take({ methodName: commandNameOf(request.methodName), payload, requestId }, response);
    });
    transport.on("twinDesiredPropertiesUpdate", (document: unknown) => this.#desired(document));
    client.on("inputMessage", (input: string, message: Message) => {
      if (!this.#up) return;
      hub.input(input, unseal(message)).catch((error: unknown) => {
        log.error({ input, error: describeError(error) }, "an input message was not handled");
      });
    });
  }

  #desired(document: unknown): void {
    const { hub } = this.#options;
    const desired = parseDesiredPatch(document);
    if (desired === undefined) this.#malformed(DESIRED_PREFIX, "it is no object with a $version");
    else if (this.#up) this.#tell(() => hub.desired(desired.patch, desired.version));
  }

  #renewed(): void {
    if (!this.#up) return;
    const reason = "the connection was renewed with a new token";
    // Neither answers nor callers come along to the new connection [azure-iot-device.md 6].
    this.#pending.refuse(reason, "twin");
    this.#commands.abort(reason);
    this.#tell(() => this.#options.hub.renewed());
  }

  #malformed(topic: string, reason: string): void {
    const { log, metrics, hub } = this.#options;
    metrics.count("link_malformed_total");
    log.warn({ topic: topic.split("/", 6).join("/"), reason }, "edgeHub sent something malformed, it was dropped");
    // What it would have changed is in the twin.
    if (topic.startsWith(DESIRED_PREFIX) && this.#up) this.#tell(() => hub.renewed());
  }

  async #watchPubacks(): Promise<void> {
    const { clock, limits } = this.#options;
    while (!this.over.aborted) {
      await clock.sleep(limits.pubackMs / 10, this.over).catch(() => undefined);
      if (this.#pending.oldestMessageMs() > limits.pubackMs)
        this.end(`edgeHub acknowledged nothing for ${limits.pubackMs} ms`);
    }
  }

  /** Not before "up": the SDK would connect by itself, and throw where nobody can catch it when `setOptions` comes after. */
  #ready(): Made {
    if (!this.#up) throw new Error("the link is down");
    return this.#made();
  }

  #made(): Made {
    if (this.over.aborted || this.#client === undefined || this.#transport === undefined)
      throw new Error("the link is down");
    return { client: this.#client, transport: this.#transport };
  }

  /** A handler that throws must not end up inside the SDK. */
  #tell(handler: () => void): void {
    try {
      handler();
    } catch (error) {
      this.#options.log.error({ error: describeError(error) }, "a handler of the link failed");
    }
  }

  async #within<T>(ms: number, what: string, work: Promise<T>): Promise<T> {
    const done = new AbortController();
    const limit = this.#options.clock.sleep(ms, AbortSignal.any([done.signal, this.over])).then(() => {
      throw new Error(`${what} took longer than ${ms} ms`);
    });
    // Whichever loses the race may still reject.
    for (const late of [work, limit]) late.catch(() => undefined);
    try {
      return await Promise.race([work, limit]);
    } finally {
      done.abort();
    }
  }
}

function settled(start: (done: (error?: Error) => void) => void): Promise<void> {
  return new Promise((resolve, reject) => start((error) => (error ? reject(error) : resolve())));
}

/** The SDK makes JSON of every message, twice, for a debug line that is hardly ever written. */
class QuietMessage extends SdkMessage {
  toJSON(): string {
    return "a message";
  }
}

function toSdkMessage({ data, properties }: Envelope): Message {
  const message = new QuietMessage(data);
  // Not through `add`: it loses the keys `Authorization` and `iothub-to` without a word [azure-iot-device.md 7].
  for (const [key, value] of properties) message.properties.propertyList.push({ key, value });
  return message;
}

function patchOutcome(answer: TwinAnswer): Outcome {
  return isSuccess(answer.status) ? ACCEPTED : failed(faultOfStatus(answer.status, detailOf(answer)));
}

function twinRead(answer: TwinAnswer, tookMs: number): TwinRead {
  if (!isSuccess(answer.status)) return failed(faultOfStatus(answer.status, detailOf(answer)));
  const twin = parseModuleTwin(answer.document);
  return twin === undefined ? transient("the answer to a twin read holds no twin") : { kind: "read", twin, tookMs };
}

/** edgeHub's errors have an empty body, IoT Hub's an object with a message. */
function detailOf({ document }: TwinAnswer): string {
  const message = isJsonObject(document) ? document["message"] : undefined;
  return typeof message === "string" ? message.slice(0, 200) : "";
}
