/**
 * A checkpoint on its node, and a restore: see src/agent/operations/checkpoint.ts, checkpoints.ts, restoring.ts and
 * src/agent/beginnings.ts; what asks for them is src/workflows/entity-checkpoints.ts and restore.ts.
 */
import { highestSequence, nextEpoch, running, startProblem } from "../../../src/model/settlement.js";
import { isDead, isOpen, mayRefuse, openHold, type Hold } from "../../../src/model/ownership.js";
import { refuseCut, restoreLocally, withGiving, withoutGiving } from "./local-restore.js";
import {
  added,
  holdAt,
  holds,
  journaled,
  operationName,
  treeAt,
  withoutTree,
  withTree,
  WORKLOAD,
  type Giving,
  type Machine,
  type Name,
  type Op,
  type Rules,
  type Step,
  type World,
} from "./world.js";

const NAMES: readonly Name[] = ["A", "B"];
const without = (list: readonly number[], item: number): readonly number[] => list.filter((each) => each !== item);
export const restoreName = (to: number): string => `${WORKLOAD}.restore.${to}`;

/** Frozen, and for this checkpoint. */
const heldFor = (rules: Rules, m: Machine, { epoch }: Op, index: number): boolean => {
  const hold = holdAt(m, epoch);
  const own = hold?.operation === operationName(index) && hold.to === epoch;
  return hold?.state === "FROZEN" && (own || !rules.takeBackOwnOnly);
};

/** What an agent that takes a checkpoint does next. */
export function saveSteps(rules: Rules, world: World, name: Name, giving: Giving): Step[] {
  const machine = world[name];
  const index = giving.op;
  const op = world.ops[index] as Op;
  const { epoch, stop } = op;
  const hold = holdAt(machine, epoch);
  const tree = treeAt(machine, epoch);
  const line = { epoch, operation: operationName(index), peer: name };
  const steps: Step[] = [];
  const go = (what: string, next: Machine | undefined, more: Partial<World> = {}): void => {
    const m = next ?? withGiving(machine, { ...giving, back: true });
    const word = next === undefined ? `${what} (forbidden: called off)` : what;
    steps.push({ name: `${name}: ${word}`, next: { ...world, ...more, [name]: m } });
  };
  const ended = (m: Machine): Machine => ({ ...withoutGiving(m, index), gathered: without(m.gathered, index) });
  const held = heldFor(rules, machine, op, index);
  const gathered = machine.gathered.includes(index);
  const stored = world.stored.includes(index);
  const runOn = (): void => {
    if (tree?.state === "frozen" && tree.engine)
      go(`takes ${epoch} back`, withTree(machine, { ...tree, state: "runs" }));
    else if (tree?.state === "frozen") {
      steps.push(...(refuseCut(rules, world, name, giving) ?? restoreLocally(rules, world, name, giving)));
    } else if (tree === undefined) go(`has lost ${epoch}`, journaled(rules, machine, { ...line, state: "STOPPED" }));
    else go(`journals OWNER of ${epoch}`, journaled(rules, machine, { ...line, state: "OWNER" }));
  };
  if (hold?.state === "STOPPED" && hold.operation === operationName(index)) {
    if (tree !== undefined) go(`kills the stored copy of ${epoch}`, withoutTree(machine, epoch));
    else go("has ended the checkpoint", ended(machine));
  } else if (hold?.state === "OWNER" && !giving.back && !gathered) {
    go(
      `journals FROZEN of ${epoch} for a checkpoint`,
      journaled(rules, machine, { ...line, state: "FROZEN", to: epoch }),
    );
    go("calls the checkpoint off", withGiving(machine, { ...giving, back: true }));
  } else if (hold?.state === "OWNER" && !giving.back && !stop) {
    // Taken back; stored while it runs. Or it can't be stored.
    if (!stored) go("stores the checkpoint", machine, { stored: added(world.stored, index) });
    go("has ended the checkpoint", ended(machine));
  } else if (!held) {
    go("has ended the checkpoint", ended(machine));
  } else if (giving.back) {
    runOn();
  } else if (!gathered) {
    go("calls the checkpoint off", withGiving(machine, { ...giving, back: true }));
    if (tree?.state === "runs") go(`freezes ${epoch}`, withTree(machine, { ...tree, state: "frozen" }));
    else if (tree !== undefined) go(`has gathered ${epoch}`, { ...machine, gathered: added(machine.gathered, index) });
  } else if (!stop) {
    runOn();
  } else {
    // Whether it is stored or not: the agent can't see that it is.
    go("can't find the checkpoint in the store", withGiving(machine, { ...giving, back: true }));
    if (!stored) go("stores the checkpoint", machine, { stored: added(world.stored, index) });
    if (stored || !rules.storeBeforeStop) {
      go(`journals STOPPED of ${epoch}`, journaled(rules, machine, { ...line, state: "STOPPED" }));
    }
  }
  return steps;
}

/** Boot, and whatever broke off: the last checkpoint that this node was asked for goes on, unless it is restored locally. */
export function goOn(rules: Rules, world: World, m: Machine): Machine {
  const index = m.save;
  const op = index === undefined ? undefined : world.ops[index];
  if (index === undefined || op === undefined) return m;
  const hold = holdAt(m, op.epoch);
  if (hold?.operation !== operationName(index) || (hold.state !== "FROZEN" && hold.state !== "OWNER")) return m;
  if (m.giving.some(({ op }) => op === index)) return m;
  if (hold.state === "OWNER" && !m.gathered.includes(index)) return m;
  return again(rules, world, m, index, op);
}

/** An agent that has not begun it itself. What it was about is in the journal, with the sink, and in the store. */
function again(rules: Rules, world: World, m: Machine, index: number, op: Op): Machine {
  const giving = { op: index, to: op.to, local: false };
  const hold = holdAt(m, op.epoch);
  const cut = m.records.find((record) => record.op === index && record.side === "source");
  // The local restore broke off: it is tried again.
  if (cut !== undefined) return hold?.state === "FROZEN" ? withGiving(m, { ...giving, to: cut.to, back: true }) : m;
  if (heldFor(rules, m, op, index)) {
    // It was being taken back when the agent died: it has run since.
    if (rules.looksWhetherFrozen && treeAt(m, op.epoch)?.state === "runs")
      return withGiving(m, { ...giving, back: true });
    // To run on is what a frozen one waits for. One that is in the store needs nothing of the sink.
    if (op.stop && world.stored.includes(index)) {
      return withGiving({ ...m, gathered: added(m.gathered, index) }, { ...giving, back: false });
    }
    return withGiving(m, { ...giving, back: !m.gathered.includes(index) });
  }
  const frozenOnce = hold?.operation === operationName(index);
  if (hold?.state !== "OWNER" || (frozenOnce && !m.gathered.includes(index))) return m;
  return withGiving(m, { ...giving, back: false });
}

/** Told to save, however late. */
export function told(rules: Rules, world: World, m: Machine, index: number): Machine {
  const op = world.ops[index] as Op;
  const hold = holdAt(m, op.epoch);
  if (m.giving.length > 0 || m.taking.length > 0) return m;
  if (m.save === index) return again(rules, world, m, index, op);
  if (
    hold?.state !== "OWNER" ||
    highestSequence(holds(m)) > highestSequence([{ ...hold, operation: operationName(index) }])
  )
    return m;
  return withGiving({ ...m, save: index }, { op: index, to: op.to, local: false, back: false });
}

/** The latest that has run, or may. */
const latestOf = (world: World): { name: Name; hold: Hold } | undefined =>
  NAMES.flatMap((name) => holds(world[name]).map((hold) => ({ name, hold })))
    .filter(({ hold }) => !mayRefuse(hold.state) && hold.state !== "TOMBSTONE" && !isDead(hold.state))
    .sort((a, b) => b.hold.epoch - a.hold.epoch)[0];

/** It may be that nothing of it exists: it was let go, its checkpoint is stored, and no restore of it has begun to run. */
export function isDown(world: World): boolean {
  const latest = latestOf(world);
  if (latest === undefined) return false;
  const { name, hold } = latest;
  if (hold.operation === restoreName(hold.epoch)) return !world[name].started.includes(hold.epoch);
  return hold.state === "STOPPED" && storedStop(world, hold.operation);
}
const storedStop = (world: World, operation: string | undefined): boolean =>
  world.stored.some((index) => operationName(index) === operation && world.ops[index]?.stop === true);

/** One that a checkpoint has let go must be in the store, and must not have run since. */
export function isLetGoTooSoon(world: World): boolean {
  return NAMES.some((name) =>
    holds(world[name]).some(
      ({ state, epoch, operation }) =>
        state === "STOPPED" &&
        world.ops.some((op, index) => op.kind === "checkpoint" && operationName(index) === operation) &&
        treeAt(world[name], epoch) !== undefined &&
        treeAt(world[name], epoch) !== undefined &&
        (!storedStop(world, operation) || treeAt(world[name], epoch)?.state === "runs"),
    ),
  );
}

/** The entity asks for a checkpoint where it runs, with or without stop; and goes on when it has heard how it ended. */
export function checkpointSteps(world: World): Step[] {
  const { flow, left } = world;
  if (flow.at === "saving") {
    const op = world.ops[flow.op] as Op;
    const m = world[op.source];
    const over = m.up && m.giving.length === 0 && m.save === flow.op && holdAt(m, op.epoch)?.state !== "FROZEN";
    return over
      ? [{ name: "workflow: hears how the checkpoint ended", next: { ...world, flow: { op: flow.op, at: "done" } } }]
      : [];
  }
  if (left.checkpoints === 0 || (flow.at !== "done" && flow.at !== "terminated")) return [];
  return NAMES.flatMap((name) => {
    const hold = running(holds(world[name]));
    if (!world[name].up || hold === undefined) return [];
    const to = nextEpoch(Math.max(hold.epoch, ...world.ops.map((op) => op.to)), holds(world[name]));
    return [true, false].map((stop) => {
      const op: Op = { epoch: hold.epoch, to, source: name, destination: name, lazy: false, kind: "checkpoint", stop };
      const index = world.ops.length;
      return {
        name: `workflow: asks for a checkpoint${stop ? ", with stop," : ""} of epoch ${hold.epoch} on ${name}`,
        next: {
          ...world,
          ops: [...world.ops, op],
          calls: added(world.calls, `save ${index}`),
          flow: { op: index, at: "saving" as const },
          left: { ...left, checkpoints: left.checkpoints - 1 },
        },
      };
    });
  });
}

/** The entity restores what does not run, on either machine, when all have said that nothing of it is open. */
export function restoreSteps(rules: Rules, world: World): Step[] {
  const { flow, left, attempt } = world;
  if (flow.at !== "done") return [];
  if (attempt !== undefined) return attemptSteps(rules, world, attempt.node, attempt.to);
  if (left.restores === 0 || world.stored.length === 0) return [];
  const stopped = world.stored.some((index) => world.ops[index]?.stop === true);
  const none = (name: Name): boolean => startProblem(WORKLOAD, name, holds(world[name])) === undefined;
  // A machine that is off and stays so is not asked, by a person's word.
  const off = (name: Name): boolean => !world[name].up && world[name].trees.length === 0;
  const may = rules.restoreAsksAll ? NAMES.every((name) => (world[name].up ? none(name) : off(name))) : stopped;
  if (!may) return [];
  const known = NAMES.flatMap((name) => holds(world[name]));
  // The entity has heard how it ended there, also of a machine that is off now. What ran is recovered, not restored.
  if (rules.restoreAsksAll && latestOf(world)?.hold.state !== "STOPPED") return [];
  return NAMES.filter((name) => world[name].up && none(name)).map((name) => {
    const to = nextEpoch(Math.max(1, ...world.ops.map((op) => op.to)), known);
    return {
      name: `workflow: asks ${name} to restore it as ${to}`,
      next: {
        ...world,
        attempt: { node: name, to },
        calls: added(world.calls, `restore ${name} ${to}`),
        left: { ...left, restores: left.restores - 1 },
      },
    };
  });
}

/** Its answer, which may be lost: then it is asked whether it began, and refuses for ever what it did not. */
function attemptSteps(rules: Rules, world: World, name: Name, to: number): Step[] {
  const m = world[name];
  const { attempt: _, ...settled } = world;
  if (!rules.settleAttempts) return [{ name: "workflow: forgets the restore", next: settled }];
  if (!m.up) return m.trees.length > 0 ? [] : givenUp(rules, world, name, to);
  const hold = holdAt(m, to);
  if (m.started.includes(to) || (hold !== undefined && !isOpen(hold.state))) {
    return [{ name: `workflow: hears what became of ${to}`, next: settled }];
  }
  if (hold !== undefined) return [];
  const refused = journaled(rules, m, { epoch: to, state: "TOMBSTONE", operation: restoreName(to), peer: name });
  return refused === undefined
    ? []
    : [{ name: `${name}: is asked whether ${to} began, and refuses it`, next: { ...settled, [name]: refused } }];
}

/** The machine is off, and was fenced: it is restored on the other one, and told so when it is back. */
function givenUp(rules: Rules, world: World, name: Name, to: number): Step[] {
  const { left } = world;
  const node = name === "A" ? "B" : "A";
  if (left.restores === 0 || !world[node].up) return [];
  if (startProblem(WORKLOAD, node, holds(world[node])) !== undefined) return [];
  const next = nextEpoch(Math.max(to, ...world.ops.map((op) => op.to)), holds(world[node]));
  const line = { epoch: next, operation: restoreName(next), peer: name, digest: "c" };
  const own = journaled(rules, world[node], { ...line, state: "OWNER" });
  if (own === undefined) return [];
  const { attempt: _, ...settled } = world;
  const runs = withTree(own, { epoch: next, state: "runs", whole: true, engine: true });
  return [
    {
      name: `a person: ${name} is off, ${node} restores it as ${next}`,
      fault: true,
      next: {
        ...settled,
        [node]: { ...runs, started: added(runs.started, next) },
        calls: added(world.calls, `outdate ${name} ${to}`),
        lost: false,
        left: { ...left, restores: left.restores - 1 },
      },
    },
  ];
}

/** Told to restore, however late: the journal owns it first. An agent that died in between goes on when it is asked again. */
export function restoreCall(rules: Rules, world: World, name: Name, to: number): Step[] {
  const m = world[name];
  const hold = holdAt(m, to);
  const line = { epoch: to, operation: restoreName(to), peer: name, digest: "c" };
  if (m.started.includes(to)) return [];
  if (hold === undefined) {
    if (openHold(holds(m)) !== undefined) return [];
    const own = journaled(rules, m, { ...line, state: "OWNER" });
    return own === undefined
      ? []
      : [{ name: `${name}: journals OWNER of ${to} to restore it`, next: { ...world, [name]: own } }];
  }
  if (hold.state !== "OWNER" || hold.operation !== restoreName(to)) return [];
  const tree = treeAt(m, to);
  if (tree === undefined) {
    const runs = withTree(m, { epoch: to, state: "runs", whole: true, engine: true });
    const stopped = journaled(rules, m, { epoch: to, state: "STOPPED" });
    return [
      {
        name: `${name}: restores ${to} from the store, and lets it run`,
        next: { ...world, [name]: runs, lost: false },
      },
      ...(stopped === undefined
        ? []
        : [{ name: `${name}: can't restore ${to}`, fault: true, next: { ...world, [name]: stopped } }]),
    ];
  }
  return [
    {
      name: `${name}: journals that ${to} was started`,
      next: { ...world, [name]: { ...m, started: added(m.started, to) } },
    },
  ];
}
