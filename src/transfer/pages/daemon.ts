/**
 * The page daemon: a process of its own whose only thread sleeps in poll(). It answers lazy-pages.socket, every
 * userfaultfd and the mover, one thing after the other: what the kernel tells is applied before any page is placed.
 *
 * It may be killed at any instant. Its guard (a process that shares its descriptors) then keeps the userfaultfds open, so
 * that threads wait instead of reading zeros, and the next daemon takes them over (takeover.ts).
 */
import {
  closeFd,
  EAGAIN,
  EINTR,
  errnoName,
  mapAnonymous,
  poll,
  POLLERR,
  POLLIN,
  POLLNVAL,
  reap,
  readInto,
} from "../../host/syscall.js";
import { Priority } from "../../host/priority.js";
import { ferryError } from "../../model/failure.js";
import { Clients, type Client } from "./clients.js";
import type { Command, DaemonStatus } from "./control.js";
import { TYPE, type EventLog } from "./event-log.js";
import { say } from "./say.js";
import { Filler } from "./filler.js";
import { RestoreSocket, type Holding } from "./restore-socket.js";
import type { Task, TaskSet } from "./tasks.js";
import { MESSAGE, parseMessage, unprotect, wake, type Message } from "./uffd.js";

/** Messages taken by one read. */
const BATCH = 64;
/** Shortest time between two reports of mere progress. */
const REPORT_MS = 50;
/** For this long after the resume, filling waits until no page was asked for during CALM_MS. */
const AWAKE_MS = 60;
const CALM_MS = 3;
/** Steps of priority above others' while a thread may wait for an answer. Filling, which nobody waits for, has none. */
const URGENT = 10;

export interface DaemonParts {
  dir: string;
  log: EventLog;
  tasks: TaskSet;
  holding: Holding;
  /** A new guard for the same descriptors: the old one has died. */
  renewGuard(): void;
  /** Nothing is left to guard. */
  endGuard(): void;
}

export class PageDaemon {
  readonly #parts: DaemonParts;
  readonly #tasks: TaskSet;
  readonly #log: EventLog;
  readonly #filler: Filler;
  readonly #clients: Clients;
  readonly #restore: RestoreSocket;
  #pollfds = mapAnonymous(8 * 4096);
  /** Faults to answer once everything that was read is applied. */
  #faults: { task: Task; page: number }[] = [];
  #faultCount = 0;
  #faultedAt = Number.NEGATIVE_INFINITY;
  #fillingSince: number | undefined;
  #reported = { at: 0, text: "", key: "" };
  #running = true;
  readonly #priority = new Priority();

  constructor(parts: DaemonParts) {
    this.#parts = parts;
    this.#tasks = parts.tasks;
    this.#log = parts.log;
    this.#filler = new Filler(parts.dir, parts.tasks, {
      filled: (task, start, pages) => {
        this.#log.filled(task.id, start, pages);
      },
      missing: (slot, pages) => {
        this.#clients.tell({ missing: [slot, pages] });
      },
      gone: (task) => {
        this.#drop(task, "ended");
      },
      broken: (task, why) => {
        this.#tasks.failure ??= `pid ${task.vpid}: ${why}`;
        say("broken", { vpid: task.vpid, why });
      },
    });
    this.#restore = new RestoreSocket(parts.log, parts.tasks, parts.holding);
    this.#clients = new Clients((client, command) => {
      this.#obey(client, command);
    });
    if (this.#tasks.filling) this.#filler.enqueueAll();
  }

  /** Serves until told to stop. */
  run(): void {
    let wait = 0;
    while (this.#running) {
      if (wait !== 0) this.#priority.raise(URGENT);
      this.#pollOnce(wait);
      const stalled = !this.#answerFaults();
      let outcome = "done";
      const filling = this.#tasks.filling && this.#tasks.restored && this.#tasks.failure === undefined;
      const calm = filling && this.#calm();
      if (filling && this.#filler.hasWork && (calm || this.#filler.hasFirst)) {
        this.#priority.raise(0);
        outcome = this.#filler.step();
      }
      if (filling) this.#finish();
      const busy = filling && this.#filler.hasWork;
      if (outcome === "memory") wait = 10;
      else if (outcome !== "done" || stalled) wait = 1;
      else if (busy && !calm && !this.#filler.hasFirst) wait = 1;
      else wait = busy ? 0 : -1;
      // the log says that all is done: nobody needs this process any more
      if (this.#tasks.done && this.#clients.deserted) break;
      const due = this.#report();
      if (wait < 0 && due >= 0) wait = due;
    }
    this.#parts.endGuard();
  }

  /** The workload, just resumed, does not ask for one page after the other: a fill would be in its way each time. */
  #calm(): boolean {
    const now = performance.now();
    this.#fillingSince ??= now;
    return now - this.#faultedAt >= CALM_MS || now - this.#fillingSince >= AWAKE_MS;
  }

  #pollOnce(wait: number): void {
    const { holding } = this.#parts;
    const entries: { fd: number; events: number; ready: (events: number) => void }[] = [
      {
        fd: holding.control,
        events: POLLIN,
        ready: () => {
          if (this.#clients.accept(holding.control)) this.#welcome();
        },
      },
    ];
    if (holding.lazy >= 0)
      entries.push({
        fd: holding.lazy,
        events: POLLIN,
        ready: () => {
          this.#restore.accept();
        },
      });
    if (holding.guardPidfd >= 0) {
      entries.push({
        fd: holding.guardPidfd,
        events: POLLIN,
        ready: () => {
          this.#guardEnded();
        },
      });
    }
    if (this.#tasks.connection >= 0) {
      entries.push({
        fd: this.#tasks.connection,
        events: POLLIN,
        ready: () => {
          this.#restore.receive();
        },
      });
    }
    for (const entry of this.#clients.polled()) entries.push(entry);
    for (const task of this.#tasks.tasks.values()) {
      entries.push({
        fd: task.fd,
        events: POLLIN,
        ready: (events) => {
          this.#receive(task, events);
        },
      });
    }
    if (entries.length * 8 > this.#pollfds.bytes.length) this.#pollfds = mapAnonymous(entries.length * 16);
    const { bytes, address } = this.#pollfds;
    for (const [index, entry] of entries.entries()) {
      bytes.writeInt32LE(entry.fd, index * 8);
      bytes.writeUInt32LE(entry.events, index * 8 + 4);
    }
    const ready = poll(address, entries.length, wait);
    if (ready < 0 && ready !== -EINTR) throw ferryError("E_INTERNAL", `poll: ${errnoName(-ready)}`);
    if (ready <= 0) return;
    const found = entries.map((entry, index) => ({ entry, events: bytes.readUInt16LE(index * 8 + 6) }));
    for (const { entry, events } of found) if (events !== 0) entry.ready(events);
  }

  // --- userfaultfds

  #receive(task: Task, events: number): void {
    // an earlier event of this round may have ended it
    if (this.#tasks.tasks.get(task.id) !== task) return;
    if ((events & (POLLERR | POLLNVAL)) !== 0) {
      this.#tasks.failure ??= `pid ${task.vpid}: its userfaultfd can't be polled`;
      return;
    }
    const { address, payload } = this.#log.prepare(TYPE.MESSAGES, task.id, BATCH);
    const length = readInto(task.fd, address, BATCH * MESSAGE);
    if (length <= 0) {
      this.#log.discard(0);
      if (length !== -EAGAIN && length !== -EINTR) {
        this.#tasks.failure ??= `pid ${task.vpid}: reading its userfaultfd: ${errnoName(-length)}`;
      }
      return;
    }
    const count = length / MESSAGE;
    const messages: Message[] = [];
    for (let at = 0; at < length; at += MESSAGE) {
      const message = parseMessage(payload, at);
      if (message === undefined)
        this.#tasks.failure ??= `pid ${task.vpid}: unknown userfaultfd event ${payload[at] ?? 0}`;
      else messages.push(message);
    }
    // faults need no memory: a daemon that takes over has every waiting thread try again
    if (messages.every((message) => message.kind === "fault")) this.#log.discard(count);
    else this.#log.commit(count);
    // changes first: a fault that was read together with a change may have come after it
    for (const message of messages) if (message.kind !== "fault") this.#change(task, message);
    for (const message of messages) {
      if (message.kind !== "fault") continue;
      this.#faultCount++;
      this.#faultedAt = performance.now();
      if (message.writeProtected) unprotect(task.fd, message.page, 1);
      else this.#faults.push({ task, page: message.page });
    }
  }

  #change(task: Task, message: Exclude<Message, { kind: "fault" }>): void {
    this.#tasks.message(task, message);
    if (message.kind === "fork") return;
    // threads that wait there try again: they find zeros, nothing, or fault at the new place
    const ranges =
      message.kind === "remap"
        ? [
            { start: message.from, pages: message.pages },
            { start: message.to, pages: message.pages },
          ]
        : [message];
    for (const { start, pages } of ranges) {
      for (const page of task.waiting.keys()) {
        if (page >= start && page < start + pages) task.waiting.delete(page);
      }
      wake(task.fd, start, pages);
    }
  }

  /** false when some have to wait for events to be read first. */
  #answerFaults(): boolean {
    if (this.#faults.length === 0) return true;
    const faults = this.#faults;
    this.#faults = [];
    for (const fault of faults) {
      if (this.#tasks.tasks.get(fault.task.id) !== fault.task) continue;
      const outcome = this.#filler.fault(fault.task, fault.page);
      if (outcome === "again" || outcome === "memory") this.#faults.push(fault);
    }
    return this.#faults.length === 0;
  }

  #drop(task: Task, why: string): void {
    if (!this.#tasks.tasks.has(task.id)) return;
    this.#log.append(TYPE.DROPPED, task.id);
    this.#tasks.tasks.delete(task.id);
    closeFd(task.fd);
    // whoever still has the task in hand must not reach what takes the number next
    task.fd = -1;
    say("task", { vpid: task.vpid, forked: task.forked, why });
  }

  /** Let go of tasks that need nothing more. */
  #finish(): void {
    for (const task of this.#tasks.tasks.values()) if (task.pending.pages === 0) this.#drop(task, "complete");
    if (this.#tasks.tasks.size > 0 || this.#tasks.done) return;
    this.#log.append(TYPE.DONE);
    this.#tasks.done = true;
    this.#filler.clear();
    if (this.#tasks.connection >= 0) closeFd(this.#tasks.connection);
    this.#tasks.connection = -1;
    closeFd(this.#parts.holding.lazy);
    this.#parts.holding.lazy = -1;
    this.#parts.endGuard();
    say("done", { faults: this.#faultCount });
  }

  #guardEnded(): void {
    const { holding } = this.#parts;
    say("guard ended", { guard: holding.guardPid });
    closeFd(holding.guardPidfd);
    if (holding.guardPid !== undefined) reap(holding.guardPid);
    holding.guardPidfd = -1;
    this.#parts.renewGuard();
  }

  // --- the mover

  /** What a mover before it said last may have been lost with it. */
  #welcome(): void {
    this.#arrived(0, this.#tasks.table.slots);
    this.#reported.text = "";
    for (const task of this.#tasks.tasks.values()) {
      for (const slot of task.waiting.values()) this.#clients.tell({ missing: [slot, 1] });
    }
  }

  #obey(client: Client, command: Command): void {
    switch (command.name) {
      case "arrived":
        this.#arrived(command.slot, command.pages);
        return;
      case "fill":
        if (this.#tasks.filling) return;
        this.#log.append(TYPE.FILL);
        this.#tasks.filling = true;
        this.#filler.enqueueAll();
        return;
      case "first":
        this.#filler.first(command.slot, command.pages);
        return;
      case "reset":
        this.#reset();
        this.#clients.send(client, { reset: true });
        return;
      case "stop":
        this.#running = false;
        return;
    }
  }

  #arrived(slot: number, pages: number): void {
    const end = Math.min(slot + pages, this.#tasks.table.slots);
    if (slot >= end) return;
    this.#filler.arrived(slot, end - slot);
    if (this.#tasks.filling) this.#filler.enqueue(slot, end - slot);
  }

  #reset(): void {
    const fds = [...this.#tasks.tasks.values()].map((task) => task.fd);
    if (this.#tasks.connection >= 0) fds.push(this.#tasks.connection);
    this.#log.append(TYPE.RESET);
    this.#tasks.apply({ type: TYPE.RESET, task: 0, a: 0, b: 0, payload: Buffer.alloc(0) });
    this.#filler.clear();
    this.#faults = [];
    for (const fd of fds) closeFd(fd);
    say("reset", { closed: fds.length });
  }

  status(): DaemonStatus {
    const { guardPid } = this.#parts.holding;
    return {
      tasks: this.#tasks.tasks.size,
      unclaimed: this.#tasks.unclaimed,
      faults: this.#faultCount,
      filled: this.#tasks.filled,
      allFilled: this.#tasks.done,
      filling: this.#tasks.filling,
      ...(guardPid === undefined ? {} : { guardPid }),
      ...(this.#tasks.failure === undefined ? {} : { failure: this.#tasks.failure }),
    };
  }

  /** Tell the mover what changed. Returns milliseconds until the next report is due, -1: none is. */
  #report(): number {
    if (this.#clients.count === 0) return -1;
    const now = performance.now();
    const since = now - this.#reported.at;
    const key = `${this.#tasks.tasks.size} ${this.#tasks.unclaimed} ${this.#tasks.done} ${this.#tasks.filling} ${this.#tasks.failure ?? ""} ${this.#parts.holding.guardPid ?? 0}`;
    if (since < REPORT_MS && key === this.#reported.key && this.#reported.text !== "") {
      return this.#faultCount > 0 || this.#tasks.filling ? Math.ceil(REPORT_MS - since) : -1;
    }
    const status = this.status();
    const text = JSON.stringify(status);
    if (text === this.#reported.text) {
      this.#reported.at = now;
      return -1;
    }
    this.#reported = { at: now, text, key };
    this.#clients.tell({ status });
    return -1;
  }
}
