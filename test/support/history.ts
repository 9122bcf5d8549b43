/**
 * Random histories of a whole gateway: leaves report, hubs desire, links break, processes die between any two writes, twins are made
 * anew. At the end everything that a promise is about is compared with what the hub and the leaves saw.
 */
import fc from "fast-check";
import type { JsonObject } from "../../src/core/message.ts";
import type { Misfortune } from "./faulty-store.ts";
import { respelled } from "./model-edge.ts";
import type { ModelLeaf } from "./model-leaves.ts";
import { type RELAY_SETTINGS, RelayWorld } from "./relay-world.ts";

export type Step =
  | { readonly kind: "report"; readonly leaf: number; readonly patch: JsonObject }
  | { readonly kind: "telemetry"; readonly leaf: number; readonly count: number }
  | {
      readonly kind: "desire";
      readonly leaf: number;
      readonly part?: boolean;
      readonly patch: JsonObject | null;
      readonly heard: boolean;
    }
  | { readonly kind: "acknowledge"; readonly leaf: number }
  | { readonly kind: "connect"; readonly leaf: number; readonly clean?: boolean }
  | { readonly kind: "disconnect"; readonly leaf: number }
  | { readonly kind: "link"; readonly state: "up" | "down" }
  | { readonly kind: "lose-answer" }
  | { readonly kind: "kill"; readonly afterWrites: number }
  | { readonly kind: "disk"; readonly fails: number; readonly how: "fail" | "fail-written" | 30 }
  | { readonly kind: "recreate" }
  | { readonly kind: "wan"; readonly state: "cut" | "up"; readonly told: boolean }
  | { readonly kind: "edge-restart"; readonly lose: boolean; readonly toldAfter: boolean }
  | { readonly kind: "remove"; readonly leaf: number; readonly confirm: boolean }
  | { readonly kind: "pass"; readonly ms: number };

const LEAVES = ["leaf1", "Leaf-2", "gateway"] as const;

const leaf = fc.nat({ max: LEAVES.length - 1 });
const value = fc.oneof(
  fc.integer({ min: 0, max: 3 }),
  fc.constantFrom("x", "2026-01-02T03:04:05.000Z"),
  fc.constant(null),
);
const properties = fc.dictionary(
  fc.constantFrom("a", "b", "c"),
  fc.oneof(value, fc.dictionary(fc.constantFrom("x", "y"), value)),
  { maxKeys: 3 },
);
const leafPatch = fc
  .record({ root: properties, part: fc.option(properties, { nil: undefined }) })
  .map(({ root, part }): JsonObject => (part === undefined ? root : { ...root, part: { __t: "c", ...part } }));
const desiredProperties = fc.dictionary(fc.constantFrom("p", "q"), value, { minKeys: 1, maxKeys: 2 });

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("report" as const), leaf, patch: leafPatch }) },
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant("telemetry" as const), leaf, count: fc.integer({ min: 1, max: 70 }) }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant("desire" as const),
      leaf,
      part: fc.boolean(),
      patch: fc.oneof({ weight: 5, arbitrary: desiredProperties }, fc.constant(null)),
      heard: fc.boolean(),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("acknowledge" as const), leaf }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("connect" as const),
      leaf,
      clean: fc.nat({ max: 4 }).map((n) => n === 4),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("disconnect" as const), leaf }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("link" as const),
      state: fc.constantFrom("up" as const, "up" as const, "down" as const),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("lose-answer" as const) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("kill" as const), afterWrites: fc.nat({ max: 3 }) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("disk" as const),
      fails: fc.integer({ min: 1, max: 3 }),
      how: fc.constantFrom("fail" as const, "fail-written" as const, 30 as const),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("recreate" as const) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("wan" as const),
      state: fc.constantFrom("cut" as const, "up" as const, "up" as const),
      told: fc.boolean(),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant("edge-restart" as const), lose: fc.boolean(), toldAfter: fc.boolean() }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("remove" as const), leaf, confirm: fc.boolean() }) },
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant("pass" as const),
      ms: fc.constantFrom(0, 1, 60, 250, 3_000, 7_000, 30_000, 130_000),
    }),
  },
);

/** Long enough for several troubles to meet; fast-check would keep arrays to about ten by itself. */
export const history = fc.array(step, { minLength: 1, maxLength: 60, size: "max" });

/** What goes wrong against a promise is an error that names it. */
export async function live(steps: readonly Step[], settings: Partial<typeof RELAY_SETTINGS> = {}): Promise<void> {
  const life = new History(settings);
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

  constructor(settings: Partial<typeof RELAY_SETTINGS>) {
    this.#world = new RelayWorld({ settings, edge: true });
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
        hub.deaf = !each.heard;
        hub.desire({ [`${component(this.#leaf(each.leaf).id)}${each.part === true ? "__part" : ""}`]: each.patch });
        hub.deaf = false;
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
        this.#wan(each.state, each.told);
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
    await world.pass(0);
    for (const device of world.leaves.all()) this.#remove(device, true);
    for (const device of world.leaves.all()) this.#comeBack(device);
    await world.pass(60_000);
    for (const device of world.leaves.all()) this.#comeBack(device);
    for (let round = 0; round < 20; round += 1) {
      world.wan.scrape();
      await world.pass(100_000);
    }
    for (const device of world.leaves.all()) {
      this.#checkTelemetry(device);
      // Before the twin is read for the comparison of what was reported: what the leaf was told must be enough.
      this.#checkDesired(device);
      await this.#checkReported(device);
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
    if (state === "up") wan.tell("online");
    else if (told) wan.tell("away");
  }

  /** Another edgeHub process; power-safe must survive that it has lost its telemetry too. */
  async #restartEdge(lose: boolean, toldAfter: boolean): Promise<void> {
    const { edge, hub, wan } = this.#world;
    const wasUp = hub.isUp;
    hub.link("down");
    edge?.restart(lose ? (this.#isPowerSafe ? "all" : "twins") : "nothing");
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

  /** G1: what was acknowledged reached the hub, and the first copies came in the leaf's order. */
  #checkTelemetry(device: ModelLeaf): void {
    const texts = this.#world.hub.telemetry
      .filter((message) => message.properties["leafId"] === device.id)
      .map((message) => JSON.parse(new TextDecoder().decode(message.payload)) as string);
    const firsts = [...new Set(texts)];
    const acknowledged = this.#acknowledged.get(device.id) ?? [];
    const arrived = new Set(firsts);
    for (const text of acknowledged)
      if (!arrived.has(text)) throw new Error(`G1: ${device.id} saw message ${text} acknowledged and it never arrived`);
    const wanted = new Set(acknowledged);
    const order = firsts.filter((text) => wanted.has(text)).map(Number);
    for (let at = 1; at < order.length; at += 1) {
      if ((order[at - 1] ?? 0) > (order[at] ?? 0))
        throw new Error(`G1: order of ${device.id} broken: ${order.slice(at - 1, at + 1).join(" before ")}`);
    }
  }

  /** G2: the module twin shows what the leaf last reported. */
  async #checkReported(device: ModelLeaf): Promise<void> {
    const reading = device.read();
    await this.#world.pass(0);
    await reading;
    const answer = [...device.answers.values()].at(-1);
    const { $version: _version, ...own } = (answer?.body?.["reported"] ?? {}) as JsonObject;
    const name = component(device.id);
    const { part, ...root } = own;
    const expected: Record<string, JsonObject> = {};
    if (Object.keys(root).length > 0) expected[name] = { __t: "c", ...root };
    if (part !== undefined) expected[`${name}__part`] = { ...(part as JsonObject), __t: "c" };
    const shown = Object.fromEntries(
      Object.entries(this.#world.hub.reported)
        .filter(([key]) => key === name || key === `${name}__part`)
        .map(([key, section]) => [key, section as JsonObject] as const),
    );
    // A component that has nothing left may stay as its marker.
    const clean = (sections: Record<string, JsonObject>): string =>
      JSON.stringify(sorted(withoutBare(respelled(sections))));
    if (clean(shown) !== clean(expected)) {
      throw new Error(
        `G2: the hub shows ${JSON.stringify(shown)} for ${device.id}, the leaf's twin is ${JSON.stringify(own)}`,
      );
    }
    // What the leaf saw answered is in its twin (acknowledgements of an earlier life may have become 203).
    for (const [key, said] of Object.entries(device.reported)) {
      if (!Object.hasOwn(own, key) && !device.uncertain.has(key) && !isBare(said))
        throw new Error(`G2: ${device.id} reported ${key}, saw 204, and it is gone`);
    }
  }

  /** G3 and G4: the leaf has what the hub wants, and never saw an older version after a newer one within one life. */
  #checkDesired(device: ModelLeaf): void {
    const name = component(device.id);
    const { [name]: root = {}, [`${name}__part`]: part } = this.#world.hub.desired;
    const { __t: _marker, ...properties } = root as JsonObject;
    const wanted = { ...properties, ...(part === undefined ? {} : { part: { ...(part as JsonObject), __t: "c" } }) };
    const clean = (section: JsonObject): string => JSON.stringify(sorted(withoutBare(respelled(section))));
    if (clean(device.desired) !== clean(wanted)) {
      throw new Error(
        `G3: ${device.id} has ${clean(device.desired)}, the hub wants ${clean(wanted)} (life ${this.#life})`,
      );
    }
    // A new life of the module twin begins at 1 again: versions may fall as often as that happened, and no oftener.
    const falls = device.versions.filter((version, at) => version < (device.versions[at - 1] ?? 0)).length;
    if (falls >= this.#life)
      throw new Error(`G4: ${device.id} saw versions ${device.versions.join(", ")} in ${this.#life} lives`);
  }
}

function isBare(value: unknown): boolean {
  return typeof value === "object" && value !== null && Object.keys(value).every((key) => key === "__t");
}

function withoutBare<T>(sections: Readonly<Record<string, T>>): Record<string, T> {
  return Object.fromEntries(Object.entries(sections).filter(([, section]) => !isBare(section)));
}

function sorted(value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(
    Object.entries(value)
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, inner]) => [key, sorted(inner)]),
  );
}

/** The names of the three leaves, worked out by hand from the rule: one legal, one not, one reserved. */
function component(leafId: string): string {
  return COMPONENTS[leafId] ?? leafId;
}

const COMPONENTS: Readonly<Record<string, string>> = {
  leaf1: "leaf1",
  "Leaf-2": "Leaf_2_416575b8",
  gateway: "gateway_4ea5ee68",
};
