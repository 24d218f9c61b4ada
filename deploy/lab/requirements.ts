/** What the lab needs of this machine: the checks of `ferry doctor` without which it can't come up. */
import { runChecks } from "../../src/host/checks.js";
import { ferryError, type FerryError } from "../../src/model/failure.js";

const NEEDED = ["system", "rights", "namespaces", "bridge", "overlay", "cgroup v2", "userfaultfd", "disk"] as const;

export interface LabProblem {
  problem: string;
  remedy: string;
}

/** All of them as one failure, each with what to do about it. */
export function labFailure(problems: readonly LabProblem[]): FerryError {
  const [first, ...more] = problems;
  if (first !== undefined && more.length === 0) return ferryError("E_TOOL", first.problem, { remedy: first.remedy });
  return ferryError("E_TOOL", `the lab can't be made here, for ${problems.length} reasons`, {
    evidence: { lines: problems.flatMap(({ problem, remedy }) => [problem, `  what to do: ${remedy}`]) },
    remedy: "do what is said for each; `ferry doctor` shows all checks",
  });
}

/** Every reason why a lab can't be made here, with what to do about it; empty when it can. */
export async function labProblems(directory?: string): Promise<LabProblem[]> {
  const checks = await runChecks({ only: NEEDED, ...(directory === undefined ? {} : { directory }) });
  const failed = checks.filter((check) => check.status === "fail");
  // Without Linux or root the other checks only fail for that reason.
  const first = failed.find((check) => check.name === "system" || check.name === "rights");
  return (first === undefined ? failed : [first]).map(({ name, value, detail, remedy }) => ({
    problem: `the lab can't be made here: ${name}: ${value}${detail === "" ? "" : ` (${detail})`}`,
    remedy,
  }));
}
