/** What the tests of the trackers share: programs to look at, and a copy of their memory that is kept by what a tracker says. */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, openSync, readFileSync, readdirSync, readlinkSync, readSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { readPages, zeroPageFrame } from "../../../src/host/pagemap.js";
import { packageRoot } from "../../../src/host/package-root.js";
import { childrenOf, threadState } from "../../../src/host/ptrace-procfs.js";
import type { TrackerKind } from "../../../src/model/mover.js";
import { readLazyAreas } from "../../../src/transfer/trackers/areas.js";
import { trackerProblem } from "../../../src/transfer/trackers/choose.js";
import { CompareTracker } from "../../../src/transfer/trackers/compare.js";
import { PagemapScanTracker } from "../../../src/transfer/trackers/pagemap-scan.js";
import { SoftDirtyTracker } from "../../../src/transfer/trackers/soft-dirty.js";
import type { PageRun, Scan, Tracker } from "../../../src/transfer/trackers/tracker.js";

export const PAGE = 4096;
export const needsRoot = process.getuid?.() === 0 ? false : "needs root";
/** The guest of `npm run test:vm` is there for this one: no test of it is skipped there. */
export const MUST: TrackerKind | undefined = process.env["FERRY_VM"] === "1" ? "soft-dirty" : undefined;

/** Why tests of this tracker are skipped; false: they are not. */
export async function skipWithout(kind: TrackerKind): Promise<string | false> {
  const problem = needsRoot || ((await trackerProblem(kind)) ?? false);
  if (problem !== false && kind === MUST) throw new Error(`${kind} must work in this guest: ${problem}`);
  return problem;
}

/** Every tracker, and every way in which it can work. */
export const WAYS: { name: string; kind: TrackerKind; make: () => Tracker }[] = [
  { name: "pagemap-scan", kind: "pagemap-scan", make: () => new PagemapScanTracker() },
  { name: "soft-dirty", kind: "soft-dirty", make: () => new SoftDirtyTracker() },
  { name: "compare", kind: "compare", make: () => new CompareTracker({ threads: 2 }) },
  {
    name: "compare without PAGEMAP_SCAN",
    kind: "compare",
    make: () => new CompareTracker({ threads: 1, scans: false }),
  },
];

export class Program {
  readonly child: ChildProcess;
  readonly pid: number;
  #lines: string[] = [];
  #waiting: ((line: string) => void)[] = [];
  readonly #ended: Promise<unknown>;

  private constructor(args: readonly string[]) {
    const script = join(packageRoot(), "test/transfer/trackers/target.py");
    this.child = spawn("python3", [script, ...args], { stdio: ["pipe", "pipe", "inherit"] });
    assert.ok(this.child.pid !== undefined && this.child.stdout !== null);
    this.pid = this.child.pid;
    this.#ended = new Promise((resolve) => this.child.once("exit", resolve));
    createInterface({ input: this.child.stdout }).on("line", (line) => {
      const next = this.#waiting.shift();
      if (next) next(line);
      else this.#lines.push(line);
    });
    void this.#ended.then(() => this.#waiting.splice(0).map((next) => next("ended")));
    this.child.stdin?.on("error", () => undefined);
  }

  static async start(...args: (string | number)[]): Promise<Program> {
    const program = new Program(args.map(String));
    assert.equal(await program.line(), "ready");
    return program;
  }

  line(): Promise<string> {
    const ready = this.#lines.shift();
    return ready === undefined ? new Promise((resolve) => this.#waiting.push(resolve)) : Promise.resolve(ready);
  }

  ask(line: string): Promise<string> {
    this.child.stdin?.write(`${line}\n`);
    return this.line();
  }

  get tree(): number[] {
    return [this.pid, ...descendants(this.pid)].filter((pid) => threadState(pid) !== "Z");
  }

  get pids(): Record<string, number> {
    return Object.fromEntries(this.tree.map((pid) => [String(pid), pid]));
  }

  /** Stops the whole tree; returns when nothing in it runs. */
  async freeze(): Promise<void> {
    for (let turn = 0; turn < 500; turn++) {
      const running = this.tree.filter((pid) => !["T", "t"].includes(threadState(pid)));
      if (running.length === 0) return;
      for (const pid of running) signal(pid, "SIGSTOP");
      await sleep(4);
    }
    throw new Error("the tree does not stop");
  }

  thaw(): void {
    for (const pid of this.tree) signal(pid, "SIGCONT");
  }

  async end(): Promise<void> {
    for (const pid of this.tree.toReversed()) signal(pid, "SIGKILL");
    await this.#ended;
  }
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // it has ended
  }
}

function descendants(pid: number): number[] {
  return [...childrenOf(pid)].flatMap((child) => [child, ...descendants(child)]);
}

/** What a tracker must leave no trace of. */
export function traces(pid: number): string[] {
  const found: string[] = [];
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    if (readlinkSync(`/proc/${pid}/fd/${fd}`).includes("userfaultfd")) found.push(`descriptor ${fd}`);
  }
  const smaps = readFileSync(`/proc/${pid}/smaps`, "utf8");
  if (/^VmFlags:.* u[wm]\b/m.test(smaps)) found.push("registered areas");
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  if (!/^TracerPid:\t0$/m.test(status)) found.push("a tracer");
  return found;
}

function readPage(fd: number, address: number): Buffer | undefined {
  const page = Buffer.alloc(PAGE);
  try {
    return readSync(fd, page, 0, PAGE, address) === PAGE ? page : undefined;
  } catch {
    return undefined;
  }
}

/** A copy of a tree's memory that only ever takes over what a tracker says is dirty. */
export class Shadow {
  readonly #pages = new Map<string, Buffer>();

  apply(scan: Scan, tracker?: Tracker): void {
    let before: { vpid: number; end: number } | undefined;
    for (const { vpid, start, pages } of scan.dirty) {
      if (before?.vpid === vpid) assert.ok(start >= before.end, "runs overlap or are out of order");
      else assert.ok(before === undefined || vpid > before.vpid, "tasks are out of order");
      before = { vpid, end: start + pages * PAGE };
      let fd: number;
      try {
        fd = openSync(`/proc/${vpid}/mem`, "r");
      } catch {
        continue;
      }
      for (let index = 0; index < pages; index++) {
        const page = readPage(fd, start + index * PAGE);
        if (page === undefined) continue;
        this.#pages.set(`${vpid} ${start + index * PAGE}`, page);
        tracker?.sent?.(vpid, start + index * PAGE, page);
      }
      closeSync(fd);
    }
  }

  /** Every page of `present` must stand in the copy as the frozen tree has it now. Returns how many there were. */
  check(present: readonly PageRun[]): number {
    let checked = 0;
    const wrong: string[] = [];
    for (const { vpid: pid, start, pages } of present) {
      const mem = openSync(`/proc/${pid}/mem`, "r");
      for (let at = start; at < start + pages * PAGE; at += PAGE) {
        const now = readPage(mem, at);
        const copy = this.#pages.get(`${pid} ${at}`);
        checked += 1;
        if (now === undefined || copy?.equals(now) !== true)
          wrong.push(`${pid} ${at.toString(16)} ${copy ? "old" : "missing"}`);
      }
      closeSync(mem);
    }
    assert.deepEqual(wrong.slice(0, 10), [], `${wrong.length} of ${checked} pages are wrong in the copy`);
    return checked;
  }
}

/**
 * Every page that the frozen tree has. Ask before the last look: the kernel may still make huge pages of it (khugepaged), and what
 * comes so is zero.
 */
export function presentPages(pids: Readonly<Record<string, number>>): PageRun[] {
  const own = openSync("/proc/self/pagemap", "r");
  const zero = zeroPageFrame(own);
  closeSync(own);
  const present: PageRun[] = [];
  for (const pid of Object.values(pids)) {
    const pagemap = openSync(`/proc/${pid}/pagemap`, "r");
    for (const { start, end } of readLazyAreas(pid) ?? [])
      readPages(pagemap, start, end, zero, (start, pages) => present.push({ vpid: pid, start, pages }));
    closeSync(pagemap);
  }
  return present;
}
