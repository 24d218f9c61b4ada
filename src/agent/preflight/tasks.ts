/** Checks on the processes themselves: alive, one tree, sessions, tracers, namespaces, states. Pure over a Tree. */
import { shown } from "../../host/procfs.js";
import type { Finding } from "../../model/plan.js";
import { finder, listText } from "./findings.js";
import { NAMESPACE_KINDS, type NamespaceKind, type Task, type Tree } from "./tree.js";

const { block, warn, info } = finder("source");

/** "redis-server (pid 7)": the pid as the workload knows it. */
export const taskName = (task: Task): string => `${shown(task.stat.comm)} (pid ${task.vpid})`;

/** The last of a list of numbers such as "4711\t7": the id in the innermost namespace. */
const innermost = (value: string | undefined): number => Number((value ?? "").trim().split(/\s+/).at(-1) ?? Number.NaN);

export function checkTree(tree: Tree): Finding[] {
  const { tasks, root } = tree;
  if (tasks.length === 0 || root === undefined) {
    return [
      block("processes", "no process of the workload is alive", "look at its log (`ferry logs`), then start it again"),
    ];
  }
  const findings: Finding[] = [];
  const inside = new Set(tasks.map((task) => task.pid));
  const orphans = tasks.filter((task) => task !== root && !inside.has(task.stat.ppid));
  if (orphans.length > 0) {
    findings.push(
      block(
        "process tree",
        `${listText(orphans.map(taskName))}: the parent is outside of the workload's tree, the engine would leave it behind`,
        "start helpers from the workload's own processes, not from outside (nsenter, exec)",
      ),
    );
  }
  if (root.stat.state === "Z") {
    findings.push(block("processes", `the root process ${taskName(root)} has ended`, "start the workload again"));
  }
  return [...findings, ...checkSessions(tree), ...checkTracers(tasks), ...checkStates(tasks), ...checkSeccomp(tasks)];
}

function checkSessions({ tasks, root }: Tree): Finding[] {
  const findings: Finding[] = [];
  // Session 0 inside the namespace: its leader can't be named there, so it is outside.
  const outside = tasks.filter((task) => {
    const session = innermost(task.status.get("NSsid"));
    return (
      session === 0 || (task === root && task.stat.state !== "Z" && session !== innermost(task.status.get("NSpid")))
    );
  });
  if (outside.length > 0) {
    findings.push(
      block(
        "session",
        `${listText(outside.map(taskName))}: the session leader is outside of the workload`,
        "start the workload in a session of its own (setsid); `ferry run` does so",
      ),
    );
  }
  return findings;
}

function checkTracers(tasks: readonly Task[]): Finding[] {
  return tasks
    .filter((task) => Number(task.status.get("TracerPid") ?? 0) !== 0)
    .map((task) =>
      block(
        "ptrace",
        `${taskName(task)} is traced by process ${task.status.get("TracerPid") ?? "?"} of the node: only one tracer can hold a process, and the engine needs to`,
        "detach the debugger or strace, then migrate",
      ),
    );
}

function checkStates(tasks: readonly Task[]): Finding[] {
  const findings: Finding[] = [];
  const stuck = tasks.filter((task) => task.blockedThreads > 0);
  if (stuck.length > 0) {
    findings.push(
      warn(
        "uninterruptible",
        `${listText(stuck.map(taskName))}: waits in the kernel (state D); the freeze waits until that is over`,
        "if it stays so (dead disk or network file system), repair that first",
      ),
    );
  }
  const zombies = tasks.filter((task) => task.stat.state === "Z").length;
  if (zombies > 0)
    findings.push(info("zombies", `${zombies} ended processes wait for their parent; they move as they are`));
  return findings;
}

function checkSeccomp(tasks: readonly Task[]): Finding[] {
  const strict = tasks.filter((task) => task.status.get("Seccomp") === "1");
  const filtered = tasks.filter((task) => task.status.get("Seccomp") === "2");
  const findings: Finding[] = [];
  if (strict.length > 0) {
    findings.push(
      warn(
        "seccomp",
        `${listText(strict.map(taskName))}: strict seccomp, the engine must suspend it to look inside`,
        "if the dump fails, run it without strict seccomp",
      ),
    );
  }
  if (filtered.length > 0)
    findings.push(info("seccomp", `${filtered.length} processes have seccomp filters; they move`));
  return findings;
}

const SPACE_NAMES: Record<NamespaceKind, string> = {
  mnt: "mount",
  pid: "PID",
  net: "network",
  user: "user",
  uts: "host name",
  ipc: "IPC",
  time: "time",
  cgroup: "cgroup",
};
/** Namespaces that the runtime makes for every workload. */
const REQUIRED: readonly NamespaceKind[] = ["mnt", "pid", "net"];
/**
 * Namespaces that must be the node's own. Not the time namespace: criu gives every restored tree one, so that its
 * monotonic clock goes on, and takes it along the next time.
 */
const SHARED: readonly NamespaceKind[] = ["user"];

export function checkNamespaces({ tasks, root, own }: Tree): Finding[] {
  if (root === undefined) return [];
  const findings: Finding[] = [];
  for (const kind of NAMESPACE_KINDS) {
    const rootSpace = root.namespaces[kind];
    if (rootSpace === undefined) continue;
    const nested = tasks.filter((task) => {
      const space = task.namespaces[kind];
      return space !== undefined && space !== rootSpace;
    });
    if (nested.length > 0) {
      const what = `${listText(nested.map(taskName))}: has a ${SPACE_NAMES[kind]} namespace of its own inside the workload`;
      const remedy = "run it without nested namespaces (no sandbox or container inside)";
      findings.push(
        kind === "cgroup" || kind === "uts" || kind === "ipc"
          ? warn("namespaces", `${what}; the engine may refuse it`, remedy)
          : block("namespaces", what, remedy),
      );
    }
    const same = own[kind] === rootSpace;
    if (REQUIRED.includes(kind) && same) {
      findings.push(
        block(
          "namespaces",
          `the workload shares the node's ${SPACE_NAMES[kind]} namespace: it can't be taken out of it`,
          "start it with `ferry run`, which gives it namespaces of its own",
        ),
      );
    }
    if (SHARED.includes(kind) && !same && own[kind] !== undefined) {
      findings.push(
        block(
          "namespaces",
          `the workload is in another ${SPACE_NAMES[kind]} namespace than the node; that does not move`,
          "start it with `ferry run`",
        ),
      );
    }
  }
  return findings;
}

/** Frozen before the engine has seized it: the dump would hang for ever. `frozen`: what the cgroup files say. */
export function checkFrozen(frozen: string | undefined): Finding[] {
  if (frozen === undefined) return [];
  return [
    block(
      "frozen",
      `the workload's cgroup is frozen (${frozen}): a dump of a frozen tree hangs`,
      "thaw it (write 0 to cgroup.freeze, or THAWED to freezer.state), or settle the operation that froze it",
    ),
  ];
}
