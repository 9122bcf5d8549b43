import { createHash } from "node:crypto";

/** The hexadecimal SHA-256 of a text's UTF-8: the hash in component names, which `core` is handed, since it imports nothing. */
export function sha256Hex(text: string): string {
  return createHash("sha256").update(text, "utf8").digest("hex");
}
