/**
 * A listener that stands for port 443 of the hub's host: a gateway that probes it learns whether the line is there. It
 * takes connections while the line is up and is closed while it is cut; a process cannot make its host swallow the first
 * packet, so a silent cut looks refused here.
 */

import { createServer, type Server, type Socket } from "node:net";
import type { WanLink } from "./edge-hub-wan.ts";
import { listen } from "./edge-mqtt-server.ts";

export interface Probe extends AsyncDisposable {
  readonly port: number;
}

export async function startProbe(wan: WanLink, bind: string, port: number): Promise<Probe> {
  const sockets = new Set<Socket>();
  let server: Server | undefined;
  const close = (): Promise<void> => {
    const closing = server;
    server = undefined;
    for (const socket of sockets) socket.destroy();
    return new Promise((resolve) => (closing === undefined ? resolve() : closing.close(() => resolve())));
  };
  const open = (at: number): Promise<number> => {
    server = createServer((socket) => {
      sockets.add(socket);
      socket.on("error", () => socket.destroy()).once("close", () => sockets.delete(socket));
    });
    return listen(server, bind, at);
  };
  const bound = await open(port);
  // One after the other, since the line can change faster than a listener; the last state wins.
  let turn = Promise.resolve();
  const stopListening = wan.listen({
    lineChanged: () => {
      turn = turn.then(async () => {
        if (wan.state !== "up") await close();
        else if (server === undefined) await open(bound);
      });
    },
  });
  return {
    port: bound,
    async [Symbol.asyncDispose]() {
      stopListening();
      await turn;
      await close();
    },
  };
}
