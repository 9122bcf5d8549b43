/** `service.json`: how the command line, and a user's own back end, find a running hub. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { writeWhole } from "./cloud-store.ts";
import type { ServiceFile } from "./cloud-types.ts";

const FILE = "service.json";
const Service = z.object({
  url: z.url(),
  caFile: z.string().min(1),
  connectionString: z.string().regex(/HostName=.+;SharedAccessKeyName=.+;SharedAccessKey=.+/),
  deviceId: z.string().min(1),
  moduleId: z.string().min(1),
});

export type ServiceLookup =
  | { readonly kind: "found"; readonly service: ServiceFile }
  | { readonly kind: "missing" }
  | { readonly kind: "unreadable"; readonly reason: string };

/** Into the hub's state folder; readable by its owner alone, since the key is in it. Returns the file's path. */
export function writeServiceFile(folder: string, service: ServiceFile): string {
  const path = join(folder, FILE);
  writeWhole(path, `${JSON.stringify(service, undefined, 2)}\n`);
  return path;
}

export function readServiceFile(path: string): ServiceLookup {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    const isMissing = error instanceof Error && "code" in error && error.code === "ENOENT";
    return isMissing ? { kind: "missing" } : { kind: "unreadable", reason: String(error) };
  }
  try {
    return { kind: "found", service: Service.parse(JSON.parse(text)) };
  } catch {
    return { kind: "unreadable", reason: "it is not a service file of the development hub" };
  }
}

/** Where a hub of this environment keeps its file: its own folder when it is named, else the gateway's. */
export function serviceFilePaths(environment: Readonly<Record<string, string | undefined>>): readonly string[] {
  const own = environment["DEVHUB_STATE"];
  if (own !== undefined && own !== "") return [join(own, FILE)];
  const gateway = environment["GATEWAY_STATE"];
  const state = gateway === undefined || gateway === "" ? "./.gateway" : gateway;
  return [join(state, "devhub", FILE), join(".devhub", FILE)];
}
