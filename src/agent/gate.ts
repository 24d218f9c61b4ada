/**
 * The gate: whatever is to run here is held against the node's own policy, before anything is touched. It stands where
 * things are done (start, reserve, hand over), not only where they are planned: a preflight can be left out by whoever
 * schedules activities himself.
 */
import type { OperationRef } from "../model/contract.js";
import { ferryError, type Side } from "../model/failure.js";
import { isOpen } from "../model/ownership.js";
import type { Finding } from "../model/plan.js";
import { specProblems } from "../model/spec-check.js";
import type { WorkloadSpec } from "../model/workload.js";
import type { NodeContext } from "./operations/node-context.js";
import { loadPolicy } from "./policy.js";
import { checkDestination, checkPolicy } from "./policy-check.js";
import { checkPlaces } from "./shared-volumes.js";

type GateContext = Pick<NodeContext, "config" | "book">;

/** What this node has against a spec that is to be started here, or (`from`) comes from another node. */
export function against(context: GateContext, spec: WorkloadSpec, side: Side, from?: string): Finding[] {
  const { book, config } = context;
  const others = book
    .workloads()
    .filter((name) => name !== spec.name && book.holds(name).some((hold) => isOpen(hold.state)));
  const asked = {
    side,
    node: config.node,
    nowMs: Date.now(),
    others: others.length,
    ...(from !== undefined && { from }),
  };
  return [...checkPolicy(spec, loadPolicy(config.policyFile), asked), ...checkPlaces(spec, config.stateDir, side)];
}

/** What this node, as the source, has against where a workload goes. */
export const againstDestination = ({ config }: GateContext, ref: OperationRef): Finding[] =>
  checkDestination(ref.destination, loadPolicy(config.policyFile));

/** Throws E_POLICY, or E_SIGNATURE where that is all, with every reason. */
export function demand(context: GateContext, workload: string, findings: readonly Finding[]): void {
  const blocks = findings.filter(({ level }) => level === "block");
  if (blocks.length === 0) return;
  const { node } = context.config;
  const code = blocks.every(({ check }) => check === "signature") ? "E_SIGNATURE" : "E_POLICY";
  throw ferryError(
    code,
    `node ${node} does not allow ${workload}: ${blocks.map(({ message }) => message).join("; ")}`,
    {
      workload,
      node,
      remedy: blocks.map(({ remedy }) => remedy).find((said) => said !== undefined) ?? "see the node's policy file",
    },
  );
}

/** A spec that is one, and that this node lets run. Throws E_SPEC, E_POLICY, E_SIGNATURE. */
export function demandAllowed(context: GateContext, spec: WorkloadSpec, side: Side, from?: string): void {
  const problems = specProblems(spec);
  if (problems.length > 0) {
    throw ferryError("E_SPEC", `${spec.name} can't be run: ${problems.join("; ")}`, {
      workload: spec.name,
      remedy: "correct the spec: every problem is listed",
    });
  }
  demand(context, spec.name, against(context, spec, side, from));
}
