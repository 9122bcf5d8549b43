/** The operator's model documents: all JSON files of a folder, however deep, as a model repository lays them out. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type Models, parseModels } from "./core/dtdl.ts";
import { GatewayError } from "./core/errors.ts";
import type { Json } from "./core/message.ts";

/**
 * Empty without a folder. A document that is wrong is said and left out: leaves of its model are not judged then.
 * Throws GatewayError where the folder itself cannot be read.
 */
export function readModels(folder: string, say: (problem: string) => void): Models {
  if (folder === "") return new Map();
  const documents: Json[] = [];
  for (const file of jsonFiles(folder)) {
    try {
      documents.push(JSON.parse(readFileSync(join(folder, file), "utf8")) as Json);
    } catch (error) {
      say(`${file} cannot be read: ${String(error)}`);
    }
  }
  const { models, problems } = parseModels(documents);
  for (const problem of problems) say(problem);
  return models;
}

function jsonFiles(folder: string): readonly string[] {
  try {
    return readdirSync(folder, { recursive: true, encoding: "utf8" })
      .filter((file) => file.endsWith(".json"))
      .toSorted();
  } catch (error) {
    throw new GatewayError("CONFIG_INVALID", `modelsFolder cannot be read: ${String(error)}`);
  }
}
