/** Asks the disk before the database is asked: a database that a full disk has closed cannot even be read. */
import { mkdir, open, rm, statfs } from "node:fs/promises";
import { dirname, join } from "node:path";

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
  await probe(folder);
}

/** Makes the folder and writes in it; rejects with the disk's own reason, which a recursive `mkdir` and LevelDB call ENOENT. */
export async function makeFolder(folder: string): Promise<void> {
  await mkdir(folder).catch(async (error: NodeJS.ErrnoException) => {
    if (error.code === "EEXIST") return;
    if (error.code !== "ENOENT" || dirname(folder) === folder) throw error;
    await makeFolder(dirname(folder));
    await mkdir(folder);
  });
  await probe(folder);
}

async function probe(folder: string): Promise<void> {
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
