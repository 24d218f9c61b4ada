/** A copy that was not here before begins to run: from its command, or from a checkpoint. */
import { addressProblem, bareIp } from "../model/address.js";
import type { Started } from "../model/contract.js";
import { FerryError, ferryError } from "../model/failure.js";
import type { Hold } from "../model/ownership.js";
import { startProblem } from "../model/settlement.js";
import type { WorkloadSpec } from "../model/workload.js";
import type { Endings } from "./endings.js";
import { demandAllowed } from "./gate.js";
import { heldHere, type NodeContext } from "./operations/node-context.js";
import { checkBridge, readLinks } from "./preflight/network.js";
import { checkTools } from "./preflight/tools.js";

interface Begun {
  pid: number;
  /** It has ended well already. */
  exitCode?: number;
  /** Clears up, once it is journaled that it was started. */
  done?: () => Promise<void>;
}

export class Beginnings {
  private readonly context: NodeContext;
  private readonly ends: Endings;
  private readonly locked: <T>(workload: string, work: () => Promise<T>) => Promise<T>;

  constructor(context: NodeContext, ends: Endings, locked: Beginnings["locked"]) {
    this.context = context;
    this.ends = ends;
    this.locked = locked;
  }

  /** The hold is its first. `goesOn`: whoever is asked again goes on where an agent that has died stood. */
  begin(own: Hold, spec: WorkloadSpec, run: () => Promise<Begun>, goesOn = false): Promise<Started> {
    const { epoch, operation } = own;
    const { runtime, book } = this.context;
    return this.locked(spec.name, async () => {
      const hold = book.hold(spec.name, epoch);
      // A checkpoint, or a migration that came back, has had it in hands since.
      const same = hold !== undefined && book.beganBy(spec.name, epoch) === operation;
      const started = same && book.wasStarted(spec.name, epoch);
      if (hold !== undefined && !same) {
        const code = hold.state === "TOMBSTONE" ? "E_TOMBSTONED" : "E_STALE_EPOCH";
        throw ferryError(code, `epoch ${epoch} of ${spec.name} is another operation's here: ${hold.state}`, {
          workload: spec.name,
        });
      }
      if (hold?.state === "OWNER" && (started || !goesOn)) {
        const seen = await runtime.observe({ name: spec.name, epoch });
        if (seen.processes > 0 && seen.pid !== undefined) return { pid: seen.pid, epoch };
      }
      // Asked again after a lost answer: it was started, and has ended since.
      if (started) return { pid: 0, epoch };
      demandAllowed(this.context, spec, "source");
      // Whoever asks: a copy that is held here, or is on its way here, may yet run.
      const others = book.holds(spec.name).filter((h) => h.epoch !== epoch);
      const open = startProblem(spec.name, this.context.config.node, others);
      if (open !== undefined) throw new FerryError(open);
      await this.demandFit(spec);
      this.demandOwnAddress(spec);
      book.demandRoom();
      // From the look to the entry nothing else of this node gets a turn.
      if (hold === undefined) this.demandItsAddress(spec);
      book.record(own);
      book.recordSpec(spec);
      let begun: Begun;
      try {
        begun = await run();
        book.recordStarted(spec.name, epoch);
        if (begun.exitCode === undefined) this.ends.begun(spec.name, epoch, begun.pid);
        else {
          book.recordEnding({ workload: spec.name, epoch, exitCode: begun.exitCode });
          await runtime.destroy({ name: spec.name, epoch });
        }
      } catch (error) {
        book.record({ workload: spec.name, epoch, state: "STOPPED" });
        throw error;
      }
      await begun.done?.();
      return { pid: begun.pid, epoch };
    });
  }

  private demandItsAddress(spec: WorkloadSpec): void {
    const taken = addressProblem(spec, this.context.config.node, heldHere(this.context));
    if (taken !== undefined) throw new FerryError(taken);
  }

  /** This node does not answer its own question who has an address: one that it holds for a sleeper looks free. */
  private demandOwnAddress({ name, network }: WorkloadSpec): void {
    const { book, config } = this.context;
    const sleeper = book
      .sleepers()
      .map(({ workload }) => workload)
      .find((other) => other !== name && bareIp(book.spec(other)?.network.ip ?? "") === bareIp(network.ip));
    if (sleeper === undefined) return;
    throw ferryError(
      "E_IP_CONFLICT",
      `${name} can't run on ${config.node}: its address ${bareIp(network.ip)} is held for ${sleeper}, which sleeps here`,
      {
        workload: name,
        node: config.node,
        remedy: `give another address with --ip, or stop it: ferry stop ${sleeper}`,
      },
    );
  }

  /** An address that the node's bridge is not in would start something that nobody reaches. */
  private async demandFit(spec: WorkloadSpec): Promise<void> {
    const { bridge, node } = this.context.config;
    const tools = await checkTools("start", node);
    const network = tools.length > 0 ? [] : checkBridge(await readLinks(), bridge, node, spec.network.ip);
    const against = [...tools, ...network].filter((f) => f.level === "block");
    if (against.length === 0) return;
    throw ferryError("E_SPEC", `${spec.name} can't run on ${node}: ${against.map((f) => f.message).join("; ")}`, {
      workload: spec.name,
      node,
      remedy: against.flatMap((f) => f.remedy ?? []).join("; "),
    });
  }
}
