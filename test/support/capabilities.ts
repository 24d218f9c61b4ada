/** What /proc says of a process's privileges. */

/** By their numbers (linux/capability.h). */
const NAMES =
  "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore".split(
    " ",
  );

export interface Privileges {
  uid: number;
  effective: string[];
  bounding: string[];
  noNewPrivs: boolean;
}

/** @param status text of /proc/PID/status */
export function privilegesOf(status: string): Privileges {
  const field = (name: string): string => new RegExp(`^${name}:\\s+(\\S+)`, "m").exec(status)?.[1] ?? "";
  const set = (name: string): string[] => {
    const mask = BigInt(`0x${field(name)}`);
    return NAMES.filter((_, bit) => (mask & (1n << BigInt(bit))) !== 0n);
  };
  return {
    uid: Number(field("Uid")),
    effective: set("CapEff"),
    bounding: set("CapBnd"),
    noNewPrivs: field("NoNewPrivs") === "1",
  };
}

/** The names that a bounding set of model/privileges.ts keeps, of those that this machine's root has. */
export function keptBy(boundingSet: string, has: readonly string[]): string[] {
  const words = boundingSet.split(",");
  const all = !words.includes("-all");
  return has.filter((name) => (all ? !words.includes(`-${name}`) : words.includes(`+${name}`)));
}
