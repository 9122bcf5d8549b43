/** Asks the disk before the database is asked: a database that a full disk has closed cannot even be read. */
import { open, rm, statfs } from "node:fs/promises";
import { join } from "node:path";

/** LevelDB opens with a new log, manifest and tables of what was in the old log. */
const OPEN_BYTES = 1024 * 1024;

/** Rejects when the volume of `folder` has less than so many bytes free. */
export async function roomFor(folder: string, bytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  if (bavail * bsize < bytes) throw new Error(`ENOSPC: ${bavail * bsize} bytes are free in ${folder}`);
}

/** Tries the disk with a file of its own, so that the database is only closed when it can be opened again. */
export async function assertWritable(folder: string, bytes: number): Promise<void> {
  await roomFor(folder, bytes + OPEN_BYTES);
  const path = join(folder, "write-test");
  const handle = await open(path, "w");
  try {
    await handle.writeFile(Buffer.alloc(4096));
    await handle.sync();
  } finally {
    await handle.close();
    await rm(path, { force: true });
  }
}
