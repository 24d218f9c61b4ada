/** Where the process runtime keeps things, and the parts of an incarnation that are derived from its name. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Cgroup, cgroupLayout, type CgroupLayout } from "../../host/cgroup.js";
import { networkNames, type NetworkNames } from "../../host/netns.js";
import { packageRoot } from "../../host/package-root.js";
import { parseMountinfo } from "../../host/procfs.js";
import { ferryError } from "../../model/failure.js";
import { incarnation } from "../../model/names.js";
import type { VolumeSpec } from "../../model/volumes.js";
import type { WorkloadSpec } from "../../model/workload.js";
import { hiddenLayers } from "./hidden.js";

export type Log = (
  level: "debug" | "info" | "warn" | "error",
  message: string,
  fields?: Record<string, unknown>,
) => void;

export interface ProcessRuntimeConfig {
  /** Volumes: on a real file system (ext4, xfs, btrfs), not on an overlay. */
  stateDir: string;
  /** Scratch: on a tmpfs. */
  runDir: string;
  /** Cgroup below which incarnations live, relative to the mount points, e.g. `ferry` or `ferry-lab1/node-a`. */
  cgroupParent: string;
  /** The node's bridge. */
  bridge: string;
  /** Folder with the scripts (default: deploy/hooks of this package). */
  hooksDir?: string;
  /**
   * Lower layers of a workload's root, topmost first (default: `/`; on a node whose own root is an overlay: the directories
   * `/run/ferry-layers/0`, `1`, ... where whoever made the node has bound the layers of that overlay).
   */
  lowerDirs?: string[];
  /** Paths of the node that no workload sees, besides the usual ones (hidden.ts), `stateDir` and `runDir`. */
  hidden?: string[];
  /** The node's directory of a shared volume. Throws E_POLICY where the node has none of that name. Default: there are none. */
  sharedVolume?: (name: string) => string;
  /** false: dump all pages into the images (tests, kernels without userfaultfd). Default true. */
  lazyDump?: boolean;
  /** false: restore all pages from the images. Default true: `lazy-pages.socket` in the images directory answers. */
  lazyRestore?: boolean;
  log: Log;
}

/** Inside the workload. */
export const DATA_POINT = "/data";
export const LOG_POINT = "/run/ferry-log";
/** Names by which criu's images call what is not theirs: the same on every node. */
export const EXTERNAL_NET = "ferry-net";
export const EXTERNAL_DATA = "ferry-data";
export const EXTERNAL_LOG = "ferry-log";

export const LAYERS_DIR = "/run/ferry-layers";

export interface Volume {
  dir: string;
  /** Upper layer of the workload's root: what it has changed of the node's files. */
  root: string;
  data: string;
  log: string;
  logFile: string;
  /** Parent of the volumes of kind `copy`: they move like everything else in `dir`. */
  named: string;
}

/** One of the spec's volumes as this node has it. */
export interface Mounted extends VolumeSpec {
  /** On the node. */
  dir: string;
  /** What criu's images call it. */
  external: string;
}

/** Everything about one incarnation that follows from its name. */
export interface Parts {
  name: string;
  epoch: number;
  /** Scratch of the incarnation, on the tmpfs. */
  dir: string;
  /** Mount point of the root; something is mounted there only in the launcher's and criu's own mount namespaces. */
  mountPoint: string;
  /** Names the directory of the engine that holds or restores it. */
  enginePointer: string;
  /** Names the announcer's process. */
  announcerPid: string;
  /** overlayfs' work directory: not part of the volume, on the same file system. */
  work: string;
  volume: Volume;
  cgroup: Cgroup;
  network: NetworkNames;
}

export class Places {
  readonly config: ProcessRuntimeConfig;
  readonly layout: CgroupLayout;
  private layers: string[] | undefined;
  private hiddenDirs: string[] | undefined;

  constructor(config: ProcessRuntimeConfig) {
    this.config = config;
    this.layout = cgroupLayout();
  }

  hook(name: string): string {
    return join(this.config.hooksDir ?? join(packageRoot(), "deploy", "hooks"), name);
  }
  get incarnationsDir(): string {
    return join(this.config.runDir, "incarnations");
  }

  volume(name: string): Volume {
    const dir = join(this.config.stateDir, "volumes", name);
    const log = join(dir, "log");
    return {
      dir,
      root: join(dir, "root"),
      data: join(dir, "data"),
      log,
      logFile: join(log, "output.log"),
      named: join(dir, "volumes"),
    };
  }

  /** Throws E_POLICY for a shared volume that this node does not have. */
  mounted(spec: WorkloadSpec): Mounted[] {
    const { named } = this.volume(spec.name);
    return (spec.volumes ?? []).map((volume) => ({
      ...volume,
      dir: volume.kind === "copy" ? join(named, volume.name) : this.sharedDir(volume.name),
      external: `ferry-volume-${volume.name}`,
    }));
  }

  private sharedDir(name: string): string {
    if (this.config.sharedVolume !== undefined) return this.config.sharedVolume(name);
    throw ferryError("E_POLICY", `this node has no shared volume ${name}`);
  }

  parts(name: string, epoch: number): Parts {
    const key = incarnation(name, epoch);
    const dir = join(this.incarnationsDir, key);
    return {
      name,
      epoch,
      dir,
      mountPoint: join(dir, "root"),
      enginePointer: join(dir, "engine"),
      announcerPid: join(dir, "announcer"),
      work: join(this.config.stateDir, "overlay-work", key),
      volume: this.volume(name),
      cgroup: new Cgroup(this.layout, join(this.config.cgroupParent, key)),
      network: networkNames(name, epoch),
    };
  }

  /** Options of the overlay that is a workload's root. */
  overlayOptions(parts: Parts): string {
    const lower = [...this.hidden(), ...this.lowerDirs()];
    const layers = [...lower, parts.volume.root, parts.work];
    const odd = layers.find((path) => /[:,\\]/.test(path));
    if (odd !== undefined)
      throw ferryError("E_START", `${odd}: a path with ":", "," or "\\" can't be an overlay's layer`);
    return [
      `lowerdir=${lower.join(":")}`,
      `upperdir=${parts.volume.root}`,
      `workdir=${parts.work}`,
      // The upper layer is copied to other nodes: nothing in it may refer to this node's inodes or paths.
      "redirect_dir=off,index=off,metacopy=off,xino=off",
    ].join(",");
  }

  /** Made before it is needed: a restore is in a hurry. */
  hidden(): string[] {
    const { stateDir, runDir, hidden = [] } = this.config;
    // This node's own: the journal, and every workload's files.
    this.hiddenDirs ??= hiddenLayers(runDir, { gone: hidden, empty: [stateDir, runDir] });
    return this.hiddenDirs;
  }

  private lowerDirs(): string[] {
    if (this.config.lowerDirs !== undefined) return this.config.lowerDirs;
    this.layers ??= findLayers();
    return this.layers;
  }
}

/**
 * `/`, or the layers of `/` when that is an overlay itself: an overlay on an overlay runs, but criu can't dump it (files
 * mapped there show a mount that nobody has: "Can't lookup mount=132 for fd=-3").
 */
function findLayers(): string[] {
  const root = parseMountinfo(readFileSync("/proc/self/mountinfo", "utf8")).findLast((m) => m.point === "/");
  if (root?.fsType !== "overlay") return ["/"];
  const names = existsSync(LAYERS_DIR) ? readdirSync(LAYERS_DIR).filter((name) => /^\d+$/.test(name)) : [];
  if (names.length === 0) {
    throw ferryError(
      "E_START",
      "this node's root is an overlay and its layers are not known: workloads could not move",
      {
        remedy: `bind the layers of the root (upper first) to ${LAYERS_DIR}/0, ${LAYERS_DIR}/1, ... when the node is made`,
      },
    );
  }
  return names.sort((a, b) => Number(a) - Number(b)).map((name) => join(LAYERS_DIR, name));
}
