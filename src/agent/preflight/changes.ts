/** A short look at how fast a running tree changes its memory, for the plan: which mode, and what to expect of it. */
import { setTimeout as sleep } from "node:timers/promises";
import type { SourceFacts } from "../../model/contract.js";
import { toFailure } from "../../model/failure.js";
import type { TrackerKind } from "../../model/mover.js";
import type { Finding } from "../../model/plan.js";
import { PAGE_SIZE } from "../../transfer/pages/api.js";
import { chooseTracker } from "../../transfer/trackers/choose.js";
import { finder } from "./findings.js";

/** Two windows: together they give the rate, and the difference tells whether it is always the same pages. In milliseconds. */
const WINDOWS_MS = [60, 200] as const;
/** Where the first scan takes longer than this there is too much memory for a short look. */
const FIRST_SCAN_MS = 500;
/** A window so much longer that finds less than this many times as much: that is about all that changes. */
const SAME_PAGES = 1.5;
const MARGIN = 1.25;

const { info } = finder("source");

/**
 * Bytes that change in a second, in about a third of one. Not where only `compare` works: it would read all memory three
 * times. Never rejects, blocks nothing; the workload is stopped for well under a millisecond, and untouched afterwards.
 */
export async function lookAtChanges(
  pids: () => Promise<Readonly<Record<string, number>>>,
  wanted: TrackerKind | "auto" = "auto",
): Promise<{ dirty?: NonNullable<SourceFacts["dirty"]>; findings: Finding[] }> {
  const notLooked = (why: string): { findings: Finding[] } => ({
    findings: [
      info("dirty rate", `how fast the memory changes was not looked at: ${why}; the first rounds of a migration tell`),
    ],
  });
  try {
    const { tracker, why } = await chooseTracker(wanted);
    try {
      if (tracker.kind === "compare") return notLooked(why);
      const first = await tracker.scan(await pids());
      if (first.durationMs > FIRST_SCAN_MS) {
        return notLooked(`the first scan alone took ${Math.round(first.durationMs)} ms`);
      }
      const found: { pages: number; ms: number }[] = [];
      for (const windowMs of WINDOWS_MS) {
        const from = performance.now();
        await sleep(windowMs);
        const { pages } = await tracker.scan(await pids());
        // a tracker that had to give way to compare gives everything once more
        if (tracker.kind !== "pagemap-scan" && tracker.kind !== "soft-dirty") return notLooked(tracker.why ?? why);
        found.push({ pages, ms: performance.now() - from });
      }
      const lookedMs = found.reduce((sum, { ms }) => sum + ms, 0);
      const pages = found.reduce((sum, window) => sum + window.pages, 0);
      const [short = 0, long = 0] = found.map((window) => window.pages);
      return {
        dirty: {
          tracker: tracker.kind,
          rateBytesPerSec: Math.round((pages * PAGE_SIZE * 1000) / lookedMs),
          windowMs: Math.round(lookedMs),
          ...(short > 0 && long < SAME_PAGES * short ? { workingSetBytes: Math.round(long * MARGIN) * PAGE_SIZE } : {}),
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
