/**
 * One redis back and forth under a counting client: FERRY_E2E_MOVES moves (default 6), cold and post-copy in turn. Memory
 * and files are the same after each, one copy lives, and nothing on the nodes grows with the number of moves. The
 * figures are printed.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { labRun } from "../../deploy/lab/index.js";
import { figuresOf, type Figures, type Levels } from "./figures.js";
import {
  assertMoved,
  copies,
  migrate,
  other,
  startLab,
  startWitness,
  until,
  type E2eLab,
  type Witness,
} from "./support.js";

const NODES = ["node-a", "node-b"];
const given = Number(process.env["FERRY_E2E_MOVES"] ?? "6");
assert.ok(Number.isInteger(given) && given >= 1, "FERRY_E2E_MOVES must be a number of moves");
/** Even: it ends where it began, so that the nodes can be compared. */
const MOVES = Math.max(4, given + (given % 2));
/** What is made once, at the first moves, is no growth. */
const WARM_UP = 2;
/** Room for what comes and goes by itself: a keep-alive connection, a log file. */
const SPARE_DESCRIPTORS = 4;
/** A few holds a move, each a line of some hundred bytes. */
const JOURNAL_BYTES_PER_MOVE = 16 * 1024;

let e2e: E2eLab;
let witness: Witness;
before(async () => {
  e2e = await startLab();
  witness = await startWitness(e2e, "redis", "node-a", 40);
});
after(async () => {
  witness?.counter.kill();
  await e2e?.down();
});

const VOLUME = "/var/lib/ferry/volumes/redis";
const FILL = `cd ${VOLUME}/data && mkdir -p a/b && for n in $(seq 1 200); do seq $n $((n * 20)) >a/b/f$n; done &&
ln a/b/f1 hard && ln -s a/b/f2 soft && chmod 640 a/b/f3 && chown 33:33 a/b/f4 && setfattr -n user.kept -v yes a/b/f5 &&
truncate -s 10M sparse && mkdir -p ../root/srv && echo kept >../root/srv/file`;
const DIGEST = `cd ${VOLUME} && {
find data root -printf '%p %y %m %U %G %s %n %T@ %l\\n' | sort; getfattr -R -d data 2>/dev/null
find data root -type f -print0 | sort -z | xargs -0 sha256sum; } | sha256sum`;

const filesDigest = async (node: string): Promise<string> =>
  (await labRun(e2e.state, node, ["sh", "-c", DIGEST])).stdout.trim();
const figures = async (): Promise<Record<string, Figures>> =>
  Object.fromEntries(await Promise.all(NODES.map(async (node) => [node, await figuresOf(e2e, node)] as const)));
const levels = (of: Record<string, Figures>): Record<string, Levels> =>
  Object.fromEntries(Object.entries(of).map(([node, figure]) => [node, figure.levels]));

test(`${MOVES} moves back and forth: memory and files stay, nothing grows`, async (t) => {
  await labRun(e2e.state, "node-a", ["sh", "-c", FILL]);
  const [memory, files] = [await witness.digest(), await filesDigest("node-a")];
  let node = "node-a";
  let warm: Record<string, Figures> = {};
  const blackouts: Record<"cold" | "postcopy", number[]> = { cold: [], postcopy: [] };
  for (let move = 1; move <= MOVES; move += 1) {
    const mode = move % 2 === 1 ? "cold" : "postcopy";
    node = other(node);
    const report = await migrate(witness.workload, node, mode);
    assertMoved(report);
    blackouts[mode].push(Math.round(report.blackoutMs ?? Number.NaN));
    assert.equal(await witness.digest(), memory, `memory after move ${move}`);
    assert.equal(await filesDigest(node), files, `files after move ${move}`);
    assert.deepEqual(await copies(e2e), { "node-a": 0, "node-b": 0, [node]: 1 }, `copies after move ${move}`);
    if (move === WARM_UP) {
      await new Promise((resolve) => setTimeout(resolve, 2000));
      warm = await figures();
    }
  }
  let end = await figures();
  await until("the nodes are as they were", 15_000, async () => {
    end = await figures();
    return JSON.stringify(levels(end)) === JSON.stringify(levels(warm));
  }).catch(() => assert.deepEqual(levels(end), levels(warm), "something is left on the nodes"));
  for (const name of NODES) {
    const [then, now] = [warm[name]?.sizes, end[name]?.sizes];
    assert.ok(then !== undefined && now !== undefined);
    t.diagnostic(`${name} after ${WARM_UP} moves:  ${JSON.stringify(then)}`);
    t.diagnostic(`${name} after ${MOVES} moves: ${JSON.stringify(now)}`);
    const journal = (now.journalBytes - then.journalBytes) / (MOVES - WARM_UP);
    t.diagnostic(`${name}: journal ${Math.round(journal)} bytes a move; ${JSON.stringify(end[name]?.levels)}`);
    assert.ok(journal < JOURNAL_BYTES_PER_MOVE, `the journal of ${name} grows by ${journal} bytes a move`);
    for (const kind of ["agentDescriptors", "workerDescriptors"] as const) {
      assert.ok(now[kind] <= then[kind] + SPARE_DESCRIPTORS, `${name}: ${kind} from ${then[kind]} to ${now[kind]}`);
    }
  }
  t.diagnostic(`blackouts in ms: ${JSON.stringify(blackouts)}`);
});

test("the client saw one connection, every number once", async () => {
  await witness.assertIntact();
});
