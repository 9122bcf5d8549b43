/** Troubles that end by themselves: the timed side of the controls, on a hub's own line and connections. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type Controls, hubControls } from "../../src/devhub/control-functions.ts";
import type { DevHub } from "../../src/devhub/devhub.ts";
import { GW, RawModule, startQuickHub } from "./devhub-edge-harness.ts";

let hub: DevHub;
let controls: Controls;

beforeEach(async () => {
  hub = await startQuickHub();
  controls = hubControls({ edge: hub, cloud: hub.cloud, module: GW });
});
afterEach(async () => {
  controls[Symbol.dispose]();
  await hub[Symbol.asyncDispose]();
});

function run(name: string, args: Record<string, string | number> = {}) {
  const control = controls.functions[name];
  if (control === undefined) throw new Error(`no control ${name}`);
  return control(args);
}

it("docs/testing.md has all of them", () => {
  const page = readFileSync(join(import.meta.dirname, "../../docs/testing.md"), "utf8");
  const [, table = ""] = page.split("| control | arguments | does |\n| --- | --- | --- |\n");
  const names = [...(table.split("\n\n")[0] ?? "").matchAll(/^\| `([a-z-]+)` \|/gm)].map(([, name]) => name);
  expect(new Set(names)).toEqual(new Set(Object.keys(controls.functions)));
});

describe("a trouble with a duration", () => {
  it("mends the line when its time is over, and said when that would be", async () => {
    const before = Date.now();
    const { endsAt } = (await run("wan-down", { mode: "refused", forMs: 60 })) as { endsAt: string };
    expect(Date.parse(endsAt)).toBeGreaterThanOrEqual(before + 60);
    expect(hub.wan.state).toBe("refused");
    await expect.poll(() => hub.wan.state).toBe("up");
  });

  it("gives way to a later one of its kind", async () => {
    await run("wan-down", { forMs: 20 });
    await run("wan-down", { mode: "refused", forMs: 3_600_000 });
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(hub.wan.state).toBe("refused");
    await run("wan-up");
    expect(hub.wan.state).toBe("up");
  });

  it("takes no connections until it is over", async () => {
    await using module = await RawModule.connect(hub);
    await run("cut", { forMs: 2_000 });
    await module.closed;
    await expect(RawModule.connect(hub)).rejects.toThrow();
    await expect.poll(() => hub.behaviour.connections).toBe("accept");
    await using again = await RawModule.connect(hub);
    expect(again.client.connected).toBe(true);
  });

  it("answers CONNECT with the code it was given", async () => {
    await run("refuse", { code: 3, forMs: 3_600_000 });
    await expect(RawModule.connect(hub)).rejects.toMatchObject({ code: 3 });
    await run("reset");
    await using module = await RawModule.connect(hub);
    expect(module.client.connected).toBe(true);
  });

  it("is left as it is when the controls are disposed", async () => {
    await run("wan-down", { forMs: 20 });
    controls[Symbol.dispose]();
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(hub.wan.state).toBe("silent");
  });
});
