import { describe, expect, test } from "vitest";
import type { JsonObject } from "../../../src/core/message.ts";
import { type Health, type HealthOptions, startHealthServer } from "../../../src/ops/health.ts";
import { createMetrics } from "../../../src/ops/metrics.ts";
import { statusPage } from "../../../src/ops/status-page.ts";
import { RecordingLog } from "../../support/recording-log.ts";

const OK: Health = { isOk: true, reasons: [] };

async function serve(change: Partial<HealthOptions> = {}) {
  const server = await startHealthServer({
    bind: "127.0.0.1",
    port: 0,
    title: "gateway <1>",
    log: new RecordingLog(),
    alive: () => OK,
    ready: () => OK,
    metrics: createMetrics(),
    status: () => ({ version: "1.0.0" }),
    ...change,
  });
  return {
    port: server.port,
    get: (path: string, init?: RequestInit) => fetch(`http://127.0.0.1:${server.port}${path}`, init),
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

describe("health server", () => {
  test("alive and ready answer 200 or 503 with the reasons", async () => {
    let ready: Health = { isOk: false, reasons: ["no link to edgeHub", "the store is opening"] };
    await using server = await serve({ ready: () => ready });
    expect((await server.get("/healthz")).status).toBe(200);
    const waiting = await server.get("/readyz");
    expect(waiting.status).toBe(503);
    expect(await waiting.text()).toBe("no link to edgeHub\nthe store is opening\n");
    ready = OK;
    expect(await (await server.get("/readyz?probe=1")).text()).toBe("ok\n");
  });

  test("metrics come in the text format of Prometheus", async () => {
    const metrics = createMetrics();
    metrics.gauge("leaves_connected", 3);
    await using server = await serve({ metrics });
    const response = await server.get("/metrics");
    expect(response.headers.get("content-type")).toContain("text/plain; version=0.0.4");
    expect(await response.text()).toContain("pnp_gateway_leaves_connected 3");
  });

  test("the status page loads nothing from anywhere and runs nothing", async () => {
    await using server = await serve();
    const response = await server.get("/");
    expect(response.headers.get("content-security-policy")).toContain("default-src 'none'");
    const page = await response.text();
    expect(page).toContain("gateway &lt;1&gt;");
    expect(page).not.toMatch(/<script|src=|href="http/);
  });

  test("other methods and other paths change nothing and are told so", async () => {
    await using server = await serve();
    expect((await server.get("/", { method: "POST", body: "x" })).status).toBe(405);
    expect((await server.get("/admin")).status).toBe(404);
    expect((await server.get("//evil/%2e%2e/")).status).toBe(404);
    const head = await server.get("/healthz", { method: "HEAD" });
    expect([head.status, await head.text()]).toEqual([200, ""]);
  });

  test("a failure while telling is answered 500 and logged, and the next request is served", async () => {
    const log = new RecordingLog();
    let fail = true;
    await using server = await serve({
      log,
      status: () => {
        if (fail) throw new Error("secret detail");
        return {};
      },
    });
    const response = await server.get("/");
    expect([response.status, await response.text()]).toEqual([500, "the gateway could not tell\n"]);
    expect(log.events("error")).toHaveLength(1);
    fail = false;
    expect((await server.get("/")).status).toBe(200);
  });

  test("a port that is taken is said with its number", async () => {
    await using server = await serve();
    await expect(serve({ port: server.port })).rejects.toMatchObject({
      code: "PORT_TAKEN",
      message: expect.stringContaining(String(server.port)),
    });
  });
});

describe("status page", () => {
  test("values, sections and lists of leaves are shown, each escaped", () => {
    const status: JsonObject = {
      outboxEntries: 4,
      linkUp: true,
      names: ["a", "b"],
      wan: { state: "away", since: null },
      leaves: [
        { leafId: "<img src=x onerror=alert(1)>", connected: false },
        { leafId: "b", modelId: "dtmi:x;1" },
      ],
    };
    const page = statusPage("t", status);
    expect(page).toContain("<th>outbox entries</th><td>4</td>");
    expect(page).toContain("<td>yes</td>");
    expect(page).toContain("<h2>wan</h2>");
    expect(page).toContain("&lt;img src=x onerror=alert(1)&gt;");
    expect(page).not.toContain("<img");
    expect(page).toContain("<th>model id</th>");
  });

  test("a row with names that objects have by birth shows its own values only", () => {
    const page = statusPage("t", { leaves: [JSON.parse('{"__proto__": 7, "constructor": "mine"}'), { other: 1 }] });
    expect(page).toContain("<td>7</td><td>mine</td>");
    expect(page).toContain("<td>–</td><td>–</td><td>1</td>");
  });

  test("ten thousand leaves are cut with a word about the rest", () => {
    const leaves = Array.from({ length: 10_000 }, (_, at) => ({ leafId: `leaf-${at}` }));
    expect(statusPage("t", { leaves })).toContain("and 9500 more");
  });
});
