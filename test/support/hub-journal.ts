/**
 * What edgeHub has taken, in its order, read from the journal that it writes before each PUBACK: what stands there outlives the
 * process, so a hub that is killed at any moment hides nothing.
 */
import { closeSync, fstatSync, openSync, readSync, statSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { z } from "zod";

const POLL_MS = 50;

const Line = z.object({
  add: z.object({ properties: z.record(z.string(), z.string()), body: z.string() }).optional(),
});
const Body = z.object({ number: z.number() });

/** By leaf the numbers of its messages (`{"number": n}`), in the order in which edgeHub took them. */
export class HubJournal {
  readonly #path: string;
  readonly #numbers = new Map<string, number[]>();
  #file: number | undefined;
  #offset = 0;
  #pending = "";

  constructor(path: string) {
    this.#path = path;
  }

  of(leafId: string): readonly number[] {
    this.read();
    return this.#numbers.get(leafId) ?? [];
  }

  /** Reads along: the hub begins a new file now and then, and only the old one that is still open has what was in it. */
  async follow(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      this.read();
      await delay(POLL_MS);
    }
  }

  read(): void {
    const inode = statSync(this.#path, { throwIfNoEntry: false })?.ino;
    if (inode === undefined) return;
    if (this.#file !== undefined && fstatSync(this.#file).ino !== inode) {
      this.#readOn(this.#file);
      closeSync(this.#file);
      this.#file = undefined;
    }
    if (this.#file === undefined) {
      this.#file = openSync(this.#path, "r");
      this.#offset = 0;
      this.#pending = "";
    }
    this.#readOn(this.#file);
  }

  [Symbol.dispose](): void {
    if (this.#file !== undefined) closeSync(this.#file);
    this.#file = undefined;
  }

  #readOn(file: number): void {
    const buffer = Buffer.alloc(256 * 1024);
    for (let count = -1; count !== 0; ) {
      count = readSync(file, buffer, 0, buffer.length, this.#offset);
      this.#offset += count;
      const lines = (this.#pending + buffer.toString("latin1", 0, count)).split("\n");
      this.#pending = lines.pop() ?? "";
      for (const line of lines) this.#take(line);
    }
  }

  #take(line: string): void {
    const { add } = parseLine(line) ?? {};
    const leafId = add?.properties["leafId"];
    if (add === undefined || leafId === undefined) return;
    const { number } = Body.parse(JSON.parse(Buffer.from(add.body, "base64").toString()));
    const numbers = this.#numbers.get(leafId) ?? [];
    numbers.push(number);
    this.#numbers.set(leafId, numbers);
  }
}

/** A killed process may have torn its last line; the next one then begins in the middle. */
function parseLine(line: string): z.output<typeof Line> | undefined {
  try {
    return Line.parse(JSON.parse(line));
  } catch {
    return undefined;
  }
}
