/**
 * The faults of the matrix: each strikes while the migration stands at a failpoint, and `heal` ends what does not end by
 * itself. What can't be done here is named in docs/faults.md.
 */
import { spawn } from "node:child_process";
import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { labKillNode, labLink, labNode, labRun, labStartNode } from "../../deploy/lab/index.js";
import { run } from "../../src/host/exec.js";
import type { Side } from "../../src/model/failure.js";
import type { Mode } from "../../src/model/plan.js";
import { cutLink, killOn, servicePid, setClock, signalService, type E2eLab, type Service } from "../e2e/support.js";

export interface Scene {
  e2e: E2eLab;
  source: string;
  destination: string;
  /** The side whose failpoint it is. */
  side: Side;
}
export type Heal = () => Promise<void>;
export interface Injection {
  /** Column of the table. */
  name: string;
  /** Is there anything to strike at this point? */
  at: (point: string) => boolean;
  /** Answers how to end it; nothing to end: undefined. */
  strike: (scene: Scene) => Promise<Heal | undefined>;
  /** `heal` only when the migration has ended: it is for ever, as far as the migration knows. */
  forEver?: boolean;
  /** In which of the modes that have this point; all of them, when missing. */
  modes?: (mode: Mode) => boolean;
  /** What it needs and this machine has not. */
  missing?: () => string | undefined;
}

const STOPPED_MS = 4_000;
const SHORT_CUT_MS = 1_000;
const LONG_CUT_MS = 60_000;
/** A minute each: some points stand for the others. */
const LONG_CUT_POINTS = [
  "source.presync",
  "source.precopy",
  "source.transfer",
  "destination.restore",
  "destination.drain",
];
/** So long takes every fsync of a slow disk. */
const SLOW_FSYNC_MS = 200;
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const always = (): boolean => true;
const nodeOf = (scene: Scene, side: Side): string => (side === "source" ? scene.source : scene.destination);

/** Points between the freeze and the end of the source's copy: criu holds it. */
const HELD = ["source.dump", "source.transfer", "source.switch"];
const WITH_DAEMON = ["destination.transfer", "destination.switch", "destination.resume", "destination.drain"];
const RESTORED = ["destination.transfer", "destination.switch"];
/** After the commit point, before the workload has run at the destination: a loss of power there loses nothing. */
const NOT_RUN = [
  "destination.arm",
  "destination.restore",
  "destination.transfer",
  "destination.switch",
  "destination.resume",
];
const SOURCE_DONE = ["destination.drain"];
/** Where nothing depends on the source any more when it runs. */
const WHOLE = (mode: Mode): boolean => mode === "cold" || mode === "precopy";

/** Stopped, and let go on after a while. */
async function stopService({ e2e }: Scene, node: string, service: Service): Promise<Heal> {
  await signalService(e2e, node, service, "SIGSTOP");
  return async () => {
    await sleep(STOPPED_MS);
    await signalService(e2e, node, service, "SIGCONT");
  };
}

/** Stops every process of the node whose command line has these words, for a while. */
async function stopOn(scene: Scene, node: string, words: string): Promise<Heal> {
  const { stdout } = await labRun(scene.e2e.state, node, ["pgrep", "-f", words], { allow: [1] });
  const pids = stdout.trim().split("\n").filter(Boolean);
  if (pids.length === 0) throw new Error(`no ${words} on ${node}`);
  await labRun(scene.e2e.state, node, ["kill", "-STOP", ...pids], {});
  return async () => {
    await sleep(STOPPED_MS);
    await labRun(scene.e2e.state, node, ["kill", "-CONT", ...pids], { allow: [1] });
  };
}

/** The agent may have no more memory than it has now. */
async function outOfMemory(scene: Scene, node: string): Promise<Heal> {
  const pid = await servicePid(scene.e2e, node, "agent");
  const kib = /^VmData:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  const limit = (data: string): Promise<unknown> =>
    run("prlimit", ["--pid", String(pid), `--data=${data}`], { allow: [1] });
  await limit(`${Number(kib) * 1024}:unlimited`);
  // One that has survived, or has not needed any, is as it was.
  return async () => void (await limit("unlimited:unlimited"));
}

/** Every fsync of the agent's journal takes its time. Its own thread makes them: what it starts is left alone. */
async function slowDisk(scene: Scene, node: string): Promise<Heal> {
  const pid = await servicePid(scene.e2e, node, "agent");
  const calls = "fsync,fdatasync";
  const inject = `inject=${calls}:delay_enter=${SLOW_FSYNC_MS * 1000}`;
  const words = ["-qq", "-o", "/dev/null", "-e", `trace=${calls}`, "-e", inject, "-p", String(pid)];
  const strace = spawn("strace", words, { stdio: "ignore" });
  const ended = new Promise<void>(
    (resolve) => void strace.once("exit", () => resolve()).once("error", () => resolve()),
  );
  const end = performance.now() + STOPPED_MS;
  while (!/^TracerPid:\s+[1-9]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"))) {
    if (performance.now() > end) throw new Error("strace does not trace the agent");
    await sleep(10);
  }
  return async () => {
    strace.kill("SIGTERM");
    await ended;
  };
}

const HOUR_S = 3_600;
/** The agent's wall clock is set, and set right again at the end. */
async function stepClock({ e2e }: Scene, node: string, seconds: number): Promise<Heal> {
  await setClock(e2e, node, seconds);
  return async () => {
    await sleep(STOPPED_MS);
    await setClock(e2e, node, 0);
  };
}

const sides: readonly Side[] = ["source", "destination"];

export const INJECTIONS: readonly Injection[] = [
  {
    name: "workers killed",
    at: always,
    strike: async (scene) => {
      await signalService(scene.e2e, scene.source, "worker", "SIGKILL");
      await signalService(scene.e2e, scene.destination, "worker", "SIGKILL");
      return undefined;
    },
  },
  ...sides.flatMap((side): Injection[] => [
    {
      name: `${side}'s worker stopped for ${STOPPED_MS / 1000} s`,
      at: always,
      strike: (scene) => stopService(scene, nodeOf(scene, side), "worker"),
    },
    {
      name: `${side}'s agent out of memory`,
      at: always,
      strike: (scene) => outOfMemory(scene, nodeOf(scene, side)),
      forEver: true,
    },
    {
      name: `${side}'s journal on a slow disk`,
      at: always,
      strike: (scene) => slowDisk(scene, nodeOf(scene, side)),
      forEver: true,
      missing: () => (existsSync("/usr/bin/strace") ? undefined : "strace, which slows fsync down"),
    },
    ...[HOUR_S, -HOUR_S].map((seconds): Injection => ({
      name: `${side}'s clock set ${seconds < 0 ? "back" : "ahead"} by an hour`,
      at: always,
      strike: (scene) => stepClock(scene, nodeOf(scene, side), seconds),
      // Certificates that are not valid yet are not believed: it waits, in doubt, until the clock is right.
      forEver: seconds > 0,
    })),
    {
      name: `${side}'s agent killed`,
      at: always,
      strike: async (scene) => {
        await signalService(scene.e2e, nodeOf(scene, side), "agent", "SIGKILL");
        return undefined;
      },
    },
    {
      name: `${side}'s agent killed, its journal torn`,
      at: always,
      strike: async (scene) => {
        const node = nodeOf(scene, side);
        const { pid } = await labNode(scene.e2e.state, node);
        await signalService(scene.e2e, node, "agent", "SIGKILL");
        // As a crash in the middle of a write leaves it: the beginning of a line.
        appendFileSync(`/proc/${pid}/root/var/lib/ferry/journal.jsonl`, '{"seq":999999,"prev":"00');
        return undefined;
      },
    },
    {
      name: `${side}'s agent stopped for ${STOPPED_MS / 1000} s`,
      at: always,
      strike: (scene) => stopService(scene, nodeOf(scene, side), "agent"),
    },
    {
      name: `${side}'s mover killed`,
      at: (point) => !point.endsWith(".arm"),
      strike: async (scene) => {
        await killOn(scene.e2e, nodeOf(scene, side), `ferry-mover-${side}`);
        return undefined;
      },
    },
    {
      name: `${side} cut from Temporal for 10 s`,
      at: always,
      strike: async ({ e2e, ...scene }) => {
        const node = nodeOf({ e2e, ...scene }, side);
        const rules =
          "table inet apart { chain out { type filter hook output priority 0; tcp dport 7233 drop; }; chain in { type filter hook input priority 0; tcp sport 7233 drop; }; }";
        await labRun(e2e.state, node, ["nft", rules], {});
        return async () => {
          await sleep(10_000);
          await labRun(e2e.state, node, ["nft", "delete", "table", "inet", "apart"], {});
        };
      },
    },
  ]),
  {
    name: "criu killed",
    at: (point) => HELD.includes(point) || RESTORED.includes(point),
    strike: async (scene) => {
      const words = scene.side === "source" ? "criu dump" : "criu restore";
      if ((await killOn(scene.e2e, nodeOf(scene, scene.side), words)) === 0) throw new Error(`no ${words}`);
      return undefined;
    },
  },
  {
    name: `criu stopped for ${STOPPED_MS / 1000} s`,
    at: (point) => HELD.includes(point) || RESTORED.includes(point),
    strike: (scene) => {
      const words = scene.side === "source" ? "criu dump" : "criu restore";
      return stopOn(scene, nodeOf(scene, scene.side), words);
    },
  },
  {
    name: `page daemon stopped for ${STOPPED_MS / 1000} s`,
    at: (point) => WITH_DAEMON.includes(point),
    strike: (scene) => stopOn(scene, scene.destination, "pages/daemon"),
  },
  {
    name: "page daemon killed",
    at: (point) => WITH_DAEMON.includes(point),
    strike: async (scene) => {
      if ((await killOn(scene.e2e, scene.destination, "pages/daemon")) === 0) throw new Error("no page daemon");
      return undefined;
    },
  },
  {
    name: "Temporal killed",
    at: always,
    strike: async (scene) => {
      await signalService(scene.e2e, "switch", "temporal", "SIGKILL");
      return undefined;
    },
  },
  {
    name: `cable out for ${SHORT_CUT_MS / 1000} s`,
    at: always,
    strike: async ({ e2e, source }) => {
      await labLink(e2e.state, source, "down");
      return async () => {
        await sleep(SHORT_CUT_MS);
        await labLink(e2e.state, source, "up");
      };
    },
  },
  {
    name: `link cut for ${LONG_CUT_MS / 1000} s`,
    at: (point) => LONG_CUT_POINTS.includes(point),
    strike: async ({ e2e, source, destination }) => {
      await cutLink(e2e, "add", source, destination);
      return async () => {
        await sleep(LONG_CUT_MS);
        await cutLink(e2e, "delete", source, destination);
      };
    },
  },
  {
    name: "link cut until the end",
    at: (point) => point !== "source.drain",
    // Where it resumes first the pages are on the other side: it waits for the link.
    modes: WHOLE,
    forEver: true,
    strike: async ({ e2e, source, destination }) => {
      await cutLink(e2e, "add", source, destination);
      return () => cutLink(e2e, "delete", source, destination);
    },
  },
  {
    name: "destination loses power",
    at: (point) => NOT_RUN.includes(point) || HELD.includes(point) || point === "source.presync",
    strike: async ({ e2e, destination }) => {
      await labKillNode(e2e.state, destination);
      return async () => {
        await sleep(1_000);
        await labStartNode(e2e.state, destination);
      };
    },
  },
  {
    name: "source loses power",
    // Before the commit point it takes the workload along, as any process on that machine.
    at: (point) => SOURCE_DONE.includes(point),
    // With pages still there it takes the workload along, which is why post-copy has to be asked for.
    modes: WHOLE,
    strike: async ({ e2e, source }) => {
      await labKillNode(e2e.state, source);
      return () => labStartNode(e2e.state, source);
    },
  },
  {
    name: "slow link, 8 Mbit/s",
    at: (point) => point.startsWith("source."),
    strike: async ({ e2e, source }) => {
      const tbf = ["rate", "8mbit", "burst", "64kb", "latency", "400ms"];
      await labRun(e2e.state, source, ["tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", ...tbf], {});
      return async () => {
        await labRun(e2e.state, source, ["tc", "qdisc", "del", "dev", "eth0", "root"], { allow: [2] });
      };
    },
    forEver: true,
  },
];
