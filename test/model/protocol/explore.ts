/** Walks every world that can be reached within a budget of faults, and checks what Ferry promises in each. */
import { isOpen } from "../../../src/model/ownership.js";
import { agentSteps, faults } from "./agent-steps.js";
import { checkpointSteps, isDown, isLetGoTooSoon, restoreSteps } from "./checkpoint-steps.js";
import { callSteps, flowSteps, personSteps, recoverySteps } from "./flow-steps.js";
import { begin, holds, keyOf, RULES, type Budget, type Name, type Rules, type Step, type World } from "./world.js";

const NAMES: readonly Name[] = ["A", "B"];

export interface Options {
  budget: Budget;
  lazy: boolean;
  rules?: Partial<Rules>;
  /** Only these steps are taken: to go deeper into a corner. */
  only?: (step: Step) => boolean;
  /** The machines that have to come to an end: with `only`, the other one may not be able to. */
  judged?: readonly Name[];
  /** Stop, without an answer, at this many worlds. */
  limit?: number;
}
export interface Violation {
  promise: "never two copies" | "never none" | "stored before it is let go" | "always a way out";
  /** The steps that lead there. */
  trace: string[];
  world: World;
}
export interface Explored {
  worlds: number;
  steps: number;
  settled: number;
  depth: number;
  violation?: Violation;
}

export function stepsOf(rules: Rules, world: World): Step[] {
  return [
    ...NAMES.flatMap((name) => agentSteps(rules, world, name)),
    ...flowSteps(rules, world),
    ...callSteps(rules, world),
    ...personSteps(rules, world),
    ...recoverySteps(rules, world),
    ...checkpointSteps(world),
    ...restoreSteps(rules, world),
    ...NAMES.flatMap((name) => faults(world, name)),
  ];
}

/** Nothing is open any more, and (unless a loss of power took it) exactly one copy runs, where a journal says that it may. */
export function isSettled(world: World, judged: readonly Name[] = NAMES): boolean {
  const all = judged.flatMap((name) => holds(world[name]));
  if (all.some(({ state }) => state !== "OWNER" && isOpen(state))) return false;
  if (!judged.every((name) => world[name].up && world[name].giving.length + world[name].taking.length === 0))
    return false;
  const trees = NAMES.flatMap((name) => world[name].trees.map((tree) => ({ name, ...tree })));
  if (world.lost && trees.length === 0) return true;
  // One that was recovered elsewhere is owned there only.
  if (judged.length === NAMES.length && all.filter(({ state }) => state === "OWNER").length > 1) return false;
  if (trees.length === 0 && isDown(world) && !all.some(({ state }) => isOpen(state))) return true;
  const [tree] = trees;
  return (
    trees.length === 1 &&
    tree?.state === "runs" &&
    holds(world[tree.name]).some((hold) => hold.epoch === tree.epoch && hold.state === "OWNER")
  );
}

function broken(world: World): Violation["promise"] | undefined {
  const trees = NAMES.flatMap((name) => world[name].trees);
  if (trees.filter(({ state }) => state === "runs").length > 1) return "never two copies";
  if (isLetGoTooSoon(world)) return "stored before it is let go";
  if (!world.lost && trees.length === 0 && !isDown(world)) return "never none";
  return undefined;
}

export function explore(options: Options): Explored {
  const rules: Rules = { ...RULES, ...options.rules };
  const limit = options.limit ?? Number.POSITIVE_INFINITY;
  const ids = new Map<string, number>();
  const parents: number[] = [];
  const words: string[] = [];
  const depths: number[] = [];
  /** Steps without a fault, backwards: from where a world can be reached. */
  const before: number[][] = [];
  const good: number[] = [];
  let steps = 0;
  const first = begin(options.budget, options.lazy);
  let queue: { id: number; world: World }[] = [];
  const meet = (world: World, parent: number, word: string): number => {
    const key = keyOf(world);
    const known = ids.get(key);
    if (known !== undefined) return known;
    const id = ids.size;
    ids.set(key, id);
    parents.push(parent);
    words.push(word);
    depths.push(parent < 0 ? 0 : (depths[parent] ?? 0) + 1);
    before.push([]);
    // After a loss of power that took the only copy, order may need a person.
    if (world.lost || isSettled(world, options.judged)) good.push(id);
    queue.push({ id, world });
    return id;
  };
  const traceTo = (id: number): string[] => {
    const trace: string[] = [];
    for (let at = id; at > 0; at = parents[at] ?? 0) trace.unshift(words[at] ?? "");
    return trace;
  };
  const result = (violation?: Violation): Explored => ({
    worlds: ids.size,
    steps,
    settled: good.length,
    depth: depths.at(-1) ?? 0,
    ...(violation === undefined ? {} : { violation }),
  });
  meet(first, -1, "");
  while (queue.length > 0) {
    const level = queue;
    queue = [];
    for (const { id, world } of level) {
      for (const step of stepsOf(rules, world)) {
        if (options.only?.(step) === false) continue;
        const { name, next, fault } = step;
        steps += 1;
        const to = meet(next, id, name);
        if (fault !== true) before[to]?.push(id);
        if (to === ids.size - 1 && queue.at(-1)?.id === to) {
          const promise = broken(next);
          if (promise !== undefined) return result({ promise, trace: traceTo(to), world: next });
        }
      }
      if (ids.size > limit) throw new RangeError(`more than ${limit} worlds`);
    }
  }
  const stuck = withoutWayOut(before, good);
  if (stuck === undefined) return result();
  // The world itself is not kept: walked to once more.
  const trace = traceTo(stuck);
  let world = first;
  for (const word of trace) world = stepsOf(rules, world).find(({ name }) => name === word)?.next ?? world;
  return result({ promise: "always a way out", trace, world });
}

/** The first world (by depth) from which no settled one is reached without a further fault. */
function withoutWayOut(before: readonly number[][], good: readonly number[]): number | undefined {
  const ends = new Uint8Array(before.length);
  const open = [...good];
  for (const id of good) ends[id] = 1;
  for (let id = open.pop(); id !== undefined; id = open.pop()) {
    for (const from of before[id] ?? []) {
      if (ends[from] === 1) continue;
      ends[from] = 1;
      open.push(from);
    }
  }
  const stuck = ends.indexOf(0);
  return stuck < 0 ? undefined : stuck;
}
