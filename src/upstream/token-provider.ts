/**
 * Tokens signed by the workload API. The SDK's own provider asks without a time limit and gives up renewing at the first failure;
 * this one asks with a limit, and keeps asking while the old token is still good. Signing is overridden where the SDK's
 * IotEdgeAuthenticationProvider overrides it.
 */
import azureIotCommon from "azure-iot-common";
import type { SharedAccessKeyAuthenticationProvider } from "azure-iot-device";
import azureIotDevice from "azure-iot-device";
import type { Clock } from "../flow/ports.ts";
import type { ModuleIdentity, TokenLife } from "./credentials.ts";
import type { WorkloadClient } from "./workload.ts";

const { SharedAccessSignature } = azureIotCommon;
const { SharedAccessKeyAuthenticationProvider: KeyProvider } = azureIotDevice;

export interface TokenProviderOptions {
  readonly identity: ModuleIdentity;
  readonly life: TokenLife;
  readonly clock: Clock;
  readonly workload: WorkloadClient;
}

/** Pause between two attempts to renew; the margin leaves room for dozens. */
const RETRY_MS = 10_000;

type Signed = (error: Error, token?: string) => void;
/** The SDK's typings have no word for success; its code asks whether there is an error. */
const NO_ERROR = undefined as unknown as Error;

class TokenProvider extends KeyProvider {
  readonly #options: TokenProviderOptions;
  #running = new AbortController();
  #hasToken = false;

  constructor(options: TokenProviderOptions) {
    const { deviceId, moduleId, hubHostName, gatewayHostName } = options.identity;
    super({ host: hubHostName, deviceId, moduleId, gatewayHostName }, options.life.validSecs, options.life.marginSecs);
    this.#options = options;
  }

  /** Also called by the SDK's transport each time it is disconnected, the first time while it is being made. */
  override stop(): void {
    this.#running.abort(new Error("the connection is over"));
    this.#running = new AbortController();
    super.stop();
  }

  protected override _sign(_resourceUri: string, expirySecs: number, callback: Signed): void {
    // Only what the SDK throws in its callback gets here.
    this.#signFor(callback, expirySecs, this.#running.signal).catch((error: unknown) => this.emit("error", error));
  }

  async #signFor(callback: Signed, expirySecs: number, signal: AbortSignal): Promise<void> {
    let token: string;
    try {
      token = await this.#signUntil(expirySecs, signal);
      // A token that comes after `stop` must not start the renewal timer of a provider that nobody uses any more.
      signal.throwIfAborted();
    } catch (error) {
      callback(error instanceof Error ? error : new Error(String(error)));
      return;
    }
    callback(NO_ERROR, token);
  }

  /** The first token of a connection is tried once: whoever connects tries again anyway. A renewal has until its margin is used up. */
  async #signUntil(expirySecs: number, signal: AbortSignal): Promise<string> {
    const { clock, life } = this.#options;
    const giveUpMs = clock.steady() + (this.#hasToken ? life.marginSecs * 800 : 0);
    for (;;) {
      try {
        const token = await this.#sign(expirySecs, signal);
        this.#hasToken = true;
        return token;
      } catch (error) {
        if (signal.aborted || clock.steady() + RETRY_MS > giveUpMs) throw error;
      }
      await clock.sleep(RETRY_MS, signal);
    }
  }

  async #sign(expirySecs: number, signal: AbortSignal): Promise<string> {
    const { workload } = this.#options;
    return new Promise((resolve, reject) => {
      SharedAccessSignature.createWithSigningFunction(
        this._credentials,
        expirySecs,
        (data, signed) => {
          workload.sign(data, signal).then(
            (digest) => signed(undefined, digest),
            (error: unknown) => reject(error),
          );
        },
        (error, token) => (token === undefined ? reject(error ?? new Error("no token")) : resolve(token.toString())),
      );
    });
  }
}

/** A provider for one connection; `stop` ends it for good. */
export function createTokenProvider(options: TokenProviderOptions): SharedAccessKeyAuthenticationProvider {
  return new TokenProvider(options);
}
