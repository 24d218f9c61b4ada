/** What every operation of this node works with. */
import { existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { mkdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { CheckpointSource } from "../../model/checkpoints.js";
import type { OperationRef, Receipt } from "../../model/contract.js";
import { ferryError, type Side } from "../../model/failure.js";
import type { MoverConfig } from "../../model/mover.js";
import { RECOVERY } from "../../model/names.js";
import type { NodeFacts } from "../../model/node.js";
import { hasOwned, isOpen } from "../../model/ownership.js";
import type { WorkloadSpec } from "../../model/workload.js";
import type { Runtime } from "../../runtimes/runtime.js";
import { signReceipt, type LinkIdentity } from "../../transfer/link/index.js";
import type { Book } from "../book.js";
import type { NodeStore } from "../checkpoints.js";
import type { AgentConfig } from "../config.js";
import type { CostBook } from "../costs.js";
import type { Sleepers } from "../sleepers.js";
import type { SideDirs } from "./dirs.js";

export type Log = (
  level: "debug" | "info" | "warn" | "error",
  message: string,
  fields?: Record<string, unknown>,
) => void;

export interface NodeContext {
  config: AgentConfig;
  book: Book;
  runtime: Runtime;
  /** What a workload whose node was lost may be run from here. */
  checkpoints: CheckpointSource;
  /** Where checkpoints are kept. */
  store: NodeStore;
  identity: LinkIdentity;
  log: Log;
  /** What migrations from here have cost. */
  costs: CostBook;
  /** Workloads that sleep here. */
  sleepers: Sleepers;
}

/** Files of a workload on this node: data, log and its own layer of the root file system. */
export const volumeDir = (config: AgentConfig, workload: string): string => join(config.stateDir, "volumes", workload);

/**
 * The workload's files as they were at its last checkpoint from this node: the next one only carries what changed. Only
 * ever of use to the node that runs it; it may be lost.
 */
export const shadowDir = (config: AgentConfig, workload: string): string => join(config.stateDir, "shadows", workload);

const SPENT = ["TOMBSTONE", "GONE", "BURNED", "FENCED"];
/** Over, and its files are wanted yet. */
const KEEPS_FILES = ["STOPPED", "SUPERSEDED"];
/** No workload's name begins so. */
const SPENT_PREFIX = ".spent-";
/**
 * Removes what came here for a hand-over that was refused, and what was left when a workload went elsewhere. Files of a
 * workload that this node runs, holds, or has stopped stay.
 */
export async function removeSpentVolume({ book, config }: NodeContext, workload: string): Promise<void> {
  const holds = book.holds(workload);
  if (holds.length === 0 || !holds.every((hold) => SPENT.includes(hold.state))) return;
  await Promise.all([volumeDir(config, workload), shadowDir(config, workload)].map(discard));
}

/**
 * What an epoch that went elsewhere has left. The directory is the workload's: a clean-up that comes late (the node was cut off)
 * leaves it to whatever has it since, be it on its way here, frozen, or stopped.
 */
export async function removeHandedOver({ book, config }: NodeContext, workload: string, epoch: number): Promise<void> {
  const taken = book
    .holds(workload)
    .some((hold) => isOpen(hold.state) || (hold.epoch > epoch && KEEPS_FILES.includes(hold.state)));
  if (!taken) await discard(volumeDir(config, workload));
}

/**
 * Out of the way at once, in the same moment in which the journal was asked; removing it takes its time, and a hand-over that
 * comes meanwhile begins with a directory of its own. Boot sweeps what was left.
 */
async function discard(dir: string): Promise<void> {
  const aside = join(dirname(dir), `${SPENT_PREFIX}${basename(dir)}-${process.hrtime.bigint()}`);
  try {
    renameSync(dir, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    return;
  }
  await rm(aside, { recursive: true, force: true });
}

/** Boot: what an agent was removing when it died. */
export async function sweepSpent({ config }: NodeContext): Promise<void> {
  for (const dir of [volumeDir, shadowDir].map((of) => dirname(of(config, "any")))) {
    if (!existsSync(dir)) continue;
    for (const name of readdirSync(dir)) {
      if (name.startsWith(SPENT_PREFIX)) await rm(join(dir, name), { recursive: true, force: true });
    }
  }
}

/**
 * The files of a copy that was superseded, if they are still its own: nobody runs on them, and a person may want to look.
 * Again at boot, for an agent that died before it came to it.
 * @param unknown epoch of one that this journal has never heard of
 */
export async function keepAside({ config, book }: NodeContext, workload: string, unknown?: number): Promise<void> {
  const from = volumeDir(config, workload);
  const holds = book.holds(workload);
  const epoch = holds.findLast(({ state }) => state === "SUPERSEDED")?.epoch ?? unknown;
  // The directory is the workload's: a later epoch that came here, runs, or was stopped has it now.
  const taken = holds.some(({ state }) => isOpen(state) || state === "STOPPED");
  if (epoch === undefined || taken || !existsSync(from)) return;
  const aside = join(config.stateDir, "superseded");
  await mkdir(aside, { recursive: true, mode: 0o700 });
  const to = join(aside, `${workload}-${epoch}`);
  await rm(to, { recursive: true, force: true });
  await rename(from, to);
}

/** Writes the mover's configuration; kept as it is when the mover was configured before (its port lies in there). */
export function writeMoverConfig(
  context: NodeContext,
  dirs: SideDirs,
  what: {
    operation: string;
    workload: string;
    peer: string;
    side: Side;
    to: number;
    bandwidthBytesPerSec?: number | undefined;
    /** A feed, which brings this back. */
    checkpoint?: { workload: string; id: string };
    /** A sink: this store, and this directory for the files. */
    sink?: { storeFile?: string; volumeDir: string };
  },
): MoverConfig {
  const { config } = context;
  const { node: _, ...tls } = context.identity;
  const mover: MoverConfig = {
    operation: what.operation,
    workload: what.workload,
    to: what.to,
    node: config.node,
    peer: what.peer,
    side: what.side,
    controlSocket: dirs.moverSocket,
    imagesDir: dirs.images,
    storeDir: dirs.store,
    volumeDir: volumeDir(config, what.workload),
    ...what.sink,
    tls,
    logFile: dirs.moverLog,
    ...(what.side === "destination" ? { listenHost: config.linkHost } : {}),
    ...(what.checkpoint === undefined
      ? {}
      : { checkpoint: what.checkpoint, ...(config.storeFile === undefined ? {} : { storeFile: config.storeFile }) }),
    ...(what.bandwidthBytesPerSec === undefined ? {} : { bandwidthBytesPerSec: what.bandwidthBytesPerSec }),
  };
  const text = `${JSON.stringify(mover, null, 2)}\n`;
  if (!existsSync(dirs.moverConfig) || readFileSync(dirs.moverConfig, "utf8") !== text) {
    writeFileSync(dirs.moverConfig, text, { mode: 0o600 });
  }
  return mover;
}

/** The node's own copy of a spec. Throws E_WORKLOAD_UNKNOWN. */
export function specOf(context: NodeContext, workload: string): WorkloadSpec {
  const spec = context.book.spec(workload);
  if (spec === undefined)
    throw ferryError("E_WORKLOAD_UNKNOWN", `node ${context.config.node} knows no workload ${workload}`, { workload });
  return spec;
}

/** What this node says that it has: every hold that is open, with the address that goes with it. */
export const heldHere = ({ book }: Pick<NodeContext, "book">): NodeFacts["workloads"] =>
  book.workloads().flatMap((name) => {
    const hold = book.holds(name).findLast((h) => isOpen(h.state));
    const ip = book.spec(name)?.network.ip;
    return hold === undefined ? [] : [{ name, epoch: hold.epoch, state: hold.state, ...(ip !== undefined && { ip }) }];
  });

/**
 * This node's word that it owns what the operation brought, once its journal says so (of a recovery, or a restore: that it has
 * owned it, whatever became of it since); or, as the source, that it has taken
 * back what it had released (FENCED).
 */
export function receiptOf({ book, config, identity }: NodeContext, ref: OperationRef): Receipt | undefined {
  const { workload, operation, to: epoch } = ref;
  if (config.node === ref.source) {
    const { digest } = book.hold(workload, ref.epoch) ?? {};
    const fenced = book.hold(workload, epoch);
    if (digest === undefined || fenced?.state !== "FENCED" || fenced.operation !== operation) return undefined;
    return signReceipt({ workload, operation, epoch: ref.epoch, digest }, identity);
  }
  const hold = book.hold(workload, epoch);
  if (hold?.digest === undefined) return undefined;
  // What it was run from a checkpoint by, whoever had it in hands since: it has owned that epoch, so all before it are over.
  const recovered = RECOVERY.test(operation) && book.beganBy(workload, epoch) === operation;
  // It may have ended as soon as it ran: only what has been owned is ever stopped.
  const owned = recovered ? hold.state === "OWNER" || book.wasStarted(workload, epoch) : hasOwned(hold.state);
  if (!owned) return undefined;
  if (!recovered && book.operation("destination", operation) === undefined) return undefined;
  return signReceipt({ workload, operation, epoch, digest: hold.digest }, identity);
}

/** Throws E_REQUEST when this node is not the one that the operation means. A restore, or a checkpoint, may have it on both sides. */
export function mustBeHere(context: NodeContext, role: "source" | "destination", ref: OperationRef): void {
  if (ref[role] !== context.config.node) {
    throw ferryError("E_REQUEST", `this is node ${context.config.node}, the operation's ${role} is ${ref[role]}`);
  }
}

/** Of what has two nodes: also throws E_SAME_NODE when both are one. */
export function mustBe(context: NodeContext, role: "source" | "destination", ref: OperationRef): void {
  mustBeHere(context, role, ref);
  if (ref.source === ref.destination)
    throw ferryError("E_SAME_NODE", `${ref.workload} is already on node ${ref.source}`);
}
