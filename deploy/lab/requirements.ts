/** What the lab needs of this machine: the checks of `ferry doctor` without which it can't come up. */
import { runChecks } from "../../src/host/checks.js";

const NEEDED = ["system", "rights", "namespaces", "bridge", "overlay", "cgroup v2", "userfaultfd", "disk"] as const;

/** Every reason why a lab can't be made here, with what to do about it; empty when it can. */
export async function labProblems(directory?: string): Promise<{ problem: string; remedy: string }[]> {
  const checks = await runChecks({ only: NEEDED, ...(directory === undefined ? {} : { directory }) });
  const failed = checks.filter((check) => check.status === "fail");
  // Without Linux or root the other checks only fail for that reason.
  const first = failed.find((check) => check.name === "system" || check.name === "rights");
  return (first === undefined ? failed : [first]).map(({ name, value, detail, remedy }) => ({
    problem: `the lab can't be made here: ${name}: ${value}${detail === "" ? "" : ` (${detail})`}`,
    remedy,
  }));
}
