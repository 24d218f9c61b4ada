/**
 * Set-up, second half (setup.mjs is the first): what this machine must be able to do, Debian packages, the node root
 * file system, the Temporal server, an S3 server for the tests.
 */
import { describeFailure, toFailure } from "../../src/model/failure.js";
import { labProblems } from "../lab/requirements.js";
import { ensurePackages } from "./packages.js";
import type { Progress } from "./progress.js";
import { ensureRootfs, rootfsPath } from "./rootfs.js";
import { ensureS3Server } from "./s3-server.js";
import { ensureTemporal } from "./temporal.js";

/** @returns the exit code: 0 ready, 1 a step failed, 2 the machine lacks something */
export async function main(cache: string, { say, during }: Progress): Promise<number> {
  const step = async (name: string, work: () => Promise<{ did: boolean; words: string }>): Promise<void> => {
    const started = Date.now();
    const { did, words } = await work();
    const seconds = ((Date.now() - started) / 1000).toFixed(1);
    say(`${name.padEnd(22)} ${did ? "done" : "ready"} (${seconds} s)${words === "" ? "" : `: ${words}`}`);
  };
  try {
    await step("packages", async () => ({ did: await ensurePackages(during), words: "" }));
    const problems = await labProblems();
    if (problems.length > 0) {
      for (const { problem, remedy } of problems) {
        say(problem);
        say(`what to do: ${remedy}`);
      }
      return 2;
    }
    await step("node root file system", async () => {
      const did = await ensureRootfs(cache, [], during);
      return { did, words: rootfsPath(cache) };
    });
    await step("Temporal server", () => ensureTemporal(cache, { say, during }));
    await step("S3 server for tests", () => ensureS3Server(cache, { say, during }));
    return 0;
  } catch (error) {
    const failure = toFailure(error);
    for (const line of describeFailure(failure)) say(line);
    return failure.code === "E_NO_SPACE" ? 2 : 1;
  }
}
