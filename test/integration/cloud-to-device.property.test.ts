/** What the back end was told is queued reaches its leaf, in order, whatever happens to leaf, disk and gateway in between. */
import fc from "fast-check";
import { expect, test } from "vitest";
import type { Misfortune } from "../support/faulty-store.ts";
import { connectedWorld, type RelayWorld } from "../support/relay-world.ts";

type Step =
  | { readonly kind: "send"; readonly count: number }
  | { readonly kind: "connect" | "disconnect" | "dead" | "kill" | "report" }
  | { readonly kind: "disk"; readonly plan: readonly Misfortune[] }
  | { readonly kind: "pass"; readonly ms: number };

/** Mostly slow: what overtakes what is then up to chance. */
const misfortune = fc.constantFrom<Misfortune>(20, 20, 70, "none", "fail", "fail", "fail-written");
const steps = fc.array(
  fc.oneof(
    { weight: 5, arbitrary: fc.record({ kind: fc.constant("send" as const), count: fc.integer({ min: 1, max: 4 }) }) },
    {
      weight: 8,
      arbitrary: fc.record({
        kind: fc.constantFrom("connect", "connect", "report", "report", "disconnect", "dead", "kill"),
      }),
    },
    {
      weight: 4,
      arbitrary: fc.record({
        kind: fc.constant("disk" as const),
        plan: fc.array(misfortune, { minLength: 2, maxLength: 8 }),
      }),
    },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant("pass" as const), ms: fc.constantFrom(0, 10, 60) }) },
  ),
  // Fewer than ten deliveries can fail.
  { maxLength: 24 },
);

class Course {
  readonly #world: RelayWorld;
  readonly queued: string[] = [];
  #sent = 0;

  constructor(world: RelayWorld) {
    this.#world = world;
  }

  get leaf() {
    return this.#world.leaves.leaf("leaf1");
  }

  async take(step: Step): Promise<void> {
    const { leaf } = this;
    const world = this.#world;
    if (step.kind === "send") for (let n = 0; n < step.count; n += 1) this.#send();
    else if (step.kind === "connect") {
      leaf.isUnreachable = leaf.connected && leaf.isUnreachable;
      void leaf.connect({ subscribe: false });
    } else if (step.kind === "disconnect") void leaf.disconnect();
    else if (step.kind === "dead") leaf.isUnreachable = true;
    // Another commit among those of the messages.
    else if (step.kind === "report") void leaf.report({ n: (this.#sent += 1) });
    else if (step.kind === "disk") {
      const plan = [...step.plan];
      world.misfortune = () => plan.shift() ?? "none";
    } else if (step.kind === "kill") await this.restart();
    await world.pass(step.kind === "pass" ? step.ms : 0);
  }

  async restart(): Promise<void> {
    const world = this.#world;
    world.misfortune = () => "none";
    world.kill();
    await world.start();
    world.hub.link("up");
    await world.pass(10);
  }

  /** The answer may never come, from a gateway that was killed. */
  #send(): void {
    const payload = `message ${(this.#sent += 1)}`;
    this.#world.hub.command("gateway*sendCloudToDevice", { leafId: "leaf1", payload }).then(
      (answer) => {
        if (answer !== "no answer" && answer.status === 200) this.queued.push(payload);
      },
      () => undefined,
    );
  }
}

function inOrderOfFirstSight(heard: readonly string[], of: readonly string[]): readonly string[] {
  return [...new Set(heard)].filter((payload) => of.includes(payload));
}

test("each message that was called queued is heard, and in order", async () => {
  await fc.assert(
    fc.asyncProperty(steps, async (course) => {
      await using world = await connectedWorld();
      const run = new Course(world);
      await run.leaf.connect({ subscribe: true });
      await run.leaf.disconnect();
      for (const step of course) await run.take(step);
      world.misfortune = () => "none";
      // What waits for a slow disk ends as time passes, a connect among it.
      await world.pass(1_000);
      const gone = run.leaf.disconnect();
      await world.pass(1_000);
      await gone;
      run.leaf.isUnreachable = false;
      await run.leaf.connect({ subscribe: false });
      await world.pass(1_000);
      expect(inOrderOfFirstSight(run.leaf.cloudToDevice, run.queued)).toEqual(run.queued);
    }),
    { numRuns: 1_000 },
  );
}, 60_000);
