/** What is measured in which kind of run, and in which order. Pure. */
import { SYSTEMS, type Cell, type System } from "./model.js";

export interface Settings {
  systems: System[];
  /** MiB of the toucher, at REFERENCE's dirty rate. */
  sizes: number[];
  /** MB/s that the toucher dirties, at `rateMib`. */
  rates: number[];
  rateMib: number;
  /** Besides the unlimited link, at `linkMib`. */
  links: ("1gbit" | "none")[];
  linkMib: number;
  /** Besides the toucher, at `workloadMib`. */
  workloads: ("redis" | "postgres" | "none")[];
  workloadMib: number;
  /** Where given: only these get a first move that does not count, and are measured at other than `wide` sizes and loads. */
  few?: { systems: readonly System[]; wide: readonly number[] };
  repeats: number;
  /** Idle connections beside the counting one, in a move of pre-copy at 1 GiB, or at the largest size below. */
  idle: number;
  trackingRepeats: number;
  trackingSeconds: number;
}

export const FULL: Settings = {
  systems: [...SYSTEMS],
  sizes: [64, 256, 1024, 2048, 4096],
  rates: [0, 20, 80, 200, 500],
  rateMib: 512,
  links: ["1gbit"],
  linkMib: 256,
  workloads: ["redis", "postgres"],
  workloadMib: 256,
  repeats: 5,
  idle: 50,
  trackingRepeats: 5,
  trackingSeconds: 4,
};

/** Made for five minutes on a machine that does nothing else: no 4 GiB, each once, and at the edges only some systems. */
export const QUICK: Settings = {
  ...FULL,
  sizes: [64, 256, 1024],
  rates: [],
  links: [],
  workloads: ["redis"],
  few: { systems: ["ferry-precopy", "criu-cold", "criu-lazy", "podman"], wide: [256, 1024] },
  repeats: 1,
  trackingRepeats: 2,
  trackingSeconds: 2,
};

/** Systems whose curve over dirty rate, bandwidth or workload tells something; the others take as long as they take. */
const CURVES: readonly System[] = ["ferry-precopy", "ferry-hybrid", "ferry-postcopy", "criu-cold", "criu-lazy"];
/** podman and runc by hand move a container: PostgreSQL's files would have to be moved beside it by yet another script. */
const WITH_FILES = SYSTEMS.filter((system) => CURVES.includes(system) || system === "ferry-cold");
export const DIRTY_MB_PER_SEC = 80;
const WARM_UP_MIB = 64;

export interface Step {
  system: System;
  cell: Cell;
  repeat: number;
  /** The first move of each system does not count: code and caches are cold. */
  counts: boolean;
}

export function planOf(settings: Settings, systems: readonly System[]): Step[] {
  const toucher = (mib: number, dirtyMBPerSec: number, link: Cell["link"] = "unlimited"): Cell => ({
    workload: "toucher",
    mib,
    dirtyMBPerSec,
    link,
  });
  const { few } = settings;
  const fewer = (which: readonly System[]): readonly System[] =>
    few === undefined ? which : which.filter((system) => few.systems.includes(system));
  const steps: Step[] = fewer(systems).map((system) => ({
    system,
    cell: toucher(WARM_UP_MIB, 0),
    repeat: 0,
    counts: false,
  }));
  const add = (cell: Cell, which: readonly System[]): void => {
    for (let repeat = 1; repeat <= settings.repeats; repeat += 1) {
      for (const system of which) if (systems.includes(system)) steps.push({ system, cell, repeat, counts: true });
    }
  };
  for (const mib of settings.sizes) {
    add(toucher(mib, DIRTY_MB_PER_SEC), few?.wide.includes(mib) === false ? fewer(systems) : systems);
  }
  const idleMib = Math.max(0, ...settings.sizes.filter((mib) => mib <= 1024));
  if (settings.idle > 0 && idleMib > 0) {
    add({ ...toucher(idleMib, DIRTY_MB_PER_SEC), idle: settings.idle }, ["ferry-precopy"]);
  }
  for (const rate of settings.rates) add(toucher(settings.rateMib, rate), CURVES);
  for (const workload of settings.workloads) {
    if (workload === "none") continue;
    const cell: Cell = { workload, mib: settings.workloadMib, dirtyMBPerSec: 0, link: "unlimited" };
    add(cell, fewer(workload === "postgres" ? WITH_FILES : systems));
  }
  for (const link of settings.links) {
    if (link === "none") continue;
    // The unlimited link beside it, where no size has it already.
    if (!settings.sizes.includes(settings.linkMib)) add(toucher(settings.linkMib, DIRTY_MB_PER_SEC), systems);
    add(toucher(settings.linkMib, DIRTY_MB_PER_SEC, link), systems);
  }
  return steps;
}
