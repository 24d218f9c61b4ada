/** The restores that are under way on this node, for who asks how far they are, or does not want one any more. */
import type { Observation, StopInput } from "../../model/contract.js";
import { ferryError } from "../../model/failure.js";
import type { NodeContext } from "./node-context.js";
import { Restoring, type RestoreWhat } from "./restoring.js";

export class Restores {
  private readonly context: NodeContext;
  /** By workload, until every page is in place. */
  private readonly underWay = new Map<string, Restoring>();

  constructor(context: NodeContext) {
    this.context = context;
  }

  async run(what: RestoreWhat): ReturnType<Restoring["run"]> {
    const { name } = what.incarnation.spec;
    const restoring = new Restoring(this.context, what);
    this.underWay.set(name, restoring);
    try {
      return await restoring.run();
    } finally {
      this.underWay.delete(name);
    }
  }

  /** How many of its pages are in place; undefined: it is not being restored, or nothing is known yet. */
  pages(workload: string): Observation["pages"] {
    return this.underWay.get(workload)?.pages;
  }

  /**
   * It is to be stopped: a restore of it ends where it stands, else its stop would wait for as long as the store is away.
   * True: that is all that was asked for. Throws E_STATE when it was and there is none.
   */
  callOff({ workload, epoch, callOff }: Pick<StopInput, "workload" | "epoch" | "callOff">): boolean {
    const calledOff = this.underWay.get(workload)?.giveUp(epoch) === true;
    if (callOff !== true) return false;
    if (calledOff) return true;
    throw ferryError("E_STATE", `epoch ${epoch} of ${workload} is not being restored on ${this.context.config.node}`, {
      workload,
      remedy: `see its state: ferry inspect ${workload}`,
    });
  }
}
