/** A hold of a node's journal in words. Pure. */
import type { Hold, HoldState } from "../../model/ownership.js";

const WORDS: Record<HoldState, string> = {
  OWNER: "runs here",
  FROZEN: "frozen here, may go back",
  RELEASED: "handed over, may not run here",
  GONE: "handed over, nothing is left here",
  BURNED: "never used: the hand-over was taken back",
  RESERVED: "reserved for an incoming workload",
  RECEIVED: "received, not restored",
  PREPARED: "restored and held, may not run yet",
  ACTIVE: "may run here, about to be resumed",
  RUNNING: "runs here",
  TOMBSTONE: "refused for ever",
  STOPPED: "stopped by a person",
  FENCED: "fenced: a person said that the node which had it is off",
  SUPERSEDED: "killed: a person had decided for the other node",
};

export function describeHold(hold: Hold): string {
  const peer = hold.peer === undefined ? "" : `, peer ${hold.peer}`;
  const operation = hold.operation === undefined ? "" : ` (${hold.operation})`;
  return `epoch ${hold.epoch}  ${hold.state.padEnd(9)}  ${WORDS[hold.state]}${peer}${operation}`;
}
