/** PostgreSQL in a lab, and psql on its client host: one-off questions, and sessions that stay connected. */
import { spawn, type ChildProcess } from "node:child_process";
import { labNode, labRun } from "../../deploy/lab/index.js";
import { Lines } from "./programs.js";
import { until, type E2eLab } from "./support.js";

const START = `set -e
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
if [ ! -e pg/PG_VERSION ]; then
  initdb -D pg -A trust -U postgres --no-sync --no-instructions >/dev/null
  echo "host all all 0.0.0.0/0 trust" >>pg/pg_hba.conf
fi
exec postgres -D pg -c listen_addresses=* -c unix_socket_directories=/data -c shared_buffers=48MB`;

/** The command of a server with its files in /data; started again it goes on with them. For the user postgres. */
export const POSTGRES = ["sh", "-c", START];

export async function untilPostgresAnswers(e2e: E2eLab, host: string): Promise<void> {
  await until("PostgreSQL answers", 60_000, async () => {
    const { exitCode } = await labRun(e2e.state, "client", ["pg_isready", "-q", "-h", host], { allow: [1, 2] });
    return exitCode === 0;
  });
}

/** Fails when any table or index is damaged. */
export async function amcheck(e2e: E2eLab, host: string): Promise<void> {
  const check = 'exec /usr/lib/postgresql/*/bin/pg_amcheck "$@"';
  const args = ["--host", host, "--username", "postgres", "--install-missing", "--heapallindexed", "postgres"];
  await labRun(e2e.state, "client", ["sh", "-c", check, "sh", ...args], {
    timeoutMs: 120_000,
    doing: "looking for corruption in every table and index",
  });
}

const argsOf = (host: string): string[] => [
  "psql",
  "-h",
  host,
  "-U",
  "postgres",
  "-d",
  "postgres",
  "-X",
  "-q",
  "-A",
  "-t",
  "-v",
  "ON_ERROR_STOP=1",
];

/** Runs SQL over a connection of its own; answers what it printed, trimmed. */
export async function psql(e2e: E2eLab, host: string, sql: string): Promise<string> {
  const { stdout } = await labRun(e2e.state, "client", argsOf(host), { input: sql, timeoutMs: 120_000 });
  return stdout.trim();
}

/** One connection. psql ends at the first error, also when the connection breaks: it never connects again here. */
export class PsqlSession {
  private readonly lines: Lines;
  private readonly child: ChildProcess;
  private constructor(child: ChildProcess) {
    this.child = child;
    this.lines = new Lines(child);
  }

  static async open(e2e: E2eLab, host: string): Promise<PsqlSession> {
    const { enter } = await labNode(e2e.state, "client");
    const [file = "sh", ...args] = [...enter, ...argsOf(host)];
    const env = { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C.UTF-8" };
    const session = new PsqlSession(spawn(file, args, { stdio: ["pipe", "pipe", "inherit"], env, cwd: "/" }));
    await session.ask("SELECT 1;");
    return session;
  }

  /** SQL that answers one line. */
  ask(sql: string): Promise<string> {
    return this.lines.ask(sql);
  }

  kill(): void {
    this.child.kill("SIGKILL");
  }
}
