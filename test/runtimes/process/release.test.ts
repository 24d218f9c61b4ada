/** A held restore is let run: from what its engine has left behind it is known whether it has run, whatever is left of it. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { FerryError } from "../../../src/model/failure.js";
import { release, restoreDir } from "../../../src/runtimes/process/restore.js";
import { specOf } from "../../workflows/support.js";

const RESUMED_AT = 1_700_000_000_250;

/** Of a restore that is over, and none of whose processes is there. */
async function released(files: Record<string, string>): Promise<{ resumedAt: number }> {
  const root = mkdtempSync(join(tmpdir(), "ferry-release-"));
  try {
    const dirs = { run: join(root, "run"), images: join(root, "images") };
    mkdirSync(restoreDir(dirs), { recursive: true });
    for (const [name, text] of Object.entries({ command: "[]", ...files })) {
      writeFileSync(join(restoreDir(dirs), name), text);
    }
    return await release({ spec: specOf("web"), epoch: 2 }, dirs);
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}
const resumed = { "at.post-restore": "1700000000.1\n", "at.post-resume": `${RESUMED_AT / 1000}\n` };

test("it was resumed, and has ended at once: it has run", async () => {
  assert.deepEqual(await released({ ...resumed, rc: "0\n" }), { resumedAt: RESUMED_AT });
  // Its engine was killed before it could say how it ended.
  assert.deepEqual(await released({ ...resumed, pid: "1 (gone) S 0 0 0\n" }), { resumedAt: RESUMED_AT });
  assert.ok((await released({ rc: "0\n" })).resumedAt > RESUMED_AT);
});

test("its engine ended before it was resumed: it does not run", async () => {
  await assert.rejects(
    released({ "at.post-restore": "1700000000.1\n", rc: "1\n" }),
    (error: unknown) => error instanceof FerryError && error.code === "E_RESTORE",
  );
});
