/** psql on the lab's client host: one-off questions, and sessions that stay connected. */
import { spawn, type ChildProcess } from "node:child_process";
import { labNode, labRun } from "../../deploy/lab/index.js";
import { Lines } from "./programs.js";
import type { E2eLab } from "./support.js";

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
