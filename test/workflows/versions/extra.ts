/** A step that a later version might have. */
import { shortly } from "../../../src/workflows/calls.js";
import type { Saga, Step } from "../../../src/workflows/saga.js";

/** Puts it before the hand-over; `wanted` says whether this migration takes it. */
export function extraStep(steps: readonly Step[], wanted: (saga: Saga) => boolean): void {
  const step: Step = {
    name: "look once more",
    side: "source",
    phase: "reserve",
    activities: ["observeWorkload"],
    run: async (saga) => {
      const { schema, workload, source } = saga.handOver.ref;
      if (wanted(saga)) await shortly(source, saga.input.tuning, "once more").observeWorkload({ schema, workload });
      return undefined;
    },
  };
  (steps as Step[]).splice(
    steps.findIndex(({ name }) => name === "hand over"),
    0,
    step,
  );
}
