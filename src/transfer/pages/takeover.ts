/**
 * How a page daemon comes to hold what the one before it held: from the guard, by pidfd_getfd, and from the log.
 *
 * Order matters, since it may be killed too: a guard of its own first (so that whatever it takes is held twice at once),
 * then the descriptors, then the note of who holds them now (an atomic rename: the hand-over), then the old guard's end.
 * A daemon killed before the note leaves the old guard in charge; one killed after it leaves the new one.
 */
import { closeFd, cloneFdHolder, errnoName, pidfdGetfd, pidfdOpen, reap } from "../../host/syscall.js";
import { ferryError } from "../../model/failure.js";
import { join } from "node:path";
import { PageDaemon } from "./daemon.js";
import { EventLog, TYPE } from "./event-log.js";
import {
  CONTROL_SOCKET,
  identify,
  isAlive,
  killProcess,
  readHolder,
  shunOomKiller,
  strays,
  writeHolder,
  type Holder,
  type ProcessId,
} from "./identity.js";
import { listenAt, type Holding } from "./restore-socket.js";
import { say } from "./say.js";
import { readTable } from "./table.js";
import { TaskSet } from "./tasks.js";
import { wakeAll } from "./uffd.js";

const sleep = (ms: number): void => {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
};

/** Ends a process and waits until it holds nothing any more. */
function end(process: ProcessId): void {
  for (let tries = 0; isAlive(process); tries++) {
    killProcess(process);
    if (tries > 5000) throw ferryError("E_PAGES", `process ${process.pid} does not die`, { side: "destination" });
    sleep(1);
  }
}

/** The log's state, with the descriptors of the process that holds them now. */
function recall(dir: string, holder: Holder | undefined): { log: EventLog; tasks: TaskSet } {
  const tasks = new TaskSet(readTable(dir));
  const { log, entries } = EventLog.open(dir);
  const renumber = (): void => {
    if (holder === undefined) return;
    for (const [id, fd] of holder.tasks) {
      const task = tasks.tasks.get(id);
      if (task !== undefined) task.fd = fd;
    }
    tasks.connection = holder.connection;
  };
  let renumbered = false;
  for (const entry of entries) {
    if (!renumbered && holder !== undefined && entry.position > holder.position) {
      renumber();
      renumbered = true;
    }
    tasks.apply(entry);
  }
  if (!renumbered) renumber();
  return { log, tasks };
}

/** Takes every descriptor from the guard. false: some task's userfaultfd can't be had. */
function inherit(guard: ProcessId, listening: number, tasks: TaskSet): { complete: boolean; lazy: number } {
  const pidfd = pidfdOpen(guard.pid);
  // the guard's pid could have been given to another since it was looked at
  if (pidfd < 0 || !isAlive(guard)) return { complete: false, lazy: -1 };
  const lazy = listening < 0 ? -1 : pidfdGetfd(pidfd, listening);
  if (tasks.connection >= 0) {
    const fd = pidfdGetfd(pidfd, tasks.connection);
    tasks.connection = fd < 0 ? -1 : fd;
  }
  let complete = true;
  for (const task of tasks.tasks.values()) {
    const fd = pidfdGetfd(pidfd, task.fd);
    if (fd < 0) {
      complete = false;
      say("userfaultfd can't be taken over", { vpid: task.vpid, fd: task.fd, why: errnoName(-fd) });
    }
    task.fd = fd;
  }
  closeFd(pidfd);
  return { complete, lazy };
}

/**
 * A ready daemon for the store in `dir`, in this process. `script` is the program that page daemons of it run. `early`: listens
 * at `socketPath` already (-1: nobody does).
 */
export function takeOver(dir: string, socketPath: string, script: string, early = -1): PageDaemon {
  const self = identify(process.pid);
  if (self === undefined) throw ferryError("E_INTERNAL", "this process is not in /proc");
  const holder = readHolder(dir);
  if (holder !== undefined && holder.daemon.pid !== process.pid) end(holder.daemon);
  const { log, tasks } = recall(dir, holder);
  shunOomKiller(process.pid);

  const holding: Holding = { lazy: -1, control: -1, guardPid: undefined, guardPidfd: -1 };
  const note = (): void => {
    const guard = holding.guardPid === undefined ? undefined : identify(holding.guardPid);
    writeHolder(dir, {
      daemon: self,
      guard: guard ?? null,
      position: log.position,
      listening: holding.lazy,
      connection: tasks.connection,
      tasks: [...tasks.tasks.values()].map((task) => [task.id, task.fd]),
    });
  };
  const makeGuard = (): void => {
    const pid = cloneFdHolder();
    if (pid < 0) {
      throw ferryError("E_PAGES", `the guard of the pages can't be started: ${errnoName(-pid)}`, {
        side: "destination",
      });
    }
    shunOomKiller(pid);
    holding.guardPid = pid;
    // the guard holds this too: it lives as long as somebody looks at it, which is harmless
    holding.guardPidfd = pidfdOpen(pid);
  };

  if (!tasks.done) {
    makeGuard();
    const old = holder?.guard ?? undefined;
    if (old !== undefined && isAlive(old)) {
      const got = inherit(old, holder?.listening ?? -1, tasks);
      holding.lazy = got.lazy;
      if (!got.complete) lose(log, tasks);
    } else if (tasks.tasks.size > 0) {
      lose(log, tasks);
    } else {
      tasks.connection = -1;
    }
    if (holding.lazy < 0) holding.lazy = early < 0 ? listenAt(socketPath) : early;
  }
  holding.control = listenAt(join(dir, CONTROL_SOCKET));
  note();
  if (holder?.guard !== undefined && holder.guard !== null) killProcess(holder.guard);
  for (const stray of strays(dir, script)) {
    if (stray.pid !== process.pid && stray.pid !== holding.guardPid) killProcess(stray);
  }
  // whoever waited for an answer of the daemon before: ask again
  for (const task of tasks.tasks.values()) wakeAll(task.fd);
  say("serving", {
    tasks: tasks.tasks.size,
    guard: holding.guardPid,
    filling: tasks.filling,
    after: holder?.daemon.pid,
  });

  return new PageDaemon({
    dir,
    log,
    tasks,
    holding,
    renewGuard: () => {
      makeGuard();
      note();
    },
    endGuard: () => {
      const pid = holding.guardPid;
      if (pid === undefined) return;
      const guard = identify(pid);
      closeFd(holding.guardPidfd);
      holding.guardPidfd = -1;
      holding.guardPid = undefined;
      note();
      if (guard !== undefined) killProcess(guard);
      // our child: gone from the process table, too
      for (let tries = 0; reap(pid) === 0 && tries < 1000; tries++) sleep(1);
    },
  });
}

function lose(log: EventLog, tasks: TaskSet): void {
  log.append(TYPE.LOST);
  tasks.apply({ type: TYPE.LOST, task: 0, a: 0, b: 0, payload: Buffer.alloc(0) });
  say("lost", { failure: tasks.failure });
}
