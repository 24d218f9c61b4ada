import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import {
  MAX_NODE_NAME,
  MAX_WORKLOAD_NAME,
  incarnation,
  isOperationId,
  isWorkloadName,
  nameProblem,
  operationId,
  operationWorkflowId,
} from "../../src/model/names.js";

const good = fc
  .stringMatching(/^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$/)
  .filter((name) => name.length <= MAX_WORKLOAD_NAME);

test("whatever is accepted is safe in a path, a cgroup, an interface and a workflow id", () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.string({ unit: "binary" }), good), (name) => {
      if (!isWorkloadName(name)) return;
      assert.match(name, /^[a-z0-9-]+$/);
      assert.ok(!name.startsWith("-") && !name.endsWith("-") && name.length <= MAX_WORKLOAD_NAME);
      assert.ok(!name.includes("/") && name !== "." && name !== "..");
    }),
  );
});

test("every good name is accepted; derived identifiers never collide", () => {
  fc.assert(
    fc.property(good, good, fc.nat(999), fc.nat(999), (a, b, i, j) => {
      assert.equal(nameProblem("workload", a), undefined);
      assert.ok(isOperationId(operationId(a, "migrate", i)));
      if (a === b && i === j) return;
      assert.notEqual(operationId(a, "migrate", i), operationId(b, "migrate", j));
      assert.notEqual(operationWorkflowId(a, "migrate", i), operationWorkflowId(b, "migrate", j));
      assert.notEqual(incarnation(a, i), incarnation(b, j));
    }),
  );
});

test("a refusal names the value and the rule, and stays short whatever the input", () => {
  for (const name of ["", "..", "a/b", "a b", "ünï", "A", "-a", "a-", "a\n", "x".repeat(300), 7, null, {}]) {
    const problem = nameProblem("node", name);
    assert.ok(problem !== undefined, JSON.stringify(name));
    assert.ok(problem.length < 250, problem);
  }
  assert.equal(nameProblem("node", "x".repeat(MAX_NODE_NAME)), undefined);
});
