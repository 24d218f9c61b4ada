import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import {
  FerryError,
  describeFailure,
  ferryError,
  isFailureCode,
  isRetryable,
  toFailure,
} from "../../src/model/failure.js";

test("any thrown value becomes data with a known code and a message", () => {
  fc.assert(
    fc.property(fc.anything(), (value) => {
      let failure;
      try {
        failure = toFailure(value);
      } catch {
        // Values that can't even be turned into a string (no prototype) are nobody's error.
        assert.throws(() => String(value));
        return;
      }
      assert.ok(isFailureCode(failure.code));
      assert.equal(typeof failure.message, "string");
    }),
  );
  assert.equal(toFailure(Object.assign(new Error("full"), { code: "ENOSPC" })).code, "E_NO_SPACE");
  assert.equal(isFailureCode("toString"), false);
});

test("data survives JSON, and the chain in words has every part once", () => {
  fc.assert(
    fc.property(fc.string(), fc.string(), fc.array(fc.string(), { maxLength: 4 }), (message, remedy, lines) => {
      const error = ferryError("E_DUMP", message, {
        side: "source",
        node: "node-a",
        phase: "dump",
        remedy,
        evidence: { command: ["criu", "dump"], exitCode: 1, lines },
        cause: { code: "E_TOOL", message: "inner" },
      });
      assert.ok(error instanceof FerryError);
      assert.deepEqual(JSON.parse(JSON.stringify(error.data)), error.data);
      const words = describeFailure(error.data);
      assert.equal(words[0], `${message} [E_DUMP, source node-a dump]`);
      assert.equal(words.filter((line) => line.startsWith("  | ")).length, lines.length);
      assert.equal(words.filter((line) => line.includes("because: inner")).length, 1);
      assert.equal(words.at(-1), `  what to do: ${remedy}`);
    }),
  );
});

test("only an agent that is away is asked again", () => {
  assert.equal(isRetryable("E_AGENT_DOWN"), true);
  assert.equal(isRetryable("E_RESTORE"), false);
});
