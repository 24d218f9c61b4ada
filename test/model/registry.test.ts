import assert from "node:assert/strict";
import { test } from "node:test";
import { registeredNodes, type NodeRun } from "../../src/model/registry.js";

const run = (name: string, status: string, startedAt: number, node: string | undefined = name): NodeRun => ({
  workflowId: `node/${name}`,
  status,
  startedAt,
  node,
});

test("only what was forgotten is no node any more, in whatever order its runs are listed", () => {
  const runs = [
    run("there", "CONTINUED_AS_NEW", 1),
    run("there", "RUNNING", 2),
    run("terminated", "TERMINATED", 1),
    // Visibility is behind: the next run is not listed yet.
    run("between", "CONTINUED_AS_NEW", 1),
    run("forgotten", "CONTINUED_AS_NEW", 1),
    run("forgotten", "COMPLETED", 2),
    run("again", "COMPLETED", 1),
    run("again", "RUNNING", 2),
    // Refused: rubbish under the id of a node that there is, and of one that there never was.
    run("replaced", "TERMINATED", 1),
    run("replaced", "FAILED", 2, ""),
    run("never", "FAILED", 1, ""),
    { ...run("x", "RUNNING", 1), workflowId: "node/../x" },
    { ...run("y", "RUNNING", 1), workflowId: "elsewhere/y" },
  ];
  const all = ["again", "between", "replaced", "terminated", "there"];
  assert.deepEqual(registeredNodes(runs), all);
  assert.deepEqual(registeredNodes(runs.toReversed()), all);
});
