/** In a process of its own, since the flag is of the whole process. What it brings is measured by `npm run bench -- queue`. */
import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, it } from "vitest";

it("sets a flag that this V8 knows", async () => {
  const heap = join(import.meta.dirname, "../../../src/ops/heap.ts");
  const script = `import { keepHeapSmall } from ${JSON.stringify(heap)}; keepHeapSmall();`;
  const { stderr } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", script]);
  expect(stderr).toBe("");
});
