/** What Node runs as it stands, without a step in between, is written in what Node 22 knows. */
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

const ROOT = join(import.meta.dirname, "../..");

test("no program uses `using`, which vitest knows and Node 22 does not", () => {
  const programs = globSync("{src,bench,scripts,samples,test/support}/**/*.ts", { cwd: ROOT });
  expect(programs.length).toBeGreaterThan(100);
  const wrong = programs.filter((path) => /^\s*(?:await )?using \w+ =/m.test(readFileSync(join(ROOT, path), "utf8")));
  // A support file may, where tests alone import it.
  expect(wrong.filter((path) => !path.startsWith("test/support/small-disk"))).toEqual([]);
});
