/**
 * The line between edgeHub and IoT Hub, and what edgeHub knows of it. Two different things: the line is back the moment it
 * is restored, edgeHub resumes later, unless a twin read makes it look [iothub-mqtt.md 12.3].
 */

import { setTimeout as sleep } from "node:timers/promises";
import type { DevHubSettings } from "./settings.ts";

export type CutMode = "silent" | "refused";
export type LineState = "up" | CutMode;

export interface WanListener {
  /** The line itself: what a probe of the hub's host sees. */
  lineChanged?(state: LineState): void;
  /** edgeHub's cloud connections work again after a cut. */
  resumed?(): void;
  /** Operations have hung long enough that edgeHub counts itself offline; called at most once for each cut. */
  offlineNoticed?(): void;
  /** An operation was tried again after 20 s; at most once for each cut. */
  retried?(): void;
}

/** edgeHub tries a hanging message again after this part of what makes it call itself offline (20 s of 30 s). */
const RETRY_PART = 2 / 3;

export class WanLink {
  #line: LineState = "up";
  #connected = true;
  #lastCut: CutMode = "silent";
  #traffic = false;
  #resumeTimer: NodeJS.Timeout | undefined;
  #noticeTimers: NodeJS.Timeout[] = [];
  readonly #listeners = new Set<WanListener>();
  readonly #settings: DevHubSettings;

  constructor(settings: DevHubSettings) {
    this.#settings = settings;
  }

  get state(): LineState {
    return this.#line;
  }

  /** Whether edgeHub's connection to the cloud works: false from the cut until it has resumed. */
  get connected(): boolean {
    return this.#connected;
  }

  listen(listener: WanListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** `silent`: packets vanish. `refused`: connections are refused at once. */
  cut(mode: CutMode = "silent"): void {
    clearTimeout(this.#resumeTimer);
    // A second cut before edgeHub resumed is the same outage to it.
    if (this.#connected) this.#traffic = false;
    this.#connected = false;
    this.#lastCut = mode;
    this.#setLine(mode);
  }

  restore(): void {
    if (this.#line === "up") return;
    this.#setLine("up");
    const { resumeAfterSilentMs, resumeAfterRefusedMs } = this.#settings;
    const afterMs = this.#lastCut === "silent" ? resumeAfterSilentMs : resumeAfterRefusedMs;
    this.#resumeTimer = setTimeout(() => this.#resume(), afterMs);
  }

  /** Something was sent into the cut line: from now on the outage is one that edgeHub notices, and wakes from slowly. */
  noteTraffic(): void {
    if (this.#connected || this.#traffic) return;
    this.#traffic = true;
    const noticeMs = this.#settings.offlineNoticeMs;
    this.#noticeTimers = [
      setTimeout(() => this.#tell((listener) => listener.retried?.()), noticeMs * RETRY_PART),
      setTimeout(() => this.#tell((listener) => listener.offlineNoticed?.()), noticeMs),
    ];
  }

  /** What a twin read meets: resolves after the time it takes, with who can answer it. Wakes a sleeping edgeHub. */
  async read(): Promise<"cloud" | "store"> {
    if (this.#connected) return "cloud";
    if (this.#line !== "up") {
      await pass(this.#settings.readInOutageMs);
      return "store";
    }
    if (this.#traffic) {
      // After a silent cut the first read still goes into the dead connection and times out there.
      const dead = this.#lastCut === "silent";
      await pass(dead ? this.#settings.readInOutageMs : this.#settings.wakingReadMs);
      if (this.#line !== "up") return "store";
      this.#resume();
      return dead ? "store" : "cloud";
    }
    this.#resume();
    return "cloud";
  }

  dispose(): void {
    this.#clearTimers();
    this.#listeners.clear();
  }

  /** edgeHub came up anew: it finds the line as it is, without a memory of outages. */
  restarted(): void {
    this.#clearTimers();
    this.#traffic = false;
    this.#connected = this.#line === "up";
  }

  #resume(): void {
    if (this.#connected || this.#line !== "up") return;
    this.#clearTimers();
    this.#connected = true;
    this.#tell((listener) => listener.resumed?.());
  }

  #setLine(state: LineState): void {
    if (this.#line === state) return;
    this.#line = state;
    this.#tell((listener) => listener.lineChanged?.(state));
  }

  #tell(call: (listener: WanListener) => void): void {
    for (const listener of this.#listeners) call(listener);
  }

  #clearTimers(): void {
    clearTimeout(this.#resumeTimer);
    for (const timer of this.#noticeTimers) clearTimeout(timer);
    this.#noticeTimers = [];
  }
}

/** A read that hangs must not keep a process alive that is otherwise done. */
function pass(ms: number): Promise<void> {
  return sleep(ms, undefined, { ref: false });
}
