/**
 * The questions that aedes asks, answered. Invariants: no hook throws, each is called back at most once and never for a connection that
 * is over; PUBACK follows `authorizePublish`, SUBACK follows `authorizeSubscribe` [aedes.md 1], so both wait for the safe place.
 */
import type { AedesOptions, Client } from "aedes";
import type { Frame } from "../core/message.ts";
import type { LeafHandler, Received } from "../flow/ports.ts";
import type { Verdict } from "./admission.ts";
import type { Claim, LeafConnection } from "./connection.ts";
import { type LeafLimits, MAX_FILTER_CHARS, MAX_KEEP_ALIVE_SECS } from "./limits.ts";
import type { RefusalReason } from "./refusals.ts";

export interface HookOptions {
  readonly connectionOf: (client: Client | null) => LeafConnection | undefined;
  readonly limits: Pick<LeafLimits, "maxSubscriptions">;
  readonly judge: (connection: LeafConnection, claim: Claim, password: Uint8Array | undefined) => Promise<Verdict>;
  readonly refused: (connection: LeafConnection, reason: RefusalReason, detail?: string) => void;
  readonly handler: LeafHandler;
  readonly defect: (connection: LeafConnection, error: unknown) => void;
}

type Hooks = Required<
  Pick<AedesOptions, "preConnect" | "authenticate" | "authorizePublish" | "authorizeSubscribe" | "authorizeForward">
>;
type ConnectPacket = Parameters<Hooks["preConnect"]>[1];
type PublishPacket = Parameters<Hooks["authorizePublish"]>[1];

export function aedesHooks(options: HookOptions): Hooks {
  const { connectionOf } = options;
  return {
    preConnect(client, packet, done) {
      const connection = connectionOf(client);
      if (connection !== undefined) takeClaim(connection, packet);
      done(null, connection !== undefined);
    },
    authenticate(client, _username, password, done) {
      const connection = connectionOf(client);
      if (connection !== undefined) inBackground(options, connection, () => judge(options, connection, password, done));
    },
    authorizePublish(client, packet, done) {
      const connection = connectionOf(client);
      if (connection === undefined || connection.leaf === undefined || connection.isOver) return;
      const acknowledge = (): void => {
        connection.guard.released();
        done(null);
      };
      connection.order.hold(receive(options.handler, connection.leaf.leafId, frameOf(packet)), acknowledge);
    },
    authorizeSubscribe(client, subscription, done) {
      const connection = connectionOf(client);
      if (connection === undefined || connection.isOver) return;
      const granted = { ...subscription, qos: subscription.qos === 0 ? 0 : 1 } as const;
      if (maySubscribe(options, connection, granted.topic)) {
        connection.subscriptions.set(granted.topic, granted.qos);
        inBackground(options, connection, async () => {
          await storeSubscriptions(options, connection);
          if (!connection.isOver) done(null, granted);
        });
      } else done(null, null); // SUBACK 128 [MQTT-3.9.3]
    },
    authorizeForward(client, packet) {
      const connection = connectionOf(client);
      if (connection === undefined) return null;
      if (packet.qos > 0) packet.messageId = connection.deliveries.packetId;
      return packet;
    },
  };
}

/** What aedes has no business with is taken out of the packet: id and will are ours, the keep-alive has a limit. */
function takeClaim(connection: LeafConnection, packet: ConnectPacket): void {
  const { clientId, username, clean = false, will, keepalive = 0 } = packet;
  connection.claim = { clientId, username, clean, will: will === undefined ? undefined : willFrame(will) };
  packet.clientId = connection.id;
  delete packet.will;
  packet.keepalive = keepalive === 0 ? MAX_KEEP_ALIVE_SECS : Math.min(keepalive, MAX_KEEP_ALIVE_SECS);
}

function willFrame({ topic, payload, qos, retain = false }: NonNullable<ConnectPacket["will"]>): Frame {
  return { topic, payload: Buffer.from(payload), qos: qos === 0 ? 0 : 1, retain, will: true };
}

async function judge(
  { judge: ask, refused }: HookOptions,
  connection: LeafConnection,
  password: Uint8Array | undefined,
  done: Parameters<Hooks["authenticate"]>[3],
): Promise<void> {
  const { claim, client } = connection;
  if (claim === undefined || client === undefined) return;
  // Not sure of anything: 3, never aedes' 5 [aedes.md 9].
  const unsure = (error: unknown): Verdict => ({ kind: "refused", code: 3, reason: "defect", detail: String(error) });
  const verdict = await ask(connection, claim, password).catch(unsure);
  if (verdict.kind === "gone" || connection.isOver) return;
  if (verdict.kind === "refused") {
    refused(connection, verdict.reason, verdict.detail);
    done(Object.assign(new Error(verdict.detail), { returnCode: verdict.code }), null);
    return;
  }
  // A clean session to aedes: it then neither queues nor stores nor drops what `deliver` sends [aedes.md 5].
  client.clean = true;
  done(null, true);
}

/** What aedes waits for by callback; what fails closes that connection alone. */
function inBackground(options: HookOptions, connection: LeafConnection, work: () => Promise<void>): void {
  work().catch((error: unknown) => options.defect(connection, error));
}

/** The payload is copied: a slice of it would keep the whole chunk that the socket had read. */
function frameOf({ topic, payload, qos, retain, dup }: PublishPacket): Frame {
  return { topic, payload: Buffer.from(payload), qos: qos === 0 ? 0 : 1, retain, dup };
}

/** Starts in this very tick, so that the handler is called in the order of arrival. */
async function receive(handler: LeafHandler, ...frame: Parameters<LeafHandler["received"]>): Promise<Received> {
  return handler.received(...frame);
}

function maySubscribe({ limits, refused }: HookOptions, connection: LeafConnection, filter: string): boolean {
  const { dialect, leaf, subscriptions } = connection;
  const isOwn = leaf !== undefined && dialect?.channel(leaf.leafId, filter) !== undefined;
  if (!isOwn || filter.length > MAX_FILTER_CHARS) {
    refused(connection, "subscription", filter);
    return false;
  }
  if (subscriptions.has(filter) || subscriptions.size < limits.maxSubscriptions) return true;
  refused(connection, "subscriptions", `more than ${limits.maxSubscriptions}`);
  return false;
}

/** One call for all filters of a SUBSCRIBE: aedes asks for each of them in one tick. */
function storeSubscriptions({ handler }: HookOptions, connection: LeafConnection): Promise<void> {
  connection.storing ??= Promise.resolve().then(() => {
    connection.storing = undefined;
    return connection.leaf === undefined
      ? undefined
      : handler.subscribed(connection.leaf.leafId, connection.subscriptionList());
  });
  return connection.storing;
}
