/**
 * The work of the tracker `compare`: reads every page and compares its digest with that of what was sent last. 16 bytes a page (4 MiB
 * per GiB of the workload's memory, 0.4 %), plus a read buffer of 256 KiB. Reading takes 1.2 us a page, the digest 0.9 us.
 */
import { closeSync, openSync, readSync } from "node:fs";
import { DIGEST_BYTES, pageDigest, type PageDigest } from "../../host/page-digest.js";
import { readPages, scanPages, zeroPageFrame } from "../../host/pagemap.js";
import { mapAnonymous } from "../../host/syscall.js";
import { PAGE_SIZE } from "../pages/api.js";
import { readLazyAreas } from "./areas.js";
import { openProc, RunList, type Task } from "./tasks.js";

const BLOCK_PAGES = 512;
const BLOCK_BYTES = BLOCK_PAGES * PAGE_SIZE;
const WORDS = DIGEST_BYTES / 4;
/** What lies in a core's second-level cache between reading and digesting. */
const READ_PAGES = 64;
/** The address space is dealt out to the threads in stripes of this size. */
export const STRIPE_BYTES = 32 * 1024 * 1024;

interface Block {
  digests: Uint32Array;
  /** 1: the digest of what was sent stands in `digests`. */
  known: Uint8Array;
  /** 1: the page was there in `look`. */
  seen: Uint8Array;
  /** The look that last saw a page of it. */
  look: number;
}

interface Memory {
  startTicks: number;
  blocks: Map<number, Block>;
}

/** Which stripes are ours. */
export interface Share {
  part: number;
  parts: number;
}

export interface Looked {
  pid: number;
  runs: { start: number; pages: number }[];
  pages: number;
  looked: number;
}

export class CompareTable {
  readonly #share: Share;
  readonly #scans: boolean;
  readonly #buffer = mapAnonymous(READ_PAGES * PAGE_SIZE);
  readonly #digest: PageDigest;
  readonly #memories = new Map<number, Memory>();
  readonly #zeroFrame: number;
  #look = 0;

  /** `scans`: the kernel lists present pages by PAGEMAP_SCAN. `key`: of the digests, wherever they are made. */
  constructor(share: Share, scans: boolean, key: Uint8Array) {
    this.#digest = pageDigest(this.#buffer, Buffer.from(key));
    this.#share = share;
    this.#scans = scans;
    const own = openSync("/proc/self/pagemap", "r");
    this.#zeroFrame = zeroPageFrame(own);
    closeSync(own);
  }

  /** Throws what reading /proc throws, other than that a task has ended. */
  look(tasks: readonly Task[]): Looked[] {
    this.#look += 1;
    const there = new Map(tasks.map((task) => [task.pid, task.startTicks]));
    for (const [pid, { startTicks }] of this.#memories) {
      if (there.get(pid) !== startTicks) this.#memories.delete(pid);
    }
    return tasks.map((task) => this.#lookAt(task)).filter((looked) => looked !== undefined);
  }

  #lookAt({ pid, startTicks }: Task): Looked | undefined {
    const areas = readLazyAreas(pid);
    const pagemap = areas === undefined ? undefined : openProc(pid, "pagemap");
    if (areas === undefined || pagemap === undefined) return undefined;
    const mem = openProc(pid, "mem");
    const memory = this.#memories.get(pid) ?? { startTicks, blocks: new Map<number, Block>() };
    this.#memories.set(pid, memory);
    const list = new RunList();
    let looked = 0;
    try {
      if (mem === undefined) return undefined;
      for (const { start, end } of areas) {
        for (let at = start; at < end;) {
          const stripe = Math.floor(at / STRIPE_BYTES);
          const to = Math.min(end, (stripe + 1) * STRIPE_BYTES);
          if (stripe % this.#share.parts === this.#share.part) {
            const there: { start: number; pages: number }[] = [];
            this.#present(pagemap, at, to, there);
            for (const run of there) {
              looked += run.pages;
              this.#compare(mem, memory, run.start, run.pages, list);
            }
          }
          at = to;
        }
      }
    } finally {
      closeSync(pagemap);
      if (mem !== undefined) closeSync(mem);
    }
    this.#forget(memory);
    return { pid, runs: list.runs, pages: list.pages, looked };
  }

  #present(pagemap: number, start: number, end: number, there: { start: number; pages: number }[]): void {
    const add = (start: number, pages: number): void => void there.push({ start, pages });
    if (!this.#scans) readPages(pagemap, start, end, this.#zeroFrame, add);
    else {
      const failed = scanPages(pagemap, start, end, { written: false, protect: false }, add);
      // the task has ended: nothing is there any more
      if (failed < 0) there.length = 0;
    }
  }

  #compare(mem: number, memory: Memory, start: number, pages: number, list: RunList): void {
    for (let at = start, left = pages; left > 0;) {
      const wanted = Math.min(left, READ_PAGES);
      let got = 0;
      try {
        got = Math.floor(readSync(mem, this.#buffer.bytes, 0, wanted * PAGE_SIZE, at) / PAGE_SIZE);
      } catch {
        // gone in this moment, or not readable: told, so that the caller meets the same
      }
      for (let index = 0; index < wanted; index++) {
        const address = at + index * PAGE_SIZE;
        const changed =
          index < got ? this.#changed(memory, address, index * PAGE_SIZE) : this.#unreadable(memory, address);
        if (changed) list.add(address, 1);
      }
      at += wanted * PAGE_SIZE;
      left -= wanted;
    }
  }

  #block(memory: Memory, address: number): Block {
    const number = Math.floor(address / BLOCK_BYTES);
    let block = memory.blocks.get(number);
    if (block === undefined) {
      block = {
        digests: new Uint32Array(BLOCK_PAGES * WORDS),
        known: new Uint8Array(BLOCK_PAGES),
        seen: new Uint8Array(BLOCK_PAGES),
        look: 0,
      };
      memory.blocks.set(number, block);
    }
    return block;
  }

  #changed(memory: Memory, address: number, offset: number): boolean {
    const block = this.#block(memory, address);
    const page = (address % BLOCK_BYTES) / PAGE_SIZE;
    see(block, page, this.#look);
    // nothing to compare it with
    if (block.known[page] === 0) return true;
    this.#digest.digest(offset, PAGE_SIZE);
    const { words } = this.#digest;
    const { digests } = block;
    const at = page * WORDS;
    const same =
      digests[at] === words[0] &&
      digests[at + 1] === words[1] &&
      digests[at + 2] === words[2] &&
      digests[at + 3] === words[3];
    if (!same) block.known[page] = 0;
    return !same;
  }

  #unreadable(memory: Memory, address: number): true {
    this.#block(memory, address).known[(address % BLOCK_BYTES) / PAGE_SIZE] = 0;
    return true;
  }

  /** What was sent of these pages, as digests one after the other. A task that is not known is ignored. */
  sent(pid: number, start: number, digests: Uint32Array): void {
    const memory = this.#memories.get(pid);
    if (memory === undefined) return;
    for (let index = 0; index < digests.length / WORDS; index++) {
      const address = start + index * PAGE_SIZE;
      const block = this.#block(memory, address);
      const page = (address % BLOCK_BYTES) / PAGE_SIZE;
      block.digests.set(digests.subarray(index * WORDS, (index + 1) * WORDS), page * WORDS);
      block.known[page] = 1;
    }
  }

  /** A page that is not there any more is told when it comes back, whatever it holds then. */
  #forget({ blocks }: Memory): void {
    for (const [number, block] of blocks) {
      if (block.look !== this.#look) blocks.delete(number);
      else for (let page = 0; page < BLOCK_PAGES; page++) if (block.seen[page] === 0) block.known[page] = 0;
    }
  }
}

function see(block: Block, page: number, look: number): void {
  if (block.look !== look) {
    block.look = look;
    block.seen.fill(0);
  }
  block.seen[page] = 1;
}
