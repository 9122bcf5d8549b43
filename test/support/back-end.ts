/** A user's back end: the unmodified `azure-iothub`, led to a port of this machine, since it ignores one in HostName. */

import { Agent } from "node:https";
import type { Client as ServiceClient, Registry as ServiceRegistry } from "azure-iothub";
import azureIothub from "azure-iothub";

const { Client, Registry } = azureIothub;

export interface BackEndOptions {
  readonly host: string;
  readonly port: number;
  /** PEM of the root that the service API's certificate leads to; it must name the connection string's HostName. */
  readonly ca: string;
  readonly connectionString: string;
}

export interface BackEnd extends Disposable {
  readonly registry: ServiceRegistry;
  readonly client: ServiceClient;
}

/** Disposing closes the idle connections. */
export function connectBackEnd({ host, port, ca, connectionString }: BackEndOptions): BackEnd {
  const servername = /HostName=([^;]+)/.exec(connectionString)?.[1] ?? host;
  // An agent's own options win over a request's, host and port included.
  const agent = new Agent({ host, port, ca, servername, keepAlive: true });
  const registry = Registry.fromConnectionString(connectionString);
  const client = Client.fromConnectionString(connectionString);
  for (const part of [registry, client]) redirect(part, agent);
  return { registry, client, [Symbol.dispose]: () => agent.destroy() };
}

/** The one seam with the SDK's insides: it has no public way to another port. */
function redirect(part: unknown, agent: Agent): void {
  const { _restApiClient } = part as { _restApiClient: { setOptions(options: { http: { agent: Agent } }): void } };
  _restApiClient.setOptions({ http: { agent } });
}
