/** The topic conventions that leaves may speak. A new dialect is one line here; the contract suite finds it. */
import type { Dialect } from "./dialect.ts";
import { iothub } from "./iothub.ts";

export const dialects: readonly Dialect[] = [iothub];

export function dialectNamed(name: string): Dialect | undefined {
  return dialects.find((dialect) => dialect.name === name);
}
