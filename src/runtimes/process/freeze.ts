/** The source's half: dump and hold, and the way back. See design section 3 ("Holding a tree"). */
import { existsSync, mkdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { NETNS_DIR, setLink } from "../../host/netns.js";
import { hasSysResource } from "../../host/proc.js";
import { ferryError, type FerryError } from "../../model/failure.js";
import { LEFT_OUT_FILE } from "../../transfer/images/left-out.js";
import type { Incarnation, OperationDirs } from "../runtime.js";
import { answersFor, lookAt, wrapperWords } from "./answers.js";
import { Engine, startEngine, VETO } from "./engine.js";
import { HIDDEN_PROC, HIDE_PROC } from "./hidden.js";
import { rootPid } from "./observe.js";
import { DATA_POINT, EXTERNAL_DATA, EXTERNAL_LOG, EXTERNAL_NET, LOG_POINT, type Parts, type Places } from "./places.js";

export const dumpDir = (dirs: OperationDirs): string => join(dirs.run, "dump");

/** Deleted files that are still open travel inside the images up to this size (docs/operating.md says so as well). */
export const GHOST_LIMIT_BYTES = 64 * 2 ** 20;

/** What criu's hook needs to know. */
export const hookEnv = (parts: Parts, engineDir: string): Record<string, string> => ({
  FERRY_ENGINE: engineDir,
  FERRY_LINK: parts.network.link,
  FERRY_CGROUP: parts.cgroup.dir,
  FERRY_HIDE_PROC: HIDE_PROC,
});

/** Options that dump and restore share. `--no-default-config`: nothing but this command line has a say. */
export const commonOptions = (places: Places, images: string, log: string): string[] => [
  "--no-default-config",
  "--images-dir",
  images,
  "--log-file",
  log,
  "-v4",
  "--tcp-established",
  "--network-lock",
  "skip",
  "--manage-cgroups=ignore",
  "--file-locks",
  "--ghost-limit",
  `${GHOST_LIMIT_BYTES / 2 ** 20}M`,
  "--action-script",
  places.hook("criu-hook.sh"),
];

/** The link goes down in `network-lock`, the cgroup is frozen in `post-dump`, where criu then waits at the gate. */
export async function freeze(places: Places, incarnation: Incarnation, dirs: OperationDirs): Promise<Engine> {
  const { spec, epoch } = incarnation;
  const parts = places.parts(spec.name, epoch);
  const dir = dumpDir(dirs);
  const before = Engine.adopt(dir);
  if (before?.status().alive === true) return before;
  const pid = rootPid(parts);
  if (pid === undefined) {
    throw ferryError("E_DUMP", `${spec.name} has no process left on this node`, {
      workload: spec.name,
      remedy: `see \`ferry logs ${spec.name}\` for why it ended`,
    });
  }
  if (parts.cgroup.freezing) {
    throw ferryError("E_STATE", `${spec.name} is frozen already: criu can't seize it`, { workload: spec.name });
  }
  mkdirSync(dirs.images, { recursive: true, mode: 0o700 });
  mkdirSync(parts.dir, { recursive: true, mode: 0o700 });
  writeFileSync(parts.enginePointer, dir, { mode: 0o600 });
  const netns = statSync(join(NETNS_DIR, parts.network.netns)).ino;
  const answers = answersFor(
    parts.cgroup.pids().flatMap((member) => lookAt(member) ?? []),
    hasSysResource(),
  );
  // The wrapper's own interpreter: without it criu does as it always did.
  if (places.config.lazyDump === false || !existsSync("/usr/bin/perl")) answers.leaveOut = false;
  const stacks = join(dir, "stacks");
  return startEngine({
    dir,
    wrapper: places.hook("engine.sh"),
    command: [
      ...wrapperWords(places.hook("answers.pl"), answers, join(dirs.images, LEFT_OUT_FILE), stacks),
      "criu",
      "dump",
      "--tree",
      String(pid),
      ...commonOptions(places, dirs.images, join(dir, "log")),
      "--external",
      `net[${netns}]:${EXTERNAL_NET}`,
      "--external",
      `mnt[${DATA_POINT}]:${EXTERNAL_DATA}`,
      "--external",
      `mnt[${LOG_POINT}]:${EXTERNAL_LOG}`,
      ...places.mounted(spec).flatMap(({ path, external }) => ["--external", `mnt[${path}]:${external}`]),
      // What is there to hide depends on the kernel: where it is restored, the node hides its own (hide-proc.pl).
      ...HIDDEN_PROC.flatMap((name) => ["--skip-mnt", `/proc/${name}`]),
      // criu's page server: a socket that nobody is at the other end of. It is reached after a veto only, and ends at once.
      ...(places.config.lazyDump === false ? [] : ["--lazy-pages", "--ps-socket", "3"]),
    ],
    env: { ...hookEnv(parts, dir), ...(answers.leaveOut ? { FERRY_STACKS: stacks } : {}) },
    closedSocket: places.config.lazyDump !== false,
  });
}

/** The failure that says: criu died while it held the tree. `phase` is "dump" (the agent then restores locally). */
export function criuLost(name: string, why: string, evidence: FerryError["data"]["evidence"]): FerryError {
  return ferryError("E_DUMP", `criu was lost while it held ${name}: ${why}`, {
    side: "source",
    phase: "dump",
    workload: name,
    remedy:
      "the tree stays frozen: thawing it would break its connections (their sockets are still in repair mode). " +
      "Restore it on this node from the dump's images and the frozen tree's own pages",
    ...(evidence === undefined ? {} : { evidence }),
  });
}

/** See Runtime.takeBack. Idempotent, also after a restart of the agent in the middle. */
export async function takeBack(places: Places, incarnation: Incarnation, dirs: OperationDirs): Promise<void> {
  const { spec, epoch } = incarnation;
  const parts = places.parts(spec.name, epoch);
  const engine = Engine.adopt(dumpDir(dirs));
  if (engine !== undefined) await veto(parts, engine);
  if (rootPid(parts) === undefined) {
    throw ferryError("E_DUMP", `${spec.name} has no process left to take back`, {
      side: "source",
      workload: spec.name,
      ...(engine === undefined ? {} : { evidence: await engine.evidence() }),
    });
  }
  // Link first: sockets whose process runs while the link is down give up sooner, and see errors.
  await setLink(parts.network.link, "up");
  parts.cgroup.thaw();
  const end = performance.now() + 5000;
  while (parts.cgroup.frozen) {
    if (performance.now() > end) {
      throw ferryError("E_STUCK", `${spec.name} was thawed but its cgroup stays frozen`, {
        remedy: `see ${join(parts.cgroup.dir, "cgroup.events")}`,
      });
    }
    await sleep(1);
  }
}

/** Lets criu put the tree back, and makes sure that it did so itself. Throws criuLost. */
async function veto(parts: Parts, engine: Engine): Promise<void> {
  // Never interrupt criu before it holds: the wait is as long as the dump.
  let status = await engine.wait((s) => s.reached["post-dump"] !== undefined, 600_000);
  if (status.alive) {
    await engine.openGate(VETO);
    status = await engine.wait(() => false, 60_000);
  }
  const { exitCode, reached } = status;
  if (reached["post-dump"] !== undefined) {
    if (exitCode !== undefined && (exitCode < 128 || exitCode === 255) && (await engine.putBack())) return;
    const why =
      exitCode === undefined
        ? "it and its wrapper are gone"
        : exitCode > 128 && exitCode < 255
          ? `it was killed by signal ${exitCode - 128}`
          : `it ended with exit code ${exitCode}`;
    throw criuLost(parts.name, why, await engine.evidence());
  }
  // It ended before the hold. By itself: it has put the tree back. Killed in the middle: the tree may be half changed.
  if (reached["network-lock"] !== undefined && (exitCode === undefined || (exitCode > 128 && exitCode < 255))) {
    throw ferryError("E_STUCK", `criu was killed while it changed ${parts.name}: its state is not known`, {
      side: "source",
      phase: "dump",
      workload: parts.name,
      evidence: await engine.evidence(),
      remedy: "its link stays down. Look at it, then stop it, or bring it back from its last checkpoint",
    });
  }
}
