/**
 * Which capabilities each of Ferry's root processes keeps (docs/security.md has the table). They are taken away by `setpriv`
 * in front of the program, as a bounding set: what a process starts can't get them back. None gains any by an exec.
 */

/** Nobody needs these: modules, raw I/O, rebooting, kernel logs, labels, audit rules, performance counters, BPF. */
const NEVER = [
  "sys_module",
  "sys_rawio",
  "sys_boot",
  "syslog",
  "sys_pacct",
  "sys_tty_config",
  "linux_immutable",
  "mac_admin",
  "mac_override",
  "audit_control",
  "audit_read",
  "wake_alarm",
  "block_suspend",
  "net_broadcast",
  "perfmon",
  "bpf",
];

/**
 * `agent`: and with it criu, the hooks, `ip` and `nft`, which mount, make namespaces and give workloads their users.
 * `mover`: files with their owners and attributes (rsync; trusted ones need sys_admin), memory of other processes, and what
 * it has to hand on. `pageDaemon`: descriptors that criu gave it, and those of its own guard. `tracer`: stops threads of the
 * workload and runs system calls in them; sys_admin sets a seccomp filter aside that would kill for one. `worker`: none.
 */
export const BOUNDING_SETS = {
  agent: NEVER.map((name) => `-${name}`).join(","),
  mover:
    "-all,+chown,+dac_override,+dac_read_search,+fowner,+fsetid,+kill,+mknod,+setfcap,+setpcap,+ipc_lock,+sys_admin,+sys_nice,+sys_ptrace,+sys_resource",
  pageDaemon: "-all,+ipc_lock,+sys_nice,+sys_ptrace,+sys_resource",
  tracer: "-all,+dac_override,+sys_admin,+sys_nice,+sys_ptrace",
  worker: "-all",
} as const;

export const SETPRIV = "/usr/bin/setpriv";

/** What stands in front of a program that is to run so. */
export const setprivArgs = (part: keyof typeof BOUNDING_SETS): string[] => [
  "--no-new-privs",
  "--inh-caps=-all",
  `--bounding-set=${BOUNDING_SETS[part]}`,
];
