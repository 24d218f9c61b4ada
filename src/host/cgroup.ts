/**
 * One cgroup of a workload, whatever the machine's layout is: pure cgroup v2 (production), or "hybrid" (v1 controllers for
 * memory and cpu beside a v2 tree without controllers). Freeze, kill and events always come from the v2 tree; limits come from
 * v2 when the controller is there, else from v1.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ferryError } from "../model/failure.js";
import { parseMountinfo } from "./procfs.js";

export interface CgroupLayout {
  /** Mount point of the v2 tree. */
  unified: string;
  /** Mount points of the v1 hierarchies that limits need, where v2 lacks the controller. */
  memory?: string;
  cpu?: string;
}

export interface CgroupLimits {
  memoryBytes?: number;
  /** Cores: 1.5 is one and a half. */
  cpus?: number;
}

/** How this machine's cgroups are laid out. Throws E_TOOL when there is no v2 tree that can freeze and kill. */
export function cgroupLayout(mountinfo = readFileSync("/proc/self/mountinfo", "utf8")): CgroupLayout {
  const mounts = parseMountinfo(mountinfo);
  const unified = mounts.findLast((m) => m.fsType === "cgroup2")?.point;
  if (unified === undefined) {
    throw ferryError("E_TOOL", "no cgroup v2 tree is mounted: workloads can't be frozen or killed as a whole", {
      remedy: "mount one: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
    });
  }
  const controllers = readFileSync(join(unified, "cgroup.controllers"), "utf8").trim().split(" ");
  const v1 = (name: string): string | undefined =>
    controllers.includes(name)
      ? undefined
      : mounts.findLast((m) => m.fsType === "cgroup" && m.superOptions.split(",").includes(name))?.point;
  const memory = v1("memory");
  const cpu = v1("cpu");
  return { unified, ...(memory === undefined ? {} : { memory }), ...(cpu === undefined ? {} : { cpu }) };
}

const errno = (error: unknown): string => String((error as NodeJS.ErrnoException).code);
const GONE = ["ENOENT", "ENODEV"];

export class Cgroup {
  private readonly layout: CgroupLayout;
  /** Path below the mount points, e.g. `ferry/redis.3`. */
  readonly path: string;

  constructor(layout: CgroupLayout, path: string) {
    this.layout = layout;
    this.path = path;
  }

  /** The v2 directory. */
  get dir(): string {
    return join(this.layout.unified, this.path);
  }
  private get dirs(): string[] {
    const roots = [this.layout.unified, this.layout.memory, this.layout.cpu].filter((root) => root !== undefined);
    return [...new Set(roots)].map((root) => join(root, this.path));
  }
  /** Files to write a pid into so that it is a member in every hierarchy; the v2 one first. */
  get procsFiles(): string[] {
    return this.dirs.map((dir) => join(dir, "cgroup.procs"));
  }
  get exists(): boolean {
    return existsSync(this.dir);
  }

  /** Makes it in every hierarchy and sets the limits. Idempotent. Throws E_START when a limit can't be set. */
  create(limits: CgroupLimits): void {
    this.handDown(limits);
    for (const dir of this.dirs) mkdirSync(dir, { recursive: true });
    if (limits.memoryBytes !== undefined) {
      this.set("memory", "memory.max", "memory.limit_in_bytes", String(Math.floor(limits.memoryBytes)));
    }
    if (limits.cpus !== undefined) {
      const period = 100_000;
      const quota = String(Math.max(1000, Math.round(limits.cpus * period)));
      if (this.layout.cpu === undefined) this.set("cpu", "cpu.max", "", `${quota} ${period}`);
      else {
        this.set("cpu", "", "cpu.cfs_period_us", String(period));
        this.set("cpu", "", "cpu.cfs_quota_us", quota);
      }
    }
  }

  /**
   * Takes `percent` off the CPU time that it may use: of `cpus`, or of all of the machine's. 0 puts back what was before.
   * Throws E_TOOL when the node can't limit CPU time.
   */
  throttle(cpus: number | undefined, percent: number): void {
    if (!this.exists) return;
    const period = 100_000;
    const share = Math.max(1000, Math.round((cpus ?? availableParallelism()) * period * (1 - percent / 100)));
    const unlimited = percent === 0 && cpus === undefined;
    try {
      if (this.layout.cpu === undefined) {
        const file = join(this.dir, "cpu.max");
        // Never limited, and the controller is not there: there is nothing to lift.
        if (unlimited && !existsSync(file)) return;
        if (!existsSync(file)) this.handDown({ cpus: 1 });
        writeFileSync(file, `${unlimited ? "max" : share} ${period}`);
      } else {
        const dir = join(this.layout.cpu, this.path);
        if (!existsSync(dir)) return;
        writeFileSync(join(dir, "cpu.cfs_period_us"), String(period));
        writeFileSync(join(dir, "cpu.cfs_quota_us"), String(unlimited ? -1 : share));
      }
    } catch (error) {
      if (GONE.includes(errno(error)) && !this.exists) return;
      throw ferryError("E_TOOL", `this node can't limit the CPU time of ${this.path}: ${errno(error)}`, {
        remedy: "use another --on-stall than throttle, or let this node's cgroups have the cpu controller",
      });
    }
  }

  /** v2: hand the controllers that limits need down from the root to our parent. */
  private handDown(limits: CgroupLimits): void {
    const wanted = [
      ...(limits.memoryBytes !== undefined && this.layout.memory === undefined ? ["memory"] : []),
      ...(limits.cpus !== undefined && this.layout.cpu === undefined ? ["cpu"] : []),
    ];
    if (wanted.length === 0) return;
    const above: string[] = [];
    for (let at = dirname(this.path); at !== "." && at !== "/"; at = dirname(at)) above.unshift(at);
    let dir = this.layout.unified;
    for (const next of ["", ...above]) {
      dir = join(this.layout.unified, next);
      mkdirSync(dir, { recursive: true });
      for (const name of wanted) {
        if (readFileSync(join(dir, "cgroup.subtree_control"), "utf8").trim().split(" ").includes(name)) continue;
        try {
          writeFileSync(join(dir, "cgroup.subtree_control"), `+${name}`);
        } catch (error) {
          throw this.limitError(name, join(dir, "cgroup.subtree_control"), error);
        }
      }
    }
  }

  private set(controller: "memory" | "cpu", v2: string, v1: string, value: string): void {
    const root = this.layout[controller];
    const file = root === undefined ? join(this.dir, v2) : join(root, this.path, v1);
    try {
      writeFileSync(file, value);
    } catch (error) {
      throw this.limitError(controller, file, error);
    }
  }

  private limitError(controller: string, file: string, error: unknown): Error {
    return ferryError(
      "E_START",
      `the ${controller} limit can't be set on this node: writing ${file}: ${errno(error)}`,
      {
        remedy: `start the workload without the ${controller} limit, or let this node's cgroups have the ${controller} controller`,
      },
    );
  }

  private read(file: string): string {
    try {
      return readFileSync(join(this.dir, file), "utf8");
    } catch (error) {
      if (GONE.includes(errno(error))) return "";
      throw error;
    }
  }

  /** Pids in it, as this process sees them (members of other pid namespaces that we can't see are left out). */
  pids(): number[] {
    return this.read("cgroup.procs")
      .split("\n")
      .map(Number)
      .filter((pid) => pid > 0);
  }
  get populated(): boolean {
    return this.read("cgroup.events").includes("populated 1");
  }
  get frozen(): boolean {
    return this.read("cgroup.events").includes("frozen 1");
  }
  /** Freezing was asked for: stays true when everything in it has been killed. */
  get freezing(): boolean {
    return this.read("cgroup.freeze").trim() === "1";
  }

  /** Anonymous and shared memory in use, in bytes; without the page cache. 0 when it does not exist. */
  memoryBytes(): number {
    const root = this.layout.memory ?? this.layout.unified;
    let text;
    try {
      text = readFileSync(join(root, this.path, "memory.stat"), "utf8");
    } catch {
      return 0;
    }
    const names = this.layout.memory === undefined ? ["anon", "shmem"] : ["rss", "shmem"];
    let sum = 0;
    for (const line of text.split("\n")) {
      const [name = "", value = "0"] = line.split(" ");
      if (names.includes(name)) sum += Number(value);
    }
    return sum;
  }

  /** Processor time that its processes have used so far, in milliseconds. 0 when it does not exist. */
  cpuMs(): number {
    const match = /^usage_usec (\d+)$/m.exec(this.read("cpu.stat"));
    return match?.[1] === undefined ? 0 : Number(match[1]) / 1000;
  }

  /** Lets it run again. Fine when it does not exist. */
  thaw(): void {
    if (this.exists) writeFileSync(join(this.dir, "cgroup.freeze"), "0");
  }

  /**
   * SIGKILL to everything in it, frozen or not. Fine when it does not exist. Does not wait.
   * Before Linux 5.14 (no cgroup.kill) each process is killed by pid, until none is left.
   */
  kill(): void {
    if (!this.exists) return;
    try {
      writeFileSync(join(this.dir, "cgroup.kill"), "1");
    } catch (error) {
      if (GONE.includes(errno(error)) && !this.exists) return;
      for (const pid of this.pids()) {
        try {
          process.kill(pid, "SIGKILL");
        } catch (failed) {
          if (errno(failed) !== "ESRCH") throw failed;
        }
      }
    }
  }

  /** Waits until no process is in it. Throws E_STUCK naming the processes that do not end. */
  async empty(timeoutMs: number): Promise<void> {
    const end = performance.now() + timeoutMs;
    while (this.populated) {
      if (performance.now() > end) {
        throw ferryError("E_STUCK", `processes of ${this.path} do not end: ${this.pids().join(", ")}`, {
          remedy: "see what they wait for (cat /proc/PID/stack); they were sent SIGKILL",
        });
      }
      await sleep(2);
    }
  }

  /** Removes it (it must be empty) from every hierarchy, with anything made below it. */
  async remove(): Promise<void> {
    for (const dir of this.dirs) {
      // A killed process leaves its v1 cgroups a moment after the v2 events say so.
      for (let tries = 0; ; tries++) {
        try {
          removeTree(dir);
          break;
        } catch (error) {
          if (errno(error) !== "EBUSY" || tries > 500) throw error;
          await sleep(4);
        }
      }
    }
  }
}

function removeTree(dir: string): void {
  let below: string[];
  try {
    below = readdirSync(dir, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  } catch (error) {
    if (GONE.includes(errno(error))) return;
    throw error;
  }
  for (const name of below) removeTree(join(dir, name));
  try {
    rmdirSync(dir);
  } catch (error) {
    if (!GONE.includes(errno(error))) throw error;
  }
}

/** Names of the cgroups directly below `parent`, in any hierarchy. */
export function childCgroups(layout: CgroupLayout, parent: string): string[] {
  const names = new Set<string>();
  for (const root of [layout.unified, layout.memory, layout.cpu]) {
    if (root === undefined || !existsSync(join(root, parent))) continue;
    for (const entry of readdirSync(join(root, parent), { withFileTypes: true })) {
      if (entry.isDirectory()) names.add(entry.name);
    }
  }
  return [...names];
}
