/** What an agent may do next, by itself: both sides of a hand-over, and the boot. See src/agent/operations. */
import { isDead, isOpen, mayRefuse, type Hold } from "../../../src/model/ownership.js";
import { refuseCut, restoreLocally, withGiving, withoutGiving, withoutTaking, withTaking } from "./local-restore.js";
import { goOn, isDown, saveSteps } from "./checkpoint-steps.js";
import {
  added,
  holdAt,
  journaled,
  operationName,
  other,
  treeAt,
  withoutTree,
  withTree,
  type Giving,
  type Machine,
  type Name,
  type Op,
  type Rules,
  type Step,
  type Taking,
  type World,
} from "./world.js";

const digestOf = (to: number): string => `d${to}`;

export function agentSteps(rules: Rules, world: World, name: Name): Step[] {
  const machine = world[name];
  if (!machine.up)
    return [
      { name: `${name}: the agent starts`, next: { ...world, [name]: goOn(rules, world, booted(world, machine)) } },
    ];
  const idle = machine.giving.length + machine.taking.length === 0;
  const again = idle ? goOn(rules, world, machine) : machine;
  return [
    ...(again === machine ? [] : [{ name: `${name}: begins the checkpoint again`, next: { ...world, [name]: again } }]),
    ...machine.giving.flatMap((giving) => give(rules, world, name, giving)),
    ...machine.taking.flatMap((taking) => take(rules, world, name, taking)),
  ];
}

/** The boot rule: what the journal does not own is swept, and every hand-over that it says is under way goes on. */
function booted(world: World, machine: Machine): Machine {
  const kept = machine.trees.filter(({ epoch }) => isOpen(holdAt(machine, epoch)?.state ?? "GONE"));
  let m: Machine = { ...machine, up: true, trees: kept };
  for (const record of m.records) {
    const op = world.ops[record.op];
    if (op === undefined) continue;
    const hold = holdAt(m, record.side === "source" ? op.epoch : record.to);
    if (hold === undefined || hold.operation !== operationName(record.op)) continue;
    const side = { op: record.op, to: record.to, local: record.local };
    if (record.side === "destination") {
      if (["RESERVED", "RECEIVED", "PREPARED", "ACTIVE", "RUNNING"].includes(hold.state)) {
        const refused = hold.state === "RESERVED" || hold.state === "RECEIVED";
        m = withTaking(m, { ...side, refused, token: false });
      }
    } else if (hold.state === "FROZEN" || holdAt(m, record.to)?.state === "FENCED") {
      m = withGiving(m, { ...side, local: false, back: true });
    } else if (hold.state === "RELEASED") m = withGiving(m, { ...side, back: false });
  }
  return m;
}

function give(rules: Rules, world: World, name: Name, giving: Giving): Step[] {
  const machine = world[name];
  const op = world.ops[giving.op] as Op;
  const { epoch } = op;
  const { to } = giving;
  const cutOff = machine.records.some((r) => r.op === giving.op && r.side === "source");
  if (op.kind === "checkpoint" && !giving.local && !cutOff) return saveSteps(rules, world, name, giving);
  const hold = holdAt(machine, epoch);
  const tree = treeAt(machine, epoch);
  const peer = giving.local ? name : other(name);
  const line = { epoch, operation: operationName(giving.op), peer };
  const steps: Step[] = [];
  const go = (what: string, next: Machine | undefined, more: Partial<World> = {}): void => {
    // A move that the ledger forbids breaks the side off: whoever asks next begins it anew.
    const m = next ?? withoutGiving(machine, giving.op);
    const word = next === undefined ? `${what} (forbidden: breaks off)` : what;
    steps.push({ name: `${name}: ${word}`, next: { ...world, ...more, [name]: m } });
  };
  if (hold?.state === "RELEASED" && holdAt(machine, to)?.state === "FENCED") {
    const back = journaled(rules, machine, { ...line, state: "FROZEN" });
    go(`journals FROZEN of ${epoch} again`, back && withGiving(back, { ...giving, back: true }));
    return steps;
  }
  if (hold?.state === "RELEASED") {
    if (!machine.tokens.includes(to)) {
      go(
        `sends the token of ${to}`,
        { ...machine, tokens: added(machine.tokens, to) },
        { wire: added(world.wire, `token ${to}`) },
      );
    } else if (!world.wire.includes(`token ${to}`)) {
      go(`sends the token of ${to} again`, machine, { wire: added(world.wire, `token ${to}`) });
    }
    const enough = rules.keepUntilWhole && !giving.local ? "whole" : "running";
    if (world.wire.includes(`${enough} ${to}`)) {
      if (tree !== undefined) go(`kills its copy of ${epoch}`, withoutTree(machine, epoch));
      else {
        const gone = journaled(rules, machine, { ...line, state: "GONE" });
        go(`journals GONE of ${epoch}`, gone && withoutGiving(gone, giving.op));
      }
    }
    return steps;
  }
  if (hold === undefined || hold.state === "GONE" || hold.state === "STOPPED") {
    go("has ended", withoutGiving(machine, giving.op));
    return steps;
  }
  if (!giving.back) {
    const off = withGiving(machine, { ...giving, back: true });
    if (!giving.local || holdAt(machine, to)?.state === "TOMBSTONE") go(`calls ${to} off`, off);
    else steps.push(...localFailure(world, `${name}: the local restore takes too long`, { [name]: off }));
    if (hold.state === "OWNER") {
      if (!giving.local) go(`journals FROZEN of ${epoch}`, journaled(rules, machine, { ...line, state: "FROZEN", to }));
    } else if (tree?.state === "runs") {
      go(`freezes ${epoch}`, withTree(machine, { ...tree, state: "frozen" }));
    } else if (tree !== undefined && world.wire.includes(`prepared ${to}`)) {
      go(
        `journals RELEASED of ${epoch}`,
        journaled(rules, machine, { ...line, state: "RELEASED", to, digest: digestOf(to) }),
      );
    }
    return steps;
  }
  const refusing = refuseCut(rules, world, name, giving);
  if (refusing !== undefined) return refusing;
  const own = holdAt(machine, to)?.peer === name;
  const dead = isDead(holdAt(machine, to)?.state ?? "OWNER");
  if (rules.burn && !(rules.refuseLocally && own) && !dead && !giving.local) {
    go(`journals BURNED of ${to}`, journaled(rules, machine, { ...line, epoch: to, state: "BURNED" }));
    return steps;
  }
  if (hold.state === "OWNER") {
    go("is back", withoutGiving(machine, giving.op));
  } else if (giving.local) {
    // Stuck: the frozen tree and its images are kept, and whoever asks next tries again.
    go("could not restore locally", withoutGiving(machine, giving.op));
  } else if (tree?.state === "frozen" && tree.engine) {
    go(`takes ${epoch} back`, withTree(machine, { ...tree, state: "runs" }));
  } else if (tree?.state === "frozen") {
    steps.push(...restoreLocally(rules, world, name, giving));
  } else {
    const owner = journaled(rules, machine, { ...line, state: "OWNER" });
    go(`journals OWNER of ${epoch}`, owner && withoutGiving(owner, giving.op));
  }
  return steps;
}

function localFailure(world: World, name: string, change: Partial<World>): Step[] {
  const { left } = world;
  if (left.localFailures === 0) return [];
  return [
    { name, fault: true, next: { ...world, ...change, left: { ...left, localFailures: left.localFailures - 1 } } },
  ];
}

function take(rules: Rules, world: World, name: Name, taking: Taking): Step[] {
  const machine = world[name];
  const op = world.ops[taking.op] as Op;
  const { to, local } = taking;
  const hold = holdAt(machine, to);
  const tree = treeAt(machine, to);
  const from = local ? machine : world[other(name)];
  // Of this operation: nobody else serves its images and pages.
  const fenced = holdAt(from, to)?.state === "FENCED";
  const serving = !fenced && holdAt(from, op.epoch)?.operation === operationName(taking.op);
  const frozen = serving && treeAt(from, op.epoch)?.state === "frozen";
  const line = { epoch: to, operation: operationName(taking.op), peer: local ? name : other(name) };
  const steps: Step[] = [];
  const go = (what: string, next: Machine | undefined, more: Partial<World> = {}): void => {
    const m = next ?? withoutTaking(machine, to);
    const word = next === undefined ? `${what} (forbidden: breaks off)` : what;
    steps.push({ name: `${name}: ${word}`, next: { ...world, ...more, [name]: m } });
  };
  const restore = (): void => {
    if (!machine.images.includes(to)) {
      if (frozen) go(`receives images of ${to}`, { ...machine, images: added(machine.images, to) });
    } else
      go(
        `restores ${to}, held`,
        withTree(machine, { epoch: to, state: "held", whole: local || !op.lazy, engine: true }),
      );
  };
  const refused = (m: Machine): Machine | undefined =>
    rules.journalRefusals
      ? journaled(rules, m, { ...line, state: "TOMBSTONE" })
      : withoutTaking(withoutTree(m, to), to);
  const entry = (state: Hold["state"]): Machine | undefined =>
    journaled(rules, machine, { ...line, state, ...(state === "RUNNING" ? {} : { digest: digestOf(to) }) });
  const state = hold?.state;
  if (taking.refused && state !== undefined && mayRefuse(state)) {
    go(`journals TOMBSTONE of ${to}`, refused(machine));
  } else if (state === "RESERVED" || state === "RECEIVED") {
    const refusing = withTaking(machine, { ...taking, refused: true });
    if (!local) go(`refuses ${to}`, refusing);
    else steps.push(...localFailure(world, `${name}: the local restore fails`, { [name]: refusing }));
    if (tree === undefined) restore();
    if (state === "RESERVED" && machine.images.includes(to)) go(`journals RECEIVED of ${to}`, entry("RECEIVED"));
    if (state === "RECEIVED" && tree !== undefined) {
      const wire = added(world.wire, `prepared ${to}`);
      const told = world.wire.includes(`prepared ${to}`);
      if (!rules.journalPreparedFirst && !told) go(`says PREPARED of ${to}`, machine, { wire });
      go(`journals PREPARED of ${to}, and says it`, entry("PREPARED"), { wire });
    }
  } else if (state === "PREPARED") {
    if (tree === undefined) restore();
    else if (taking.token || world.wire.includes(`token ${to}`) || !rules.waitForToken) {
      go(`journals ACTIVE of ${to}`, entry("ACTIVE"));
    }
  } else if (state === "ACTIVE") {
    const wire = added(world.wire, `running ${to}`);
    if (tree === undefined) restore();
    else if (tree.state === "held") go(`lets ${to} run`, withTree(machine, { ...tree, state: "runs" }));
    else go(`journals RUNNING of ${to}`, entry("RUNNING"), { wire });
  } else if (state === "RUNNING") {
    if (tree !== undefined && !tree.whole) {
      if (frozen) go(`receives the last page of ${to}`, withTree(machine, { ...tree, whole: true }));
    } else {
      const owner = journaled(rules, machine, { ...line, state: "OWNER" });
      const wire = added(added(world.wire, `running ${to}`), `whole ${to}`);
      go(`journals OWNER of ${to}, and says it`, owner && withoutTaking(owner, to), { wire });
    }
  } else if (tree !== undefined && state === "TOMBSTONE") go(`sweeps ${to}`, withoutTree(machine, to));
  else go(`has ended with ${to}`, withoutTaking(machine, to));
  return steps;
}

/** What dies: an agent, a machine's power, criu in the hold. */
export function faults(world: World, name: Name): Step[] {
  const machine = world[name];
  const { left } = world;
  const steps: Step[] = [];
  const dead: Machine = { ...machine, up: false, giving: [], taking: [] };
  if (left.kills > 0 && machine.up) {
    steps.push({
      name: `${name}: the agent is killed`,
      next: { ...world, [name]: dead, left: { ...left, kills: left.kills - 1 } },
    });
  }
  if (left.powerLosses > 0) {
    const lost = machine.trees.some(({ state }) => state !== "held");
    steps.push({
      name: `${name}: the machine loses power`,
      next: {
        ...world,
        [name]: { ...dead, trees: [], images: [], gathered: [] },
        // What is stored and let go is not lost.
        lost: world.lost || (lost && !isDown(world)),
        left: { ...left, powerLosses: left.powerLosses - 1 },
      },
    });
  }
  if (left.engineDeaths > 0) {
    for (const tree of machine.trees) {
      if (tree.state === "runs" || !tree.engine) continue;
      // A copy that waits in criu's hook dies with it; a frozen one stays, and nobody can let it go.
      const next =
        tree.state === "held" ? withoutTree(machine, tree.epoch) : withTree(machine, { ...tree, engine: false });
      steps.push({
        name: `${name}: criu dies in the hold of ${tree.epoch}`,
        next: { ...world, [name]: next, left: { ...left, engineDeaths: left.engineDeaths - 1 } },
      });
    }
  }
  return steps.map((step) => ({ ...step, fault: true }));
}
