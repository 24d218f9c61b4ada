/** May this node take part in this hand-over, by what its journal already promised? Pure. */
import type { OperationRef } from "../../model/contract.js";
import { emptyLedger, mayRefuse, mayRun, moveProblem, type Hold, type Ledger } from "../../model/ownership.js";
import type { Finding } from "../../model/plan.js";
import { finder } from "./findings.js";

const { block } = finder("destination");

/** The journal's holds as a ledger; they were legal when they were written. */
function ledgerOf(holds: readonly Hold[]): Ledger {
  const epochs = new Map(holds.map((hold) => [hold.epoch, hold]));
  const [first] = holds;
  return first === undefined ? emptyLedger : new Map([[first.workload, epochs]]);
}

export function checkEpoch(ref: OperationRef, holds: readonly Hold[], node: string): Finding[] {
  const own = holds.filter((hold) => hold.workload === ref.workload);
  const running = own.find((hold) => mayRun(hold.state));
  if (running !== undefined) {
    return [
      block(
        "ownership",
        `${node}'s journal holds ${ref.workload} as ${running.state} (epoch ${running.epoch}): it runs there already`,
        "look at `ferry inspect`; if the source runs it as well, settle the last migration first",
      ),
    ];
  }
  const same = own.find((hold) => hold.epoch === ref.to);
  // Asked again for the same operation: the reservation stands.
  if (same?.state === "RESERVED" && same.operation === ref.operation) return [];
  if (same?.state === "TOMBSTONE" || same?.state === "BURNED") {
    return [
      block(
        "epoch",
        `epoch ${ref.to} of ${ref.workload} was refused on ${node} (${same.state}) and is never used again`,
        "start the migration again: it takes a later epoch",
      ),
    ];
  }
  const pending = own.find((hold) => mayRefuse(hold.state));
  if (pending !== undefined && pending.operation !== ref.operation) {
    return [
      block(
        "ownership",
        `operation ${pending.operation ?? "?"} has epoch ${pending.epoch} of ${ref.workload} ${pending.state} on ${node}`,
        "let it be settled first (`ferry migrate` again, or `ferry cancel`)",
      ),
    ];
  }
  const problem = moveProblem(ledgerOf(own), {
    workload: ref.workload,
    epoch: ref.to,
    state: "RESERVED",
    operation: ref.operation,
  });
  if (problem === undefined) return [];
  return [block("epoch", `${node}: ${problem}`, "start the migration again: it takes a later epoch")];
}
