import { closeSync, fsyncSync, mkdtempSync, openSync, rmSync, statfsSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { diskWrittenBytes } from "../../../src/ops/disk-writes.ts";

/** Of statfs(2): memory, which nobody writes to a disk. */
const TMPFS = 0x01021994;

test("the kernel's count of written bytes rises with what is written", () => {
  const before = diskWrittenBytes();
  const folder = mkdtempSync(join(tmpdir(), "gateway-writes-"));
  const file = openSync(join(folder, "file"), "w");
  writeSync(file, Buffer.alloc(1_000_000));
  fsyncSync(file);
  closeSync(file);
  const onDisk = statfsSync(folder).type !== TMPFS;
  rmSync(folder, { recursive: true });
  expect((diskWrittenBytes() ?? 0) - (before ?? Number.NaN)).toBeGreaterThanOrEqual(onDisk ? 1_000_000 : 0);
});
