/**
 * From CONNECT to CONNACK: who is it, may it, is it alone, what was its session. Invariants: a refusal says 5 only when it is sure
 * [iothub-mqtt.md 1.5]; when a connection is let in, no other one of that leaf is there and none can come until it is ready.
 */
import type { LeafId } from "../core/message.ts";
import type { Authentication, Clock, LeafAuthenticator, LeafConnect, LeafHandler, Metrics } from "../flow/ports.ts";
import type { ConnectParse, Dialect } from "../translate/dialect.ts";
import type { Claim, LeafConnection } from "./connection.ts";
import { type Allowances, type LeafLimits, Slowdown } from "./limits.ts";
import type { RefusalReason } from "./refusals.ts";
import { Turnstile } from "./turnstile.ts";

export type Verdict =
  | { readonly kind: "accepted" }
  /** `detail` is for people. */
  | { readonly kind: "refused"; readonly code: 3 | 5; readonly reason: RefusalReason; readonly detail: string }
  /** The leaf did not wait for the answer. */
  | { readonly kind: "gone" };

export interface AdmissionOptions {
  readonly dialects: readonly Dialect[];
  readonly authenticator: LeafAuthenticator;
  readonly limits: LeafLimits;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly handler: LeafHandler;
  readonly allowances: Allowances;
  /** That are let in. Whoever has not shown its credentials counts at the door only, or strangers could keep leaves out. */
  readonly leaves: () => number;
  /** The connection that the leaf has now. */
  readonly current: (leaf: LeafId) => LeafConnection | undefined;
}

/** CONNECTs of one leaf that wait behind one another; each is a socket. */
const MAX_WAITING = 16;
const GONE: Verdict = { kind: "gone" };

export class Admission {
  readonly #options: AdmissionOptions;
  readonly #turnstile = new Turnstile(MAX_WAITING);
  /** Programs that fight over one id. The first takeover is free: a leaf whose network broke comes back like that. */
  readonly #fights = new Slowdown({ free: 1 });
  readonly #penalties = new Slowdown({ free: 0 });

  constructor(options: AdmissionOptions) {
    this.#options = options;
  }

  /** Leaves that somebody waits for or is remembered for; for tests of leaks. */
  get remembered(): number {
    return this.#turnstile.size + this.#fights.size + this.#penalties.size;
  }

  /** The leaf's own doing closed its connection: its next CONNACK is late. */
  penalise(leaf: LeafId): void {
    this.#penalties.strike(leaf, this.#options.clock.steady());
  }

  /** Whether the leaf may still be there: undefined, or why not. Whatever may be different in a minute changes nothing. */
  async objection(connection: LeafConnection): Promise<string | undefined> {
    if (connection.leaf === undefined) return undefined;
    const authentication = await this.#authenticate(connection, connection.leaf.leafId, connection.password);
    return authentication.kind === "refused" && authentication.code === 5 ? authentication.reason : undefined;
  }

  async judge(connection: LeafConnection, claim: Claim, password: Uint8Array | undefined): Promise<Verdict> {
    const identity = this.#identify(claim);
    if (identity.kind === "refused") return refused(identity.code, "identity", identity.reason);
    const { leafId, modelId, dialect } = identity;
    const { remoteAddress } = connection.origin;
    const leaf: LeafConnect = { leafId, modelId, dialect: dialect.name, clean: claim.clean, remoteAddress };
    connection.leaf = leaf;
    connection.dialect = dialect;
    const authentication = await this.#authenticate(connection, leafId, password);
    if (authentication.kind === "refused")
      return refused(
        authentication.code,
        authentication.code === 5 ? "credentials" : "not-ready",
        authentication.reason,
      );
    const { current, leaves, limits } = this.#options;
    if (leaves() >= limits.maxConnections && current(leafId) === undefined)
      return refused(3, "overloaded", "as many leaves are connected as may be");
    connection.closeAtMs = authentication.closeAtMs;
    connection.password = password;
    const alone = await this.#alone(connection, leafId);
    return alone ?? this.#admit(connection, leaf, dialect);
  }

  #identify(
    claim: Claim,
  ): (ConnectParse & { kind: "leaf" } & { dialect: Dialect }) | (ConnectParse & { kind: "refused" }) {
    let refusal: ConnectParse & { kind: "refused" } = { kind: "refused", code: 3, reason: "no dialect" };
    for (const dialect of this.#options.dialects.toReversed()) {
      const parsed = dialect.parseConnect(claim);
      if (parsed.kind === "leaf") return { ...parsed, dialect };
      refusal = parsed;
    }
    return refusal;
  }

  #authenticate(connection: LeafConnection, leafId: LeafId, password: Uint8Array | undefined): Promise<Authentication> {
    const { certificate, issuers = [], plain, remoteAddress } = connection.origin;
    return this.#options.authenticator.authenticate({ leafId, password, certificate, issuers, remoteAddress, plain });
  }

  /** Waits for its turn and out its penalty, then sees the old connection to its end. */
  async #alone(connection: LeafConnection, leafId: LeafId): Promise<Verdict | undefined> {
    const leave = await this.#turnstile.enter(leafId, connection.signal);
    if (leave === "gone") return GONE;
    if (leave === "full") return refused(3, "crowded", "too many connects of one leaf at once");
    connection.entered(leave);
    const { allowances, clock, current, metrics } = this.#options;
    const rival = current(leafId);
    if (rival !== undefined && !rival.isOver) this.#fights.strike(leafId, clock.steady());
    const nowMs = clock.steady();
    const waitMs = Math.max(...[this.#fights, this.#penalties, allowances].map((brake) => brake.waitMs(leafId, nowMs)));
    if (waitMs > 0) {
      metrics.count("leaf_connects_delayed_total");
      // Only the connection's end cuts the sleep short; that is seen below.
      await clock.sleep(waitMs, connection.signal).catch(() => undefined);
    }
    if (connection.isOver) return GONE;
    const old = current(leafId);
    if (old === undefined) return undefined;
    if (!old.isOver) metrics.count("leaf_takeovers_total");
    old.close();
    await old.gone.promise;
    return connection.isOver ? GONE : undefined;
  }

  async #admit(connection: LeafConnection, leaf: LeafConnect, dialect: Dialect): Promise<Verdict> {
    const admission = await this.#options.handler.admit(leaf);
    if (admission.kind === "refused") return refused(admission.code, "admission", admission.reason);
    if (connection.isOver) return GONE;
    for (const { filter, qos } of leaf.clean ? [] : admission.subscriptions)
      if (dialect.channel(leaf.leafId, filter) !== undefined) connection.subscriptions.set(filter, qos);
    return { kind: "accepted" };
  }
}

function refused(code: 3 | 5, reason: RefusalReason, detail: string): Verdict {
  return { kind: "refused", code, reason, detail };
}
