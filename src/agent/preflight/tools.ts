/** The programs that the agent calls on this node, by what they are called for. */
import { findProgram } from "../../host/facts.js";
import { hasSysResource } from "../../host/proc.js";
import type { Side } from "../../model/failure.js";
import type { Finding } from "../../model/plan.js";
import { finder } from "./findings.js";

export type ToolUse = Side | "start";

interface Tool {
  program: string;
  package: string;
  uses: readonly ToolUse[];
  /** Only then. */
  when?: () => boolean;
}

const TOOLS: readonly Tool[] = [
  { program: "ip", package: "iproute2", uses: ["start", "source", "destination"] },
  { program: "nsenter", package: "util-linux", uses: ["start", "source", "destination"] },
  { program: "rsync", package: "rsync", uses: ["source", "destination"] },
  // Asks whether somebody else has the address: without it two machines could answer for one.
  { program: "arping", package: "iputils-arping", uses: ["destination"] },
  // Hides parts of /proc, and is the last of ours to run in a new root (deploy/hooks/hide-proc.pl, enter.pl).
  { program: "perl", package: "perl", uses: ["start", "destination"] },
  // Runs criu where root may not raise limits (deploy/hooks/answers.pl).
  { program: "perl", package: "perl", uses: ["source"], when: () => !hasSysResource() },
];

export const toolsFor = (use: ToolUse): Tool[] =>
  TOOLS.filter((tool) => tool.uses.includes(use) && (tool.when?.() ?? true));

export async function checkTools(
  use: ToolUse,
  node: string,
  find: (program: string) => Promise<string | undefined> = findProgram,
): Promise<Finding[]> {
  const wanted = toolsFor(use);
  const found = await Promise.all(wanted.map(({ program }) => find(program)));
  const missing = wanted.filter((_, at) => found[at] === undefined);
  if (missing.length === 0) return [];
  return [
    finder(use === "start" ? "source" : use).block(
      "tools",
      `${node} lacks ${missing.map(({ program }) => program).join(", ")}`,
      `install ${[...new Set(missing.map((tool) => tool.package))].join(", ")} there`,
    ),
  ];
}
