/** Nothing is restored from what a sink gathers: nobody has faults. */
import type { FaultService } from "../../transfer/pages/api.js";
import type { FaultSide } from "../../transfer/mover/destination.js";

const NOBODY: FaultService = {
  arrived: () => undefined,
  fill: () => undefined,
  reset: () => Promise.resolve(),
  status: () => ({ tasks: 0, unclaimed: 0, faults: 0, filled: 0, allFilled: false }),
  onMissing: () => undefined,
  onChange: () => undefined,
  close: () => Promise.resolve(),
};

export const NO_FAULTS: FaultSide = { start: () => Promise.resolve(NOBODY), spare: () => undefined };
