/** A container as a deployment makes it: settings that testcontainers has no words for, and in a second network before it starts. */
import { type ContainerRuntimeClient, GenericContainer } from "testcontainers";

/** Emulated machines are ten times slower, loaded ones too. */
export const START_WITHIN_MS = 180_000;
/** What an aborted run leaves behind is found by it. */
export const LABELS = { "iotedge-pnp-gateway.test": "true" };

/** The engine's own words for what a container's state is. */
export interface ContainerState {
  readonly Running: boolean;
  readonly ExitCode: number;
  readonly OOMKilled: boolean;
  readonly Health?: { readonly Status: string; readonly Log: readonly { readonly Output: string }[] } | undefined;
}

export class DeployedContainer extends GenericContainer {
  #join: (id: string) => Promise<void> = () => Promise.resolve();

  constructor(image: string, hostConfig: Readonly<Record<string, unknown>>) {
    super(image);
    // Its helper image cannot be pulled everywhere; what an aborted run leaves behind has our label.
    this.withAutoCleanup(false).withLabels(LABELS).withStartupTimeout(START_WITHIN_MS);
    Object.assign(this.hostConfig, hostConfig);
  }

  /** Its published ports hang on this network. (With `withNetworkAliases` it would be on the default bridge as well.) */
  mainlyIn(network: string, aliases: readonly string[]): this {
    this.createOpts.NetworkingConfig = { EndpointsConfig: { [network]: { Aliases: [...aliases] } } };
    return this.withNetworkMode(network);
  }

  alsoIn(engine: ContainerRuntimeClient, network: string, aliases: readonly string[]): this {
    this.#join = (id) =>
      engine.network.getById(network).connect({ Container: id, EndpointConfig: { Aliases: [...aliases] } });
    return this;
  }

  /** The image's health check, asked so often; nothing else of it is changed. */
  checkedEvery(intervalMs: number): this {
    const nanoseconds = intervalMs * 1_000_000;
    const check = { Interval: nanoseconds, Timeout: 5_000_000_000, StartPeriod: 1_000_000, Retries: 2 };
    Object.assign(this.createOpts, { Healthcheck: check });
    return this;
  }

  protected override containerCreated(id: string): Promise<void> {
    return this.#join(id);
  }
}
