/** What the deployment manifest says of the gateway's container, so that the tests run the image as a deployment does. */
import { readFileSync } from "node:fs";
import { join } from "node:path";

interface HostConfig {
  readonly Binds: readonly string[];
  readonly PortBindings: Readonly<Record<string, unknown>>;
  readonly Memory: number;
  readonly [name: string]: unknown;
}

interface Manifest {
  readonly modulesContent: {
    readonly $edgeAgent: {
      readonly "properties.desired": {
        readonly modules: Readonly<
          Record<
            string,
            {
              readonly env: Readonly<Record<string, { readonly value: string }>>;
              readonly settings: { readonly createOptions: { readonly HostConfig: HostConfig } };
            }
          >
        >;
      };
    };
    readonly $edgeHub: { readonly "properties.desired": { readonly routes: Readonly<Record<string, string>> } };
  };
}

export const MODULE_ID = "pnpGateway";

export function deployedGateway(): {
  readonly environment: Readonly<Record<string, string>>;
  readonly hostConfig: HostConfig;
  readonly routes: readonly string[];
} {
  const text = readFileSync(join(import.meta.dirname, "../../deployment.template.json"), "utf8");
  const { $edgeAgent, $edgeHub } = (JSON.parse(text) as Manifest).modulesContent;
  const module = $edgeAgent["properties.desired"].modules[MODULE_ID];
  if (module === undefined) throw new Error(`the manifest has no module ${MODULE_ID}`);
  return {
    environment: Object.fromEntries(Object.entries(module.env).map(([name, { value }]) => [name, value])),
    hostConfig: module.settings.createOptions.HostConfig,
    routes: Object.values($edgeHub["properties.desired"].routes),
  };
}
