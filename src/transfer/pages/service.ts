/**
 * The fault service as the mover sees it: starts the page daemon, or finds the living one, watches it, and starts the
 * next one at once when it dies. Mover and daemon may be killed independently of each other, in any order.
 */
import { closeSync, openSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { ferryError, toFailure } from "../../model/failure.js";
import type { FaultService, FaultStatus, PageStore } from "./api.js";
import { encodeCommand, parseReply, type DaemonStatus, type Reply } from "./control.js";
import { CONTROL_SOCKET, identify, isAlive, killProcess, readHolder, strays, type ProcessId } from "./identity.js";
import { SCRIPT, spawnDaemon, type SpareDaemon } from "./spare.js";

export interface FaultServiceOptions {
  store: PageStore;
  /** Directory of the store; the event log, the daemon's socket and its log file live there, too. */
  storeDir: string;
  /** Where `criu restore --lazy-pages` connects: `lazy-pages.socket` in its work directory. */
  socketPath: string;
  log: (message: string, fields?: object) => void;
  /** What is filled before everything else: the workload is likely to need it next. */
  first?: readonly { slot: number; pages: number }[];
  /** A daemon that was started ahead: used if one has to be started. */
  spare?: SpareDaemon;
}

/** A dead daemon is noticed within this time, also one that is not our child. */
const WATCH_MS = 10;
/** How long a daemon may take until it answers. */
const START_MS = 20_000;
/** So many deaths in a row without an answer in between are told as a failure; starting goes on. */
const PATIENCE = 5;

class Service implements FaultService {
  readonly #options: FaultServiceOptions;
  #daemon: ProcessId | undefined;
  #socket: Socket | undefined;
  #status: DaemonStatus | undefined;
  /** Reports that came. */
  #heard = 0;
  /** Why no daemon can be had. */
  #trouble: string | undefined;
  #deaths = 0;
  #filling = false;
  #closed = false;
  #bringing: Promise<void> | undefined;
  #resetting: { promise: Promise<void>; done: () => void } | undefined;
  #arrivals: { slot: number; pages: number }[] = [];
  #flushing = false;
  /** What was asked for before anybody listened. */
  #unheard: [slot: number, pages: number][] = [];
  #onMissing: ((slot: number, pages: number) => void)[] = [];
  #onChange: (() => void)[] = [];
  #watch: NodeJS.Timeout | undefined;

  constructor(options: FaultServiceOptions) {
    this.#options = options;
  }

  async open(): Promise<void> {
    await this.#bring(true).catch((error: unknown) => {
      // A spare may have died on the way; it is given away once, so now one is started anew.
      if (this.#options.spare === undefined) throw error;
      return this.#bring(true);
    });
    this.#watch = setInterval(() => {
      if (this.#daemon !== undefined && !isAlive(this.#daemon)) this.#lost("died");
    }, WATCH_MS);
    this.#watch.unref();
  }

  arrived(slot: number, pages: number): void {
    const last = this.#arrivals.at(-1);
    if (last !== undefined && last.slot + last.pages === slot) last.pages += pages;
    else this.#arrivals.push({ slot, pages });
    if (this.#flushing) return;
    this.#flushing = true;
    // one write for all frames of this turn
    setImmediate(() => {
      this.#flushing = false;
      const arrivals = this.#arrivals;
      this.#arrivals = [];
      // without a connection: a daemon looks at the whole store when one is made
      if (this.#socket === undefined) return;
      this.#socket.write(Buffer.concat(arrivals.map((run) => encodeCommand("arrived", run.slot, run.pages))));
    });
  }

  fill(): void {
    this.#filling = true;
    this.#socket?.write(encodeCommand("fill"));
  }

  async reset(): Promise<void> {
    this.#filling = false;
    if (this.#resetting === undefined) {
      let done: () => void = () => undefined;
      const promise = new Promise<void>((resolve) => {
        done = resolve;
      });
      this.#resetting = { promise, done };
      this.#socket?.write(encodeCommand("reset"));
    }
    await this.#resetting.promise;
  }

  status(): FaultStatus {
    const status = this.#status;
    const failure = status?.failure ?? this.#trouble;
    return {
      tasks: status?.tasks ?? 0,
      unclaimed: status?.unclaimed ?? this.#options.store.table.areas.length,
      faults: status?.faults ?? 0,
      filled: status?.filled ?? 0,
      allFilled: status?.allFilled ?? false,
      ...(status?.guardPid === undefined ? {} : { guardPid: status.guardPid }),
      ...(failure === undefined ? {} : { failure }),
    };
  }

  onMissing(listener: (slot: number, pages: number) => void): void {
    this.#onMissing.push(listener);
    for (const [slot, pages] of this.#unheard.splice(0)) listener(slot, pages);
  }

  onChange(listener: () => void): void {
    this.#onChange.push(listener);
  }

  /** Ends the daemon when nothing depends on it; else only lets go of it: it serves on, and can be taken up again. */
  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#watch);
    await this.#bringing?.catch(() => undefined);
    const { tasks, allFilled } = this.status();
    const daemon = this.#daemon;
    if (daemon !== undefined && (allFilled || tasks === 0)) {
      this.#socket?.write(encodeCommand("stop"));
      for (let waited = 0; isAlive(daemon) && waited < 2000; waited += 5) await delay(5);
      await destroyFaultService(this.#options.storeDir);
    } else if (daemon !== undefined) {
      this.#options.log("left the page daemon alone: tasks depend on it", { pid: daemon.pid, tasks });
    }
    this.#socket?.destroy();
    this.#socket = undefined;
  }

  #changed(): void {
    for (const listener of this.#onChange) listener();
  }

  #lost(why: string): void {
    if (this.#closed || this.#bringing !== undefined) return;
    this.#options.log(`the page daemon ${why}: starting the next one`, { pid: this.#daemon?.pid });
    void this.#bring(false);
  }

  /** Until a daemon answers. With `once` the first failure is thrown. */
  #bring(once: boolean): Promise<void> {
    this.#socket?.destroy();
    this.#socket = undefined;
    const work = async (): Promise<void> => {
      for (;;) {
        try {
          await this.#start();
          return;
        } catch (error) {
          if (once) throw error;
          this.#deaths++;
          const { message } = toFailure(error);
          this.#options.log("no page daemon", { why: message, deaths: this.#deaths });
          if (this.#deaths >= PATIENCE && this.#trouble === undefined) {
            this.#trouble = `no page daemon can be started, threads wait: ${message}`;
            this.#changed();
          }
          if (this.#closed) return;
          await delay(Math.min(10 * 2 ** this.#deaths, 1000));
        }
      }
    };
    this.#bringing = work().finally(() => {
      this.#bringing = undefined;
    });
    return this.#bringing;
  }

  async #start(): Promise<void> {
    const { storeDir, socketPath, log } = this.#options;
    const holder = readHolder(storeDir);
    let daemon = holder !== undefined && isAlive(holder.daemon) ? holder.daemon : undefined;
    let exited: string | undefined;
    if (daemon === undefined) {
      const child = this.#options.spare?.begin() ?? spawnDaemon(storeDir, socketPath, false);
      child.once("error", (error) => {
        exited = error.message;
      });
      child.once("exit", (code, signal) => {
        exited = `it ended with ${signal ?? `exit code ${code ?? 0}`}`;
        if (child.pid !== undefined && child.pid === this.#daemon?.pid) this.#lost("died");
      });
      daemon = child.pid === undefined ? undefined : identify(child.pid);
    }
    const deadline = performance.now() + START_MS;
    for (;;) {
      if (daemon === undefined || exited !== undefined || !isAlive(daemon)) {
        throw ferryError("E_PAGES", `the page daemon could not be started: ${exited ?? "it died"}`, {
          side: "destination",
          remedy: `see ${join(storeDir, "pages.log")}`,
        });
      }
      if (readHolder(storeDir)?.daemon.pid === daemon.pid) {
        const socket = await this.#connect();
        if (socket !== undefined) {
          this.#daemon = daemon;
          this.#adopt(socket);
          await this.#firstStatus(daemon, socket, deadline);
          log("page daemon", { pid: daemon.pid, guard: this.#status?.guardPid, tasks: this.#status?.tasks });
          this.#deaths = 0;
          this.#trouble = undefined;
          return;
        }
      }
      if (performance.now() > deadline) {
        throw ferryError("E_PAGES", "the page daemon does not answer", { side: "destination" });
      }
      await delay(2);
    }
  }

  /** The address is relative to a descriptor: a directory's name may be longer than a socket's address. */
  async #connect(): Promise<Socket | undefined> {
    const dir = openSync(this.#options.storeDir, "r");
    try {
      const socket = connect(`/proc/self/fd/${dir}/${CONTROL_SOCKET}`);
      return await new Promise<Socket | undefined>((resolve) => {
        socket.once("connect", () => {
          resolve(socket);
        });
        socket.once("error", () => {
          resolve(undefined);
        });
      });
    } finally {
      closeSync(dir);
    }
  }

  async #firstStatus(daemon: ProcessId, socket: Socket, deadline: number): Promise<void> {
    const before = this.#heard;
    while (this.#heard === before) {
      // its guard keeps a dead daemon's end of the connection open
      if (socket.destroyed || !isAlive(daemon) || performance.now() > deadline) {
        throw ferryError("E_PAGES", "the page daemon hung up before it told its state", { side: "destination" });
      }
      await delay(1);
    }
  }

  #adopt(socket: Socket): void {
    this.#socket = socket;
    socket.removeAllListeners("error");
    let rest = "";
    socket.setEncoding("utf8");
    socket.on("data", (text: string) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      try {
        for (const line of lines) this.#take(parseReply(line));
      } catch (error) {
        this.#options.log("the page daemon said something unknown", { why: toFailure(error).message });
        socket.destroy();
      }
    });
    // what happened is told by close
    socket.on("error", () => undefined);
    socket.on("close", () => {
      if (this.#socket === socket) this.#lost("hung up");
    });
    if (this.#resetting !== undefined) socket.write(encodeCommand("reset"));
    const first = (this.#options.first ?? []).map(({ slot, pages }) => encodeCommand("first", slot, pages));
    if (first.length > 0) socket.write(Buffer.concat(first));
    if (this.#filling) socket.write(encodeCommand("fill"));
  }

  #take(reply: Reply): void {
    if ("status" in reply) {
      this.#status = reply.status;
      this.#heard++;
      this.#changed();
    } else if ("missing" in reply) {
      if (this.#onMissing.length === 0) this.#unheard.push(reply.missing);
      for (const listener of this.#onMissing) listener(...reply.missing);
    } else {
      this.#resetting?.done();
      this.#resetting = undefined;
    }
  }
}

/**
 * Serves `socketPath` and every userfaultfd that comes through it from the store. Finds what an earlier caller left in
 * `storeDir`: a living daemon is attached to, a dead one's guard is taken over. Throws E_PAGES when no daemon starts.
 */
export async function startFaultService(options: FaultServiceOptions): Promise<FaultService> {
  const service = new Service(options);
  await service.open();
  return service;
}

/**
 * Ends page daemon and guard of a store for good and waits until they are gone. Threads that still wait for pages would
 * read zeros: only when the restored tree is dead or complete. Idempotent.
 */
export async function destroyFaultService(storeDir: string): Promise<void> {
  let holder: ReturnType<typeof readHolder>;
  try {
    holder = readHolder(storeDir);
  } catch {
    // found by their command line
  }
  const known = [holder?.daemon, holder?.guard].filter((process) => process !== undefined && process !== null);
  for (let tries = 0; tries < 1000; tries++) {
    // the daemon first, or it would make a new guard
    const alive = [...known, ...strays(storeDir, SCRIPT)].filter(isAlive);
    if (alive.length === 0) return;
    for (const process of alive) killProcess(process);
    await delay(2);
  }
  throw ferryError("E_PAGES", "the page daemon or its guard does not die", { side: "destination" });
}
