/** An agent whose journal is damaged: it answers every verb with why, and touches nothing. */
import type { NodeAgent } from "../model/contract.js";
import { FerryError, type FailureData } from "../model/failure.js";

export function quarantined(failure: FailureData): NodeAgent {
  const refuse = (): Promise<never> => Promise.reject(new FerryError(failure));
  return {
    describeNode: refuse,
    endings: refuse,
    startWorkload: refuse,
    stopWorkload: refuse,
    removeWorkload: refuse,
    observeWorkload: refuse,
    readLog: refuse,
    preflightSource: refuse,
    preflightDestination: refuse,
    reserve: refuse,
    takeOver: refuse,
    handOver: refuse,
    inquire: refuse,
    burn: refuse,
    refuse,
    deliver: refuse,
    steer: refuse,
    acknowledge: refuse,
    cleanup: refuse,
  };
}
