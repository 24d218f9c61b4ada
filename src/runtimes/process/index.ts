/** The process runtime: a tree of processes in namespaces of its own, moved by criu. */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync, existsSync } from "node:fs";
import { z } from "zod";
import { AddressClaim } from "../../host/address-claim.js";
import { Announcer } from "../../host/announce.js";
import { childCgroups } from "../../host/cgroup.js";
import { frameAddress, FrameSocket } from "../../host/frame-socket.js";
import { FrameKeeper as KeptFrames } from "../../host/kept-frames.js";
import { createNetwork, listNetworks, removeNetwork, setLink } from "../../host/netns.js";
import { packetsOf } from "../../host/net-counters.js";
import { killGroup } from "../../host/proc.js";
import { bareIp } from "../../model/address.js";
import { ferryError } from "../../model/failure.js";
import type { WorkloadSpec } from "../../model/workload.js";
import type { EngineHandle, FrameDoor, FrameKeeper, Incarnation, OperationDirs, Runtime } from "../runtime.js";
import { Engine } from "./engine.js";
import { dumpDir, freeze, takeBack } from "./freeze.js";
import { launch } from "./launch.js";
import { rootPid, treePids } from "./observe.js";
import { Places, type Parts, type ProcessRuntimeConfig } from "./places.js";
import { prepare, release, restore, restoreDir } from "./restore.js";

export type { ProcessRuntimeConfig } from "./places.js";

const announcerSchema = z.strictObject({ pid: z.int().positive(), startTicks: z.int() }).nullable();

/** Killed processes have this long to end (a process in an uninterruptible wait may need it). */
const KILL_MS = 20_000;
const NAMED = /^([a-z0-9](?:[a-z0-9-]*[a-z0-9])?)\.([1-9]\d*)$/;

interface Name {
  name: string;
  epoch: number;
}

function demandFree({ takenBy }: AddressClaim, { name, network }: WorkloadSpec): void {
  if (takenBy === undefined) return;
  throw ferryError("E_START", `${name} did not start: its address ${bareIp(network.ip)} is in use by ${takenBy}`, {
    workload: name,
    remedy: "give another address with --ip, or stop what uses this one",
  });
}

/** Throws E_TOOL when the machine has no cgroup v2 tree. */
export const createProcessRuntime = (config: ProcessRuntimeConfig): Runtime => new ProcessRuntime(config);

class ProcessRuntime implements Runtime {
  private readonly places: Places;
  private readonly announcers = new Map<string, Announcer>();

  constructor(config: ProcessRuntimeConfig) {
    this.places = new Places(config);
  }

  async start(incarnation: Incarnation): Promise<{ pid: number; exitCode?: number }> {
    const { spec, epoch } = incarnation;
    const parts = this.places.parts(spec.name, epoch);
    if (parts.cgroup.populated) {
      throw ferryError("E_STATE", `${spec.name} of epoch ${epoch} has processes already`, { workload: spec.name });
    }
    const address = bareIp(spec.network.ip);
    const claim = await AddressClaim.take(this.places.config.bridge, address);
    try {
      demandFree(claim, spec);
      return await this.startAt(incarnation, parts, claim);
    } finally {
      claim.close();
    }
  }

  /** The address is held until the workload's own link is up. */
  private async startAt(incarnation: Incarnation, parts: Parts, claim: AddressClaim): ReturnType<Runtime["start"]> {
    const { spec, epoch } = incarnation;
    const fresh = !existsSync(parts.volume.data);
    try {
      mkdirSync(parts.dir, { recursive: true, mode: 0o700 });
      parts.cgroup.create(spec.limits);
      await createNetwork(parts.network, spec.network, this.places.config.bridge, this.places.hook("netns.sh"));
      demandFree(claim, spec);
      // Up before the program starts: it may want the network at once.
      await setLink(parts.network.link, "up");
      claim.close();
      const started = await launch(this.places, parts, spec);
      this.announcer(incarnation, parts).announce();
      return started;
    } catch (error) {
      await this.destroy({ name: spec.name, epoch });
      // The log says why; it goes with the workload (`ferry rm`).
      if (fresh)
        for (const dir of [parts.volume.root, parts.volume.data, parts.volume.named])
          rmSync(dir, { recursive: true, force: true });
      throw error;
    }
  }

  observe({ name, epoch }: Name): Promise<{ processes: number; pid?: number; frozen: boolean; memoryBytes: number }> {
    const parts = this.places.parts(name, epoch);
    const tree = treePids(parts);
    const pid = tree.find(({ inside }) => inside === 1)?.pid;
    return Promise.resolve({
      processes: tree.length,
      ...(pid === undefined ? {} : { pid }),
      frozen: parts.cgroup.frozen,
      memoryBytes: parts.cgroup.memoryBytes(),
    });
  }

  activity({ name, epoch }: Name): Promise<{ packets: number; cpuMs: number } | undefined> {
    const parts = this.places.parts(name, epoch);
    const pid = rootPid(parts);
    const packets = pid === undefined ? undefined : packetsOf(pid);
    return Promise.resolve(packets === undefined ? undefined : { packets, cpuMs: parts.cgroup.cpuMs() });
  }

  pids({ name, epoch }: Name): Promise<Record<string, number>> {
    const tree = treePids(this.places.parts(name, epoch));
    return Promise.resolve(Object.fromEntries(tree.map(({ pid, inside }) => [String(inside), pid])));
  }

  async throttle({ spec, epoch }: Incarnation, percent: number): Promise<void> {
    await Promise.resolve(this.places.parts(spec.name, epoch).cgroup.throttle(spec.limits.cpus, percent));
  }

  freeze(incarnation: Incarnation, dirs: OperationDirs): Promise<EngineHandle> {
    return freeze(this.places, incarnation, dirs);
  }
  adoptFreeze(dirs: OperationDirs): EngineHandle | undefined {
    return Engine.adopt(dumpDir(dirs));
  }
  takeBack(incarnation: Incarnation, dirs: OperationDirs): Promise<void> {
    return takeBack(this.places, incarnation, dirs);
  }

  async destroy({ name, epoch }: Name, dirs?: OperationDirs): Promise<void> {
    const parts = this.places.parts(name, epoch);
    const engines = new Set<string>(dirs === undefined ? [] : [dumpDir(dirs), restoreDir(dirs)]);
    if (existsSync(parts.enginePointer)) engines.add(readFileSync(parts.enginePointer, "utf8"));
    // The cut comes first: what dies must not say so to its peers.
    await setLink(parts.network.link, "down").catch(() => undefined);
    // The tree before criu: a criu that dies first would let an unfrozen tree go.
    parts.cgroup.kill();
    for (const dir of engines) await Engine.adopt(dir)?.kill();
    await parts.cgroup.empty(KILL_MS);
    await this.endAnnouncer(parts);
    await removeNetwork(parts.network);
    await parts.cgroup.remove();
    rmSync(parts.work, { recursive: true, force: true });
    rmSync(parts.dir, { recursive: true, force: true });
  }

  async stop({ name, epoch }: Name, graceMs: number): Promise<void> {
    const parts = this.places.parts(name, epoch);
    const pid = rootPid(parts);
    if (pid !== undefined && !parts.cgroup.freezing) {
      try {
        process.kill(pid, "SIGTERM");
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
      }
      await parts.cgroup.empty(graceMs).catch(() => undefined);
    }
    await this.destroy({ name, epoch });
  }

  async prepare(incarnation: Incarnation, dirs: OperationDirs): Promise<void> {
    await prepare(this.places, incarnation, dirs);
    this.announcer(incarnation, this.places.parts(incarnation.spec.name, incarnation.epoch));
  }
  restore(incarnation: Incarnation, dirs: OperationDirs): Promise<EngineHandle> {
    return restore(this.places, incarnation, dirs);
  }
  adoptRestore(dirs: OperationDirs): EngineHandle | undefined {
    return Engine.adopt(restoreDir(dirs));
  }
  release(incarnation: Incarnation, dirs: OperationDirs): Promise<{ resumedAt: number }> {
    return release(incarnation, dirs);
  }

  keepFrames({ spec, epoch }: Incarnation): FrameKeeper {
    const { network } = this.places.parts(spec.name, epoch);
    return new KeptFrames(this.places.config.bridge, network.link, frameAddress(spec.network));
  }
  frameDoor({ spec, epoch }: Incarnation): FrameDoor {
    return new FrameSocket(this.places.parts(spec.name, epoch).network.link);
  }

  async openNetwork(incarnation: Incarnation): Promise<void> {
    const parts = this.places.parts(incarnation.spec.name, incarnation.epoch);
    await setLink(parts.network.link, "up");
    this.announcer(incarnation, parts).announce();
    this.announcers.delete(parts.network.netns);
  }

  populated(): (Name & { cgroup: string })[] {
    return childCgroups(this.places.layout, this.places.config.cgroupParent).flatMap((key) => {
      const match = NAMED.exec(key);
      if (match?.[1] === undefined) return [];
      const [name, epoch] = [match[1], Number(match[2])];
      const { cgroup } = this.places.parts(name, epoch);
      return cgroup.populated ? [{ name, epoch, cgroup: cgroup.dir }] : [];
    });
  }

  async sweep(keep: (name: string, epoch: number) => boolean): Promise<string[]> {
    const found = new Map<string, Name>();
    const add = (name: string, epoch: number): void => {
      found.set(`${name}.${epoch}`, { name, epoch });
    };
    const keys = childCgroups(this.places.layout, this.places.config.cgroupParent);
    if (existsSync(this.places.incarnationsDir)) keys.push(...readdirSync(this.places.incarnationsDir));
    for (const key of keys) {
      const match = NAMED.exec(key);
      if (match?.[1] !== undefined) add(match[1], Number(match[2]));
    }
    for (const { workload, epoch } of listNetworks()) add(workload, epoch);
    const swept: string[] = [];
    for (const [key, { name, epoch }] of found) {
      if (keep(name, epoch)) continue;
      await this.destroy({ name, epoch });
      swept.push(key);
    }
    return swept;
  }

  /** The announcer of an incarnation, started if there is none. */
  private announcer(incarnation: Incarnation, parts: Parts): Announcer {
    const { network } = incarnation.spec;
    const before = this.announcers.get(parts.network.netns);
    if (before?.usable === true) return before;
    const address = bareIp(network.ip);
    const announcer = new Announcer(parts.network.netns, network.mac, [address]);
    this.announcers.set(parts.network.netns, announcer);
    mkdirSync(parts.dir, { recursive: true, mode: 0o700 });
    writeFileSync(parts.announcerPid, JSON.stringify(announcer.id ?? null), { mode: 0o600 });
    return announcer;
  }

  /** Also that of an agent that has died: it would go on announcing for some seconds. */
  private async endAnnouncer(parts: Parts): Promise<void> {
    await this.announcers.get(parts.network.netns)?.stop();
    this.announcers.delete(parts.network.netns);
    if (!existsSync(parts.announcerPid)) return;
    let raw: unknown;
    try {
      raw = JSON.parse(readFileSync(parts.announcerPid, "utf8"));
    } catch {
      // Cut while it was written: an announcer ends by itself.
      return;
    }
    const id = announcerSchema.safeParse(raw);
    if (id.success && id.data !== null) killGroup(id.data);
  }
}
