/**
 * The last layer of the configuration: the desired properties of the gateway's own component. Each is a PnP writable property and
 * gets its acknowledgement. Invariant: a bad value never replaces a good one.
 */
import { CONFIG_KEYS, type Config, isConfigKey, isLive, problemsOf, withValue } from "./config.ts";
import type { Json, JsonObject } from "./core/message.ts";

export interface Applied {
  readonly config: Config;
  /** What the gateway reports for it: an acknowledgement for each property, null for what is not desired any more. */
  readonly report: JsonObject;
  /** Of values that were refused, for the log. */
  readonly problems: readonly string[];
}

/** `base` is the configuration of file and environment; what is not desired (any more) has its value there. */
export function applyDesiredConfig(base: Config, desired: JsonObject, version: number): Applied {
  let config = base;
  const report: [string, Json][] = [];
  const problems: string[] = [];
  for (const [key, value] of Object.entries(desired)) {
    if (key === "__t") continue;
    const acknowledgement = (ac: number, ad: string): void => {
      report.push([key, { value, ac, av: version, ad }]);
      if (ac !== 200) problems.push(`${key}: ${ad}`);
    };
    if (!isConfigKey(key)) {
      acknowledgement(404, "there is no such key");
      continue;
    }
    const [problem] = problemsOf(key, value);
    if (problem !== undefined) acknowledgement(400, problem);
    else if (!isLive(key)) acknowledgement(501, "takes effect in file or environment only, at the next start");
    else {
      config = withValue(config, key, value);
      acknowledgement(200, "applied");
    }
  }
  for (const key of CONFIG_KEYS) if (!Object.hasOwn(desired, key)) report.push([key, null]);
  return { config, report: Object.fromEntries(report), problems };
}
