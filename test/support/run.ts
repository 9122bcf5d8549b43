/** Runs a program without a shell and without its output; false when it fails or is not there. */
import { execFileSync } from "node:child_process";

export function run(command: string, args: readonly string[]): boolean {
  try {
    execFileSync(command, args, { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}
