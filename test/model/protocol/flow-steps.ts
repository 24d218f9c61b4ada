/** What the workflow may do next, and how agents carry out its calls: see src/workflows/migrate, settle and src/agent/operations/settling. */
import type { Inquiry, Observation } from "../../../src/model/contract.js";
import { isDead, isOpen, openHold, runningHold, type Hold } from "../../../src/model/ownership.js";
import { backHome, isFenced, leftovers, nextEpoch, running, startProblem } from "../../../src/model/settlement.js";
import {
  added,
  holdAt,
  holds,
  journaled,
  operationName,
  other,
  refOf,
  withoutTree,
  withTree,
  WORKLOAD,
  type Flow,
  type Machine,
  type Name,
  type Op,
  type Reading,
  type Rules,
  type Step,
  type World,
} from "./world.js";
import { restoreCall, told } from "./checkpoint-steps.js";
import { withGiving, withoutGiving, withoutTaking, withRecord, withTaking } from "./local-restore.js";

const opOf = (world: World, op: number): Op => world.ops[op] as Op;

/** What an agent answers to `inquire`. */
function inquire(world: World, op: number, side: "source" | "destination"): Reading {
  const { epoch, to, source, destination } = opOf(world, op);
  const machine = world[side === "source" ? source : destination];
  const all = holds(machine);
  if (side === "destination") {
    const state = holdAt(machine, to)?.state;
    return { holds: all, token: false, ...(state === undefined ? {} : { state }) };
  }
  const next = holdAt(machine, to)?.state ?? "OWNER";
  const home = isDead(next) && runningHold(machine.ledger, WORKLOAD) !== undefined;
  const state = home ? "OWNER" : holdAt(machine, epoch)?.state;
  return {
    holds: all,
    token: next !== "FENCED" && machine.tokens.includes(to),
    ...(state === undefined ? {} : { state }),
  };
}
const inquiry = (reading: Reading | "silent" | undefined): Inquiry | undefined =>
  reading === undefined || reading === "silent"
    ? undefined
    : {
        holds: [...reading.holds],
        processes: 0,
        ...(reading.state === undefined ? {} : { state: reading.state }),
      };

export function flowSteps(rules: Rules, world: World): Step[] {
  const { flow } = world;
  const index = flow.op;
  const op = world.ops[index] as Op;
  const steps: Step[] = [];
  const go = (name: string, next: Flow, calls: readonly string[] = [], fault = false): void => {
    const all = calls.reduce<readonly string[]>((list, call) => added(list, call), world.calls);
    steps.push({ name: `workflow: ${name}`, next: { ...world, flow: next, calls: all }, ...(fault ? { fault } : {}) });
  };
  const settling: Flow = { op: index, at: "settling" };
  if (flow.at !== "done" && flow.at !== "terminated" && world.left.terminations > 0) {
    const left = { ...world.left, terminations: world.left.terminations - 1 };
    steps.push({
      name: "workflow: terminated",
      fault: true,
      next: { ...world, flow: { op: index, at: "terminated" }, left },
    });
  }
  switch (flow.at) {
    case "reserving":
      if (!world.calls.includes(`reserve ${index}`)) go("asks to reserve", flow, [`reserve ${index}`]);
      else go("gives up, settles", settling);
      if (world[op.destination].records.some((r) => r.op === index && r.side === "destination")) {
        go("asks both to hand over", { op: index, at: "handing" }, [`takeOver ${index}`, `handOver ${index}`]);
      }
      break;
    case "handing":
      if (
        holdAt(world[op.destination], op.to)?.state === "OWNER" &&
        holdAt(world[op.source], op.epoch)?.state === "GONE"
      ) {
        go("hears that both have done it", { op: index, at: "done" }, [
          `cleanup source ${index}`,
          `cleanup destination ${index}`,
        ]);
      }
      go("hears of a failure, or a cancel, settles", settling);
      break;
    case "settling":
      steps.push(...settle(rules, world, index));
      break;
    case "saving":
      break;
    case "done":
    case "terminated":
      steps.push(...next(world));
  }
  return steps;
}

function settle(rules: Rules, world: World, index: number): Step[] {
  const { flow } = world;
  const op = opOf(world, index);
  const steps: Step[] = [];
  const again: Flow = { op: index, at: "settling" };
  const go = (name: string, next: Flow, calls: readonly string[] = []): void => {
    const all = calls.reduce<readonly string[]>((list, call) => added(list, call), world.calls);
    steps.push({ name: `workflow: ${name}`, next: { ...world, flow: next, calls: all } });
  };
  for (const side of ["source", "destination"] as const) {
    if (flow[side] !== undefined || (side === "destination" && flow.source === undefined)) continue;
    if (world[op[side]].up) go(`reads the ${side}'s journal`, { ...flow, [side]: inquire(world, index, side) });
    go(`hears nothing of the ${side}`, { ...flow, [side]: "silent" });
  }
  if (flow.source === undefined || flow.destination === undefined) return steps;
  const ref = refOf(op, index);
  const source = inquiry(flow.source);
  const { verdict } = rules.conclude(ref, source, inquiry(flow.destination));
  const cleanup = [`cleanup source ${index}`, `cleanup destination ${index}`];
  // With the source's receipt: what runs there is stale.
  const refuse = isFenced(ref, source) ? `supersede ${index}` : `refuse ${index}`;
  const finish = [`takeOver ${index}`, `handOver ${index}`];
  switch (verdict) {
    case "moved":
      // Asked again until the destination has every page.
      if (flow.destination !== "silent" && flow.destination.state === "OWNER") {
        go("settled: moved", { op: index, at: "done" }, [...finish, `acknowledge ${index}`, ...cleanup]);
      } else go("asks both to finish", again, finish);
      break;
    case "forward":
      go("goes forward", again, [
        ...finish,
        ...(flow.source !== "silent" && flow.source.token ? [`deliver ${index}`] : []),
      ]);
      break;
    case "rolled-back":
      go("settled: rolled back", { op: index, at: "done" }, cleanup);
      break;
    case "roll-back":
      if (source === undefined) go("waits for the source", again, rules.askSourceFirst ? [] : [`refuse ${index}`]);
      else if (backHome(ref, source) === undefined) go("burns", again, [`burn ${index}`]);
      else if (flow.destination === "silent") {
        // Burned, and it runs: the destination can never get a token. A sweep goes on asking it to refuse.
        go("settled: rolled back, the destination is asked later", { op: index, at: "done" }, [refuse, ...cleanup]);
      } else go("has the destination refuse", again, [refuse]);
      break;
    case "wait":
      go("waits, in doubt", again);
  }
  return steps;
}

/** A person fences a machine and decides for the other one: see src/workflows/resolve. */
export function personSteps(rules: Rules, world: World): Step[] {
  const { flow, left } = world;
  if (left.fences === 0 || flow.at !== "settling") return [];
  const { epoch, to, source, destination } = opOf(world, flow.op);
  const steps: Step[] = [];
  const less = { ...left, fences: left.fences - 1 };
  const off = (name: Name): boolean =>
    !rules.fenceOnlyWhatIsOff || (!world[name].up && world[name].trees.length === 0 && world[name].images.length === 0);
  const there = world[source];
  const giving = there.giving.find((g) => g.op === flow.op && !g.local);
  const kept = holdAt(there, epoch)?.state === "RELEASED" && !world.wire.includes(`whole ${to}`);
  if (off(destination) && there.up && kept && giving !== undefined) {
    const line = { epoch: to, operation: operationName(flow.op), peer: destination };
    const fenced = journaled(rules, there, { ...line, state: "FENCED" });
    if (fenced !== undefined) {
      const name = `a person: ${destination} is off, ${source} takes ${epoch} back`;
      steps.push({ name, fault: true, next: { ...world, [source]: fenced, left: less } });
    }
  }
  const here = world[destination];
  const tree = here.trees.find((t) => t.epoch === to);
  const taking = here.taking.find((t) => t.to === to);
  if (
    off(source) &&
    here.up &&
    holdAt(here, to)?.state === "PREPARED" &&
    tree?.whole === true &&
    taking?.refused === false
  ) {
    const name = `a person: ${source} is off, ${destination} runs ${to}`;
    steps.push({
      name,
      fault: true,
      next: { ...world, [destination]: withTaking(here, { ...taking, token: true }), left: less },
    });
  }
  return steps;
}

/**
 * A machine is lost with the workload, nothing of which is under way: a person fences it, and has the other one run a
 * checkpoint. See src/workflows/recover. That there is a checkpoint is taken for granted.
 */
export function recoverySteps(rules: Rules, world: World): Step[] {
  const { flow, left } = world;
  // A checkpoint whose node is lost is no longer waited for.
  const rests = flow.at === "done" || flow.at === "saving";
  if (left.recoveries === 0 || (rules.recoverOnlyAnew && (!rests || world.attempt !== undefined))) return [];
  return (["A", "B"] as const).flatMap((node) => {
    const lost = other(node);
    const { up, trees, images } = world[lost];
    const off = !rules.fenceOnlyWhatIsOff || (!up && trees.length === 0 && images.length === 0);
    const here = world[node];
    // What the entity knows: it ran there.
    const frozen = holds(world[lost]).find((hold) => hold.state === "FROZEN" && hold.to === hold.epoch);
    const was = rules.recoverOnlyAnew ? (running(holds(world[lost])) ?? frozen) : openHold(holds(world[lost]));
    if (!off || !here.up || was === undefined) return [];
    // The ledger says no to it anyway: the journal is asked before, so that nothing is tried in vain.
    if (rules.recoverOnlyAnew && startProblem(WORKLOAD, node, holds(here)) !== undefined) return [];
    // The entity has heard of every epoch that was given out.
    const to = nextEpoch(Math.max(was.epoch, ...world.ops.map((op) => op.to)), holds(here));
    const line = { epoch: to, operation: `${WORKLOAD}.recover.${to}`, peer: lost, digest: "c" };
    const owner = journaled(rules, here, { ...line, state: "OWNER" });
    if (owner === undefined) return [];
    const tree = { epoch: to, state: "runs", whole: true, engine: true } as const;
    return {
      name: `a person: ${lost} is off, ${node} runs a checkpoint under ${to}`,
      fault: true,
      next: {
        ...world,
        [node]: withTree(owner, tree),
        calls: rules.tellTheLost ? added(world.calls, `outdate ${lost} ${was.epoch}`) : world.calls,
        // Whatever a checkpoint of it comes to: it is not waited for.
        flow: { ...flow, at: "done" as const },
        // There is a copy again: from here on it is held against every promise.
        lost: false,
        left: { ...left, recoveries: left.recoveries - 1 },
      },
    };
  });
}

/** With the signed word of the machine that has it now. */
function outdated(rules: Rules, m: Machine, epoch: number): Machine {
  const hold = holdAt(m, epoch);
  if (hold === undefined && rules.refuseTheUnheard) return journaled(rules, m, { epoch, state: "TOMBSTONE" }) ?? m;
  if (hold === undefined || !isOpen(hold.state)) return m;
  const over = journaled(rules, m, { epoch, state: "SUPERSEDED" });
  return over === undefined ? m : withoutTree(over, epoch);
}

/** A new operation: first it settles what it finds open, then it goes on from where the workload runs. */
function next(world: World): Step[] {
  if (!world.A.up || !world.B.up || world.attempt !== undefined) return [];
  const seen = (name: Name): Observation => ({ holds: holds(world[name]) }) as unknown as Observation;
  const steps: Step[] = [];
  for (const name of ["A", "B"] as const) {
    const peer = other(name);
    const open = leftovers(1, WORKLOAD, { node: name, seen: seen(name) }, { node: peer, seen: seen(peer) });
    const first = open[0];
    if (first !== undefined) {
      const index = world.ops.findIndex((_, i) => operationName(i) === first.operation);
      const op = opOf(world, index);
      if (first.epoch !== op.epoch || first.to !== op.to || first.source !== op.source) {
        throw new Error(`leftovers took ${JSON.stringify(op)} for ${JSON.stringify(first)}`);
      }
      steps.push({
        name: `workflow: settles ${first.operation} first`,
        next: { ...world, flow: { op: index, at: "settling" } },
      });
      continue;
    }
    const hold = running(holds(world[name]));
    if (hold === undefined || world.left.operations === 0) continue;
    const to = nextEpoch(hold.epoch, holds(world[name]), holds(world[peer]));
    const lazy = world.ops[0]?.lazy === true;
    const ops = [...world.ops, { epoch: hold.epoch, to, source: name, destination: peer, lazy }];
    const left = { ...world.left, operations: world.left.operations - 1 };
    steps.push({
      name: `workflow: a migration of epoch ${hold.epoch} from ${name}`,
      next: { ...world, ops, left, flow: { op: ops.length - 1, at: "reserving" } },
    });
  }
  return steps;
}

/** Calls are carried out whenever they come: late, twice, in any order. One that changes nothing is no step. */
export function callSteps(rules: Rules, world: World): Step[] {
  const steps: Step[] = [];
  for (const call of world.calls) {
    const [verb = "", ...rest] = call.split(" ");
    const index = Number(rest.at(-1));
    if (verb === "outdate") {
      const lost = rest[0] === "A" ? "A" : "B";
      const m = world[lost].up ? outdated(rules, world[lost], index) : world[lost];
      const word = `${lost} ${index}`;
      if (m !== world[lost] || (m.up && !world.told.includes(word))) {
        const next = { ...world, [lost]: m, told: added(world.told, word) };
        steps.push({ name: `${lost}: is told that its ${index} is stale`, next });
      }
      continue;
    }
    if (verb === "restore") {
      const name = rest[0] === "A" ? "A" : "B";
      const word = `${name} ${index}`;
      if (world.calls.includes(`outdate ${word}`) && !world.told.includes(word)) continue;
      if (world[name].up) steps.push(...restoreCall(rules, world, name, index));
      continue;
    }
    const op = opOf(world, index);
    if (verb === "save") {
      const m = world[op.source].up ? told(rules, world, world[op.source], index) : world[op.source];
      if (m !== world[op.source]) {
        const name = `${op.source}: is told to save by ${operationName(index)}`;
        steps.push({ name, next: { ...world, [op.source]: m } });
      }
      continue;
    }
    const atSource = ["handOver", "burn", "acknowledge"].includes(verb) || rest[0] === "source";
    const name = atSource ? op.source : op.destination;
    if (!world[name].up) continue;
    const machine = carryOut(rules, world, world[name], verb, index, atSource);
    if (machine !== world[name])
      steps.push({
        name: `${name}: is told to ${verb} by ${operationName(index)}`,
        next: { ...world, [name]: machine },
      });
  }
  return steps;
}

const has = (state: Hold["state"] | undefined, ...states: Hold["state"][]): boolean =>
  state !== undefined && states.includes(state);

function carryOut(rules: Rules, world: World, m: Machine, verb: string, index: number, atSource: boolean): Machine {
  const op = opOf(world, index);
  const { epoch, to } = op;
  const operation = operationName(index);
  const hold = holdAt(m, atSource ? epoch : to);
  const giving = m.giving.find((g) => g.op === index);
  const taking = m.taking.find((t) => t.to === to);
  const record = m.records.find((r) => r.op === index && r.side === (atSource ? "source" : "destination"));
  switch (verb) {
    case "reserve": {
      if (hold !== undefined && (hold.state !== "RESERVED" || hold.operation !== operation)) return m;
      const recorded = record === undefined ? withRecord(m, { side: "destination", op: index, to, local: false }) : m;
      return hold === undefined
        ? (journaled(rules, recorded, { epoch: to, state: "RESERVED", operation, peer: op.source }) ?? m)
        : m;
    }
    case "takeOver": {
      if (record === undefined || record.to !== to || taking !== undefined) return m;
      if (has(hold?.state, "TOMBSTONE", "OWNER", "GONE", "STOPPED")) return m;
      return withTaking(m, { op: index, to, local: false, refused: false, token: false });
    }
    case "handOver": {
      if (giving !== undefined || !has(hold?.state, "OWNER", "FROZEN", "RELEASED", "GONE")) return m;
      if (hold?.state !== "OWNER" && hold?.operation !== operation) return m;
      if (rules.lateCallsEnd && has(holdAt(m, to)?.state, "BURNED", "FENCED") && has(hold?.state, "OWNER", "GONE"))
        return m;
      if (hold?.state === "GONE" || m.giving.length > 0) return m;
      return withGiving(withRecord(m, { side: "source", op: index, to, local: false }), {
        op: index,
        to,
        local: false,
        back: hold?.state === "FROZEN",
      });
    }
    case "burn": {
      if (hold === undefined || has(hold.state, "RELEASED", "GONE")) return m;
      // A local restore is itself the way back.
      if (giving !== undefined) return giving.back || giving.local ? m : withGiving(m, { ...giving, back: true });
      if (hold.state === "FROZEN") {
        if (rules.takeBackOwnOnly && hold.operation !== operation) return m;
        return record === undefined ? m : withGiving(m, { op: index, to: record.to, local: false, back: true });
      }
      if (!rules.burn || hold.state !== "OWNER" || holdAt(m, to) !== undefined) return m;
      return journaled(rules, m, { epoch: to, state: "BURNED", operation, peer: op.destination }) ?? m;
    }
    case "refuse": {
      if (has(hold?.state, "ACTIVE", "RUNNING", "OWNER", "TOMBSTONE", "SUPERSEDED")) return m;
      if (hold === undefined)
        return journaled(rules, m, { epoch: to, state: "TOMBSTONE", operation, peer: op.source }) ?? m;
      if (record === undefined) return m;
      if (taking?.refused === true) return m;
      return withTaking(m, { op: index, to, local: false, token: false, ...taking, refused: true });
    }
    case "deliver": {
      if (
        record === undefined ||
        hold === undefined ||
        has(hold.state, "RUNNING", "OWNER", "ACTIVE", "TOMBSTONE", "SUPERSEDED")
      )
        return m;
      if (taking?.token === true) return m;
      return withTaking(m, { op: index, to, local: false, refused: false, ...taking, token: true });
    }
    case "acknowledge":
      // What the destination's receipt says is on the wire as well, where nothing is ever lost for good.
      return m;
    case "supersede": {
      // With the source's receipt: it has taken back what it had released.
      if (!has(hold?.state, "ACTIVE", "RUNNING", "OWNER")) return carryOut(rules, world, m, "refuse", index, atSource);
      const over = journaled(rules, m, { epoch: to, state: "SUPERSEDED", operation, peer: op.source });
      return over === undefined ? m : withoutTaking(withoutTree(over, to), to);
    }
    case "cleanup":
      return atSource ? cleanupSource(rules, m, world, index) : cleanupDestination(m, to);
    default:
      throw new Error(`no call ${verb}`);
  }
}

function cleanupSource(rules: Rules, before: Machine, world: World, index: number): Machine {
  const { epoch, to, destination } = opOf(world, index);
  let m = before;
  const hold = holdAt(m, epoch);
  if (hold?.state === "OWNER") {
    const late = m.giving.find((g) => g.op === index);
    if (late !== undefined) return late.back ? m : withGiving(m, { ...late, back: true });
    if (rules.burn && holdAt(m, to) === undefined) {
      m = journaled(rules, m, { epoch: to, state: "BURNED", operation: operationName(index), peer: destination }) ?? m;
    }
  }
  if (has(holdAt(m, epoch)?.state, "RELEASED", "FROZEN")) return m;
  if (
    hold?.state === "GONE" &&
    runningHold(m.ledger, WORKLOAD) === undefined &&
    m.trees.some((t) => t.epoch === epoch)
  ) {
    m = withoutTree(m, epoch);
  }
  return m.giving.some((g) => g.op === index) ? withoutGiving(m, index) : m;
}

function cleanupDestination(before: Machine, to: number): Machine {
  let m = before;
  const state = holdAt(m, to)?.state;
  if (state !== undefined && state !== "OWNER" && isOpen(state)) return m;
  if (state === "TOMBSTONE" && m.trees.some((t) => t.epoch === to)) m = withoutTree(m, to);
  if (m.images.includes(to)) m = { ...m, images: m.images.filter((image) => image !== to) };
  return m.taking.some((t) => t.to === to) ? withoutTaking(m, to) : m;
}
