/**
 * What is known of edgeHub's line to the cloud, as a state machine over three sources: edgeHub's metrics, a TCP probe of the hub's
 * host, and how long our own twin reads take [design section 6, iothub-mqtt.md 12.3]. Invariants: without a source that works the
 * state is "unknown", never a guess; "away" always has a source that can end it; time is an argument.
 */

/** What is known of the second hop (edgeHub - IoT Hub). "unknown" where no source works. */
export type WanState = "online" | "away" | "unknown";

export type WanObservation =
  | ({ readonly kind: "metrics"; readonly atMs: number } & EdgeHubFigures)
  | { readonly kind: "metrics-missing"; readonly atMs: number }
  | { readonly kind: "probe"; readonly atMs: number; readonly reached: boolean }
  | { readonly kind: "read"; readonly atMs: number; readonly tookMs: number }
  /** Something came from the cloud: a desired notification, or a read that it has answered. */
  | { readonly kind: "heard"; readonly atMs: number };

export interface EdgeHubFigures {
  /** Messages that wait for the cloud. */
  readonly backlog: number;
  readonly sentUpstream: number;
  /** `onlineCount` is one more than `offlineCount` while edgeHub believes itself online; equal while it does not. */
  readonly offlineCount: number;
  readonly onlineCount: number;
}

export interface WanMemory {
  readonly state: WanState;
  /** The probe fails while edgeHub is online: from here the hub's host cannot be reached, and the probe says nothing. */
  readonly probeSetAside: boolean;
  readonly metrics: MetricsMemory | undefined;
  readonly probe: ProbeMemory;
  /** Twin reads in a row that took longer than one from the cloud ever does. */
  readonly slowReads: number;
  /** Until then such a read outweighs what the other sources say. */
  readonly heldAwayUntilMs: number;
}

interface MetricsMemory extends EdgeHubFigures {
  readonly atMs: number;
  /** Since when nothing has been sent although messages wait, and how many waited then. */
  readonly still: { readonly sinceMs: number; readonly backlog: number } | undefined;
  readonly stalled: boolean;
  /** Messages were sent while these very counts stood: if they say "offline", they are wrong. */
  readonly countsDisproved: boolean;
}

interface ProbeMemory {
  /** undefined: never asked. */
  readonly reached: boolean | undefined;
  /** When `reached` last changed. */
  readonly sinceMs: number;
  /** It has been seen to work, so its failing means something. */
  readonly trusted: boolean;
  /** Times in a row that edgeHub was seen online while it failed. */
  readonly disproofs: number;
  /** When it saw the line return, which edgeHub's metrics take up to a minute to show. */
  readonly returnedMs: number;
}

/** Reads from the cloud take far less, those that edgeHub answers after a time-out 20 s and more. */
const SLOW_READ_MS = 15_000;
/** The first slow read may have begun before the line came back: one more is worth trying. Later ones are not, for longer and longer. */
const FIRST_HOLD_MS = 1_000;
const HOLD_MS = 60_000;
const MAX_HOLD_MS = 900_000;
const NEVER_MS = Number.NEGATIVE_INFINITY;
/** A message that has only just arrived is no stall. */
const STALL_MS = 2_000;
const DISPROOFS = 3;
/** What edgeHub passes on may be as old as its own longest wait for the cloud (50 s). */
const ON_THE_WAY_MS = 60_000;
/** edgeHub resumes 20 to 54 s after the line is back. */
const RETURN_GRACE_MS = 120_000;

export const INITIAL_WAN: WanMemory = {
  state: "unknown",
  probeSetAside: false,
  metrics: undefined,
  probe: { reached: undefined, sinceMs: 0, trusted: false, disproofs: 0, returnedMs: NEVER_MS },
  slowReads: 0,
  heldAwayUntilMs: NEVER_MS,
};

/** The memory after one more observation; `atMs` by one clock that never goes back. */
export function judgeWan(memory: WanMemory, observation: WanObservation): WanMemory {
  const next = remember(memory, observation);
  const { probe } = next;
  return {
    ...next,
    probeSetAside: probe.reached === false && !probe.trusted && probe.disproofs >= DISPROOFS,
    state: stateOf(next, observation.atMs),
  };
}

function remember(memory: WanMemory, observation: WanObservation): WanMemory {
  switch (observation.kind) {
    case "metrics-missing":
      return { ...memory, metrics: undefined };
    case "metrics": {
      const metrics = nextMetrics(memory.metrics, observation);
      return { ...memory, metrics, probe: judgeProbe(memory.probe, memory.metrics, metrics) };
    }
    case "probe": {
      const probe = nextProbe(memory.probe, observation.reached, observation.atMs);
      // What a read was like before the line returned no longer counts.
      const held = probe.returnedMs === observation.atMs ? { slowReads: 0, heldAwayUntilMs: NEVER_MS } : {};
      return { ...memory, ...held, probe };
    }
    case "read": {
      if (observation.tookMs <= SLOW_READ_MS) return { ...memory, slowReads: 0, heldAwayUntilMs: observation.atMs };
      const holdMs = memory.slowReads === 0 ? FIRST_HOLD_MS : Math.min(HOLD_MS * memory.slowReads, MAX_HOLD_MS);
      return { ...memory, slowReads: memory.slowReads + 1, heldAwayUntilMs: observation.atMs + holdMs };
    }
    case "heard":
      return { ...memory, probe: contradicted(memory.probe, observation.atMs) };
  }
}

// ---------------------------------------------------------------- metrics

function nextMetrics(
  before: MetricsMemory | undefined,
  now: EdgeHubFigures & { readonly atMs: number },
): MetricsMemory {
  const { atMs, backlog, sentUpstream, offlineCount, onlineCount } = now;
  const figures = { atMs, backlog, sentUpstream, offlineCount, onlineCount };
  const countsStay = before?.onlineCount === onlineCount && before.offlineCount === offlineCount;
  const countsDisproved = countsStay && (before.countsDisproved || hasMoved(before, now));
  if (backlog === 0) return { ...figures, still: undefined, stalled: false, countsDisproved };
  if (before?.still === undefined || before.sentUpstream !== sentUpstream) {
    return { ...figures, still: { sinceMs: atMs, backlog }, stalled: false, countsDisproved };
  }
  const { still } = before;
  const stalled = before.stalled || (backlog > still.backlog && atMs - still.sinceMs >= STALL_MS);
  return { ...figures, still, stalled, countsDisproved };
}

function hasMoved(before: EdgeHubFigures | undefined, now: EdgeHubFigures): boolean {
  return before !== undefined && now.sentUpstream > before.sentUpstream;
}

function isOffline({ onlineCount, offlineCount }: EdgeHubFigures): boolean {
  return onlineCount <= offlineCount;
}

function saysAway(metrics: MetricsMemory): boolean {
  return metrics.stalled || (isOffline(metrics) && !metrics.countsDisproved);
}

// ---------------------------------------------------------------- probe

function nextProbe(before: ProbeMemory, reached: boolean, atMs: number): ProbeMemory {
  const sinceMs = before.reached === reached ? before.sinceMs : atMs;
  if (!reached) return { ...before, reached, sinceMs, returnedMs: NEVER_MS };
  const returnedMs = before.reached === false ? atMs : before.returnedMs;
  return { reached, sinceMs, trusted: true, disproofs: 0, returnedMs };
}

/**
 * Where modules cannot get out (proxies, nested edges) the probe fails for ever. One that never worked is not believed while edgeHub
 * is online; one that worked before is a quiet outage's only witness, so only messages that go up all the same disprove it.
 */
function judgeProbe(probe: ProbeMemory, before: MetricsMemory | undefined, now: MetricsMemory): ProbeMemory {
  if (saysAway(now)) return probe;
  if (probe.reached !== false) return { ...probe, returnedMs: NEVER_MS };
  const wasFailingAllAlong = before !== undefined && probe.sinceMs <= before.atMs;
  if (probe.trusted && !(wasFailingAllAlong && hasMoved(before, now))) return probe;
  const disproofs = probe.disproofs + 1;
  return { ...probe, disproofs, trusted: probe.trusted && disproofs < DISPROOFS };
}

/** One that worked and was cut off since (by a firewall, say) would else take a quiet gateway's WAN for away for ever. */
function contradicted(probe: ProbeMemory, atMs: number): ProbeMemory {
  if (probe.reached !== false || atMs - probe.sinceMs < ON_THE_WAY_MS) return probe;
  return { ...probe, disproofs: DISPROOFS, trusted: false };
}

// ---------------------------------------------------------------- all together

function stateOf({ metrics, probe, heldAwayUntilMs }: WanMemory, atMs: number): WanState {
  const reached = probe.trusted ? probe.reached : undefined;
  if (reached === undefined && metrics === undefined) return "unknown";
  if (atMs < heldAwayUntilMs || reached === false) return "away";
  if (metrics === undefined || !saysAway(metrics)) return "online";
  if (reached === undefined) return "away";
  // An edgeHub without any count has never been online: it is starting, and the probe knows better.
  const isStarting = metrics.onlineCount === 0 && !metrics.stalled;
  return isStarting || atMs - probe.returnedMs < RETURN_GRACE_MS ? "online" : "away";
}
