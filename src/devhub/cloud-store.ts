/** The cloud's memory on disk: one JSON file, replaced whole, so that a reader finds the old state or the new one. */

import { randomUUID } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Twin } from "./cloud-twin.ts";

export interface CloudState {
  readonly twins: readonly Twin[];
  /** Policy name -> key, base64. */
  readonly policies: Readonly<Record<string, string>>;
}

interface StoredState extends CloudState {
  readonly format: 1;
}

const FILE = "cloud.json";

/** Undefined when nothing was ever saved there. Throws when the file is not of this program's making. */
export function loadCloud(folder: string): CloudState | undefined {
  let text: string;
  try {
    text = readFileSync(join(folder, FILE), "utf8");
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
  // Only saveCloud writes this file, and only whole; the format says which version of it.
  const stored = JSON.parse(text) as Partial<StoredState>;
  if (stored.format !== 1 || stored.twins === undefined || stored.policies === undefined) {
    throw new Error(`${join(folder, FILE)} is not this version's; remove it to start anew`);
  }
  return { twins: stored.twins, policies: stored.policies };
}

export function saveCloud(folder: string, state: CloudState): void {
  const stored: StoredState = { format: 1, ...state };
  writeWhole(join(folder, FILE), JSON.stringify(stored));
}

/** Written beside and renamed into place; readable by the owner alone, since keys may be in it. */
export function writeWhole(path: string, text: string): void {
  const temporary = `${path}.${randomUUID()}`;
  mkdirSync(join(path, ".."), { recursive: true });
  writeFileSync(temporary, text, { mode: 0o600 });
  renameSync(temporary, path);
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ENOENT";
}
