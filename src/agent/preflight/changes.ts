/** A short look at how fast a running tree changes its memory, for the plan of a dry run. */
import { setTimeout as sleep } from "node:timers/promises";
import type { SourceFacts } from "../../model/contract.js";
import { toFailure } from "../../model/failure.js";
import type { Finding } from "../../model/plan.js";
import { PAGE_SIZE } from "../../transfer/pages/api.js";
import { chooseTracker } from "../../transfer/trackers/choose.js";
import { finder } from "./findings.js";

/** Two windows: the first shows what is warm, the second what goes on. In milliseconds. */
const WINDOWS_MS = [100, 300] as const;

const { info } = finder("source");

/**
 * Bytes that change in a second. Not where only `compare` works: it would read all memory three times. Never rejects; the
 * workload is untouched afterwards.
 */
export async function lookAtChanges(
  pids: () => Promise<Readonly<Record<string, number>>>,
): Promise<{ dirty?: NonNullable<SourceFacts["dirty"]>; findings: Finding[] }> {
  const notLooked = (why: string): { findings: Finding[] } => ({
    findings: [
      info("dirty rate", `how fast the memory changes was not looked at: ${why}; the first rounds of a migration tell`),
    ],
  });
  try {
    const { tracker, why } = await chooseTracker("auto");
    try {
      if (tracker.kind === "compare") return notLooked(why);
      await tracker.scan(await pids());
      let pages = 0;
      let lookedMs = 0;
      for (const windowMs of WINDOWS_MS) {
        const from = performance.now();
        await sleep(windowMs);
        const found = await tracker.scan(await pids());
        // a tracker that had to give way to compare gives everything once more
        if (tracker.kind !== "pagemap-scan" && tracker.kind !== "soft-dirty") return notLooked(tracker.why ?? why);
        pages += found.pages;
        lookedMs += performance.now() - from;
      }
      return {
        dirty: {
          tracker: tracker.kind,
          rateBytesPerSec: Math.round((pages * PAGE_SIZE * 1000) / lookedMs),
          windowMs: Math.round(lookedMs),
        },
        findings: [],
      };
    } finally {
      await tracker.end();
    }
  } catch (error) {
    return notLooked(toFailure(error).message);
  }
}
