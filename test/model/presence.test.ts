/** When a node is taken for silent, for lost, and for up again. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { firstSeen, heard, missed, nodeWord, patienceMs, watchProblems, type Watch } from "../../src/model/presence.js";

const WATCH: Watch = { silentAfterMs: 20_000, lostAfterMs: 60_000, steadyMs: 5_000 };
const T = 1_000_000;

test("silent first, lost only when nobody at all is there for long enough, and up again only by being there", () => {
  const up = firstSeen(T);
  const silent = missed(up, WATCH, T + 100_000, "nobody", true);
  assert.deepEqual(silent, { state: "silent", since: T + 80_000, heardAt: T + 80_000, problem: "nobody" });
  assert.equal(missed(silent, WATCH, T + 139_999, "nobody", true).state, "silent");
  const lost = missed(silent, WATCH, T + 140_000, "nobody", true);
  assert.deepEqual(lost, { state: "lost", since: T + 140_000, heardAt: T + 80_000, problem: "nobody" });
  assert.equal(missed(lost, WATCH, T + 200_000, "its agent", false).state, "lost", "a sign of life is not enough");
  assert.deepEqual(heard(lost, T + 300_000), { state: "up", since: T + 300_000, heardAt: T + 300_000 });
  assert.equal(heard(up, T + 300_000).since, T, "up all along");
});

test("a node whose worker answers is never lost", () => {
  const silent = missed(firstSeen(T), WATCH, T + 100_000, "its agent", false);
  assert.equal(missed(silent, WATCH, T + 9_000_000, "its agent", false).state, "silent");
});

test("the next watch waits until it is to be called lost, then for as long as it takes", () => {
  const silent = missed(firstSeen(T), WATCH, T + 100_000, "nobody", true);
  assert.equal(patienceMs(firstSeen(T), WATCH, T), 10_000);
  assert.equal(patienceMs(silent, WATCH, T + 100_000), 40_000);
  assert.equal(patienceMs(silent, WATCH, T + 900_000), 1);
  assert.equal(patienceMs({ ...silent, state: "lost" }, WATCH, T), undefined);
});

test("the word of a node: what a person has said comes first", () => {
  const lost = { ...firstSeen(T), state: "lost" } as const;
  assert.equal(nodeWord({ online: true, presence: lost, fence: {} }), "fenced");
  assert.equal(nodeWord({ online: true, presence: lost }), "lost");
  assert.equal(nodeWord({ online: false, presence: firstSeen(T) }), "offline");
  assert.equal(nodeWord({ online: true }), "online");
});

test("a watch that can't be is refused, with the numbers", () => {
  assert.deepEqual(watchProblems({}), []);
  assert.match(watchProblems({ silentAfterMs: 60_000 }).join(), /60000 ms must be more than the 60000 ms of silence/);
  assert.match(watchProblems({ steadyMs: Number.NaN }).join(), /steadyMs must be milliseconds from 100/);
  assert.match(watchProblems({ lostAfterMs: "1" as unknown as number }).join(), /lostAfterMs .* got "1"/);
});
