/**
 * In place of the store in which mqtt.js keeps unacknowledged packets to send them again itself: our clients connect once, so it
 * never does, and the outbox keeps what matters. Its Map would do harm, too: see `PacketGuard.publish`.
 */
import { Readable } from "node:stream";

type Done = (error?: Error | null, packet?: object) => void;

export class EmptyStore {
  put(_packet: object, done: Done): this {
    done();
    return this;
  }

  del(packet: object, done: Done): this {
    done(null, packet);
    return this;
  }

  createStream(): Readable {
    return Readable.from([]);
  }

  close(done: Done): void {
    done();
  }
}
