import { mergeConfig } from "../../src/config.ts";
import type { LeafLimits } from "../../src/downstream/limits.ts";
import { leafLimits } from "../../src/leaf-limits.ts";

/** What a leaf may cost where nobody has configured anything. */
export const DEFAULT_LIMITS: LeafLimits = (() => {
  const result = mergeConfig({}, {});
  if (result.kind === "invalid") throw new Error("the defaults are invalid");
  return leafLimits(result.config);
})();
