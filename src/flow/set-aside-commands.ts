/** The gateway's commands on messages that were set aside: look, send once more, discard. */
import { isJsonObject, jsonBytes, ownValue } from "../core/merge-patch.ts";
import { type Json, type JsonObject, parseLeafId, type SetAsideEntry } from "../core/message.ts";
import { MAX_LIST_BYTES } from "./gateway-requests.ts";
import type { CommandAnswer } from "./ports.ts";
import type { Selection, SetAside } from "./set-aside.ts";

const MAX_LISTED = 50;
const MAX_PREVIEW_CHARS = 1_000;

export type SetAsideCommands = Readonly<Record<string, (payload: Json) => Promise<CommandAnswer>>>;

export function setAsideCommands(setAside: SetAside): SetAsideCommands {
  return {
    listSetAside: (payload) => list(setAside, payload),
    retrySetAside: async (payload) => {
      const isMeant = parseSelection(payload);
      return isMeant === undefined ? UNCLEAR : { status: 200, payload: await setAside.retry(isMeant) };
    },
    discardSetAside: async (payload) => {
      const isMeant = parseSelection(payload);
      return isMeant === undefined ? UNCLEAR : { status: 200, payload: { discarded: await setAside.discard(isMeant) } };
    },
  };
}

const UNCLEAR: CommandAnswer = {
  status: 400,
  payload: { message: 'the payload says which: {"number": n}, {"leafId": "..."} or {"all": true}' },
};

/** `{}` or null: all of them; `leafId`: of one leaf; `after`: beyond that number. */
async function list(setAside: SetAside, payload: Json): Promise<CommandAnswer> {
  const request = payload !== null && isJsonObject(payload) ? payload : {};
  const [after, leafId] = [ownValue(request, "after") ?? 0, ownValue(request, "leafId")];
  if (typeof after !== "number") return { status: 400, payload: { message: '"after" is a number of a message' } };
  const messages: JsonObject[] = [];
  let more = false;
  let bytes = 0;
  for await (const aside of setAside.entries(after, (entry) => leafId === undefined || entry.leafId === leafId)) {
    const message = shown(aside);
    bytes += jsonBytes(message) + 1;
    more = messages.length === MAX_LISTED || bytes > MAX_LIST_BYTES;
    if (more) break;
    messages.push(message);
  }
  return { status: 200, payload: { messages, more, total: setAside.size } };
}

function shown({ entry, reason, setAsideMs }: SetAsideEntry): JsonObject {
  const { leafId, message, seq } = entry;
  return {
    number: seq,
    leafId,
    component: message.system["sub"] ?? null,
    messageId: message.system["mid"] ?? null,
    reason,
    setAside: new Date(setAsideMs).toISOString(),
    bytes: message.payload.length,
    payload: new TextDecoder().decode(message.payload).slice(0, MAX_PREVIEW_CHARS),
  };
}

function parseSelection(payload: Json): Selection | undefined {
  if (payload === null || !isJsonObject(payload)) return undefined;
  const [number, leafId, all] = [ownValue(payload, "number"), ownValue(payload, "leafId"), ownValue(payload, "all")];
  if ([number, leafId, all].filter((given) => given !== undefined).length !== 1) return undefined;
  if (typeof number === "number") return ({ seq }) => seq === number;
  if (all === true) return () => true;
  const parsed = typeof leafId === "string" ? parseLeafId(leafId) : undefined;
  return parsed === undefined ? undefined : (entry) => entry.leafId === parsed;
}
