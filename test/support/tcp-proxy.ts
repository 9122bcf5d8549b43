/** A TCP proxy that tests cut, silence and slow down: the network between any two of our parts. */

import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

export interface ProxyTarget {
  readonly host?: string;
  readonly port: number;
}

type ProxyMode =
  /** Bytes pass both ways. */
  | { readonly kind: "pass" }
  /**
   * Connections stay open and no byte passes any more, either way: a pulled cable. New ones are accepted and hear nothing. What was
   * sent meanwhile arrives when the mode changes, as TCP sends again; only connections that were closed are gone.
   */
  | { readonly kind: "silent" }
  /** Only what the client sends passes: its peer's answers are lost. */
  | { readonly kind: "half-open" }
  /** New connections are reset at once. */
  | { readonly kind: "refuse" }
  /** Every chunk arrives that much later, in order. */
  | { readonly kind: "slow"; readonly delayMs: number };

export interface TcpProxy extends AsyncDisposable {
  readonly port: number;
  /** Connections that were accepted since the start. */
  readonly accepted: number;
  readonly open: number;
  mode: ProxyMode;
  /** Where new connections go. */
  target: ProxyTarget;
  /** Resets all connections (RST), the mode stays. */
  reset(): void;
  /** Ends all connections (FIN), the mode stays. */
  end(): void;
}

interface Pair {
  readonly client: Socket;
  readonly server: Socket;
}

/** Listens on `port` (0: any) of 127.0.0.1 and passes on to `target`. */
export async function startTcpProxy(target: ProxyTarget, port = 0): Promise<TcpProxy> {
  const pairs = new Set<Pair>();
  let current: ProxyMode = { kind: "pass" };
  /** What a silent line owes, in order. */
  const held: (() => unknown)[] = [];
  let accepted = 0;

  const listener: Server = createServer((client) => {
    accepted += 1;
    client.on("error", () => undefined);
    if (proxy.mode.kind === "refuse") {
      client.resetAndDestroy();
      return;
    }
    const server = connect({ host: proxy.target.host ?? "127.0.0.1", port: proxy.target.port });
    server.on("error", () => client.destroy());
    const pair = { client, server };
    pairs.add(pair);
    forward(client, server, () => proxy.mode.kind !== "silent");
    forward(server, client, () => proxy.mode.kind !== "silent" && proxy.mode.kind !== "half-open");
    for (const socket of [client, server]) {
      socket.setNoDelay(true);
      socket.on("close", () => {
        pairs.delete(pair);
        (socket === client ? server : client).destroy();
      });
    }
  });

  function forward(from: Socket, to: Socket, passes: () => boolean): void {
    from.on("data", (chunk) => {
      const { mode } = proxy;
      if (mode.kind === "silent") {
        held.push(() => to.writable && to.write(chunk));
        return;
      }
      if (!passes()) return;
      // Timers of equal delay fire in the order in which they were set, so chunks keep theirs.
      if (mode.kind === "slow") setTimeout(() => to.writable && to.write(chunk), mode.delayMs);
      else if (to.writable) to.write(chunk);
    });
    from.on("end", () => {
      if (passes()) to.end();
    });
  }

  const proxy: TcpProxy & { mode: ProxyMode; target: ProxyTarget } = {
    get mode() {
      return current;
    },
    set mode(mode) {
      current = mode;
      if (mode.kind === "silent") return;
      for (const send of held.splice(0)) send();
    },
    target,
    get port() {
      return (listener.address() as AddressInfo).port;
    },
    get accepted() {
      return accepted;
    },
    get open() {
      return pairs.size;
    },
    reset() {
      for (const { client, server } of pairs) {
        client.resetAndDestroy();
        server.resetAndDestroy();
      }
    },
    end() {
      for (const { client, server } of pairs) {
        client.end();
        server.end();
      }
    },
    async [Symbol.asyncDispose]() {
      const closed = once(listener, "close");
      listener.close();
      for (const { client, server } of pairs) {
        client.destroy();
        server.destroy();
      }
      await closed;
    },
  };

  listener.listen(port, "127.0.0.1");
  await once(listener, "listening");
  return proxy;
}
