/** Whose handshake begins when: only of sockets that say something, a few at a time, and addresses in turn. */
import { connect, createServer, type Server, type Socket } from "node:net";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Handshakes } from "../../../src/downstream/handshakes.ts";
import { until } from "../../support/leaf-broker-rig.ts";

let server: Server;
let port: number;
let accept: (socket: Socket) => void;
const both: Socket[] = [];

beforeEach(async () => {
  server = createServer((socket) => {
    both.push(socket.on("error", () => undefined));
    accept(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  port = typeof address === "object" && address !== null ? address.port : 0;
});
afterEach(async () => {
  for (const socket of both.splice(0)) socket.destroy();
  await new Promise((resolve) => server.close(resolve));
});

/** Loopback has many addresses. */
async function dial(from: string, said = "x"): Promise<Socket> {
  const socket = connect({ port, host: "127.0.0.1", localAddress: from }).on("error", () => undefined);
  both.push(socket);
  await new Promise((resolve) => socket.once("connect", resolve));
  if (said !== "") socket.write(said);
  return socket.resume();
}

describe("handshakes", () => {
  test("of one address do not hold up another's", async () => {
    const order: (string | undefined)[] = [];
    const all: Socket[] = [];
    accept = (socket) => all.push(socket);
    const handshakes = new Handshakes({
      begin: (socket) => order.push(socket.remoteAddress),
      firstByteTimeoutMs: 60_000,
      refused: () => undefined,
    });
    for (let at = 0; at < 40; at += 1) await dial("127.0.0.1");
    await dial("127.0.0.2");
    await until(() => all.length === 41);
    for (const socket of all) handshakes.add(socket);
    await until(() => order.length === 41);
    // All had said something, so that it was theirs in one of the first turns.
    expect(order.indexOf("127.0.0.2")).toBeLessThan(12);
  });

  test("leave turns of the event loop to others", async () => {
    const perTurn: number[] = [];
    let turn = 0;
    const all: Socket[] = [];
    accept = (socket) => all.push(socket);
    const handshakes = new Handshakes({
      begin: () => {
        perTurn[turn] = (perTurn[turn] ?? 0) + 1;
      },
      firstByteTimeoutMs: 60_000,
      refused: () => undefined,
    });
    for (let at = 0; at < 30; at += 1) await dial("127.0.0.1");
    await until(() => all.length === 30);
    for (const socket of all) handshakes.add(socket);
    const begun = () => perTurn.reduce((sum, count) => sum + (count ?? 0), 0);
    while (begun() < 30) {
      turn += 1;
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(Math.max(...perTurn.filter((count) => count !== undefined))).toBeLessThanOrEqual(8);
  });

  test("never begin for a socket that says nothing, goes, or went while it waited", async () => {
    const begun: Socket[] = [];
    const refused: string[] = [];
    const handshakes = new Handshakes({
      begin: (socket) => begun.push(socket),
      firstByteTimeoutMs: 50,
      refused: (_socket, detail) => refused.push(detail),
    });
    accept = (socket) => handshakes.add(socket);
    await dial("127.0.0.1", "");
    (await dial("127.0.0.1", "")).end();
    await until(() => refused.length === 2);
    expect(refused.toSorted()).toEqual(["it ended before its handshake began", "no byte of a handshake came in time"]);
    expect(begun).toEqual([]);
  });
});
