/** What set-up says while it works, and how it names what did not work. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { labFailure } from "../../deploy/lab/requirements.js";
import type { Progress } from "../../deploy/setup/progress.js";
import { downloadProblem } from "../../deploy/setup/temporal.js";
import { describeFailure } from "../../src/model/failure.js";
import { packageRoot } from "../../src/host/package-root.js";

interface Made {
  makeProgress: (stream: object, options?: { dumb?: boolean; tickMs?: number; stillMs?: number }) => Progress;
}
// Not compiled: it runs before anything is.
const { makeProgress } = (await import(join(packageRoot(), "deploy", "setup", "progress.mjs"))) as Made;

function watched(options: { isTTY: boolean; columns?: number }) {
  const seen = { text: "" };
  const stream = { ...options, write: (text: string) => (seen.text += text) };
  return { seen, progress: makeProgress(stream, { tickMs: 20, stillMs: 60 }) };
}

test("on a terminal one line ticks, other lines go above it, and it is gone at the end", async () => {
  const { seen, progress } = watched({ isTTY: true, columns: 40 });
  const answer = await progress.during("building the node root file system (1 to 5 minutes)", async () => {
    await sleep(90);
    progress.say("by the way");
    return 7;
  });
  assert.equal(answer, 7);
  const drawn = seen.text.split("\r\u001b[K");
  assert.ok(drawn.filter((line) => line.startsWith("setup: building the node root")).length >= 3, seen.text);
  assert.ok(
    drawn.every((line) => line.length < 40),
    "no line is broken",
  );
  assert.ok(drawn.includes("setup: by the way\n"));
  assert.equal(drawn.at(-1), "", "nothing is left of it");
});

test("elsewhere it is said once, and again now and then; a failure goes through", async () => {
  const { seen, progress } = watched({ isTTY: false });
  await assert.rejects(
    progress.during("installing node modules (10 seconds to 2 minutes)", async () => {
      await sleep(150);
      throw new Error("no");
    }),
    /no/,
  );
  const lines = seen.text.split("\n").filter(Boolean);
  assert.equal(lines[0], "setup: installing node modules (10 seconds to 2 minutes)");
  assert.ok(lines.length >= 2 && lines.length <= 4, seen.text);
  for (const line of lines.slice(1)) assert.match(line, /^setup: still installing node modules .*: \d+ s$/);
});

test("a download that failed is a short sentence, whatever the SDK said", () => {
  const said = [
    [
      "[Error: Failed to start ephemeral server: error sending request for url (https://host/cli/default?a=b)]",
      "reached",
    ],
    ["error sending request: dns error: failed to lookup address information", "name can't be resolved"],
    ["HTTP status server error (503 Service Unavailable) for url (https://host/)", "answers with status 503"],
    ["invalid peer certificate: UnknownIssuer", "certificate is not trusted"],
    ["whatever", "does not start"],
  ] as const;
  for (const [raw, words] of said) {
    const sentence = downloadProblem(raw);
    assert.ok(sentence.includes(words), `${raw}: ${sentence}`);
    assert.doesNotMatch(sentence, /\[Error|https?:/);
  }
});

test("each reason why there can't be a lab stands with its own remedy", () => {
  const one = { problem: "overlay: can't be mounted", remedy: "modprobe overlay" };
  const two = { problem: "bridge: can't be made", remedy: "modprobe bridge" };
  assert.deepEqual(labFailure([one]).data, { code: "E_TOOL", message: one.problem, remedy: one.remedy });
  const lines = describeFailure(labFailure([one, two]).data);
  assert.deepEqual(lines.slice(1, 5), [
    "  | overlay: can't be mounted",
    "  |   what to do: modprobe overlay",
    "  | bridge: can't be made",
    "  |   what to do: modprobe bridge",
  ]);
});
