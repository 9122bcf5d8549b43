/** The gateway behind the leaf broker, as far as the broker can tell: it takes everything, remembers every call, and can be told otherwise. */
import type { Frame, LeafId, Subscription } from "../../src/core/message.ts";
import type { Admission, LeafConnect, LeafHandler, Received } from "../../src/flow/ports.ts";

export interface ReceivedFrame {
  readonly leaf: LeafId;
  readonly frame: Frame;
  readonly text: string;
}

export class FakeLeafHandler implements LeafHandler {
  /** `admit leaf-1`, `connected leaf-1`, `received leaf-1 topic`, ... in order. */
  readonly calls: string[] = [];
  readonly connects: LeafConnect[] = [];
  readonly frames: ReceivedFrame[] = [];
  /** What each leaf is subscribed to; kept when it connects with clean session 0. */
  readonly subscriptions = new Map<LeafId, readonly Subscription[]>();
  /** Leaves that are connected, and how often at once. */
  readonly online = new Map<LeafId, number>();
  onAdmit: (connect: LeafConnect) => Promise<Admission> | Admission = (connect) => this.#admit(connect);
  onReceived: (frame: ReceivedFrame) => Promise<Received> | Received = () => ({ kind: "done" });
  onSubscribed: () => Promise<void> | void = () => undefined;
  onConnected: () => Promise<void> | void = () => undefined;
  onDisconnected: () => Promise<void> | void = () => undefined;

  async admit(connect: LeafConnect): Promise<Admission> {
    this.calls.push(`admit ${connect.leafId}`);
    return this.onAdmit(connect);
  }

  async connected(connect: LeafConnect): Promise<void> {
    this.calls.push(`connected ${connect.leafId}`);
    this.connects.push(connect);
    this.online.set(connect.leafId, (this.online.get(connect.leafId) ?? 0) + 1);
    await this.onConnected();
  }

  async subscribed(leaf: LeafId, subscriptions: readonly Subscription[]): Promise<void> {
    this.calls.push(`subscribed ${leaf} ${subscriptions.map(({ filter, qos }) => `${filter}=${qos}`).join(" ")}`);
    this.subscriptions.set(leaf, subscriptions);
    await this.onSubscribed();
  }

  async received(leaf: LeafId, frame: Frame): Promise<Received> {
    this.calls.push(`received ${leaf} ${frame.topic}`);
    const received = { leaf, frame, text: Buffer.from(frame.payload).toString() };
    this.frames.push(received);
    return this.onReceived(received);
  }

  async pinged(leaf: LeafId): Promise<void> {
    this.calls.push(`pinged ${leaf}`);
  }

  async disconnected(leaf: LeafId): Promise<void> {
    this.calls.push(`disconnected ${leaf}`);
    const left = (this.online.get(leaf) ?? 0) - 1;
    if (left === 0) this.online.delete(leaf);
    else this.online.set(leaf, left);
    await this.onDisconnected();
  }

  get texts(): readonly string[] {
    return this.frames.map(({ text }) => text);
  }

  #admit({ clean, leafId }: LeafConnect): Admission {
    if (clean) this.subscriptions.delete(leafId);
    return { kind: "accepted", subscriptions: this.subscriptions.get(leafId) ?? [] };
  }
}
