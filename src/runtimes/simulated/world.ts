/**
 * A world of simulated nodes for tests of the workflows: ledgers that outlive their agents, a link, trees that run or
 * are held, and faults to order. Everything moves through model/ownership, and the one rule is checked at each change:
 * at most one copy runs.
 */
import { ferryError, type FailureData } from "../../model/failure.js";
import { applyMove, emptyLedger, holdOf, moveProblem, type Hold, type Ledger } from "../../model/ownership.js";
import type { RestoreInput, SideOutcome, Token } from "../../model/contract.js";
import type { Checkpoint, ListedCheckpoint } from "../../model/checkpoints.js";
import type { WorkloadSpec } from "../../model/workload.js";
import type { SimulatedSave } from "./checkpoints.js";

/** A copy of a workload on a node: what the cgroup would show. */
export interface Tree {
  workload: string;
  epoch: number;
  state: "running" | "frozen" | "prepared";
}

export type Verb =
  | "describeNode"
  | "endings"
  | "sleepers"
  | "idleWorkload"
  | "startWorkload"
  | "stopWorkload"
  | "removeWorkload"
  | "observeWorkload"
  | "newestCheckpoint"
  | "recoverWorkload"
  | "saveCheckpoint"
  | "restoreWorkload"
  | "listCheckpoints"
  | "pinCheckpoint"
  | "removeCheckpoint"
  | "verifyCheckpoint"
  | "diffCheckpoints"
  | "readLog"
  | "preflightSource"
  | "preflightDestination"
  | "reserve"
  | "takeOver"
  | "handOver"
  | "inquire"
  | "burn"
  | "refuse"
  | "deliver"
  | "steer"
  | "acknowledge"
  | "retake"
  | "claim"
  | "supersede"
  | "cleanup";

/** A fault that was ordered: the next `times` calls of `verb` on `node` (for `workload`, if given) meet it. */
export interface Fault {
  node: string;
  verb: Verb;
  /** before: fails without effect; after: the effect happens and the answer is lost; hang: no answer for `hangMs`. */
  when: "before" | "after" | "hang";
  times: number;
  workload?: string;
  failure?: FailureData;
  hangMs?: number;
}

/** Points of a hand-over, a checkpoint or a restore at which a test may stop, crash or cut things. */
export type Point =
  | "save:rounds"
  | "save:frozen"
  | "save:stored"
  | "restore:begun"
  | "source:precopy"
  | "source:frozen"
  | "source:before-release"
  | "source:released"
  | "source:gone"
  | "destination:received"
  | "destination:prepared"
  | "destination:active"
  | "destination:running"
  | "destination:owner";

/** One side of an operation, as its agent would read it from journal and directory after a restart. */
export interface SideRecord {
  asked: boolean;
  outcome?: SideOutcome;
  failure?: FailureData;
  frozenAt?: number;
  resumedAt?: number;
  drainedAt?: number;
  token?: Token;
  /** Source: the destination's receipt was carried here. */
  acknowledged?: boolean;
  images: boolean;
  maxBlackoutMs: number;
  postcopy: boolean;
  rounds: boolean;
}

export class SimulatedNode {
  readonly name: string;
  ledger: Ledger = emptyLedger;
  readonly trees: Tree[] = [];
  readonly specs = new Map<string, WorkloadSpec>();
  readonly records = new Map<string, SideRecord>();
  /** Checkpoints by operation. */
  readonly saves = new Map<string, SimulatedSave>();
  /** Restores that are to fail. */
  readonly calledOff = new Set<string>();
  hasStore = true;
  /** Workloads that sleep here, and whether something came for them. */
  readonly asleep = new Map<string, { epoch: number; wanted: boolean }>();
  /** For how long each has been idle, in milliseconds; others are not. */
  readonly idleMs = new Map<string, number>();
  /** Something comes for these as soon as they are frozen. */
  readonly disturbed = new Set<string>();
  /** Raised by every crash: what an older life still had in mind is void. */
  life = 1;
  up = true;
  /** Operations that still have something lying about on this node. */
  readonly litter = new Set<string>();
  /** Operations that were cleaned up. */
  readonly cleaned = new Set<string>();
  constructor(name: string) {
    this.name = name;
  }

  hold(workload: string, epoch: number): Hold | undefined {
    return holdOf(this.ledger, workload, epoch);
  }

  /** Journals one move. Throws E_STALE_EPOCH when it is not legal. */
  journal(hold: Hold): void {
    const problem = moveProblem(this.ledger, hold);
    if (problem !== undefined) throw ferryError("E_STALE_EPOCH", problem, { node: this.name });
    this.ledger = applyMove(this.ledger, hold);
  }
}

export interface WorldOptions {
  nodes: string[];
  /** Length of one phase, in milliseconds. */
  phaseMs?: number;
}

export class SimulatedWorld {
  readonly phaseMs: number;
  readonly violations: string[] = [];
  private readonly nodes = new Map<string, SimulatedNode>();
  private readonly faults: Fault[] = [];
  private readonly cuts = new Set<string>();
  private readonly watchers: { point: Point; workload?: string; act: () => void | Promise<void> }[] = [];
  /** A checkpoint that a test has put there, of each workload. */
  readonly checkpoints = new Map<string, Checkpoint>();
  /** What was saved, in the store that all nodes have. */
  readonly stored: ListedCheckpoint[] = [];
  /** What was asked to be restored, for tests that look at it. */
  readonly restores: RestoreInput[] = [];
  saves = 0;
  /** Every call that reached an agent, for tests that count. */
  readonly calls: { node: string; verb: Verb; workload?: string }[] = [];

  constructor(options: WorldOptions) {
    this.phaseMs = options.phaseMs ?? 10;
    for (const name of options.nodes) this.nodes.set(name, new SimulatedNode(name));
  }

  node(name: string): SimulatedNode {
    const node = this.nodes.get(name);
    if (node === undefined) throw ferryError("E_NODE_UNKNOWN", `the simulated world has no node ${name}`);
    return node;
  }

  /** What it answers takes the rest of it back. */
  order(fault: Fault): () => void {
    this.faults.push(fault);
    return () => {
      fault.times = 0;
    };
  }

  /** The fault that this call meets, if any; counts it. */
  meet(node: string, verb: Verb, workload: string | undefined): Fault | undefined {
    const fault = this.faults.find(
      (f) => f.times > 0 && f.node === node && f.verb === verb && (f.workload === undefined || f.workload === workload),
    );
    if (fault !== undefined) fault.times -= 1;
    return fault;
  }

  /** Runs `act` once, when a hand-over reaches this point. */
  at(point: Point, act: () => void | Promise<void>, workload?: string): void {
    this.watchers.push({ point, act, ...(workload === undefined ? {} : { workload }) });
  }

  async reach(point: Point, workload: string): Promise<void> {
    const index = this.watchers.findIndex(
      (w) => w.point === point && (w.workload === undefined || w.workload === workload),
    );
    if (index < 0) return;
    const [watcher] = this.watchers.splice(index, 1);
    await watcher?.act();
  }

  cut(a: string, b: string): void {
    this.cuts.add([a, b].sort().join("|"));
  }
  mend(a: string, b: string): void {
    this.cuts.delete([a, b].sort().join("|"));
  }
  linked(a: string, b: string): boolean {
    return this.node(a).up && this.node(b).up && !this.cuts.has([a, b].sort().join("|"));
  }

  /** SIGKILL of a node's agent: trees and journal stay, a restored tree that was held in a hook is lost. */
  crash(name: string): void {
    const node = this.node(name);
    node.up = false;
    node.life += 1;
    for (let i = node.trees.length - 1; i >= 0; i -= 1) {
      if (node.trees[i]?.state === "prepared") node.trees.splice(i, 1);
    }
  }

  /** The machine is off: nothing of what ran there is left but the journal. */
  powerOff(name: string): void {
    this.crash(name);
    this.node(name).trees.length = 0;
  }

  /** Ends every agent's loops. */
  close(): void {
    for (const node of this.nodes.values()) this.crash(node.name);
  }

  set(node: SimulatedNode, tree: Tree): void {
    const found = node.trees.find((t) => t.workload === tree.workload && t.epoch === tree.epoch);
    if (found === undefined) node.trees.push({ ...tree });
    else found.state = tree.state;
    this.check(tree.workload);
  }

  drop(node: SimulatedNode, workload: string, epoch?: number): void {
    for (let i = node.trees.length - 1; i >= 0; i -= 1) {
      const tree = node.trees[i];
      if (tree?.workload === workload && (epoch === undefined || tree.epoch === epoch)) node.trees.splice(i, 1);
    }
  }

  /** Every copy of a workload, wherever it is. */
  copies(workload: string): (Tree & { node: string })[] {
    return [...this.nodes.values()].flatMap((node) =>
      node.trees.filter((tree) => tree.workload === workload).map((tree) => ({ ...tree, node: node.name })),
    );
  }

  running(workload: string): string[] {
    return this.copies(workload)
      .filter((copy) => copy.state === "running")
      .map((copy) => copy.node);
  }

  private check(workload: string): void {
    const live = this.running(workload);
    if (live.length > 1) this.violations.push(`${workload} runs on ${live.join(" and ")} at once`);
  }
}
