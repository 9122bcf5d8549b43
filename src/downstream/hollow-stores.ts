/**
 * What aedes is given in place of a topic tree and a database. Leaves never talk to each other, and what has to be kept is kept by the
 * gateway, so both are hollow. Invariant: there is no way from one connection's PUBLISH to another connection, nothing is retained,
 * queued or remembered here, and no count of connections makes either of them grow.
 */
import { Readable } from "node:stream";
import type { Subscription } from "../core/message.ts";

type Done = (error?: Error | null) => void;

/** aedes' message bus [mqemitter]: connects nobody. Calls back at once, so that no connection can end in between. */
export const SILENT_BUS = {
  on(_topic: string, _listener: unknown, done?: Done): void {
    done?.();
  },
  removeListener(_topic: string, _listener: unknown, done?: Done): void {
    done?.();
  },
  emit(_packet: unknown, done?: Done): void {
    done?.();
  },
  close(done?: Done): void {
    done?.();
  },
};

interface ById {
  readonly id: string;
}
interface AedesSubscription {
  readonly topic: string;
  readonly qos: 0 | 1;
}

/** aedes' persistence [aedes-persistence]. It answers one question: what a kept session was subscribed to. */
export class HollowPersistence {
  readonly #subscriptionsOf: (connectionId: string) => readonly Subscription[];

  constructor(subscriptionsOf: (connectionId: string) => readonly Subscription[]) {
    this.#subscriptionsOf = subscriptionsOf;
  }

  /** aedes insists on an async function. */
  async setup(): Promise<void> {}

  /** Some make the CONNACK say "session present"; aedes asks only when CONNECT had clean session 0. */
  async subscriptionsByClient({ id }: ById): Promise<readonly AedesSubscription[]> {
    return this.#subscriptionsOf(id).map(({ filter, qos }) => ({ topic: filter, qos }));
  }

  /** aedes emits `ack` with what this returns: the PUBACK itself, so that it can be told which message it is for. */
  async outgoingClearMessageId(_client: ById, packet: unknown): Promise<unknown> {
    return packet;
  }

  async addSubscriptions(): Promise<void> {}
  async removeSubscriptions(): Promise<void> {}
  async cleanSubscriptions(): Promise<void> {}
  async subscriptionsByTopic(): Promise<readonly never[]> {
    return [];
  }
  async storeRetained(): Promise<void> {}
  createRetainedStreamCombi(): Readable {
    return Readable.from([]);
  }
  async outgoingEnqueue(): Promise<void> {}
  async outgoingEnqueueCombi(): Promise<void> {}
  async outgoingUpdate(): Promise<void> {}
  outgoingStream(): Readable {
    return Readable.from([]);
  }
  async cleanIncoming(): Promise<void> {}
  async putWill(): Promise<void> {}
  async delWill(): Promise<void> {}
  streamWill(): Readable {
    return Readable.from([]);
  }
}
