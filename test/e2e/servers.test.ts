/**
 * Servers that people run, from Debian, each with clients that know nothing of Ferry: nginx under connections that are
 * kept alive, PostgreSQL under a session that inserts and another one in the middle of a transaction, a Node.js server.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { andRemove, moveAbout, wholeLog } from "./on-the-move.js";
import { ipOf, keepBusy } from "./programs.js";
import { amcheck, POSTGRES, psql, PsqlSession, untilPostgresAnswers } from "./psql.js";
import { startLab, until, type E2eLab } from "./support.js";

let e2e: E2eLab;
before(async () => {
  e2e = await startLab();
});
after(() => e2e?.down());

const NGINX = `
daemon off;
user www-data;
worker_processes 2;
pid /data/nginx.pid;
error_log stderr warn;
events { worker_connections 256; }
http {
  log_format proof "$connection $connection_requests $status $pid";
  access_log /dev/stdout proof;
  keepalive_requests 100000000;
  keepalive_timeout 1h;
  sendfile on;
  server {
    listen 0.0.0.0:8080;
    root /data/www;
    location / { try_files /hello.txt =404; }
  }
}`;
const START_NGINX = `mkdir -p /data/www && echo hello >/data/www/hello.txt && printf %s "$1" >/data/nginx.conf &&
exec nginx -c /data/nginx.conf`;

test("nginx: requests in sequence on connections that are kept alive", async () => {
  const workload = await e2e.client.workloads.run({
    name: "nginx",
    node: "node-a",
    command: ["sh", "-c", START_NGINX, "sh", NGINX],
  });
  await andRemove(workload, async () => {
    const busy = await keepBusy(e2e, workload, { port: 8080, connections: 4, kind: "http" });
    try {
      await moveAbout(workload, ["cold", "postcopy"], async () => {
        await new Promise((resolve) => setTimeout(resolve, 500));
      });
      const { answers } = await busy.assertIntact();
      // The server's own account of it: per connection every request once, in order, and no torn line.
      const perConnection = new Map<string, number>();
      let lines: string[] = [];
      await until("nginx has logged every answer", 5000, async () => {
        lines = (await wholeLog(workload)).trimEnd().split("\n");
        return lines.length >= answers;
      });
      const workers = new Set<string>();
      for (const line of lines) {
        const match = /^(\d+) (\d+) 200 (\d+)$/.exec(line);
        assert.ok(match, `a line that nginx did not write: ${JSON.stringify(line.slice(0, 200))}`);
        const [, connection = "", number = "", worker = ""] = match;
        assert.equal(Number(number), (perConnection.get(connection) ?? 0) + 1, `request of connection ${connection}`);
        perConnection.set(connection, Number(number));
        workers.add(worker);
      }
      assert.equal(perConnection.size, 4);
      assert.equal(lines.length, answers);
      assert.ok(workers.size <= 2, "the same workers from start to end");
    } finally {
      busy.kill();
    }
  });
});

test("PostgreSQL: a session inserts through the moves, another one is in the middle of a transaction", async () => {
  const workload = await e2e.client.workloads.run({
    name: "postgres",
    node: "node-a",
    user: "postgres",
    command: POSTGRES,
  });
  await andRemove(workload, async () => {
    const host = await ipOf(workload);
    const ask = (sql: string): Promise<string> => psql(e2e, host, sql);
    await untilPostgresAnswers(e2e, host);
    await ask(`CREATE TABLE rows (n bigint, backend int, filler text);
      CREATE INDEX ON rows (n);
      CREATE TABLE ballast AS SELECT i, md5(i::text) AS sum FROM generate_series(1, 200000) i;
      CREATE INDEX ON ballast (sum);`);
    const ballast = "SELECT md5(string_agg(sum, ',' ORDER BY i)) FROM ballast";
    const before = await ask(ballast);

    const inserting = await PsqlSession.open(e2e, host);
    const waiting = await PsqlSession.open(e2e, host);
    try {
      await waiting.ask("BEGIN; CREATE TEMP TABLE mine AS SELECT 42 AS answer; SELECT answer FROM mine;");
      let sent = 0;
      const moving = new AbortController();
      const inserts = (async () => {
        while (!moving.signal.aborted) {
          sent += 1;
          const row = `INSERT INTO rows VALUES (${sent}, pg_backend_pid(), repeat(md5('${sent}'), 8)) RETURNING n;`;
          assert.equal(await inserting.ask(row), String(sent));
        }
      })();
      try {
        await moveAbout(workload, ["cold", "postcopy"], async () => {
          const seen = sent;
          await Promise.race([until("it goes on inserting", 20_000, () => sent > seen + 20), inserts]);
          assert.equal(await ask(ballast), before);
        });
      } finally {
        moving.abort();
        await inserts;
      }
      // The transaction that was open all the time has its temporary table still, and commits.
      assert.equal(await waiting.ask("INSERT INTO rows SELECT -answer FROM mine RETURNING n;"), "-42");
      await waiting.ask("COMMIT; SELECT 1;");
      assert.equal(
        await ask("SELECT count(*), count(DISTINCT n), min(n), max(n), count(DISTINCT backend) FROM rows WHERE n > 0"),
        `${sent}|${sent}|1|${sent}|1`,
      );
      assert.equal(await ask("SELECT count(*) FROM rows WHERE n = -42"), "1");
      await amcheck(e2e, host);
    } finally {
      inserting.kill();
      waiting.kill();
    }
  });
});

const NODE_SERVER = `
const { createHash } = require("node:crypto");
const kept = new Map();
let broken = 0;
setInterval(() => {
  const key = kept.size % 5000;
  kept.set(key, { text: String(key).repeat(200), made: process.hrtime.bigint() });
  for (const [k, v] of kept) if (v.text.length !== String(k).length * 200) broken += 1;
}, 3);
setInterval(() => createHash("sha256").update(Buffer.alloc(1 << 20, 7)).digest("hex"), 20);
// The thread pool works, too.
const { pbkdf2 } = require("node:crypto");
const again = (e) => { if (e) broken += 1; pbkdf2("a", "b", 2000, 64, "sha512", again); };
for (let n = 0; n < 3; n += 1) again();
require("node:http")
  .createServer({ keepAliveTimeout: 3_600_000 }, (request, response) => response.end(broken === 0 ? "hello\\n" : "broken\\n"))
  .listen(8080, "0.0.0.0");
`;

test("Node.js: a server with a busy heap and a thread pool", async () => {
  const workload = await e2e.client.workloads.run({
    name: "node",
    node: "node-a",
    command: ["node", "-e", NODE_SERVER],
  });
  await andRemove(workload, async () => {
    const busy = await keepBusy(e2e, workload, { port: 8080, connections: 3, kind: "http" });
    try {
      await moveAbout(workload, ["postcopy", "cold"], async () => {
        await new Promise((resolve) => setTimeout(resolve, 500));
      });
      await busy.assertIntact();
    } finally {
      busy.kill();
    }
  });
});
