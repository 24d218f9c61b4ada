/**
 * Processes by pid and start time (a pid alone may have been given to another), and the file that says who holds the
 * userfaultfds of a store.
 */
import { readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { parseJson } from "../../host/issues.js";
import { ferryError } from "../../model/failure.js";

const processSchema = z.strictObject({ pid: z.int().positive(), startedAt: z.string().regex(/^\d+$/) });
export type ProcessId = z.infer<typeof processSchema>;

const holderSchema = z.strictObject({
  daemon: processSchema,
  guard: processSchema.nullable(),
  /** Position in the event log at which `fds` was right; later entries bring their own. */
  position: z.int().nonnegative(),
  listening: z.int(),
  connection: z.int(),
  /** Task number and its userfaultfd in the table that daemon and guard share. */
  tasks: z.array(z.tuple([z.int().positive(), z.int().nonnegative()])),
});
export type Holder = z.infer<typeof holderSchema>;

export const HOLDER_FILE = "holder.json";
export const CONTROL_SOCKET = "pages.sock";

/** State and start time (clock ticks since boot) of a process; undefined when there is none. */
function statOf(pid: number): { state: string; startedAt: string } | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    return undefined;
  }
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const [state, startedAt] = [fields[0], fields[19]];
  return state === undefined || startedAt === undefined ? undefined : { state, startedAt };
}

export function identify(pid: number): ProcessId | undefined {
  const stat = statOf(pid);
  return stat === undefined ? undefined : { pid, startedAt: stat.startedAt };
}

/** Whether this very process runs. A zombie does not: it holds nothing any more. */
export function isAlive(process: ProcessId): boolean {
  const stat = statOf(process.pid);
  return stat?.startedAt === process.startedAt && stat.state !== "Z" && stat.state !== "X";
}

/** SIGKILL, only to this very process. */
export function killProcess(target: ProcessId): void {
  if (!isAlive(target)) return;
  try {
    process.kill(target.pid, "SIGKILL");
  } catch {
    // gone in between
  }
}

/** Best effort: not to be the kernel's choice when memory runs out. Lowering it needs CAP_SYS_RESOURCE. */
export function shunOomKiller(pid: number): boolean {
  try {
    writeFileSync(`/proc/${pid}/oom_score_adj`, "-1000");
    return true;
  } catch {
    return false;
  }
}

export function writeHolder(dir: string, holder: Holder): void {
  const path = join(dir, HOLDER_FILE);
  writeFileSync(`${path}.new`, JSON.stringify(holder), { mode: 0o600 });
  renameSync(`${path}.new`, path);
}

/** undefined: nobody ever held this store's userfaultfds. Throws E_PAGES when the file is not one of ours. */
export function readHolder(dir: string): Holder | undefined {
  let text: string;
  try {
    text = readFileSync(join(dir, HOLDER_FILE), "utf8");
  } catch {
    return undefined;
  }
  const parsed = parseJson(text, holderSchema);
  if ("data" in parsed) return parsed.data;
  throw ferryError("E_PAGES", `${join(dir, HOLDER_FILE)} can't be read: ${parsed.why}`, {
    side: "destination",
    remedy: "the restored copy can't be completed: have it destroyed and restored again",
  });
}

/** Page daemons and guards of a store by their command line: also those that died or were born before they were noted. */
export function strays(dir: string, script: string): ProcessId[] {
  const found: ProcessId[] = [];
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const args = readFileSync(`/proc/${name}/cmdline`, "utf8").split("\0");
      const at = args.indexOf(script);
      if (at < 0 || args[at + 1] !== dir) continue;
    } catch {
      continue;
    }
    const process = identify(Number(name));
    if (process !== undefined) found.push(process);
  }
  return found;
}
