/**
 * The last layer of the configuration: the desired properties of the gateway's own component. Each is a PnP writable property and
 * gets its acknowledgement. Invariants: a bad value never replaces a good one; what is in force is what the store remembers, so that
 * a start without edgeHub begins with it.
 */
import { CONFIG_KEYS, type Config, isConfigKey, isLive, problemsOf, withValue } from "./config.ts";
import { isJsonObject, jsonBytes } from "./core/merge-patch.ts";
import type { Json, JsonObject } from "./core/message.ts";
import { MAX_DEPTH, patchViolations } from "./core/twin-limits.ts";

/** What was desired last, at which version of the module twin, and the values in force because of it or of earlier versions. */
export interface LastDesired {
  readonly section: JsonObject;
  readonly version: number;
  readonly good: JsonObject;
}

export interface Applied {
  readonly config: Config;
  /** Desired values in force: of a property that was refused, the last one that was not. */
  readonly good: JsonObject;
  /** What the gateway reports for it: an acknowledgement for each property, null for what is not desired any more. */
  readonly report: JsonObject;
  /** Of values that were refused, for the log. */
  readonly problems: readonly string[];
}

/**
 * `base` is the configuration of file and environment; what is not desired (any more) has its value there. `lastGood` are desired
 * values that were in force before; a property whose new value is refused keeps the one that it has there.
 */
export function applyDesiredConfig(base: Config, lastGood: JsonObject, desired: JsonObject, version: number): Applied {
  const report = new Map<string, Json>();
  const good = new Map<string, Json>();
  const problems: string[] = [];
  let [room, unknown] = [MAX_ECHO_BYTES, 0];
  for (const [key, value] of Object.entries(desired)) {
    if (key === "__t") continue;
    const { ac, ad } = judge(key, value);
    const whole = { value, ac, av: version, ad: ad.slice(0, MAX_STATUS_CHARACTERS) };
    room -= jsonBytes(whole);
    if (ac === 404) unknown += 1;
    if (unknown <= MAX_UNKNOWN) report.set(key, legalAcknowledgement(key, whole, room > 0));
    const inForce = ac === 200 ? value : stillGood(key, lastGood);
    if (inForce !== undefined) good.set(key, inForce);
    if (ac !== 200) problems.push(`${key}: ${ad}`);
  }
  let config = base;
  for (const key of CONFIG_KEYS) {
    if (good.has(key)) config = withValue(config, key, good.get(key));
    if (!Object.hasOwn(desired, key)) report.set(key, null);
  }
  report.set("configVersion", version);
  report.set("configStatus", problems.length === 0 ? "applied" : problems.join("; ").slice(0, MAX_STATUS_CHARACTERS));
  return { config, good: Object.fromEntries(good), report: Object.fromEntries(report), problems };
}

/** The last good value of a key, where the rules of today still allow it. */
function stillGood(key: string, lastGood: JsonObject): Json | undefined {
  const kept = lastGood[key];
  return kept !== undefined && judge(key, kept).ac === 200 ? kept : undefined;
}

const MAX_STATUS_CHARACTERS = 256;
/** For all acknowledgements together; beyond it they say neither value nor reason. */
const MAX_ECHO_BYTES = 4 * 1024;
/** Keys that do not exist and are acknowledged all the same. */
const MAX_UNKNOWN = 20;

/**
 * What a back end writes here must not fill the reported section that all leaves share, nor be a reason for edgeHub to refuse it
 * (desired sections may hold more than reported ones). null: nothing can be said.
 */
function legalAcknowledgement(key: string, whole: JsonObject, hasRoom: boolean): Json {
  const { value: _value, ad: _ad, ...bare } = whole;
  if (hasRoom && isLegal(key, whole)) return whole;
  return isLegal(key, bare) ? bare : null;
}

function isLegal(key: string, value: Json): boolean {
  return patchViolations({ [key]: value }, { maxDepth: MAX_DEPTH - 1 }).length === 0;
}

/** The acknowledgement's status and description [PnP writable properties]. */
function judge(key: string, value: unknown): { readonly ac: 200 | 400 | 404 | 501; readonly ad: string } {
  if (!isConfigKey(key)) return { ac: 404, ad: "there is no such key" };
  const [problem] = problemsOf(key, value);
  if (problem !== undefined) return { ac: 400, ad: problem };
  if (!isLive(key)) return { ac: 501, ad: "takes effect in file or environment only, at the next start" };
  return { ac: 200, ad: "applied" };
}

/** A change that is judged and not in force yet: its memory is written first, together with the desired document that brought it. */
export interface PendingChange {
  readonly memory: Json;
  apply(): void;
}

export interface LiveConfigOptions {
  readonly base: Config;
  /** Called after each change, with what is now in force. */
  readonly changed: (applied: Applied) => void;
}

export class LiveConfig {
  readonly #options: LiveConfigOptions;
  #config: Config;
  #good: JsonObject = {};

  constructor(options: LiveConfigOptions) {
    this.#options = options;
    this.#config = options.base;
  }

  get config(): Config {
    return this.#config;
  }

  /** Takes up what an earlier life of the gateway left in the store, if it left anything. */
  restore(last: LastDesired | undefined): void {
    if (last === undefined) return;
    this.#good = last.good;
    this.desired(last.section, last.version).apply();
  }

  desired(section: JsonObject, version: number): PendingChange {
    const applied = applyDesiredConfig(this.#options.base, this.#good, section, version);
    return {
      memory: { section, version, good: applied.good },
      apply: () => {
        this.#config = applied.config;
        this.#good = applied.good;
        this.#options.changed(applied);
      },
    };
  }
}

/**
 * What the store remembers: `last-good-config`, or, of a store written before there was that, what `module-desired` says of the
 * gateway's component. Undefined: nothing was ever desired.
 */
export function parseLastDesired(
  lastGoodConfig: Json | undefined,
  moduleDesired: Json | undefined,
  component: string,
): LastDesired | undefined {
  const { section, version, good } = object(lastGoodConfig);
  if (isJsonObject(section) && typeof version === "number" && isJsonObject(good)) return { section, version, good };
  const { desired, version: moduleVersion } = object(moduleDesired);
  const own = object(desired)[component];
  if (isJsonObject(own) && typeof moduleVersion === "number") return { section: own, version: moduleVersion, good: {} };
  return undefined;
}

function object(value: Json | undefined): JsonObject {
  return isJsonObject(value) ? value : {};
}
