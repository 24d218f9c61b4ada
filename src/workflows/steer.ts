/** A person steers a migration: the update, its validator, and the audit in the view. */
import { CancellationScope, defineUpdate, setHandler } from "@temporalio/workflow";
import type { HandOver, MigrationView, Tuning } from "../model/messages.js";
import { UPDATE } from "../model/messages.js";
import { steerProblems, type SteerCommand, type Steered } from "../model/steering.js";
import { refuseUnless } from "./accept.js";
import { failure, once, readFailure } from "./calls.js";
import { refuseWhenFull } from "./length.js";

/** Commands kept in the view; the history has all of them. */
const SHOWN = 20;

export interface Steerable {
  readonly view: MigrationView;
  readonly handOver: HandOver;
  /** `handOver` was asked of the source, and it has not answered yet. */
  readonly underWay: () => boolean;
  readonly tell: (change: Partial<MigrationView>) => void;
  readonly tuning: Tuning;
}

export function steerable(saga: Steerable): void {
  const { view } = saga;
  const { ref } = saga.handOver;
  setHandler(
    defineUpdate<Steered, [SteerCommand]>(UPDATE.steer),
    // What a person said is carried out whatever becomes of the migration meanwhile.
    (command) => CancellationScope.nonCancellable(() => steer(saga, command)),
    {
      validator: (command) => {
        refuseUnless("the command", steerProblems(command));
        if (view.state === "working" && saga.underWay()) return refuseWhenFull(ref);
        throw failure({
          code: "E_STATE",
          message:
            view.state === "done"
              ? `${ref.operation} has ended: there is nothing left to steer`
              : `${ref.operation} can't be steered now: ${view.state}, phase ${view.phase}`,
          workload: ref.workload,
          remedy: `see where it stands: ferry inspect ${ref.workload}`,
        });
      },
    },
  );
}

async function steer(saga: Steerable, command: SteerCommand): Promise<Steered> {
  const { ref } = saga.handOver;
  const note = (answer: string): void => {
    saga.tell({ steering: [...saga.view.steering, { at: Date.now(), command, answer }].slice(-SHOWN) });
  };
  try {
    const steered = await once(ref.source, saga.tuning, `steer: ${command.do}`).steer({ ref, command });
    note(steered.message);
    return steered;
  } catch (error) {
    const data = readFailure(error, ref.source);
    note(`refused: ${data.message}`);
    throw failure(data);
  }
}
