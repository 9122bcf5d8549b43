/**
 * Random histories of a whole gateway: leaves report, hubs desire, links break, processes die between any two writes, twins are made
 * anew. At the end everything that a promise is about is compared with what the hub and the leaves saw.
 */
import type { JsonObject } from "../../src/core/message.ts";
import type { Misfortune } from "./faulty-store.ts";
import { checkDesired, checkReported, checkTelemetry, componentOf } from "./history-checks.ts";
import { LEAVES, type Step } from "./history-steps.ts";
import type { ModelLeaf } from "./model-leaves.ts";
import { type RELAY_SETTINGS, RelayWorld } from "./relay-world.ts";

/** Of 100 s each until everything must have come right. */
const ROUNDS = 20;
/** Time for three of the rare reads that there are while the WAN is taken for away. */
const BLIND_ROUNDS = 110;

/** What goes wrong against a promise is an error that names it. */
export async function live(
  steps: readonly Step[],
  settings: Partial<typeof RELAY_SETTINGS> = {},
  { hasMetrics = true } = {},
): Promise<void> {
  const life = new History(settings, hasMetrics);
  await life.begin();
  try {
    for (const each of steps) await life.take(each);
    await life.end();
  } finally {
    await life.close();
  }
}

class History {
  readonly #world: RelayWorld;
  readonly #acknowledged = new Map<string, string[]>();
  readonly #pending: Promise<void>[] = [];
  readonly #isPowerSafe: boolean;
  /** Those that went away by themselves; the SDKs of the others come back at once. */
  readonly #away = new Set<string>(LEAVES);
  #messages = 0;
  #life = 1;
  #isBlind = false;

  /** `hasMetrics`: edgeHub's page can be read, and tells who has answered a twin read. */
  constructor(settings: Partial<typeof RELAY_SETTINGS>, hasMetrics: boolean) {
    this.#world = new RelayWorld({ settings, edge: true });
    if (!hasMetrics) this.#world.wan.reads = undefined;
    this.#isPowerSafe = settings.durability === "power-safe";
  }

  #leaf(at: number): ModelLeaf {
    return this.#world.leaves.leaf(LEAVES[at % LEAVES.length] ?? LEAVES[0]);
  }

  async begin(): Promise<void> {
    await this.#world.start();
    this.#world.hub.link("up");
    await this.#world.pass(50);
    for (const at of [0, 1]) await this.take({ kind: "connect", leaf: at });
  }

  async take(each: Step): Promise<void> {
    const { hub } = this.#world;
    switch (each.kind) {
      case "report":
        await this.#present(this.#leaf(each.leaf));
        this.#pending.push(
          this.#leaf(each.leaf)
            .report(each.patch)
            .then(() => undefined),
        );
        await this.#world.pass(0);
        break;
      case "telemetry":
        await this.#present(this.#leaf(each.leaf));
        this.#telemetry(this.#leaf(each.leaf), each.count);
        await this.#world.pass(0);
        break;
      case "desire":
        this.#desire(each);
        await this.#world.pass(0);
        break;
      case "acknowledge":
        await this.#acknowledge(this.#leaf(each.leaf));
        break;
      case "connect":
        this.#away.delete(this.#leaf(each.leaf).id);
        this.#comeBack(this.#leaf(each.leaf), each.clean);
        await this.#world.pass(0);
        break;
      case "disconnect":
        this.#away.add(this.#leaf(each.leaf).id);
        this.#pending.push(this.#leaf(each.leaf).disconnect());
        await this.#world.pass(0);
        break;
      case "link":
        hub.link(each.state);
        await this.#world.pass(0);
        break;
      case "lose-answer":
        hub.mode = "lose-answer";
        break;
      case "kill":
        await this.#kill(each.afterWrites);
        break;
      case "disk":
        this.#failWrites(each.fails, each.how);
        break;
      case "recreate":
        this.#life += 1;
        hub.recreate();
        await this.#world.pass(0);
        break;
      case "wan":
        if (this.#world.edge !== undefined) this.#world.edge.hasRoute = each.routed !== false;
        this.#wan(each.state, each.told);
        await this.#world.pass(0);
        break;
      case "blind":
        this.#isBlind = true;
        this.#world.wan.tell("away");
        await this.#world.pass(0);
        break;
      case "edge-restart":
        await this.#restartEdge(each.lose, each.toldAfter);
        break;
      case "remove":
        this.#remove(this.#leaf(each.leaf), each.confirm);
        await this.#world.pass(0);
        break;
      case "pass":
        await this.#world.pass(each.ms);
        this.#world.wan.scrape();
        break;
    }
  }

  /** Everybody comes back, time passes: now the promises must hold. */
  async end(): Promise<void> {
    const world = this.#world;
    world.misfortune = () => "none";
    world.hub.mode = "good";
    this.#wan("up", true);
    world.hub.link("up");
    // A removal under way comes to its end before somebody confirms.
    await world.pass(1_000);
    for (const device of world.leaves.all()) this.#remove(device, true);
    for (const device of world.leaves.all()) this.#comeBack(device);
    await world.pass(60_000);
    for (const device of world.leaves.all()) this.#comeBack(device);
    for (let round = 0; round < (this.#isBlind ? BLIND_ROUNDS : ROUNDS); round += 1) {
      world.wan.scrape();
      await world.pass(100_000);
      for (const device of world.leaves.all()) this.#comeBack(device);
    }
    await world.pass(1_000);
    for (const device of world.leaves.all()) {
      checkTelemetry(world, device, this.#acknowledged.get(device.id) ?? []);
      // Before the twin is read for the comparison of what was reported: what the leaf was told must be enough.
      checkDesired(world, device, this.#life);
      await checkReported(world, device);
    }
  }

  /**
   * A program that subscribes for the first time reads its twin, whatever it has heard already; later its SDK just comes back. After
   * a clean session it begins afresh.
   */
  #comeBack(device: ModelLeaf, clean = false): void {
    if (device.connected) return;
    const isFirst = clean || !device.hasSubscribed || device.desiredVersion === 0;
    const reading = device.connect({ subscribe: isFirst, clean }).then(async (isIn) => {
      if (clean) device.hasSubscribed = false;
      if (isIn && isFirst) await device.read();
    });
    this.#pending.push(reading);
  }

  async #present(device: ModelLeaf): Promise<void> {
    if (device.connected || this.#away.has(device.id)) return;
    this.#comeBack(device);
    await this.#world.pass(0);
  }

  #wan(state: "cut" | "up", told: boolean): void {
    const { hub, wan } = this.#world;
    hub.wan(state);
    // An outage that nobody noticed ends without a word, too.
    if (state === "up" && !this.#isBlind) wan.tell("online");
    else if (state === "cut" && told) wan.tell("away");
    // To a watch that is wrong anyway it is one as well.
    hub.isUnnoticed = state === "cut" && (!told || this.#isBlind);
  }

  #desire({ also, heard, leaf, part, patch }: Extract<Step, { kind: "desire" }>): void {
    const { hub } = this.#world;
    hub.deaf = !heard;
    const others = also === undefined ? {} : { [componentOf(this.#leaf(also.leaf).id)]: also.patch };
    hub.desire({ ...others, [`${componentOf(this.#leaf(leaf).id)}${part === true ? "__part" : ""}`]: patch });
    hub.deaf = false;
  }

  /** Another edgeHub process; power-safe must survive that it has lost its telemetry too. */
  async #restartEdge(lose: boolean | "newest", toldAfter: boolean): Promise<void> {
    const { edge, hub, wan } = this.#world;
    const wasUp = hub.isUp;
    hub.link("down");
    const what = lose === true ? "twins" : "newest";
    edge?.restart(lose === false ? "nothing" : what, lose !== false && this.#isPowerSafe ? "lose" : "keep");
    if (!toldAfter) wan.scrape();
    if (wasUp) hub.link("up");
    await this.#world.pass(0);
    wan.scrape();
    await this.#world.pass(0);
  }

  /** By the gateway's own command, whose answer may be lost: nobody can say then what of the leaf's reports is left. */
  #remove(device: ModelLeaf, confirm: boolean): void {
    const forgotten = (): void => {
      for (const key of Object.keys(device.reported)) device.uncertain.add(key);
    };
    if (!confirm) forgotten();
    const done = this.#world.hub
      .command(`gateway*${confirm ? "confirmLeaf" : "removeLeaf"}`, { leafId: device.id })
      .then(() => (confirm ? undefined : forgotten()));
    this.#pending.push(done);
  }

  async close(): Promise<void> {
    await this.#world[Symbol.asyncDispose]();
  }

  #telemetry(device: ModelLeaf, count: number): void {
    if (!device.connected) return;
    for (let n = 0; n < count; n += 1) {
      const text = String(++this.#messages);
      const life = this.#world.leaves.handler;
      this.#pending.push(
        device.telemetry(text).then((result) => {
          // An answer of a dead process never reaches the leaf.
          if (result.kind === "done" && this.#world.leaves.handler === life)
            this.#acknowledged.set(device.id, [...(this.#acknowledged.get(device.id) ?? []), text]);
        }),
      );
    }
  }

  async #acknowledge(device: ModelLeaf): Promise<void> {
    await this.#present(device);
    const { part, ...root } = device.desired;
    const acknowledged = (section: JsonObject): JsonObject =>
      Object.fromEntries(
        Object.entries(section)
          .filter(([name]) => name !== "__t")
          .map(([name, value]) => [name, { value, ac: 200, av: device.desiredVersion, ad: "done" }]),
      );
    // Without the marker, as the Python guide's sample does.
    const acks = { ...acknowledged(root), ...(part === undefined ? {} : { part: acknowledged(part as JsonObject) }) };
    this.#pending.push(device.report(acks).then(() => undefined));
    await this.#world.pass(0);
  }

  /** The process dies when it has done so many more writes (or right now). */
  async #kill(afterWrites: number): Promise<void> {
    const { store } = this.#world;
    const until = store.commits + afterWrites;
    for (let round = 0; round < 20 && store.commits < until; round += 1) await this.#world.pass(10);
    this.#world.kill();
    await this.#world.pass(0);
    await this.#world.start();
    await this.#world.pass(0);
  }

  #failWrites(fails: number, how: Misfortune): void {
    let left = fails;
    this.#world.misfortune = () => {
      left -= 1;
      return left >= 0 ? how : "none";
    };
  }
}
