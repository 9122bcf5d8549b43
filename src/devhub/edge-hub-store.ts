/**
 * What edgeHub keeps on its disk: identities, sessions, twins and the messages on their way up. Written before the client
 * is answered, so that a killed process loses nothing that was acknowledged; like the real one it does not sync.
 */

import { randomBytes, randomUUID } from "node:crypto";
import { appendFileSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { JsonObject } from "../core/message.ts";
import type { Identity } from "./cloud-types.ts";

export interface IdentityRecord {
  readonly identity: Identity;
  /** Base64 symmetric key. */
  readonly key: string;
  readonly generationId: string;
}

/** A module's twin as edgeHub stores it; the sections without `$version`. */
export interface StoredTwin {
  readonly desired: JsonObject;
  /** Undefined: never read from the cloud. */
  readonly desiredVersion: number | undefined;
  readonly reported: JsonObject;
  readonly reportedVersion: number | undefined;
  readonly fetchedMs: number | undefined;
  /** Reported changes that the cloud has not taken. */
  readonly pending: JsonObject | undefined;
}

export interface QueuedMessage {
  readonly seq: number;
  readonly from: Identity;
  readonly system: Readonly<Record<string, string>>;
  readonly properties: Readonly<Record<string, string>>;
  /** Base64, as on disk. */
  readonly body: string;
  readonly modelId: string | undefined;
  readonly enqueuedMs: number;
}

/** `{device}` or `{device}/{module}`: the client id, and the key of everything kept per client. */
export function keyOf(identity: Identity): string {
  return identity.moduleId === undefined ? identity.deviceId : `${identity.deviceId}/${identity.moduleId}`;
}

/** Filter -> QoS. */
export type Session = Readonly<Record<string, 0 | 1>>;

type Kept = { identities: IdentityRecord; sessions: Session; twins: StoredTwin };
/** Rewrite the journal of messages when it has this many lines and nothing waits. */
const COMPACT_LINES = 10_000;

export class EdgeStore {
  readonly identities: Map<string, IdentityRecord>;
  readonly sessions: Map<string, Session>;
  readonly twins: Map<string, StoredTwin>;
  /** By sequence number, in order of arrival. */
  readonly messages: Map<number, QueuedMessage>;
  readonly #folder: string | undefined;
  #nextSeq: number;
  #journalLines = 0;

  constructor(folder: string | undefined) {
    this.#folder = folder;
    if (folder !== undefined) mkdirSync(folder, { recursive: true });
    this.identities = this.#read("identities");
    this.sessions = this.#read("sessions");
    this.twins = this.#read("twins");
    this.messages = this.#readJournal();
    this.#nextSeq = Math.max(0, ...this.messages.keys()) + 1;
  }

  /** The identity's record, made with a fresh key at the first call. */
  ensureIdentity(identity: Identity): IdentityRecord {
    const known = this.identities.get(keyOf(identity));
    if (known !== undefined) return known;
    const generationId = String(Date.now());
    const made = { identity, key: randomBytes(32).toString("base64"), generationId };
    this.identities.set(keyOf(identity), made);
    this.#write("identities", this.identities);
    return made;
  }

  setSession(key: string, session: Session | undefined): void {
    if (session === undefined) {
      if (!this.sessions.delete(key)) return;
    } else this.sessions.set(key, session);
    this.#write("sessions", this.sessions);
  }

  setTwin(key: string, twin: StoredTwin): void {
    this.twins.set(key, twin);
    this.#write("twins", this.twins);
  }

  addMessage(message: Omit<QueuedMessage, "seq">): QueuedMessage {
    const stored = { ...message, seq: this.#nextSeq++ };
    this.messages.set(stored.seq, stored);
    this.#journal({ add: stored });
    return stored;
  }

  removeMessage(seq: number): void {
    if (!this.messages.delete(seq)) return;
    this.#journal({ done: seq });
    if (this.messages.size === 0 && this.#journalLines > COMPACT_LINES) this.#rewriteJournal();
  }

  /** Everything but the identities goes, as when edgeHub's container is made anew without its storage folder. */
  lose(): void {
    this.sessions.clear();
    this.twins.clear();
    this.messages.clear();
    this.#write("sessions", this.sessions);
    this.#write("twins", this.twins);
    this.#rewriteJournal();
  }

  #read<K extends keyof Kept>(name: K): Map<string, Kept[K]> {
    const text = this.#readText(`${name}.json`);
    if (text === undefined) return new Map();
    // Only this class writes the file, and only whole.
    return new Map(JSON.parse(text) as [string, Kept[K]][]);
  }

  #write(name: keyof Kept, values: ReadonlyMap<string, unknown>): void {
    this.#writeText(`${name}.json`, JSON.stringify([...values]));
  }

  #readJournal(): Map<number, QueuedMessage> {
    const messages = new Map<number, QueuedMessage>();
    for (const line of (this.#readText("messages.jsonl") ?? "").split("\n")) {
      const record = parseLine(line);
      if (record?.add !== undefined) messages.set(record.add.seq, record.add);
      if (record?.done !== undefined) messages.delete(record.done);
      this.#journalLines += 1;
    }
    return messages;
  }

  #journal(record: JournalLine): void {
    this.#journalLines += 1;
    if (this.#folder === undefined) return;
    appendFileSync(join(this.#folder, "messages.jsonl"), `${JSON.stringify(record)}\n`);
  }

  #rewriteJournal(): void {
    this.#journalLines = this.messages.size;
    const lines = [...this.messages.values()].map((add) => `${JSON.stringify({ add })}\n`);
    this.#writeText("messages.jsonl", lines.join(""));
  }

  #readText(name: string): string | undefined {
    if (this.#folder === undefined) return undefined;
    try {
      return readFileSync(join(this.#folder, name), "utf8");
    } catch {
      return undefined;
    }
  }

  /** Renamed into place: a reader finds the old file or the new one, never half of one. */
  #writeText(name: string, text: string): void {
    if (this.#folder === undefined) return;
    const path = join(this.#folder, name);
    const temporary = `${path}.${randomUUID()}`;
    writeFileSync(temporary, text, { mode: 0o600 });
    renameSync(temporary, path);
  }
}

interface JournalLine {
  readonly add?: QueuedMessage;
  readonly done?: number;
}

/** The last line of a killed process may be torn: it was never acknowledged. */
function parseLine(line: string): JournalLine | undefined {
  if (line === "") return undefined;
  try {
    return JSON.parse(line) as JournalLine;
  } catch {
    return undefined;
  }
}
