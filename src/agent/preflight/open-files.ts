/** Checks on open descriptors: what the engine can't take along, and what it takes only up to a limit. Pure over a Tree. */
import { shown, type OpenFile } from "../../host/procfs.js";
import type { Finding } from "../../model/plan.js";
import { GHOST_LIMIT_BYTES } from "../../runtimes/process/freeze.js";
import { finder, listText, sizeText } from "./findings.js";
import { taskName } from "./tasks.js";
import type { Task, Tree } from "./tree.js";

const { block, warn, info } = finder("source");

const BLOCK_SIZE = 512;
const major = (rdev: number): number => (rdev >> 8) & 0xfff;
const minor = (rdev: number): number => (rdev & 0xff) | ((rdev >> 12) & 0xfff00);

/** Anonymous inodes that criu dumps and restores. */
const ANON_MOVES = new Set(["eventfd", "eventpoll", "signalfd", "timerfd", "inotify", "fanotify", "pidfd"]);
/** Minors of the memory devices (major 1) that hold no state: null, zero, full, random, urandom, kmsg. */
const MEM_MOVES = new Set([3, 5, 7, 8, 9, 11]);
const TTY_MAJORS = new Set([4, 5, 136, 137, 138, 139, 140, 141, 142, 143]);

const anonName = (link: string): string => link.replace(/^anon_inode:/, "").replace(/^\[(.*)\]$/, "$1");

export function checkOpenFiles(tree: Tree): Finding[] {
  const findings: Finding[] = [];
  const inside = new Set(tree.tasks.map((task) => task.pid));
  const masters = ptyMasters(tree);
  for (const task of tree.tasks) {
    const watches: number[] = [];
    for (const file of task.files) {
      const { link, stats } = file;
      const at = `${taskName(task)}, descriptor ${file.fd}`;
      if (link.startsWith("anon_inode:")) {
        const name = anonName(link);
        if (name === "inotify" || name === "fanotify") watches.push(file.fd);
        if (name === "pidfd") findings.push(...checkPidfd(file, at, inside));
        else if (!ANON_MOVES.has(name)) findings.push(anonFinding(name, at));
      } else if (link.startsWith("pidfd:")) {
        findings.push(...checkPidfd(file, at, inside));
      } else if (/^(net|mnt|pid|user|uts|ipc|time|cgroup):\[/.test(link)) {
        const known = tree.tasks.some((other) => Object.values(other.namespaces).includes(link));
        if (!known) {
          findings.push(
            block("open files", `${at}: holds namespace ${link} of somebody else`, "close it in the program"),
          );
        }
      } else if (stats?.isCharacterDevice()) {
        findings.push(...checkDevice(task, file, at, masters));
      } else if (stats?.isBlockDevice()) {
        findings.push(
          block(
            "device",
            `${at}: block device ${shown(link)} is open; disks do not move`,
            "use a file under /data instead",
          ),
        );
      } else if (stats?.isFile() === true && !link.startsWith("/memfd:")) {
        findings.push(...checkDeleted(link, stats.nlink, stats.blocks * BLOCK_SIZE, at));
      }
    }
    if (watches.length > 0) {
      findings.push(
        warn(
          "file watches",
          `${taskName(task)}: watches files (inotify or fanotify); the watches move, events during the move are lost`,
          'if the dump says "Can\'t dump that handle", turn watching off in the program',
        ),
      );
    }
    if (task.ioUring && !task.files.some((file) => anonName(file.link) === "io_uring")) {
      findings.push(anonFinding("io_uring", taskName(task)));
    }
    findings.push(...checkTerminal(task, masters));
    findings.push(...checkMappedDeleted(task));
  }
  return findings;
}

function anonFinding(name: string, at: string): Finding {
  if (name === "io_uring") {
    return block(
      "io_uring",
      `${at}: uses io_uring, which the engine can't dump`,
      "turn io_uring off in the program (libuv and Node: UV_USE_IO_URING=0; PostgreSQL: io_method=worker; MariaDB: innodb_use_native_aio=0)",
    );
  }
  return block(
    "open files",
    `${at}: holds a kernel object of kind ${shown(name)}, which the engine can't dump`,
    "turn the feature off in the program that opens it",
  );
}

function checkPidfd(file: OpenFile, at: string, inside: ReadonlySet<number>): Finding[] {
  const pid = Number(file.info.fields.get("Pid") ?? -1);
  // -1: that process has ended; the engine restores such a descriptor too.
  if (pid <= 0 || inside.has(pid)) return [];
  return [
    block("open files", `${at}: holds a pidfd of process ${pid} outside of the workload`, "close it in the program"),
  ];
}

function checkDeleted(link: string, links: number, bytes: number, at: string): Finding[] {
  if (!link.endsWith(" (deleted)")) return [];
  const path = shown(link.slice(0, -" (deleted)".length));
  if (links > 0) {
    return [
      block(
        "deleted file",
        `${at}: ${path} is deleted but still open, and the file has ${links === 1 ? "another name" : `${links} other names`}: which one can't be told, so it can't be opened again`,
        "let the program close or reopen it, or give the file its name back (ln)",
      ),
    ];
  }
  if (bytes > GHOST_LIMIT_BYTES) {
    return [
      block(
        "deleted file",
        `${at}: ${path} is deleted but still open, with ${sizeText(bytes)} on disk; up to ${sizeText(GHOST_LIMIT_BYTES)} can travel with the images`,
        "let the program close or reopen it (logs: signal the log rotation), or keep temporary files under /data without deleting them",
      ),
    ];
  }
  return [
    info("deleted file", `${at}: ${path} is deleted but still open (${sizeText(bytes)}); it moves with the images`),
  ];
}

function checkMappedDeleted(task: Task): Finding[] {
  return task.mapped.flatMap((file) => {
    // Shared anonymous and System V memory look like deleted files and move as memory.
    if (file.stats === undefined || /^\/(?:dev\/zero|SYSV|memfd:|anon_hugepage|\[aio\])/.test(file.path)) return [];
    return checkDeleted(file.path, file.stats.nlink, file.stats.blocks * BLOCK_SIZE, `${taskName(task)}, mapped`).map(
      (finding) =>
        finding.level === "block"
          ? {
              ...finding,
              remedy:
                "restart the workload (a package upgrade has replaced a file that it runs from), or let it unmap the file",
            }
          : finding,
    );
  });
}

/** Pseudo terminals whose master is open inside the tree: "<device of the devpts>:<index>". */
function ptyMasters(tree: Tree): Set<string> {
  const masters = new Set<string>();
  for (const task of tree.tasks) {
    for (const file of task.files) {
      const index = file.info.fields.get("tty-index");
      if (index !== undefined) masters.add(index);
    }
  }
  return masters;
}

function checkDevice(task: Task, file: OpenFile, at: string, masters: ReadonlySet<string>): Finding[] {
  const rdev = file.stats?.rdev ?? 0;
  const path = shown(file.link);
  const [maj, min] = [major(rdev), minor(rdev)];
  if (maj === 1) {
    if (MEM_MOVES.has(min)) return [];
    return [block("device", `${at}: ${path} is open (raw memory or ports)`, "run it without that device")];
  }
  if (TTY_MAJORS.has(maj)) {
    // /dev/ptmx is a master; a slave moves when its master is inside, too.
    if ((maj === 5 && min === 2) || (maj >= 136 && masters.has(String((maj - 136) * 256 + min)))) return [];
    if (maj === 5 && min === 0 && task.stat.tty !== 0) return [];
    return [
      block(
        "terminal",
        `${at}: terminal ${path} is open, and its other side is outside of the workload`,
        "start it with standard streams in files (`ferry run` does so), not from a shell's terminal",
      ),
    ];
  }
  return [
    block(
      "device",
      `${at}: device ${path} (${maj}:${min}) is open; the state of a device can't be moved`,
      "run it without that device",
    ),
  ];
}

/** A controlling terminal without any open descriptor of it. */
function checkTerminal(task: Task, masters: ReadonlySet<string>): Finding[] {
  const { tty } = task.stat;
  if (tty === 0) return [];
  const [maj, min] = [major(tty), minor(tty)];
  if (maj >= 136 && maj <= 143 && masters.has(String((maj - 136) * 256 + min))) return [];
  const open = task.files.some((file) => file.stats?.isCharacterDevice() === true && file.stats.rdev === tty);
  if (open) return [];
  return [
    block(
      "terminal",
      `${taskName(task)}: its controlling terminal (${maj}:${min}) is outside of the workload`,
      "start it in a session without a terminal (setsid; `ferry run` does so)",
    ),
  ];
}

const ACCESS_MODE = 3;

/** Pipes of which the tree has one end only: closed at the other end, or held outside? */
export function halfPipes(tree: Tree): Map<string, string> {
  const ends = new Map<string, { read: boolean; write: boolean; at: string }>();
  for (const task of tree.tasks) {
    for (const file of task.files) {
      if (!file.link.startsWith("pipe:[")) continue;
      const end = ends.get(file.link) ?? { read: false, write: false, at: `${taskName(task)}, descriptor ${file.fd}` };
      const mode = file.info.flags & ACCESS_MODE;
      if (mode !== 1) end.read = true;
      if (mode !== 0) end.write = true;
      ends.set(file.link, end);
    }
  }
  return new Map([...ends].filter(([, end]) => !(end.read && end.write)).map(([link, end]) => [link, end.at]));
}

export function checkPipes(half: ReadonlyMap<string, string>, holders: ReadonlyMap<string, string>): Finding[] {
  return [...half].flatMap(([link, at]) => {
    const holder = holders.get(link);
    if (holder === undefined) return [];
    return [
      block(
        "pipe",
        `${at}: the other end of ${link} is held by ${holder}, outside of the workload; the pipe would be cut`,
        "start it with standard streams in files (`ferry run` does so)",
      ),
    ];
  });
}

/** Locks held by the tree. They move when the engine is told to (`--file-locks`); nobody outside may share them. */
export function checkLocks(tree: Tree, engineMovesLocks: boolean): Finding[] {
  const held = tree.tasks.flatMap((task) =>
    task.files.filter((file) => file.info.locks.length > 0).map((file) => `${taskName(task)}: ${shown(file.link)}`),
  );
  if (held.length === 0) return [];
  const what = `file locks are held: ${listText([...new Set(held)])}`;
  if (engineMovesLocks) return [info("file locks", `${what}; they move (criu --file-locks)`)];
  return [block("file locks", what, "let the program release its locks before the move")];
}
