/** The dialects that leaves may speak. One line for each; the contract suite finds it here. */
import type { Dialect } from "./dialect.ts";
import { iothub } from "./iothub.ts";

export const dialects: readonly Dialect[] = [iothub];

export function dialectNamed(name: string): Dialect | undefined {
  return dialects.find((dialect) => dialect.name === name);
}
