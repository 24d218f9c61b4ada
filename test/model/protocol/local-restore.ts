/** What an agent has in its hands, and the local restore: criu died in the hold. See src/agent/operations/hand-overs.ts. */
import { highestEpoch, mayRefuse } from "../../../src/model/ownership.js";
import {
  holdAt,
  journaled,
  operationName,
  WORKLOAD,
  type Giving,
  type Machine,
  type Name,
  type OpRecord,
  type Rules,
  type Step,
  type Taking,
  type World,
} from "./world.js";

export const withGiving = (m: Machine, giving: Giving): Machine => ({
  ...m,
  giving: [...m.giving.filter((g) => g.op !== giving.op), giving],
});
export const withoutGiving = (m: Machine, op: number): Machine => ({
  ...m,
  giving: m.giving.filter((g) => g.op !== op),
});
export const withTaking = (m: Machine, taking: Taking): Machine => ({
  ...m,
  taking: [...m.taking.filter((t) => t.to !== taking.to), taking].sort((a, b) => a.to - b.to),
});
export const withoutTaking = (m: Machine, to: number): Machine => ({
  ...m,
  taking: m.taking.filter((t) => t.to !== to),
});
export const withRecord = (m: Machine, record: OpRecord): Machine => ({
  ...m,
  records: [...m.records.filter((r) => r.op !== record.op || r.side !== record.side), record],
});

/** A local restore that was cut, or failed: what it restored never ran, and is refused before the next try. */
export function refuseCut(rules: Rules, world: World, name: Name, giving: Giving): Step[] | undefined {
  const machine = world[name];
  const { op, restoring } = giving;
  if (!rules.refuseLocally || restoring !== undefined) return undefined;
  const unswept = machine.taking.find((t) => t.op === op && t.local);
  const cut = machine.records.find((r) => r.op === op && r.side === "destination" && r.local);
  const open = cut !== undefined && mayRefuse(holdAt(machine, cut.to)?.state ?? "GONE");
  if (cut !== undefined && open && unswept?.refused !== true) {
    const taking = { op, to: cut.to, local: true, token: false, refused: true };
    const next = { ...world, [name]: withTaking(machine, taking) };
    return [{ name: `${name}: refuses what was restored locally as ${cut.to}`, next }];
  }
  return open || unswept !== undefined ? [] : undefined;
}

/** criu died in the hold: a hand-over from this node to itself, under a new epoch. */
export function restoreLocally(rules: Rules, world: World, name: Name, giving: Giving): Step[] {
  const machine = world[name];
  const { op, restoring } = giving;
  if (restoring === undefined) {
    const to = highestEpoch(machine.ledger, WORKLOAD) + 1;
    const recorded = withRecord(machine, { side: "destination", op, to, local: true });
    const reserved = journaled(rules, recorded, {
      epoch: to,
      state: "RESERVED",
      operation: operationName(op),
      peer: name,
    });
    const next =
      reserved === undefined ? withoutGiving(machine, op) : withGiving(reserved, { ...giving, restoring: to });
    return [{ name: `${name}: reserves ${to} to restore locally`, next: { ...world, [name]: next } }];
  }
  const side = { op, to: restoring, local: true };
  const taken = withTaking(machine, { ...side, refused: false, token: false });
  const both = withGiving(withRecord(taken, { side: "source", ...side }), { ...side, back: false });
  return [{ name: `${name}: begins to restore ${restoring} locally`, next: { ...world, [name]: both } }];
}
