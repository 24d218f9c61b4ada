import assert from "node:assert/strict";
import { getPriority } from "node:os";
import { test } from "node:test";
import { Priority } from "../../src/host/priority.js";

test("a priority is raised and put back; where that is not allowed all stays as it is", () => {
  const usual = getPriority();
  const priority = new Priority();
  priority.raise(5);
  assert.equal(getPriority(), priority.raised ? usual - 5 : usual);
  priority.raise(5);
  priority.raise(0);
  assert.equal(getPriority(), usual);
});
