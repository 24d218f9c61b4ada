/**
 * The tracker for any kernel: reads the whole memory each time, in threads, and compares digests (compare-table.ts) with those of what
 * the caller says it has sent. It does not touch the tasks at all. A look takes 0.5 s per GiB and core (2 GB/s), which is inside the
 * blackout for the last one; it costs 4 MiB of memory per GiB of the workload's, and 256 KiB and a thread's own per thread. A copy in
 * place of the digests would take a third less time and as much memory as the workload has (docs/decisions/0010-trackers.md).
 */
import { randomBytes } from "node:crypto";
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { canScanPagemap } from "../../host/kernel-probes.js";
import { DIGEST_BYTES, pageDigest, type PageDigest } from "../../host/page-digest.js";
import { mapAnonymous, unmap, type Mapping } from "../../host/syscall.js";
import { PAGE_SIZE } from "../pages/api.js";
import { STRIPE_BYTES, type Looked } from "./compare-table.js";
import type { CompareAnswer, CompareSetup, SentDigests } from "./compare-worker.js";
import { RunList, scanOf, SerialTracker, tasksOf, trackerError, type Task } from "./tasks.js";
import type { Scan } from "./tracker.js";

/** More would only wait for memory, and the workload needs cores too. */
const MOST_THREADS = 4;
/** Bytes that are digested in one go. */
const MOST_AT_ONCE = 1024 * 1024;

export interface CompareOptions {
  threads?: number;
  /** List present pages by PAGEMAP_SCAN (default: where the kernel can). */
  scans?: boolean;
}

export class CompareTracker extends SerialTracker {
  readonly kind = "compare";
  readonly #threads: number;
  readonly #scans: boolean;
  readonly #key = randomBytes(16);
  /** Hostpids of the last look. */
  #pids: Readonly<Record<string, number>> = {};
  #digest: { memory: Mapping; of: PageDigest } | undefined;
  #workers: Worker[] = [];

  constructor(options: CompareOptions = {}) {
    super();
    this.#threads = options.threads ?? Math.min(MOST_THREADS, availableParallelism());
    this.#scans = options.scans ?? canScanPagemap();
  }

  protected async look(pids: Readonly<Record<string, number>>): Promise<Scan> {
    const startedAt = performance.now();
    const tasks = tasksOf(pids);
    this.#pids = Object.fromEntries(tasks.flatMap(({ pid, vpids }) => vpids.map((vpid) => [vpid, pid])));
    while (this.#workers.length < this.#threads) this.#workers.push(this.#start(this.#workers.length));
    const parts = await Promise.all(this.#workers.map((worker) => this.#ask(worker, tasks)));
    const found = tasks.map((task) => {
      const ours = parts.flatMap((part) => part.filter(({ pid }) => pid === task.pid));
      const list = new RunList();
      const runs = ours.flatMap((looked) => looked.runs).toSorted((a, b) => a.start - b.start);
      for (const { start, pages } of runs) list.add(start, pages);
      return { task, list, looked: ours.reduce((sum, { looked }) => sum + looked, 0) };
    });
    return scanOf(found, startedAt);
  }

  /** 0.9 us a page, in the caller's thread. */
  sent(vpid: number, start: number, data: Buffer): void {
    const pid = this.#pids[vpid];
    if (pid === undefined || this.#workers.length === 0) return;
    const memory = this.#digest?.memory ?? mapAnonymous(MOST_AT_ONCE);
    this.#digest ??= { memory, of: pageDigest(memory, this.#key) };
    const { of } = this.#digest;
    for (let at = 0; at < data.length;) {
      // one thread's stripe, as much of it as the scratch memory takes
      const address = start + at;
      const stripe = Math.floor(address / STRIPE_BYTES);
      const length = Math.min(data.length - at, MOST_AT_ONCE, (stripe + 1) * STRIPE_BYTES - address);
      data.copy(memory.bytes, 0, at, at + length);
      const digests = new Uint32Array((length / PAGE_SIZE) * (DIGEST_BYTES / 4));
      for (let page = 0; page < length / PAGE_SIZE; page++) {
        of.digest(page * PAGE_SIZE, PAGE_SIZE);
        digests.set(of.words, page * (DIGEST_BYTES / 4));
      }
      const worker = this.#workers[stripe % this.#threads];
      // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
      worker?.postMessage({ pid, start: address, digests } satisfies SentDigests, [digests.buffer]);
      at += length;
    }
  }

  protected async leave(): Promise<void> {
    if (this.#digest !== undefined) unmap(this.#digest.memory.address, MOST_AT_ONCE);
    this.#digest = undefined;
    await Promise.all(this.#workers.splice(0).map((worker) => worker.terminate()));
  }

  #start(part: number): Worker {
    const worker = new Worker(new URL("./compare-worker.js", import.meta.url), {
      workerData: {
        share: { part, parts: this.#threads },
        scans: this.#scans,
        key: this.#key,
      } satisfies CompareSetup,
    });
    worker.unref();
    return worker;
  }

  #ask(worker: Worker, tasks: Task[]): Promise<Looked[]> {
    worker.ref();
    return new Promise<Looked[]>((resolve, reject) => {
      const failed = (why: string): void => reject(trackerError(this.kind, why));
      const onError = (error: Error): void => failed(`its thread failed: ${error.message}`);
      const onExit = (): void => failed("its thread has ended");
      worker.once("error", onError);
      worker.once("exit", onExit);
      worker.once("message", (answer: CompareAnswer) => {
        worker.off("error", onError);
        worker.off("exit", onExit);
        worker.unref();
        if ("problem" in answer) failed(answer.problem);
        else resolve(answer.looked);
      });
      // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
      worker.postMessage(tasks);
    });
  }
}
