/** Processes by identity: a pid alone may be somebody else's by now, a pid with its start time never is. */
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

export interface ProcessId {
  pid: number;
  /** Field 22 of /proc/<pid>/stat, clock ticks since boot. */
  startTicks: number;
}

/** Reads a line of /proc/<pid>/stat. undefined when it is not one. */
export function parseProcessId(stat: string): (ProcessId & { state: string }) | undefined {
  const open = stat.indexOf("(");
  const close = stat.lastIndexOf(")");
  if (open < 0 || close < open) return undefined;
  const pid = Number(stat.slice(0, open).trim());
  const fields = stat
    .slice(close + 1)
    .trim()
    .split(" ");
  const startTicks = Number(fields[19]);
  if (!Number.isSafeInteger(pid) || pid <= 0 || !Number.isSafeInteger(startTicks)) return undefined;
  return { pid, startTicks, state: fields[0] ?? "" };
}

/** Identity of a living process (a zombie is not one). */
export function processId(pid: number): ProcessId | undefined {
  let text;
  try {
    text = readFileSync(`/proc/${pid}/stat`, "utf8");
  } catch {
    return undefined;
  }
  const id = parseProcessId(text);
  return id === undefined || id.state === "Z" || id.state === "X"
    ? undefined
    : { pid: id.pid, startTicks: id.startTicks };
}

export const isAlive = (id: ProcessId): boolean => processId(id.pid)?.startTicks === id.startTicks;

/**
 * Pid of a process in each pid namespace that it is in, from ours inwards ("NSpid" of /proc/<pid>/status).
 * undefined when it has gone. One entry: it is in our own namespace.
 */
export function namespacePids(pid: number): number[] | undefined {
  let text;
  try {
    text = readFileSync(`/proc/${pid}/status`, "utf8");
  } catch {
    return undefined;
  }
  const match = /^NSpid:\t(.+)$/m.exec(text);
  const state = /^State:\t(\S)/m.exec(text)?.[1];
  if (match?.[1] === undefined || state === "Z" || state === "X") return undefined;
  return match[1].trim().split(/\s+/).map(Number);
}

/** SIGKILL to a whole process group, if its leader is still the process we mean. Says whether anything was sent. */
export function killGroup(leader: ProcessId): boolean {
  if (!isAlive(leader)) return false;
  try {
    process.kill(-leader.pid, "SIGKILL");
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return false;
    throw error;
  }
}

const GROUP_POLL_MS = 2;

/** Resolves when no process of the group is left, or after `timeoutMs`: what waits in the kernel dies when it is done there. */
export async function groupEnded(pgid: number, timeoutMs: number): Promise<void> {
  for (const end = performance.now() + timeoutMs; performance.now() < end;) {
    try {
      process.kill(-pgid, 0);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ESRCH") return;
      throw error;
    }
    await sleep(GROUP_POLL_MS);
  }
}

/** Bit of CAP_SYS_RESOURCE in the capability masks of /proc/<pid>/status. */
const CAP_SYS_RESOURCE = 24n;

/** Does this process have CAP_SYS_RESOURCE? Root in many containers does not. */
export function hasSysResource(status = readFileSync("/proc/self/status", "utf8")): boolean {
  const mask = /^CapEff:\t([0-9a-f]+)$/m.exec(status)?.[1];
  return mask !== undefined && ((BigInt(`0x${mask}`) >> CAP_SYS_RESOURCE) & 1n) === 1n;
}
