/** Which tracker is used on this node: what was asked for, or the first that the kernel can do. Found out by trying. */
import { arch } from "node:os";
import { canScanPagemap, canWriteProtectAsync } from "../../host/kernel-probes.js";
import { FerryError, ferryError } from "../../model/failure.js";
import { TRACKERS, type TrackerKind } from "../../model/mover.js";
import { CompareTracker } from "./compare.js";
import { PagemapScanTracker } from "./pagemap-scan.js";
import { softDirtyProblem, SoftDirtyTracker } from "./soft-dirty.js";
import type { Scan, Tracker, TrackerProbe } from "./tracker.js";

function pagemapScanProblem(): string | undefined {
  if (arch() !== "x64") return `setting up write protection in a running task is not there for ${arch()}`;
  if (!canWriteProtectAsync()) return "userfaultfd can't write-protect asynchronously (Linux 6.7, not under seccomp)";
  if (!canScanPagemap()) return "/proc/PID/pagemap can't be scanned (ioctl PAGEMAP_SCAN, Linux 6.7)";
  return undefined;
}

const PROBES: Record<TrackerKind, TrackerProbe> = {
  "pagemap-scan": () => Promise.resolve(pagemapScanProblem()),
  "soft-dirty": () => Promise.resolve(arch() === "x64" ? softDirtyProblem() : `not tried on ${arch()}`),
  compare: () => Promise.resolve(undefined),
};

const MAKE: Record<TrackerKind, () => Tracker> = {
  "pagemap-scan": () => new PagemapScanTracker(),
  "soft-dirty": () => new SoftDirtyTracker(),
  compare: () => new CompareTracker(),
};

/** Why this node can't do it; undefined: it can. */
export const trackerProblem = (kind: TrackerKind): Promise<string | undefined> => PROBES[kind]();

/**
 * Goes on with the next tracker when one finds that it can't follow this very workload (its own userfaultfd, a seccomp filter). All
 * that is present is dirty then, once more.
 */
class FirstThatWorks implements Tracker {
  #current: Tracker;
  #why: string;
  readonly #rest: TrackerKind[];
  #ended = false;

  constructor(first: TrackerKind, why: string, rest: TrackerKind[]) {
    this.#current = MAKE[first]();
    this.#why = why;
    this.#rest = rest;
  }

  get kind(): TrackerKind {
    return this.#current.kind;
  }
  get why(): string {
    return this.#why;
  }

  async scan(pids: Readonly<Record<string, number>>): Promise<Scan> {
    for (;;) {
      try {
        return await this.#current.scan(pids);
      } catch (error) {
        const next = this.#ended ? undefined : this.#rest.shift();
        if (next === undefined || !(error instanceof FerryError)) throw error;
        await this.#current.end();
        this.#current = MAKE[next]();
        this.#why = `${next}: ${error.message}`;
      }
    }
  }

  sent(vpid: number, start: number, data: Buffer): void {
    this.#current.sent?.(vpid, start, data);
  }

  async end(): Promise<void> {
    this.#ended = true;
    await this.#current.end();
  }
}

/** Throws E_PREFLIGHT when what was asked for can't be done here. `why`: why this one, and none before it. */
export async function chooseTracker(wanted: TrackerKind | "auto"): Promise<{ tracker: Tracker; why: string }> {
  if (wanted !== "auto") {
    const problem = await trackerProblem(wanted);
    if (problem === undefined) return { tracker: MAKE[wanted](), why: `${wanted}: asked for` };
    throw ferryError("E_PREFLIGHT", `the tracker ${wanted} does not work on this node: ${problem}`, {
      side: "source",
      remedy: "let Ferry choose the tracker (auto), or take compare, which works on every kernel",
    });
  }
  const refused: string[] = [];
  const works: TrackerKind[] = [];
  for (const kind of TRACKERS) {
    const problem = await trackerProblem(kind);
    if (problem === undefined) works.push(kind);
    else if (works.length === 0) refused.push(`${kind}: ${problem}`);
  }
  const [first = "compare", ...rest] = works;
  const why = [`${first} works here`, ...refused.map((one) => `not ${one}`)].join("; ");
  return { tracker: new FirstThatWorks(first, why, rest), why };
}
