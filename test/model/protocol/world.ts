/**
 * A model of the hand-over for a model checker: two machines, their journals, the trees on them, the link, the workflow
 * that routes, and whatever may die. What a journal allows and what two journals mean is decided by the very functions
 * that the agents and the workflows use (src/model/ownership, src/model/settlement); the order of the agents' steps is
 * that of src/agent/operations, one step here for everything that a death can come between there.
 */
import type { Inquiry, OperationRef } from "../../../src/model/contract.js";
import {
  applyMove,
  emptyLedger,
  moveProblem,
  type Hold,
  type Ledger,
  type Verdict,
} from "../../../src/model/ownership.js";
import { conclude } from "../../../src/model/settlement.js";

export const WORKLOAD = "w";
export type Name = "A" | "B";
export const other = (name: Name): Name => (name === "A" ? "B" : "A");

/** A process tree on a machine: lives on when the agent dies, and ends with the machine's power. */
export interface Tree {
  readonly epoch: number;
  /** held: restored, and waiting in criu's hook. */
  readonly state: "runs" | "frozen" | "held";
  /** Every page is in place: nothing of it is at the source only. */
  readonly whole: boolean;
  /** criu lives in the hold: without it a frozen tree can't be let go. */
  readonly engine: boolean;
}
/** What a restarted agent knows of an operation. */
export interface OpRecord {
  readonly side: "source" | "destination";
  readonly op: number;
  readonly to: number;
  readonly local: boolean;
}
export interface Giving {
  readonly op: number;
  readonly to: number;
  readonly local: boolean;
  /** Called off: by a person, the deadline, the peer, a restart. */
  readonly back: boolean;
  /** The epoch that was reserved for restoring locally. */
  readonly restoring?: number;
}
export interface Taking {
  readonly op: number;
  readonly to: number;
  readonly local: boolean;
  readonly refused: boolean;
  readonly token: boolean;
}
export interface Machine {
  readonly up: boolean;
  readonly ledger: Ledger;
  readonly records: readonly OpRecord[];
  /** Epochs whose token is journaled here. */
  readonly tokens: readonly number[];
  readonly trees: readonly Tree[];
  /** Epochs whose images and pages lie in this machine's memory. */
  readonly images: readonly number[];
  readonly giving: readonly Giving[];
  readonly taking: readonly Taking[];
  /** The last checkpoint that it was asked for: an index of ops. */
  readonly save?: number;
  /** Checkpoints that a sink has all of, in this machine's memory. */
  readonly gathered: readonly number[];
  /** Epochs that were restored from the store, and journaled as started. */
  readonly started: readonly number[];
}
export interface Op {
  readonly epoch: number;
  readonly to: number;
  readonly source: Name;
  readonly destination: Name;
  /** Post-copy: it runs before its pages are there. */
  readonly lazy: boolean;
  /** Of one machine, which keeps `to` for a local restore. */
  readonly kind?: "checkpoint";
  /** It does not run on. */
  readonly stop?: boolean;
}
/** The workflow of the newest operation. Readings may be old when it acts on them; `silent`: that node did not answer. */
export interface Flow {
  readonly op: number;
  readonly at: "reserving" | "handing" | "settling" | "saving" | "done" | "terminated";
  readonly source?: Reading | "silent";
  readonly destination?: Reading | "silent";
}
export interface Reading {
  readonly holds: readonly Hold[];
  readonly state?: Hold["state"];
  readonly token: boolean;
}
/** How many more of each may happen. */
export interface Budget {
  readonly kills: number;
  readonly powerLosses: number;
  readonly engineDeaths: number;
  /** A local restore that fails, or takes too long: each tries under a new epoch, so they are counted. */
  readonly localFailures: number;
  readonly terminations: number;
  /** A person fences a machine, and decides. */
  readonly fences: number;
  /** A person recovers the workload from a checkpoint, at the other machine than the one that was lost. */
  readonly recoveries: number;
  readonly operations: number;
  readonly checkpoints: number;
  /** A person restores it from the store. */
  readonly restores: number;
}
export interface World {
  readonly A: Machine;
  readonly B: Machine;
  readonly ops: readonly Op[];
  /** Everything ever said on the link: may arrive at any time, again and again, or never. */
  readonly wire: readonly string[];
  /** Every call of the workflow that was ever made: it may be carried out at any time, again and again, or never. */
  readonly calls: readonly string[];
  readonly flow: Flow;
  readonly left: Budget;
  /** A loss of power took the only copy, as it would without Ferry: nobody can promise more than order after that. */
  readonly lost: boolean;
  /** Checkpoints in the store: indices of ops. */
  readonly stored: readonly number[];
  /** Machines that were given up, and have heard since they are back that an epoch is stale: before anything else. */
  readonly told: readonly string[];
  /** A restore that was asked for, and has no answer yet. */
  readonly attempt?: { readonly node: Name; readonly to: number };
}
export interface Step {
  readonly name: string;
  readonly next: World;
  /** Something died: what must end well without further faults may not count on it. */
  readonly fault?: boolean;
}

/** What a wrong protocol would do instead: each must be found out by the checker. */
export interface Rules {
  readonly problem: (ledger: Ledger, next: Hold) => string | undefined;
  readonly conclude: (ref: OperationRef, source: Inquiry | undefined, destination: Inquiry | undefined) => Verdict;
  /** What was called off is burned: by the source that takes back, by a burn, by the clean-up. */
  readonly burn: boolean;
  /** A call to hand over that comes when its epoch was burned begins nothing. */
  readonly lateCallsEnd: boolean;
  /** A refusal is journaled. */
  readonly journalRefusals: boolean;
  /** The destination is told to refuse only when the source has burned. */
  readonly askSourceFirst: boolean;
  /** The source keeps its frozen copy until the destination needs nothing more. */
  readonly keepUntilWhole: boolean;
  /** Recovered only where nothing of it is held, and under an epoch that nobody has seen. */
  readonly recoverOnlyAnew: boolean;
  /** The machine that was lost is told, when it is back, that its copy is stale. */
  readonly tellTheLost: boolean;
  /** Only a machine that is off can be fenced. */
  readonly fenceOnlyWhatIsOff: boolean;
  /** A local restore that was cut is refused before the next. */
  readonly refuseLocally: boolean;
  /** A destination that waits for its token waits for ever. */
  readonly waitForToken: boolean;
  /** A prepared copy is told only when the journal has it. */
  readonly journalPreparedFirst: boolean;
  /** An operation lets go only what is frozen for itself. */
  readonly takeBackOwnOnly: boolean;
  /** What goes on with a checkpoint looks whether its tree is still frozen. */
  readonly looksWhetherFrozen: boolean;
  /** STOPPED by a checkpoint only when it is in the store. */
  readonly storeBeforeStop: boolean;
  /** It is restored only where all say that nothing of it is open; else because the store has one that was let go. */
  readonly restoreAsksAll: boolean;
  /** A restore whose answer was lost is settled before the next. */
  readonly settleAttempts: boolean;
  /** What never came to a machine that was given up is refused there for ever, as soon as it is told. */
  readonly refuseTheUnheard: boolean;
}
export const RULES: Rules = {
  problem: moveProblem,
  conclude,
  burn: true,
  lateCallsEnd: true,
  journalRefusals: true,
  askSourceFirst: true,
  keepUntilWhole: true,
  recoverOnlyAnew: true,
  tellTheLost: true,
  fenceOnlyWhatIsOff: true,
  refuseLocally: true,
  waitForToken: true,
  journalPreparedFirst: true,
  takeBackOwnOnly: true,
  looksWhetherFrozen: true,
  storeBeforeStop: true,
  restoreAsksAll: true,
  settleAttempts: true,
  refuseTheUnheard: true,
};

export const operationName = (op: number): string => `${WORKLOAD}.migrate.${op + 1}`;
export const refOf = (op: Op, index: number): OperationRef => ({
  schema: 1,
  operation: operationName(index),
  workload: WORKLOAD,
  epoch: op.epoch,
  to: op.to,
  source: op.source,
  destination: op.destination,
});
export const holds = (machine: Machine): Hold[] =>
  [...(machine.ledger.get(WORKLOAD)?.values() ?? [])].sort((a, b) => a.epoch - b.epoch);
export const holdAt = (machine: Machine, epoch: number): Hold | undefined => machine.ledger.get(WORKLOAD)?.get(epoch);
export const treeAt = (machine: Machine, epoch: number): Tree | undefined =>
  machine.trees.find((tree) => tree.epoch === epoch);

/** The machine after a line in its journal; undefined when the ledger forbids it: then nothing is written. */
export function journaled(rules: Rules, machine: Machine, hold: Omit<Hold, "workload">): Machine | undefined {
  const whole: Hold = { workload: WORKLOAD, ...hold };
  if (rules.problem(machine.ledger, whole) !== undefined) return undefined;
  if (rules.problem === moveProblem) return { ...machine, ledger: applyMove(machine.ledger, whole) };
  const epochs = new Map(machine.ledger.get(WORKLOAD));
  epochs.set(hold.epoch, { ...epochs.get(hold.epoch), ...whole });
  return { ...machine, ledger: new Map(machine.ledger).set(WORKLOAD, epochs) };
}
export const withTree = (machine: Machine, tree: Tree): Machine => ({
  ...machine,
  trees: [...machine.trees.filter((t) => t.epoch !== tree.epoch), tree].sort((a, b) => a.epoch - b.epoch),
});
export const withoutTree = (machine: Machine, epoch: number): Machine => ({
  ...machine,
  trees: machine.trees.filter((tree) => tree.epoch !== epoch),
});
export const added = <T extends string | number>(list: readonly T[], item: T): readonly T[] =>
  list.includes(item) ? list : [...list, item].sort((a, b) => (a < b ? -1 : 1));

export function begin(budget: Budget, lazy: boolean): World {
  const fresh: Machine = {
    up: true,
    ledger: emptyLedger,
    records: [],
    tokens: [],
    trees: [],
    images: [],
    giving: [],
    taking: [],
    gathered: [],
    started: [],
  };
  const migrates = budget.operations > 0;
  const owner = applyMove(emptyLedger, { workload: WORKLOAD, epoch: 1, state: "OWNER", operation: "w.start.0" });
  return {
    A: { ...fresh, ledger: owner, trees: [{ epoch: 1, state: "runs", whole: true, engine: true }] },
    B: fresh,
    ops: migrates ? [{ epoch: 1, to: 2, source: "A", destination: "B", lazy }] : [],
    wire: [],
    calls: [],
    flow: { op: 0, at: migrates ? "reserving" : "done" },
    left: { ...budget, operations: Math.max(0, budget.operations - 1) },
    lost: false,
    stored: [],
    told: [],
  };
}

/** Two worlds with the same key are the same world. */
export function keyOf(world: World): string {
  const machine = (m: Machine): string =>
    [
      m.up ? "u" : "d",
      holds(m).map((h) => `${h.epoch}${h.state}${h.to ?? ""}${h.operation ?? ""}${h.digest ?? ""}`),
      m.records.map((r) => `${r.side[0]}${r.op}${r.to}${r.local ? "l" : ""}`),
      m.tokens,
      m.trees.map((t) => `${t.epoch}${t.state[0]}${t.whole ? "w" : ""}${t.engine ? "e" : ""}`),
      m.images,
      m.giving.map((g) => `${g.op}${g.to}${g.local ? "l" : ""}${g.back ? "b" : ""}${g.restoring ?? ""}`),
      m.taking.map((t) => `${t.op}${t.to}${t.local ? "l" : ""}${t.refused ? "r" : ""}${t.token ? "t" : ""}`),
      m.save ?? "",
      m.gathered,
      m.started,
    ].join("|");
  const reading = (r: Flow["source"]): string =>
    r === undefined
      ? ""
      : r === "silent"
        ? "?"
        : `${r.state ?? "-"}${r.token ? "t" : ""}${r.holds.map((h) => `${h.epoch}${h.state}`).join()}`;
  const { flow, left } = world;
  return [
    machine(world.A),
    machine(world.B),
    world.ops.map(
      (o) =>
        `${o.epoch}${o.to}${o.source}${o.lazy ? "z" : ""}${o.kind === undefined ? "" : o.stop === true ? "s" : "c"}`,
    ),
    world.wire,
    world.calls,
    `${flow.op}${flow.at}${reading(flow.source)}/${reading(flow.destination)}`,
    `${left.kills}${left.powerLosses}${left.engineDeaths}${left.localFailures}${left.terminations}${left.fences}${left.recoveries}${left.operations}${left.checkpoints}${left.restores}`,
    world.lost ? "x" : "",
    world.stored,
    world.told,
    world.attempt === undefined ? "" : `${world.attempt.node}${world.attempt.to}`,
  ].join("\n");
}
