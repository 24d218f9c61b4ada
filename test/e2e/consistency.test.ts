/**
 * A checkpoint of a database that works on is of one instant: what its memory says after a restore is what its files say
 * when it is killed then and recovers from them.
 */
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { after, before, test } from "node:test";
import { redis, startCounter, untilRedisAnswers, type Place } from "../../deploy/demo/clients.js";
import { labRun, patience } from "../../deploy/lab/index.js";
import type { CheckpointReport } from "../../src/client/index.js";
import type { WorkloadHandle } from "../../src/client/types.js";
import { andRemove } from "./on-the-move.js";
import { ipOf } from "./programs.js";
import { amcheck, POSTGRES, psql, PsqlSession, untilPostgresAnswers } from "./psql.js";
import { clientPid, startLab, until, type E2eLab } from "./support.js";

let e2e: E2eLab;
before(async () => {
  e2e = await startLab();
});
after(() => e2e?.down());

/** Saved while it works; answers the checkpoint's id. */
async function saved(workload: WorkloadHandle): Promise<string> {
  const report: CheckpointReport = await (await workload.checkpoint({ reason: "consistency" })).result();
  assert.equal(report.outcome, "saved", JSON.stringify(report.failure));
  assert.ok(report.checkpoint);
  return report.checkpoint.id;
}

/** Let go, and run from the checkpoint on the other node. */
async function restored(workload: WorkloadHandle, checkpoint: string): Promise<void> {
  await workload.stop();
  await workload.restore({ checkpoint, node: "node-b" });
  assert.equal((await workload.status()).state, "running");
}

/** Every process of this name on node-b dies as in a crash; it is started again from the files that are there. */
async function crashed(workload: WorkloadHandle, program: string): Promise<void> {
  const { spec } = await workload.status();
  await labRun(e2e.state, "node-b", ["pkill", "-KILL", "-x", program]);
  await until(`${workload.name} has exited`, 30_000, async () => (await workload.status()).state === "exited");
  const { name, command, user } = spec;
  await e2e.client.workloads.run({ name, command, user, node: "node-b" });
}

test("PostgreSQL: memory, data and write-ahead log of a checkpoint agree", { timeout: 240_000 }, async () => {
  const workload = await e2e.client.workloads.run({
    name: "postgres",
    node: "node-a",
    user: "postgres",
    command: POSTGRES,
  });
  await andRemove(workload, async () => {
    const host = await ipOf(workload);
    await untilPostgresAnswers(e2e, host);
    await psql(e2e, host, "CREATE TABLE rows (n bigint, filler text); CREATE INDEX ON rows (n);");
    const session = await PsqlSession.open(e2e, host);
    let told = 0;
    const working = new AbortController();
    const inserts = (async () => {
      while (!working.signal.aborted) {
        const row = `INSERT INTO rows VALUES (${told + 1}, repeat(md5('${told}'), 8)) RETURNING n;`;
        assert.equal(await session.ask(row), String(told + 1));
        told += 1;
      }
    })();
    let early = 0;
    let late = 0;
    let checkpoint = "";
    try {
      await Promise.race([until("it inserts", 20_000, () => told > 50), inserts]);
      early = told;
      checkpoint = await saved(workload);
      late = told + 1;
      await Promise.race([until("it goes on inserting", 20_000, () => told > late + 50), inserts]);
    } finally {
      working.abort();
      await inserts;
      session.kill();
    }
    await restored(workload, checkpoint);
    const all = "SELECT count(*), count(DISTINCT n), min(n), max(n) FROM rows";
    const inMemory = await psql(e2e, host, all);
    const [count = "", ...others] = inMemory.split("|");
    assert.deepEqual(others, [count, "1", count], "every row up to an instant, once");
    assert.ok(Number(count) >= early && Number(count) <= late, `${early} <= ${count} <= ${late}`);
    await amcheck(e2e, host);
    // What is written after the restore counts, too.
    await psql(e2e, host, `INSERT INTO rows VALUES (${Number(count) + 1}, 'after')`);

    await crashed(workload, "postgres");
    await untilPostgresAnswers(e2e, host);
    const next = String(Number(count) + 1);
    assert.equal(await psql(e2e, host, all), [next, next, "1", next].join("|"), "recovered from its log");
    await amcheck(e2e, host);
  });
});

const REDIS = "exec redis-server --save '' --appendonly yes --appendfsync always --protected-mode no --bind 0.0.0.0";

test("redis with an append-only file: memory and file of a checkpoint agree", { timeout: 240_000 }, async () => {
  const workload = await e2e.client.workloads.run({
    name: "aof",
    node: "node-a",
    command: ["sh", "-c", `cd /data && ${REDIS} --enable-debug-command yes`],
  });
  const samples = `${e2e.state}-aof.tsv`;
  try {
    await andRemove(workload, async () => {
      const place: Place = { pid: await clientPid(e2e), host: await ipOf(workload), port: 6379 };
      const ask = async (...command: string[]): Promise<string> => String((await redis(place, [command]))[0]);
      await untilRedisAnswers(place, 15_000 * patience());
      await ask("DEBUG", "POPULATE", "20000", "key", "900");
      await ask("BGREWRITEAOF");
      await until("the file has all of it", 30_000, async () =>
        (await ask("INFO", "persistence")).includes("aof_rewrite_in_progress:0"),
      );
      const counter = await startCounter(place, "counter", samples, 1);
      let checkpoint = "";
      try {
        const early = Number(await ask("GET", "counter"));
        checkpoint = await saved(workload);
        await until("it goes on", 20_000, async () => Number(await ask("GET", "counter")) > early + 50);
      } finally {
        counter.kill();
      }
      await restored(workload, checkpoint);
      await untilRedisAnswers(place, 15_000 * patience());
      const inMemory = await redis(place, [
        ["INCR", "after"],
        ["GET", "counter"],
        ["DEBUG", "DIGEST"],
      ]);
      assert.equal(inMemory[0], 1);

      await crashed(workload, "redis-server");
      await untilRedisAnswers(place, 30_000 * patience());
      assert.deepEqual(
        await redis(place, [
          ["GET", "after"],
          ["GET", "counter"],
          ["DEBUG", "DIGEST"],
        ]),
        ["1", ...inMemory.slice(1)],
      );
    });
  } finally {
    rmSync(samples, { force: true });
  }
});
