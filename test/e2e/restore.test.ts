/** A redis that is counted in comes back from a checkpoint: asked of the agents themselves, over their sockets. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test, type TestContext } from "node:test";
import { redis, untilRedisAnswers } from "../../deploy/demo/clients.js";
import { labNode, labRun, patience } from "../../deploy/lab/index.js";
import { createAgentClient } from "../../src/agent/client.js";
import { openStore, storeConfigSchema } from "../../src/checkpoints/store-config.js";
import { networkNames } from "../../src/host/netns.js";
import type { StoredCheckpoint } from "../../src/model/checkpoints.js";
import type { Observation, OperationRef, RestoreInput, Saved, Started } from "../../src/model/contract.js";
import { describeFailure, type FerryError, toFailure } from "../../src/model/failure.js";
import type { WorkloadSpec } from "../../src/model/workload.js";
import { armFailpoint, assertLives, copies, fired, killOn, reached, goOn, startLab } from "./support.js";
import { signalService, startWitness, until, type E2eLab, type Witness } from "./support.js";

let e2e: E2eLab;
before(async () => {
  e2e = await startLab(2);
});
after(() => e2e?.down());

const rootOf = async (node: string): Promise<string> => `/proc/${(await labNode(e2e.state, node)).pid}/root`;
const agentOf = async (node: string) => createAgentClient(`${await rootOf(node)}/run/ferry/agent.sock`);
const storeDir = () => join(e2e.state, "checkpoints", "store");

let sequence = 0;
function refOf(
  workload: string,
  kind: string,
  at: { source: string; destination: string; epoch: number },
): OperationRef {
  sequence += 1;
  const { source, destination, epoch } = at;
  return {
    schema: 1,
    operation: `${workload}.${kind}.${sequence}`,
    workload,
    epoch,
    to: epoch + 1,
    source,
    destination,
  };
}

/** Asked again and again, as a worker does. */
async function asked<T>(ask: () => Promise<T | undefined>): Promise<T> {
  const deadline = performance.now() + 120_000 * patience();
  for (;;) {
    try {
      const answer = await ask();
      if (answer !== undefined) return answer;
    } catch (error) {
      if (toFailure(error).code !== "E_AGENT_DOWN") throw error;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    if (performance.now() > deadline) throw new Error("no end of it");
  }
}

/** One that does not keep the test from ending when it fails. */
async function counted(t: TestContext, name: string, megabytes: number): Promise<Witness> {
  const witness = await startWitness(e2e, name, "node-a", megabytes);
  t.after(async () => {
    await witness.counter.stop().catch(() => undefined);
    rmSync(`${e2e.state}-${name}.tsv`, { force: true });
    for (const node of ["node-a", "node-b"]) {
      const { holds } = await (await agentOf(node)).observeWorkload({ schema: 1, workload: name });
      for (const { state, epoch } of holds) if (state === "OWNER") await stopAt(node, name, epoch);
    }
  });
  return witness;
}

async function save(witness: Witness, node: string, epoch: number, stop: boolean): Promise<StoredCheckpoint> {
  const { spec } = await witness.workload.status();
  const ref = refOf(spec.name, "checkpoint", { source: node, destination: node, epoch });
  const options = { stop, reason: "test", requestedBy: "tests", labels: {}, maxBlackoutMs: 30_000 };
  const request = randomUUID();
  const saved: Saved = await asked(async () => {
    const step = await (await agentOf(node)).saveCheckpoint({ ref, options, request }, 1000);
    return step.done ? step.result : undefined;
  });
  assert.ok(saved.checkpoint, saved.failure === undefined ? "" : describeFailure(saved.failure).join("\n"));
  return saved.checkpoint;
}

function restoreInput(
  spec: WorkloadSpec,
  checkpoint: { id: string; workload: string; epoch: number },
  node: string,
  epoch = checkpoint.epoch,
): RestoreInput {
  const ref = refOf(spec.name, "restore", { source: "node-a", destination: node, epoch });
  return { ref, spec, checkpoint: checkpoint.id, of: checkpoint.workload };
}
/** As the workflow asks when it was let go with it and nothing has run since. */
const letGo = (input: RestoreInput): RestoreInput => ({ ...input, letGoWith: input.checkpoint });
const clientsOf = (listed: unknown): string[] => String(listed).match(/(?<=^id=)\d+/gm) ?? [];
async function restore(input: RestoreInput): Promise<Started> {
  const began = performance.now();
  const started = await asked(async () => (await agentOf(input.ref.destination)).restoreWorkload(input));
  console.log(`# restored ${input.ref.workload} in ${(performance.now() - began).toFixed(0)} ms`);
  return started;
}

async function stopAt(node: string, workload: string, epoch: number): Promise<void> {
  await (await agentOf(node)).stopWorkload({ schema: 1, workload, epoch, graceMs: 2000 });
}

async function nothingLeft(node: string): Promise<void> {
  const root = await rootOf(node);
  const ops = `${root}/run/ferry/ops`;
  assert.deepEqual(existsSync(ops) ? readdirSync(ops).filter((name) => name.includes(".feed.")) : [], []);
  const { stdout } = await labRun(e2e.state, node, ["pgrep", "-f", "ferry-feed|ferry-mover|pages/daemon-main"], {
    allow: [1],
  });
  assert.equal(stdout.trim(), "", "no process of it is left");
}

test(
  "stopped on one node, restored on the other: the same keys, the same connection",
  { timeout: 240_000 },
  async (t) => {
    const witness = await counted(t, "round", 60);
    const digest = await witness.digest();
    const { spec, epoch } = await witness.workload.status();
    await labRun(e2e.state, "node-a", ["sh", "-c", "echo kept >/var/lib/ferry/volumes/round/data/note"]);
    const checkpoint = await save(witness, "node-a", epoch, true);
    await until("node-a has let it go", 10_000, async () => (await copies(e2e))["node-a"] === 0);
    const agent = await agentOf("node-b");
    const listed = await agent.listCheckpoints({ schema: 1, workload: "round" });
    assert.deepEqual(
      listed.map(({ id }) => id),
      [checkpoint.id],
    );
    assert.deepEqual((await agent.newestCheckpoint({ schema: 1, workload: "round" }))?.id, checkpoint.id);
    await agent.verifyCheckpoint({ schema: 1, workload: "round", checkpoint: checkpoint.id });

    const input = letGo(restoreInput(spec, checkpoint, "node-b"));
    const started = await restore(input);
    assert.equal(started.epoch, epoch + 1);
    assert.deepEqual(await restore(input), started, "asked again: the same");
    await assertLives(e2e, witness, digest, "node-b", 5000);
    await witness.assertIntact();
    const root = await rootOf("node-b");
    assert.equal(readFileSync(`${root}/var/lib/ferry/volumes/round/data/note`, "utf8"), "kept\n");
    await nothingLeft("node-b");
    await stopAt("node-b", "round", epoch + 1);

    // Again, over what it has left: that is kept aside.
    writeFileSync(`${root}/var/lib/ferry/volumes/round/data/note`, "later\n");
    await restore(restoreInput(spec, checkpoint, "node-b", epoch + 1));
    assert.equal(readFileSync(`${root}/var/lib/ferry/volumes/round/data/note`, "utf8"), "kept\n");
    const aside = `${root}/var/lib/ferry/superseded/round-before-${epoch + 2}`;
    assert.equal(readFileSync(`${aside}/data/note`, "utf8"), "later\n");
    await untilRedisAnswers(witness.place, 5000);
    await stopAt("node-b", "round", epoch + 2);
  },
);

test("a clone with its own name and address answers beside the first", { timeout: 240_000 }, async (t) => {
  const witness = await counted(t, "first", 20);
  const digest = await witness.digest();
  const { spec, epoch } = await witness.workload.status();
  const checkpoint = await save(witness, "node-a", epoch, false);
  const octet = 60;
  const network = {
    ...spec.network,
    ip: spec.network.ip.replace(/\.\d+\//, `.${octet}/`),
    mac: spec.network.mac.replace(/..$/, octet.toString(16).padStart(2, "0")),
  };
  const clone: WorkloadSpec = { ...spec, name: "second", network };
  for (const node of ["node-b"]) {
    await restore(restoreInput(clone, { ...checkpoint, epoch: 1 }, node));
    const place = { ...witness.place, host: network.ip.replace(/\/.*$/, "") };
    await untilRedisAnswers(place, 5000);
    const [size, clients] = await redis(place, [["DBSIZE"], ["CLIENT", "LIST"]]);
    assert.ok(Number(size) >= 20_000, String(size));
    assert.equal(String(clients).trim().split("\n").length, 1, `its old connections are closed: ${String(clients)}`);
    const { processes } = await (await agentOf(node)).observeWorkload({ schema: 1, workload: "second" });
    assert.equal(processes, 1);
    const { stdout: pid } = await labRun(e2e.state, node, ["pgrep", "-x", "redis-server"], {});
    const { stdout } = await labRun(e2e.state, node, ["nsenter", "-t", pid.trim(), "-u", "hostname"], {});
    assert.equal(stdout.trim(), "second");
    const { stdout: mac } = await labRun(e2e.state, node, ["nsenter", "-t", pid.trim(), "-n", "ip", "-o", "link"], {});
    assert.ok(mac.includes(network.mac), mac);
  }
  // The address is taken: nothing is begun.
  const third: WorkloadSpec = { ...clone, name: "third" };
  await assert.rejects(
    (await agentOf("node-a")).restoreWorkload(restoreInput(third, { ...checkpoint, epoch: 1 }, "node-a")),
    (error: FerryError) => error.code === "E_IP_CONFLICT",
  );
  // Whose link is down answers nobody, and has it all the same.
  const { link } = networkNames("second", 2);
  await labRun(e2e.state, "node-b", ["ip", "link", "set", "dev", link, "down"], {});
  await assert.rejects(
    (await agentOf("node-b")).restoreWorkload(restoreInput(third, { ...checkpoint, epoch: 1 }, "node-b")),
    (error: FerryError) => error.code === "E_IP_CONFLICT" && /that of second, which node-b holds/.test(error.message),
  );
  await stopAt("node-b", "second", 2);

  // Two that want one address at the same moment, on two nodes: at least one gives way, and says so.
  const twins = await Promise.all(
    ["node-a", "node-b"].map(async (node) => ({
      node,
      agent: await agentOf(node),
      input: restoreInput({ ...clone, name: `twin-${node}` }, { ...checkpoint, epoch: 1 }, node),
    })),
  );
  const both = await Promise.allSettled(twins.map(({ agent, input }) => agent.restoreWorkload(input)));
  const refused = both.filter((end) => end.status === "rejected").map(({ reason }) => toFailure(reason).code);
  assert.ok(refused.length > 0, "both run with one address");
  assert.ok(
    refused.every((code) => code === "E_IP_CONFLICT"),
    refused.join(" "),
  );
  for (const [i, { node, input }] of twins.entries()) {
    if (both[i]?.status === "fulfilled") await stopAt(node, input.spec.name, 2);
  }
  await assertLives(e2e, witness, digest, "node-a", 5000);
  await witness.assertIntact();
  await stopAt("node-a", "first", epoch);
});

test(
  "recovered after its node was lost: from the newest, and nobody is connected any more",
  { timeout: 240_000 },
  async (t) => {
    const witness = await counted(t, "lost", 20);
    const { spec, epoch } = await witness.workload.status();
    await save(witness, "node-a", epoch, false);
    const newest = await save(witness, "node-a", epoch, false);
    const [before] = await redis(witness.place, [["CLIENT", "LIST"]]);
    await stopAt("node-a", "lost", epoch);
    const agent = await agentOf("node-b");
    const ref = refOf("lost", "recover", { source: "node-a", destination: "node-b", epoch });
    const found = await agent.newestCheckpoint({ schema: 1, workload: "lost" });
    assert.equal(found?.id, newest.id);
    const input = { ref, spec, checkpoint: newest.id };
    await armFailpoint(e2e, "node-b", "destination.restore", "kill");
    const started = await asked(async () => (await agentOf("node-b")).recoverWorkload(input));
    assert.equal(started.epoch, epoch + 1);
    await labRun(e2e.state, "node-b", ["rm", "-rf", "/run/ferry-failpoints"], {});
    await untilRedisAnswers(witness.place, 5000);
    const [size, clients] = await redis(witness.place, [["DBSIZE"], ["CLIENT", "LIST"]]);
    assert.ok(Number(size) >= 20_000, String(size));
    // Those who count connect anew.
    const [counts, ...others] = clientsOf(before);
    assert.ok(counts !== undefined && others.length > 0 && !clientsOf(clients).includes(counts), String(clients));
    await nothingLeft("node-b");
    await stopAt("node-b", "lost", epoch + 1);
  },
);

const DEATHS = [
  ["destination.resume", "agent"],
  ["destination.drain", "ferry-feed"],
  ["destination.restore", "agent"],
  ["destination.drain", "agent"],
  ["destination.restore", "ferry-feed"],
  ["destination.drain", "ferry-mover-destination"],
] as const;
/** `npm run test:faults` has all of them. */
for (const [point, who] of process.env["FERRY_FAULTS"] === "all" ? DEATHS : DEATHS.slice(0, 2)) {
  test(`${who} is killed at ${point} of a restore`, { timeout: 240_000 }, async (t) => {
    const name = `killed-${who.replace("ferry-", "")}-${point.split(".")[1]}`;
    const witness = await counted(t, name, 20);
    const digest = await witness.digest();
    const { spec, epoch } = await witness.workload.status();
    const checkpoint = await save(witness, "node-a", epoch, true);
    await armFailpoint(e2e, "node-b", point, who === "agent" ? "kill" : "pause");
    const restoring = restore(letGo(restoreInput(spec, checkpoint, "node-b")));
    if (who !== "agent") {
      await reached(e2e, "node-b", point);
      assert.ok((await killOn(e2e, "node-b", who)) > 0);
      await goOn(e2e, "node-b", point);
    }
    await restoring;
    assert.ok(await fired(e2e, "node-b", point));
    await assertLives(e2e, witness, digest, "node-b", 5000);
    await witness.assertIntact();
    await nothingLeft("node-b");
    await stopAt("node-b", name, epoch + 1);
    // The failpoint's files.
    await labRun(e2e.state, "node-b", ["rm", "-rf", "/run/ferry-failpoints"], {});
  });
}

/** Before every page is here it runs, and the feed stands still, as it does when the store does not answer. */
async function stalled(input: RestoreInput): Promise<{ restoring: Promise<Started>; pages: () => Promise<Pages> }> {
  const { destination, workload } = input.ref;
  const pages = async (): Promise<Pages> => {
    const seen = await (await agentOf(destination)).observeWorkload({ schema: 1, workload });
    return seen.pages ?? { total: 0, inPlace: 0, runs: false };
  };
  const restoring = restore({ ...input, lazy: true });
  restoring.catch(() => undefined);
  await until("it is known how many pages there are", 20_000, async () => (await pages()).total > 0);
  // criu itself touches a page or two: it gets on a little at a time until it runs.
  await until("it runs", 60_000, async () => {
    await feedGoesOn(destination);
    await labRun(e2e.state, destination, ["pkill", "-STOP", "-f", "ferry-feed"], {});
    return (await pages()).runs;
  });
  return { restoring, pages };
}
type Pages = NonNullable<Observation["pages"]>;
const feedGoesOn = (node: string) => labRun(e2e.state, node, ["pkill", "-CONT", "-f", "ferry-feed"], {});

test("lazy: it runs before its pages are here; a store that is gone for a while", { timeout: 240_000 }, async (t) => {
  const witness = await counted(t, "lazy", 300);
  const digest = await witness.digest();
  const { spec, epoch } = await witness.workload.status();
  const checkpoint = await save(witness, "node-a", epoch, true);
  const { restoring, pages } = await stalled(letGo(restoreInput(spec, checkpoint, "node-b")));
  const then = await pages();
  assert.ok(then.inPlace < then.total, JSON.stringify(then));
  // Not mounted, say.
  renameSync(storeDir(), `${storeDir()}.away`);
  await feedGoesOn("node-b");
  const log = `${await rootOf("node-b")}/run/ferry/ops/lazy.feed.${epoch + 1}/s/mover.log`;
  await until("the feed misses the store", 20_000, () => readFileSync(log, "utf8").includes("the store is away"));
  assert.equal((await copies(e2e))["node-b"], 1, "it is left alone");
  const still = await pages();
  assert.ok(still.inPlace < still.total, JSON.stringify(still));
  renameSync(`${storeDir()}.away`, storeDir());
  assert.equal((await restoring).epoch, epoch + 1);
  await assertLives(e2e, witness, digest, "node-b", 5000);
  const { end } = await witness.assertIntact();
  assert.ok(end.answers > 0);
  await nothingLeft("node-b");

  // What it touched first is known now, and is no part of what is believed.
  const known = join(storeDir(), "workingsets", "lazy", checkpoint.id);
  await until("its working set is kept", 10_000, () => existsSync(known));
  await stopAt("node-b", "lazy", epoch + 1);
  await restore({ ...restoreInput(spec, checkpoint, "node-b", epoch + 1), lazy: true });
  await untilRedisAnswers(witness.place, 5000);
  await stopAt("node-b", "lazy", epoch + 2);
  writeFileSync(known, "FERRYWS1 of somebody else");
  await restore({ ...restoreInput(spec, checkpoint, "node-b", epoch + 2), lazy: true });
  await untilRedisAnswers(witness.place, 5000);
  await stopAt("node-b", "lazy", epoch + 3);
});

test("lazy: mover, agent and feed are killed while pages are missing", { timeout: 240_000 }, async (t) => {
  const witness = await counted(t, "mortal", 300);
  const digest = await witness.digest();
  const { spec, epoch } = await witness.workload.status();
  const checkpoint = await save(witness, "node-a", epoch, true);
  const { restoring, pages } = await stalled(letGo(restoreInput(spec, checkpoint, "node-b")));
  assert.ok((await killOn(e2e, "node-b", "ferry-mover-destination")) > 0);
  await signalService(e2e, "node-b", "agent", "SIGKILL");
  await killOn(e2e, "node-b", "ferry-feed");
  assert.equal((await restoring).epoch, epoch + 1);
  assert.equal((await pages()).total, 0, "nothing is under way any more");
  await assertLives(e2e, witness, digest, "node-b", 5000);
  await witness.assertIntact();
  await nothingLeft("node-b");
  await stopAt("node-b", "mortal", epoch + 1);
});

test(
  "lazy: called off while pages are missing: nothing is left, and it can be restored",
  { timeout: 240_000 },
  async (t) => {
    const witness = await counted(t, "off", 300);
    const { spec, epoch } = await witness.workload.status();
    const checkpoint = await save(witness, "node-a", epoch, true);
    const { restoring } = await stalled(restoreInput(spec, checkpoint, "node-b"));
    const agent = await agentOf("node-b");
    const callOff = { schema: 1, workload: "off", epoch: epoch + 1, graceMs: 0, callOff: true };
    await agent.stopWorkload(callOff);
    await assert.rejects(restoring, (error: FerryError) => error.code === "E_CANCELLED");
    assert.equal((await copies(e2e))["node-b"], 0);
    await nothingLeft("node-b");
    await assert.rejects(agent.stopWorkload(callOff), (error: FerryError) => error.code === "E_STATE");
    await restore({ ...restoreInput(spec, checkpoint, "node-b", epoch + 1), lazy: true });
    await untilRedisAnswers(witness.place, 5000);
    // What is done is not called off.
    const late = { ...callOff, epoch: epoch + 2 };
    await assert.rejects(agent.stopWorkload(late), (error: FerryError) => error.code === "E_STATE");
    assert.equal((await copies(e2e))["node-b"], 1);
    await stopAt("node-b", "off", epoch + 2);
  },
);

test(
  "a bit that is flipped in the store, and a manifest that lies: refused, nothing runs",
  { timeout: 240_000 },
  async (t) => {
    const witness = await counted(t, "flipped", 20);
    const { spec, epoch } = await witness.workload.status();
    const checkpoint = await save(witness, "node-a", epoch, true);
    const agent = await agentOf("node-b");
    const packs = readdirSync(join(storeDir(), "packs"), { recursive: true, encoding: "utf8" })
      .map((name) => join(storeDir(), "packs", name))
      .filter((path) => statSync(path).isFile() && path.includes(checkpoint.id.slice(-16)))
      .sort((a, b) => statSync(b).size - statSync(a).size);
    const [largest = ""] = packs;
    const file = await open(largest, "r+");
    const at = Math.floor(statSync(largest).size / 2);
    const byte = Buffer.alloc(1);
    await file.read(byte, 0, 1, at);
    await file.write(Buffer.from([(byte[0] ?? 0) ^ 1]), 0, 1, at);
    const attempt = async (what: RestoreInput, code: string): Promise<void> => {
      const error = await agent.restoreWorkload(what).then(
        () => undefined,
        (thrown: unknown) => toFailure(thrown),
      );
      console.log(`# ${error === undefined ? "no error" : describeFailure(error).join(" / ")}`);
      assert.equal(error?.code, code);
      assert.equal((await copies(e2e))["node-b"], 0);
      await nothingLeft("node-b");
      const holds = (await agent.observeWorkload({ schema: 1, workload: what.ref.workload })).holds;
      assert.ok(
        holds.every(({ state }) => state === "STOPPED"),
        JSON.stringify(holds),
      );
    };
    await attempt(restoreInput(spec, checkpoint, "node-b"), "E_STORE_CORRUPT");
    await assert.rejects(
      agent.verifyCheckpoint({ schema: 1, workload: "flipped", checkpoint: checkpoint.id }),
      (error: FerryError) => error.code === "E_STORE_CORRUPT",
    );
    await file.write(byte, 0, 1, at);
    await file.close();

    // Signed by a node that is trusted, and still not believed.
    const root = await rootOf("node-b");
    const config = storeConfigSchema.parse(JSON.parse(readFileSync(`${root}/srv/checkpoints/store.json`, "utf8")));
    const store = await openStore({
      local: storeDir(),
      signer: `${root}/etc/ferry/checkpoints.key`,
      key: { file: `${root}/etc/ferry/checkpoints.master` },
      trusted: (config.trusted ?? []).map((path) => `${root}${path}`),
    });
    const before = await store.read("flipped", checkpoint.id);
    const begun = await store.begin({ workload: "flipped" });
    assert.ok("writer" in begun);
    for (const { name, kind } of before.streams) {
      if (name.startsWith("memory/")) begun.writer.stream(name, { kind, fromParent: true });
      else {
        const content = await before.content(name);
        const lie = name === "volume/meta" ? lyingArchive(content) : content;
        await begun.writer.file(name, { kind }, lie);
      }
    }
    const {
      epoch: taken,
      runtime,
      node,
      criuVersion,
      kernel,
      cpu,
      arch,
      reason,
      requestedBy,
      labels,
    } = before.manifest;
    const facts = { workload: "flipped", epoch: taken, runtime, node, kernel, cpu, arch, reason, requestedBy, labels };
    const lying = await begun.writer.commit({ ...facts, criuVersion });
    await attempt(restoreInput(spec, { ...checkpoint, id: lying.id }, "node-b", epoch + 1), "E_STORE_CORRUPT");
    // Written by a criu that is newer than ours.
    const newer = await store.begin({ workload: "flipped" });
    assert.ok("writer" in newer);
    for (const { name, kind } of before.streams) newer.writer.stream(name, { kind, fromParent: true });
    const { id } = await newer.writer.commit({ ...facts, criuVersion: "99.1" });
    await attempt(restoreInput(spec, { ...checkpoint, id }, "node-b", epoch + 2), "E_RESTORE");
    await before.close();
    store.close();

    // And the good one, after all of that.
    await restore(restoreInput(spec, checkpoint, "node-b", epoch + 3));
    await untilRedisAnswers(witness.place, 5000);
    await agent.removeCheckpoint({ schema: 1, workload: "flipped", checkpoint: id });
    await agent.removeCheckpoint({ schema: 1, workload: "flipped", checkpoint: id });
    await stopAt("node-b", "flipped", epoch + 4);
  },
);

/** The first file of the archive lies elsewhere. */
function lyingArchive(meta: Buffer): Buffer {
  const changed = Buffer.from(meta);
  for (let at = 0; at < changed.length; at += 512) {
    const header = changed.subarray(at, at + 512);
    if (header.toString("latin1", 257, 262) !== "ustar" || header[156] !== 0x30) continue;
    header.fill(0, 0, 100);
    header.write("../../../../etc/shadow", 0);
    header.write("        ", 148);
    const sum = header.reduce((all, byte) => all + byte, 0);
    header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
    // And its extended header says nothing of a name.
    return changed;
  }
  throw new Error("no file in the archive");
}
