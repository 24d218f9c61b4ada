/**
 * The faults of the matrix: each strikes while the migration stands at a failpoint, and `heal` ends what does not end by
 * itself. What can't be done here is named in docs/faults.md.
 */
import { appendFileSync } from "node:fs";
import { labKillNode, labLink, labNode, labRun, labServicePid, labStartNode } from "../../deploy/lab/index.js";
import type { Side } from "../../src/model/failure.js";
import { cutLink, killOn, type E2eLab } from "../e2e/support.js";

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
}

const STOPPED_MS = 4_000;
const SHORT_CUT_MS = 1_000;
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const always = (): boolean => true;
const nodeOf = (scene: Scene, side: Side): string => (side === "source" ? scene.source : scene.destination);

/** Points between the freeze and the end of the source's copy: criu holds it. */
const HELD = ["source.dump", "source.transfer", "source.switch"];
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

async function signalTo(scene: Scene, node: string, service: "agent" | "worker" | "temporal", signal: NodeJS.Signals) {
  const pid = await labServicePid(scene.e2e.state, node, service);
  if (pid === undefined) throw new Error(`no ${service} on ${node}`);
  process.kill(pid, signal);
}

const sides: readonly Side[] = ["source", "destination"];

export const INJECTIONS: readonly Injection[] = [
  {
    name: "workers killed",
    at: always,
    strike: async (scene) => {
      await signalTo(scene, scene.source, "worker", "SIGKILL");
      await signalTo(scene, scene.destination, "worker", "SIGKILL");
      return undefined;
    },
  },
  ...sides.flatMap((side): Injection[] => [
    {
      name: `${side}'s agent killed`,
      at: always,
      strike: async (scene) => {
        await signalTo(scene, nodeOf(scene, side), "agent", "SIGKILL");
        return undefined;
      },
    },
    {
      name: `${side}'s agent killed, its journal torn`,
      at: always,
      strike: async (scene) => {
        const node = nodeOf(scene, side);
        const { pid } = await labNode(scene.e2e.state, node);
        await signalTo(scene, node, "agent", "SIGKILL");
        // As a crash in the middle of a write leaves it: the beginning of a line.
        appendFileSync(`/proc/${pid}/root/var/lib/ferry/journal.jsonl`, '{"seq":999999,"prev":"00');
        return undefined;
      },
    },
    {
      name: `${side}'s agent stopped for ${STOPPED_MS / 1000} s`,
      at: always,
      strike: async (scene) => {
        const node = nodeOf(scene, side);
        await signalTo(scene, node, "agent", "SIGSTOP");
        return async () => {
          await sleep(STOPPED_MS);
          await signalTo(scene, node, "agent", "SIGCONT");
        };
      },
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
    name: "page daemon killed",
    at: (point) =>
      ["destination.transfer", "destination.switch", "destination.resume", "destination.drain"].includes(point),
    strike: async (scene) => {
      if ((await killOn(scene.e2e, scene.destination, "pages/daemon")) === 0) throw new Error("no page daemon");
      return undefined;
    },
  },
  {
    name: "Temporal killed",
    at: always,
    strike: async (scene) => {
      await signalTo(scene, "switch", "temporal", "SIGKILL");
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
    name: "link cut until the end",
    // In post-copy the pages are on the other side: it waits for the link.
    at: (point) => !point.endsWith(".drain"),
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
