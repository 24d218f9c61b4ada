/** Checkpoints of a redis that is counted in: asked of the agent itself, over its socket. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { after, before, test, type TestContext } from "node:test";
import { labNode, patience } from "../../deploy/lab/index.js";
import { createAgentClient } from "../../src/agent/client.js";
import { FAILPOINTS, type Failpoint } from "../../src/agent/failpoint.js";
import { openStore } from "../../src/checkpoints/store-config.js";
import type { Saved, SaveInput } from "../../src/model/contract.js";
import { describeFailure, toFailure } from "../../src/model/failure.js";
import { compareCheckpoints } from "../../src/checkpoints/diff/compare.js";
import { parseSockets } from "../../src/transfer/images/describe.js";
import { fsck, type Store } from "../../src/store/index.js";
import {
  armFailpoint,
  assertLives,
  clearFailpoints,
  copies,
  fired,
  killOn,
  reached,
  goOn,
  startLab,
  startWitness,
  until,
  type E2eLab,
  type Witness,
} from "./support.js";

const NODE = "node-a";
const STORE = { local: "/var/lib/ferry/checkpoints", key: { file: "/etc/ferry/master.key" } };
const SIGNER = "/etc/ferry/checkpoints.key";
let e2e: E2eLab;
let root: string;

before(async () => {
  process.env["FERRY_LAB_STORE"] = "/etc/ferry/store.json";
  e2e = await startLab(2);
  root = `/proc/${(await labNode(e2e.state, NODE)).pid}/root`;
  const signer = generateKeyPairSync("ed25519").privateKey.export({ type: "pkcs8", format: "pem" });
  const put = (path: string, text: string | Buffer): void => writeFileSync(`${root}${path}`, text, { mode: 0o600 });
  put(SIGNER, signer);
  put(STORE.key.file, `${randomBytes(32).toString("hex")}\n`);
  put("/etc/ferry/store.json", JSON.stringify({ ...STORE, signer: SIGNER }));
});
after(async () => {
  await e2e?.down();
});

const store = (): Promise<Store> =>
  openStore({ local: root + STORE.local, key: { file: root + STORE.key.file }, signer: root + SIGNER });

/** The only redis on its node, and gone when its test is over. */
async function witnessOf(t: TestContext, name: string, megabytes: number): Promise<Witness> {
  const witness = await startWitness(e2e, name, NODE, megabytes);
  t.after(async () => {
    witness.counter.kill();
    await witness.workload.stop().catch(() => undefined);
    await killOn(e2e, NODE, "redis-server");
  });
  return witness;
}

let sequence = 0;
async function inputFor(witness: Witness, more: Partial<SaveInput["options"]> = {}): Promise<SaveInput> {
  const { workload, epoch } = await witness.workload.status().then((status) => ({
    workload: status.spec.name,
    epoch: status.epoch,
  }));
  sequence += 1;
  return {
    ref: {
      schema: 1,
      operation: `${workload}.checkpoint.${sequence}`,
      workload,
      epoch,
      to: epoch + 1,
      source: NODE,
      destination: NODE,
    },
    options: { stop: false, reason: "test", requestedBy: "tests", labels: {}, maxBlackoutMs: 30_000, ...more },
    request: randomUUID(),
  };
}

/** As a worker asks: again and again, whatever becomes of the agent. */
async function save(input: SaveInput): Promise<Saved> {
  const agent = createAgentClient(`${root}/run/ferry/agent.sock`);
  const deadline = performance.now() + 90_000 * patience();
  for (;;) {
    try {
      const step = await agent.saveCheckpoint(input, 1000);
      if (step.done) return step.result;
    } catch (error) {
      if (toFailure(error).code !== "E_AGENT_DOWN") throw error;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    if (performance.now() > deadline) throw new Error(`no end of ${input.ref.operation}`);
  }
}

const said = (saved: Saved): string =>
  saved.failure === undefined ? JSON.stringify(saved) : describeFailure(saved.failure).join("\n");

test("two checkpoints while it counts: no gap, and the second adds little", { timeout: 240_000 }, async (t) => {
  const witness = await witnessOf(t, "steady", 60);
  const digest = await witness.digest();
  const input = await inputFor(witness);
  const first = await save(input);
  assert.ok(first.checkpoint, said(first));
  assert.deepEqual([first.state, first.epoch, first.failure], ["OWNER", input.ref.epoch, undefined]);
  assert.deepEqual(await save(input), first, "asked again: the same one");
  const second = await save(await inputFor(witness, { labels: { nth: "two" } }));
  assert.ok(second.checkpoint, said(second));
  console.log(
    `# frozen ${first.frozenMs?.toFixed(0)} and ${second.frozenMs?.toFixed(0)} ms, rounds ${first.rounds} and ${second.rounds}, ` +
      `new bytes ${first.checkpoint.newBytes} and ${second.checkpoint.newBytes}`,
  );
  assert.notEqual(second.checkpoint.id, first.checkpoint.id);
  assert.equal(second.checkpoint.parent, first.checkpoint.id);
  assert.ok(second.checkpoint.newBytes < first.checkpoint.newBytes / 4);
  assert.ok(first.checkpoint.dataBytes > 60_000_000);
  assert.ok(Math.abs(second.checkpoint.takenAt - Date.now()) < 120_000);
  await assertLives(e2e, witness, digest, NODE, 5000);
  await witness.assertIntact();
  const kept = await store();
  assert.deepEqual((await fsck(kept)).problems, []);
  const reader = await kept.read("steady", second.checkpoint.id);
  const names = reader.streams.map(({ name }) => name);
  for (const wanted of ["spec", "images/inventory.img", "memory/1"]) assert.ok(names.includes(wanted), wanted);
  // What changed, from criu's own images.
  const before = await kept.read("steady", first.checkpoint.id);
  const { processes, sockets, files, notes } = await compareCheckpoints(kept, before, reader);
  console.log(`# ${JSON.stringify({ processes, sockets, files, notes }).slice(0, 1500)}`);
  assert.equal(notes, undefined);
  const redis = processes?.list.find(({ name }) => name === "redis-server");
  assert.ok(redis !== undefined && redis.change === "changed" && redis.after > 60_000_000, JSON.stringify(processes));
  assert.ok(redis.areas.some(({ changed }) => changed > 0) && redis.changed < redis.after / 4);
  assert.ok((sockets?.same ?? 0) >= 2, "it listens, and its client is connected");
  assert.deepEqual(sockets?.list, []);
  const words = parseSockets("files.img", await reader.content("images/files.img"));
  const listening = words.find(({ protocol, state }) => protocol === "tcp" && state === "listening");
  assert.match(listening?.local ?? "", /:6379$/, JSON.stringify(words));
  assert.ok(
    words.some(({ state, remote }) => state === "established" && remote !== undefined),
    JSON.stringify(words),
  );
  assert.ok((files?.same ?? 0) > 0);
  await before.close();
  await reader.close();
  kept.close();
});

/** Of one that runs on; `release` is only of one that is let go. */
const POINTS = [
  "checkpoint.arm",
  "checkpoint.presync",
  "checkpoint.precopy",
  "checkpoint.freeze",
  "checkpoint.dump",
  "checkpoint.transfer",
  "checkpoint.resume",
  "checkpoint.store",
  "checkpoint.commit",
] as const satisfies Failpoint[];
/** `npm run test:faults` has all of them; the default run those where it is given up, gathered, and stored. */
const diesAt =
  process.env["FERRY_FAULTS"] === "all"
    ? POINTS
    : (["checkpoint.dump", "checkpoint.transfer", "checkpoint.store"] as const);
for (const point of diesAt) {
  test(`the agent is killed at ${point}`, { timeout: 240_000 }, async (t) => {
    const name = point.replace("checkpoint.", "killed-");
    const witness = await witnessOf(t, name, 8);
    const digest = await witness.digest();
    const input = await inputFor(witness);
    await armFailpoint(e2e, NODE, point, "kill");
    const saved = await save(input);
    assert.ok(await fired(e2e, NODE, point), "the agent was killed");
    assert.deepEqual([saved.state, saved.epoch], ["OWNER", input.ref.epoch], said(saved));
    // What was begun before the freeze is begun anew; what was gathered is stored; only in between it is given up.
    const lost = point === "checkpoint.dump" || point === "checkpoint.transfer";
    assert.equal(saved.checkpoint === undefined, lost, said(saved));
    await assertLives(e2e, witness, digest, NODE, 10_000);
    const next = await save(await inputFor(witness));
    assert.ok(next.checkpoint, said(next));
    await assertLives(e2e, witness, digest, NODE, 5000);
    await witness.assertIntact();
    const kept = await store();
    assert.equal((await kept.ids(name)).length, lost ? 1 : 2);
    kept.close();
  });
}

for (const point of ["checkpoint.commit", "checkpoint.release"] as const) {
  test(
    `stop, and the agent is killed at ${point}: it is let go, with its checkpoint`,
    { timeout: 240_000 },
    async (t) => {
      const witness = await witnessOf(t, point.replace("checkpoint.", "stopped-"), 8);
      const input = await inputFor(witness, { stop: true });
      await armFailpoint(e2e, NODE, point, "kill");
      const saved = await save(input);
      assert.ok(await fired(e2e, NODE, point), "the agent was killed");
      assert.ok(saved.checkpoint, said(saved));
      assert.equal(saved.state, "STOPPED");
      await until("nothing of it is left", 10_000, async () => (await copies(e2e))[NODE] === 0);
      assert.equal((await save(input)).checkpoint?.id, saved.checkpoint.id);
      const kept = await store();
      assert.deepEqual((await fsck(kept)).problems, []);
      kept.close();
    },
  );
}

test("every failpoint of a checkpoint is come by", { timeout: 240_000 }, async (t) => {
  const witness = await witnessOf(t, "noted", 8);
  await clearFailpoints(e2e);
  const all = FAILPOINTS.filter((point) => point.startsWith("checkpoint."));
  for (const point of all) await armFailpoint(e2e, NODE, point, "note");
  for (const stop of [false, true]) {
    const saved = await save(await inputFor(witness, { stop }));
    assert.ok(saved.checkpoint, said(saved));
  }
  const fires = await Promise.all(all.map((point) => fired(e2e, NODE, point)));
  assert.deepEqual(
    all.filter((_, i) => fires[i] !== true),
    [],
  );
  await clearFailpoints(e2e);
});

test("criu is killed while it holds: it runs on under another epoch", { timeout: 240_000 }, async (t) => {
  const witness = await witnessOf(t, "criu-lost", 8);
  const digest = await witness.digest();
  const input = await inputFor(witness);
  await armFailpoint(e2e, NODE, "checkpoint.resume", "pause");
  const saving = save(input);
  await reached(e2e, NODE, "checkpoint.resume");
  assert.ok((await killOn(e2e, NODE, "criu dump")) > 0);
  await goOn(e2e, NODE, "checkpoint.resume");
  const saved = await saving;
  assert.ok(saved.checkpoint, said(saved));
  assert.deepEqual([saved.state, saved.epoch], ["OWNER", input.ref.to]);
  await assertLives(e2e, witness, digest, NODE, 5000);
  await witness.assertIntact();
});

test("frozen for too long, or the sink dies: it runs on, and says why", { timeout: 240_000 }, async (t) => {
  const witness = await witnessOf(t, "given-up", 8);
  const digest = await witness.digest();
  const paused = async (point: string, meanwhile: () => Promise<unknown>, maxBlackoutMs: number): Promise<Saved> => {
    const input = await inputFor(witness, { maxBlackoutMs });
    await armFailpoint(e2e, NODE, point, "pause");
    const saving = save(input);
    await reached(e2e, NODE, point);
    await meanwhile();
    await goOn(e2e, NODE, point);
    const saved = await saving;
    assert.deepEqual([saved.state, saved.epoch], ["OWNER", input.ref.epoch], said(saved));
    await assertLives(e2e, witness, digest, NODE, 5000);
    await clearFailpoints(e2e);
    return saved;
  };
  const late = await paused("checkpoint.transfer", () => new Promise((resolve) => setTimeout(resolve, 1500)), 1000);
  assert.equal(late.failure?.code, "E_DEADLINE", said(late));
  const killSink = async (): Promise<void> => assert.equal(await killOn(e2e, NODE, "ferry-sink"), 1);
  const lost = await paused("checkpoint.transfer", killSink, 30_000);
  assert.ok(lost.failure !== undefined && lost.checkpoint === undefined, said(lost));
  // Everything was gathered: another sink stores it.
  const kept = await paused("checkpoint.store", killSink, 30_000);
  assert.ok(kept.checkpoint, said(kept));
  await witness.assertIntact();
});
