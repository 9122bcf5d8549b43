/**
 * The live table of leaves: each one's durable record, its lane and what only its current connection knows.
 * Invariant: `record` is what the disk has (but for `accepted`, `confirmedVersion`, `missed` and `tracks`, whose newer state may
 * follow with the next commit: losing it costs a repeated message, never a change). No two leaves share a component.
 */
import { componentOf, type NamingRules, splitComponentName } from "../core/component-name.ts";
import { type LeafRecord, type MissedDesired, newRecord } from "../core/leaf.ts";
import type { Channel, ComponentName, LeafId, Subscription } from "../core/message.ts";
import { NOTHING_PUSHED, type Pushed } from "../core/pushed.ts";
import { withShown } from "../core/reconcile.ts";
import { Lane } from "./lane.ts";
import type { LeafConnect, Store, Write } from "./ports.ts";

export interface Leaf {
  readonly id: LeafId;
  readonly lane: Lane;
  record: LeafRecord;
  /** A commit of the record failed, and it may be on disk all the same: the next occasion writes, even what seems to be there. */
  isUnsure: boolean;
  connected: boolean;
  /** The current connection asked for a clean session: nothing of it is kept. */
  isClean: boolean;
  /** Subscriptions of the current connection as the broker knows them: fewer than the record's when more were given back since. */
  listed: readonly Subscription[];
  /** Open channels of the current connection, by its subscriptions. */
  channels: ReadonlySet<Channel>;
  /** Twin GETs that wait for the first synchronisation. */
  heldGets: HeldGet[];
  /** What of `missed` was last written to the current connection, until the leaf is heard from again. */
  told: MissedDesired | undefined;
  /** What edgeHub took lately of its reported properties. */
  pushed: Pushed;
}

/** One request of one connection. */
export interface HeldGet {
  readonly rid: string;
  /** Ends the wait: it was answered, or its connection has gone. */
  readonly end: AbortController;
}

export class Leaves {
  readonly #store: Store;
  readonly #naming: NamingRules;
  readonly #byId = new Map<LeafId, Leaf>();
  readonly #byComponent = new Map<string, Leaf>();
  /** Who waits for a leaf to connect or to subscribe. */
  readonly #waiting = new Map<LeafId, Set<() => void>>();

  constructor(store: Store, naming: NamingRules) {
    this.#store = store;
    this.#naming = naming;
  }

  async load(): Promise<void> {
    // What was told to a leaf last is perhaps not among what the disk has noted as told: a killed gateway could not write it down.
    for await (const record of this.#store.leaves()) this.#add(withShown(record));
  }

  get(id: LeafId): Leaf | undefined {
    return this.#byId.get(id);
  }

  all(): Iterable<Leaf> {
    return this.#byId.values();
  }

  get size(): number {
    return this.#byId.size;
  }

  /** The leaf that owns a component of the module's twin, by the part before `__`. */
  ownerOf(component: string): Leaf | undefined {
    return this.#byComponent.get(splitComponentName(component).component);
  }

  nameFor(id: LeafId): ComponentName {
    return componentOf(id, this.#naming);
  }

  get sha256Hex(): (text: string) => string {
    return this.#naming.sha256Hex;
  }

  /** A record for a leaf that was never seen; undefined when its component belongs to another leaf. */
  create(connect: LeafConnect, nowMs: number): Leaf | undefined {
    const component = this.nameFor(connect.leafId);
    if (this.#byComponent.has(component)) return undefined;
    const { dialect, leafId, modelId } = connect;
    return this.#add(newRecord({ leafId, component, modelId, dialect, nowMs }));
  }

  /** Forgets a leaf whose first record could not be written. */
  discard(leaf: Leaf): void {
    this.#byId.delete(leaf.id);
    this.#byComponent.delete(leaf.record.component);
  }

  /** Commits the record (with what belongs to it), then makes it the leaf's. Call inside the leaf's lane. */
  async save(leaf: Leaf, record: LeafRecord, also: readonly Write[] = []): Promise<void> {
    leaf.isUnsure = true;
    await this.#store.commit([{ kind: "leaf", record }, ...also]);
    leaf.isUnsure = false;
    leaf.record = record;
  }

  /** Several leaves' records and more in one commit. Call while all their lanes stand still. */
  async saveAll(changes: ReadonlyMap<Leaf, LeafRecord>, also: readonly Write[]): Promise<void> {
    const changed = [...changes].filter(([leaf, record]) => record !== leaf.record || leaf.isUnsure);
    const writes: Write[] = [...also, ...changed.map(([, record]): Write => ({ kind: "leaf", record }))];
    for (const [leaf] of changed) leaf.isUnsure = true;
    if (writes.length > 0) await this.#store.commit(writes);
    for (const [leaf] of changed) leaf.isUnsure = false;
    for (const [leaf, record] of changes) leaf.record = record;
  }

  /** Writes down what followed the last commits; for an orderly end. */
  async saveVolatile(): Promise<void> {
    const writes = [...this.#byId.values()].map(({ record }): Write => ({ kind: "leaf", record }));
    if (writes.length > 0) await this.#store.commit(writes);
  }

  /** Tells those who wait in {@link untilReady}; call when a leaf connected or subscribed. */
  wake(leaf: Leaf): void {
    for (const resolve of this.#waiting.get(leaf.id) ?? []) resolve();
  }

  isReady(leaf: Leaf, channel: Channel): boolean {
    return leaf.connected && leaf.channels.has(channel);
  }

  /** Resolves true once the leaf is connected with the channel open, false when `signal` aborts first. */
  async untilReady(leaf: Leaf, channel: Channel, signal: AbortSignal): Promise<boolean> {
    while (!this.isReady(leaf, channel)) {
      if (signal.aborted) return false;
      const waiters = this.#waiting.get(leaf.id) ?? new Set();
      this.#waiting.set(leaf.id, waiters);
      const { promise, resolve } = Promise.withResolvers<void>();
      waiters.add(resolve);
      signal.addEventListener("abort", () => resolve(), { once: true });
      await promise;
      waiters.delete(resolve);
      if (waiters.size === 0) this.#waiting.delete(leaf.id);
    }
    return true;
  }

  #add(record: LeafRecord): Leaf {
    const leaf: Leaf = {
      id: record.leafId,
      lane: new Lane(),
      record,
      isUnsure: false,
      connected: false,
      isClean: false,
      listed: [],
      channels: new Set(),
      heldGets: [],
      told: undefined,
      pushed: NOTHING_PUSHED,
    };
    this.#byId.set(leaf.id, leaf);
    this.#byComponent.set(record.component, leaf);
    return leaf;
  }
}
