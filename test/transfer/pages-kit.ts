/** What the tests of the page side share: a store on tmpfs, a task that hands over its userfaultfd, a source of pages. */
import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { packageRoot } from "../../src/host/package-root.js";
import type { FaultService, PageStore } from "../../src/transfer/pages/api.js";
import { createStore, destroyFaultService, startFaultService } from "../../src/transfer/pages/index.js";
import { userfaultfdProblem } from "../../src/host/userfaultfd-probe.js";

export const PAGE = 4096;
export const VPID = 42;

/** Why these tests can't run here; false when they can. */
export function skipReason(): string | false {
  if (process.getuid?.() !== 0) return "needs root";
  return userfaultfdProblem() ?? false;
}

export function scratchDir(): string {
  return mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "ferry-pages-"));
}

/** Content of page i of the image. */
export function imagePages(first: number, pages: number): Buffer {
  const data = Buffer.alloc(pages * PAGE);
  for (let page = 0; page < pages; page++) {
    const word = Buffer.alloc(8);
    word.writeBigUInt64LE(BigInt(first + page + 1));
    data.fill(word, page * PAGE, (page + 1) * PAGE);
  }
  return data;
}

export interface Answer {
  base?: number;
  ok?: number;
  bad?: string;
  touched?: number;
  connected?: boolean;
}

/** The Python program that plays the restored task. */
export class Target {
  readonly child: ChildProcess;
  #answers: Answer[] = [];
  #waiting: ((answer: Answer) => void)[] = [];

  constructor(socketPath: string, pages: number) {
    const script = join(packageRoot(), "test/transfer/pages-target.py");
    this.child = spawn("python3", [script, socketPath, String(pages)], { stdio: ["pipe", "pipe", "inherit"] });
    createInterface({ input: this.child.stdout! }).on("line", (line) => {
      const answer = JSON.parse(line) as Answer;
      const next = this.#waiting.shift();
      if (next) next(answer);
      else this.#answers.push(answer);
    });
    this.child.once("exit", (code, signal) => {
      for (const next of this.#waiting.splice(0)) next({ bad: `the target ended: ${signal ?? code}` });
    });
  }

  answer(): Promise<Answer> {
    const ready = this.#answers.shift();
    return ready ? Promise.resolve(ready) : new Promise((resolve) => this.#waiting.push(resolve));
  }

  ask(line: string): Promise<Answer> {
    this.child.stdin!.write(`${line}\n`);
    return this.answer();
  }

  async end(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = new Promise((resolve) => this.child.once("exit", resolve));
    this.child.kill("SIGKILL");
    await ended;
  }
}

export interface Scene {
  dir: string;
  store: PageStore;
  service: FaultService;
  target: Target;
  /** Slots that were asked for. */
  missing: number[];
  ended: boolean;
  daemonPid(): number;
  end(): Promise<void>;
}

/** A target of `pages` pages, handed over, with an empty store behind it. */
export async function stage(pages: number, connect = true): Promise<Scene> {
  const dir = scratchDir();
  const socketPath = join(dir, "lazy-pages.socket");
  const target = new Target(socketPath, pages);
  const { base } = await target.answer();
  const store = createStore(dir, {
    areas: [
      { vpid: VPID, start: BigInt(base ?? 0), pages: Math.floor(pages / 3), slot: 0 },
      {
        vpid: VPID,
        start: BigInt((base ?? 0) + Math.floor(pages / 3) * PAGE),
        pages: pages - Math.floor(pages / 3),
        slot: Math.floor(pages / 3),
      },
    ],
    slots: pages,
  });
  const service = await startFaultService({ store, storeDir: dir, socketPath, log: () => undefined });
  const missing: number[] = [];
  service.onMissing((slot, pages) => {
    for (let at = slot; at < slot + pages; at++) missing.push(at);
  });
  if (connect) {
    const { connected, bad } = await target.ask("connect");
    if (!connected) throw new Error(bad ?? "not connected");
  }
  const scene: Scene = {
    dir,
    store,
    service,
    target,
    missing,
    ended: false,
    daemonPid: () =>
      (JSON.parse(readFileSync(join(dir, "holder.json"), "utf8")) as { daemon: { pid: number } }).daemon.pid,
    async end() {
      scene.ended = true;
      await target.end();
      await service.close();
      await destroyFaultService(dir);
      store.close();
      rmSync(dir, { recursive: true });
    },
  };
  return scene;
}

/** Puts every page into the store, in pieces at random, what was asked for first; `pause` ms between pieces. */
export async function feed(scene: Scene, pages: number, piece: number, pause: number): Promise<void> {
  const left = Array.from({ length: Math.ceil(pages / piece) }, (_, index) => index * piece);
  left.sort(() => Math.random() - 0.5);
  while (left.length > 0 && !scene.ended) {
    const wanted = scene.missing.shift();
    const at = wanted === undefined ? -1 : left.indexOf(Math.floor(wanted / piece) * piece);
    if (wanted !== undefined && at < 0) continue;
    const [slot] = at < 0 ? left.splice(left.length - 1, 1) : left.splice(at, 1);
    const count = Math.min(piece, pages - slot!);
    scene.store.write(slot!, imagePages(slot!, count));
    scene.service.arrived(slot!, count);
    if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

export async function until(what: () => boolean, timeoutMs = 10_000): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!what()) {
    if (performance.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what.toString()}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
