/**
 * A real S3 server for the tests of the store: versitygw on a directory, built by `go install`. Nothing of Ferry needs
 * it: without it those tests are skipped, and say so.
 */
import { join } from "node:path";
import { toFailure } from "../../src/model/failure.js";
import { isExecutable, whichProgram } from "./cache.js";
import { goInstall } from "./go.js";
import type { Progress } from "./progress.js";

const GO_PACKAGE = "github.com/versity/versitygw/cmd/versitygw@v1.8.0";

/** On PATH, or what set-up made before. */
export async function findS3Server(cache: string): Promise<string | undefined> {
  const cached = join(cache, "bin", "versitygw");
  return (await whichProgram("versitygw")) ?? ((await isExecutable(cached)) ? cached : undefined);
}

/** Never throws: the rest of Ferry is ready without it. */
export async function ensureS3Server(cache: string, { during }: Progress): Promise<{ did: boolean; words: string }> {
  const found = await findS3Server(cache);
  if (found !== undefined) return { did: false, words: found };
  const go = await whichProgram("go");
  if (go === undefined) return { did: false, words: "none: no `go` on PATH; the store's tests against S3 are skipped" };
  try {
    await during("building an S3 server for the tests with go install (1 to 3 minutes)", () =>
      goInstall(go, GO_PACKAGE, cache, "versitygw", { doing: "building the S3 server" }),
    );
    return { did: true, words: `go install ${GO_PACKAGE}` };
  } catch (error) {
    return { did: false, words: `none: ${toFailure(error).message}; the store's tests against S3 are skipped` };
  }
}
