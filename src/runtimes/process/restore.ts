/** The destination's half: restore, hold, let run. */
import { existsSync, lstatSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { createNetwork, NETNS_DIR } from "../../host/netns.js";
import { ferryError } from "../../model/failure.js";
import { hasResumed, type Incarnation, type OperationDirs } from "../runtime.js";
import { Engine, makeFifoAt, startEngine, type EngineStart } from "./engine.js";
import { commonOptions, hookEnv } from "./freeze.js";
import { makeVolume } from "./launch.js";
import { treePids } from "./observe.js";
import { EXTERNAL_DATA, EXTERNAL_LOG, EXTERNAL_NET, type Places } from "./places.js";

const STANDS_BY_WITHIN_MS = 5_000;
const STANDS_BY_POLL_MS = 5;

export const restoreDir = (dirs: OperationDirs): string => join(dirs.run, "restore");

/** Everything that can be made before the images are here. Idempotent, also while a restored tree is held. */
export async function prepare(places: Places, incarnation: Incarnation, dirs: OperationDirs): Promise<void> {
  places.hidden();
  const { spec, epoch } = incarnation;
  const parts = places.parts(spec.name, epoch);
  mkdirSync(dirs.run, { recursive: true, mode: 0o700 });
  mkdirSync(parts.mountPoint, { recursive: true, mode: 0o700 });
  makeVolume(parts, places.mounted(spec));
  parts.cgroup.create(spec.limits);
  await createNetwork(parts.network, spec.network, places.config.bridge, places.hook("netns.sh"));
  await standBy(places, incarnation, dirs);
}

/** The image that criu opens first. */
const inventoryOf = (dirs: OperationDirs): string => join(dirs.images, "inventory.img");
const isFifo = (path: string): boolean => lstatSync(path, { throwIfNoEntry: false })?.isFIFO() === true;

/** Starts criu while nobody waits for it, up to its first image. Without one that stands by, `restore` starts it. */
async function standBy(places: Places, incarnation: Incarnation, dirs: OperationDirs): Promise<void> {
  const inventory = inventoryOf(dirs);
  // Once only: an engine that was there may hold the restored tree.
  let engine = Engine.adopt(restoreDir(dirs));
  if (engine === undefined) {
    mkdirSync(dirs.images, { recursive: true, mode: 0o700 });
    // A local restore has its images already.
    if (existsSync(inventory)) return;
    makeFifoAt(inventory);
    engine = await startEngine(engineOf(places, incarnation, dirs, true));
  }
  // The name is free when criu has opened the FIFO. Before that no image may come: criu would open that one.
  const end = performance.now() + STANDS_BY_WITHIN_MS;
  while (isFifo(inventory)) {
    if (engine.status().alive && performance.now() < end) {
      await sleep(STANDS_BY_POLL_MS);
      continue;
    }
    await engine.kill();
    rmSync(inventory, { force: true });
  }
}

/** `waiting`: it begins when it is told to. */
function engineOf(places: Places, incarnation: Incarnation, dirs: OperationDirs, waiting: boolean): EngineStart {
  const { spec, epoch } = incarnation;
  const parts = places.parts(spec.name, epoch);
  const dir = restoreDir(dirs);
  return {
    dir,
    wrapper: places.hook("engine.sh"),
    waiting,
    command: [
      "unshare",
      "--mount",
      "--propagation=private",
      "/bin/sh",
      places.hook("restore.sh"),
      waiting ? join(dir, "begin") : "-",
      inventoryOf(dirs),
      parts.mountPoint,
      places.overlayOptions(parts),
      join(NETNS_DIR, parts.network.netns),
      ...parts.cgroup.procsFiles,
      "--",
      "criu",
      "restore",
      "--restore-detached",
      ...commonOptions(places, dirs.images, join(dir, "log")),
      ...(incarnation.closeConnections === true ? ["--tcp-close"] : []),
      "--inherit-fd",
      `fd[9]:${EXTERNAL_NET}`,
      "--root",
      parts.mountPoint,
      "--external",
      `mnt[${EXTERNAL_DATA}]:${parts.volume.data}`,
      "--external",
      `mnt[${EXTERNAL_LOG}]:${parts.volume.log}`,
      ...places.mounted(spec).flatMap(({ external, dir: volume }) => ["--external", `mnt[${external}]:${volume}`]),
      ...(places.config.lazyRestore === false ? [] : ["--lazy-pages"]),
    ],
    env: hookEnv(parts, dir),
  };
}

export async function restore(places: Places, incarnation: Incarnation, dirs: OperationDirs): Promise<Engine> {
  const { spec, epoch } = incarnation;
  const parts = places.parts(spec.name, epoch);
  const dir = restoreDir(dirs);
  const before = Engine.adopt(dir);
  if (before?.status().alive === true && !before.waiting) return before;
  if (treePids(parts).length > 0) {
    throw ferryError("E_STATE", `${spec.name} of epoch ${epoch} has processes already: nothing is restored over them`, {
      side: "destination",
      workload: spec.name,
    });
  }
  // The volume came after prepare: its directories may have been replaced.
  makeVolume(parts, places.mounted(spec));
  writeFileSync(parts.enginePointer, dir, { mode: 0o600 });
  // One that was started ahead and is gone by now, or does not listen, is replaced.
  if (before?.waiting === true) {
    if (await before.begin()) return before;
    await before.kill();
  }
  return startEngine(engineOf(places, incarnation, dirs, false));
}

/** See Runtime.release. Asked again after it has run, and may have ended: says when that was. */
export async function release(incarnation: Incarnation, dirs: OperationDirs): Promise<{ resumedAt: number }> {
  const { spec } = incarnation;
  const engine = Engine.adopt(restoreDir(dirs));
  if (engine === undefined) {
    throw ferryError("E_RESTORE", `no restore of ${spec.name} is held on this node`, { side: "destination" });
  }
  let status = engine.status();
  if (status.alive) {
    // Told twice is harmless: the hook reads one line, and a second one finds nobody waiting.
    if (status.reached["post-resume"] === undefined) await engine.openGate(0);
    // Its last hook: everything runs. That criu then takes down its mount namespace and ends is nobody's business.
    status = await engine.wait((s) => s.reached["post-resume"] !== undefined, 60_000);
  }
  // Whether it still lives says nothing: it may end the moment it is resumed.
  if (!hasResumed(status)) {
    throw ferryError("E_RESTORE", `criu could not resume ${spec.name}`, {
      side: "destination",
      phase: "resume",
      workload: spec.name,
      evidence: await engine.evidence(),
      remedy: "it does not run here; it can be restored again from the same images",
    });
  }
  return { resumedAt: status.reached["post-resume"] ?? Date.now() };
}
