/**
 * An exclusive advisory lock on a file (flock(2)), held until the process ends. Node has no call for it; a lock file
 * with a pid in it would outlive a crash.
 */
import { openSync, readFileSync, statSync } from "node:fs";
import koffi from "koffi";

const LOCK_EX = 2;
const LOCK_NB = 4;

let flock: ((fd: number, operation: number) => number) | undefined;

/** The locked descriptor, or undefined when another process holds the lock. Keep it open for as long as the lock is needed. */
export function lockFile(path: string): number | undefined {
  flock ??= koffi.load("libc.so.6").func("int flock(int, int)") as (fd: number, operation: number) => number;
  const fd = openSync(path, "a", 0o600);
  return flock(fd, LOCK_EX | LOCK_NB) === 0 ? fd : undefined;
}

/** Pid of who holds a lock on this file, as far as /proc/locks tells (it does not across PID namespaces). For messages. */
export function lockHolder(path: string): number | undefined {
  try {
    const inode = statSync(path).ino;
    const line = readFileSync("/proc/locks", "utf8")
      .split("\n")
      .find((text) => /FLOCK/.test(text) && text.split(/\s+/)[5]?.endsWith(`:${inode}`));
    const pid = Number(line?.split(/\s+/)[4]);
    return pid > 0 ? pid : undefined;
  } catch {
    return undefined;
  }
}
