/** What this process has had written to disks, by the kernel's count: whole pages, so what a card really gets. */
import { readFileSync } from "node:fs";

/** Bytes since the process began [proc_pid_io(5)]; undefined where the kernel does not tell. */
export function diskWrittenBytes(): number | undefined {
  try {
    const written = /^write_bytes: (\d+)$/m.exec(readFileSync("/proc/self/io", "utf8"))?.[1];
    return written === undefined ? undefined : Number(written);
  } catch {
    return undefined;
  }
}
