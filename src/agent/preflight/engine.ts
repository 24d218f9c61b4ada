/** criu on this node: there, and able to work with this kernel. */
import { run } from "../../host/exec.js";
import { FerryError, type Side } from "../../model/failure.js";
import type { Finding } from "../../model/plan.js";
import { finder, listText } from "./findings.js";

/** criu says this on every run without CAP_SYS_RESOURCE; it means nothing. */
const NOISE = /rlimit: Can't setup RLIMIT_NOFILE/;

/** Oldest criu with everything that Ferry asks of it: vDSO of kernels from 6.13, sockets from 6.16. */
export const MIN_CRIU = "4.2";

/** Compares dotted versions number by number: negative when `a` is older. Suffixes such as "-rc1" are not looked at. */
export function compareVersions(a: string, b: string): number {
  const numbers = (text: string): number[] => (/^\d+(?:\.\d+)*/.exec(text)?.[0] ?? "0").split(".").map(Number);
  const [left, right] = [numbers(a), numbers(b)];
  for (let at = 0; at < Math.max(left.length, right.length); at += 1) {
    const difference = (left[at] ?? 0) - (right[at] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

/** `version`: from the node's facts, "" when criu is missing. */
export async function checkEngine(side: Side, node: string, version: string): Promise<Finding[]> {
  const { block, info } = finder(side);
  if (version === "") {
    return [
      block(
        "criu",
        `criu is not installed on ${node}`,
        `install criu ${MIN_CRIU} or later there (Debian: apt-get install criu)`,
      ),
    ];
  }
  const findings: Finding[] = [];
  if (compareVersions(version, MIN_CRIU) < 0) {
    findings.push(
      block(
        "criu version",
        `criu ${version} on ${node} is too old: ${MIN_CRIU} or later is needed`,
        `install criu ${MIN_CRIU} or later on ${node}`,
      ),
    );
  }
  try {
    await run("criu", ["check"], { doing: "asking criu whether this kernel can do it", timeoutMs: 10_000 });
    findings.push(info("criu", `criu ${version} works on ${node}`));
  } catch (error) {
    const lines = error instanceof FerryError ? (error.data.evidence?.lines ?? []) : [String(error)];
    const said = lines.filter((line) => !NOISE.test(line));
    findings.push(
      block(
        "criu check",
        `\`criu check\` fails on ${node}${said.length === 0 ? "" : `: ${listText(said, 4)}`}`,
        "give it the kernel options and capabilities it names (the agent runs as root), or use another node",
      ),
    );
  }
  return findings;
}
