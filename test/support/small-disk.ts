/** A disk of its own for a test: small, so that it can be filled, or a device that can be made to fail. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { run } from "./run.ts";

export class SmallDisk implements Disposable {
  readonly path: string;
  /** The file behind a device. */
  readonly #image: string | undefined;

  private constructor(path: string, image: string | undefined) {
    this.path = path;
    this.#image = image;
  }

  /** In memory. Undefined where mounting is not allowed. */
  static memory(megabytes: number): SmallDisk | undefined {
    const path = mkdtempSync(join(tmpdir(), "gateway-disk-"));
    if (run("mount", ["-t", "tmpfs", "-o", `size=${megabytes}m`, "tmpfs", path])) return new SmallDisk(path, undefined);
    rmSync(path, { recursive: true });
    return undefined;
  }

  /** With ext4, so that {@link fail} works. Undefined where that cannot be had. */
  static device(megabytes: number): SmallDisk | undefined {
    const path = mkdtempSync(join(tmpdir(), "gateway-disk-"));
    const image = `${path}.img`;
    writeFileSync(image, Buffer.alloc(megabytes * 1024 * 1024));
    const disk = new SmallDisk(path, image);
    if (run("mkfs.ext4", ["-q", "-F", image]) && disk.#mount()) {
      if (existsSync(disk.#trigger)) return disk;
      run("umount", [path]);
    }
    rmSync(path, { recursive: true });
    rmSync(image);
    return undefined;
  }

  /** As the kernel does with a disk whose structure is damaged: it becomes read-only under the files that are open. */
  fail(): void {
    writeFileSync(this.#trigger, "1");
  }

  /** After {@link fail}, when nobody uses it any more: checked and mounted again. */
  mend(): void {
    if (!run("umount", [this.path])) throw new Error("the disk is in use");
    run("e2fsck", ["-p", "-f", this.#image ?? ""]);
    if (!this.#mount()) throw new Error("the disk cannot be mounted again");
  }

  /** Takes all the room there is, and more with each call; returns the file, which can be removed. */
  fill(): string {
    const path = join(this.path, "filler");
    try {
      for (let bytes = 64 * 1024; ; ) {
        try {
          writeFileSync(path, Buffer.alloc(bytes), { flag: "a" });
        } catch (error) {
          if (bytes === 1) throw error;
          bytes = Math.floor(bytes / 2);
        }
      }
    } catch {
      return path;
    }
  }

  [Symbol.dispose](): void {
    run("umount", ["--lazy", this.path]);
    rmSync(this.path, { recursive: true });
    if (this.#image !== undefined) rmSync(this.#image);
  }

  #mount(): boolean {
    return run("mount", ["-o", "loop,errors=remount-ro", this.#image ?? "", this.path]);
  }

  get #trigger(): string {
    const device = execFileSync("findmnt", ["-n", "-o", "SOURCE", this.path], { encoding: "utf8" }).trim();
    return join("/sys/fs/ext4", basename(device), "trigger_fs_error");
  }
}

/** Whether this machine lets tests mount disks in memory, and devices that can be made to fail. */
export const canMount = (() => {
  using disk = SmallDisk.memory(1);
  return disk !== undefined;
})();
export const canMakeReadOnly = (() => {
  using disk = SmallDisk.device(8);
  return disk !== undefined;
})();
