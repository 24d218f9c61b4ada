/** PostgreSQL as a workload: filling it, and a client that counts over one connection, as redis' does. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createWriteStream } from "node:fs";
import { createInterface, type Interface } from "node:readline";
import type { Counter, Place } from "../deploy/demo/clients.js";
import { labNode } from "../deploy/lab/index.js";
import type { Stage } from "./stage.js";

const ENV = { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C.UTF-8", HOME: "/root" };
const START_WITHIN_MS = 60_000;
/** pgbench's unit of scale is about so large. */
const MIB_PER_SCALE = 15;
const PGBENCH = 'exec "$(echo /usr/lib/postgresql/*/bin/pgbench)" "$@"';

const psqlArgs = (place: Place): string[] =>
  [
    ["psql", "-h", place.host, "-U", "postgres", "-d", "postgres"],
    ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"],
  ].flat();

export async function untilPostgresAnswers(stage: Stage, place: Place): Promise<void> {
  const end = performance.now() + START_WITHIN_MS;
  for (;;) {
    const { exitCode } = await stage.on("client", ["pg_isready", "-q", "-h", place.host], { allow: [1, 2] });
    if (exitCode === 0) return;
    if (performance.now() > end) throw new Error(`PostgreSQL did not answer in ${START_WITHIN_MS / 1000} s`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

export async function pgFill(stage: Stage, place: Place, mib: number): Promise<void> {
  const scale = String(Math.max(1, Math.floor(mib / MIB_PER_SCALE)));
  const init = ["sh", "-c", PGBENCH, "sh", "-h", place.host, "-U", "postgres", "-i", "-q", "-s", scale, "postgres"];
  await stage.on("client", init, { timeoutMs: 120_000 });
  const sql = `CREATE SEQUENCE counter;
    CREATE TABLE ballast AS SELECT i, md5(i::text) AS sum FROM generate_series(1, ${mib * 1000}) i`;
  await stage.on("client", [...psqlArgs(place), "-c", sql], { timeoutMs: 120_000 });
}

/** Of the table that nobody writes. */
export async function pgDigest(stage: Stage, place: Place): Promise<string> {
  const sql = "SELECT md5(string_agg(sum, ',' ORDER BY i)) FROM ballast";
  return (await stage.on("client", [...psqlArgs(place), "-c", sql], { timeoutMs: 120_000 })).stdout.trim();
}

export async function startPgCounter(stage: Stage, place: Place, file: string): Promise<Counter> {
  const { enter } = await labNode(stage.state, "client");
  const [program = "sh", ...args] = [...enter, ...psqlArgs(place)];
  const child = spawn(program, args, { stdio: ["pipe", "pipe", "ignore"], env: ENV, cwd: "/" });
  const counting = new PgCounter(child, file);
  await counting.first();
  return counting;
}

class PgCounter implements Counter {
  private readonly child: ChildProcess;
  private readonly lines: Interface;
  private readonly out;
  private answers = 0;
  private sentAt: number | undefined;
  private stopping = false;
  private broken = false;
  private wake: () => void = () => undefined;

  constructor(child: ChildProcess, file: string) {
    this.child = child;
    this.out = createWriteStream(file);
    if (child.stdout === null) throw new Error("psql without an output");
    this.lines = createInterface({ input: child.stdout });
    this.lines.on("line", (line) => this.answered(line));
    child.on("error", () => (this.broken = true));
    child.on("exit", () => {
      this.broken = !this.stopping;
      this.wake();
    });
    child.stdin?.on("error", () => undefined);
    this.ask();
  }

  private ask(): void {
    if (this.stopping || this.broken) return;
    this.sentAt = performance.now();
    this.child.stdin?.write("SELECT nextval('counter');\n");
  }
  private answered(line: string): void {
    if (this.sentAt === undefined) return;
    const at = performance.timeOrigin + this.sentAt;
    this.out.write(`${line}\t${at.toFixed(3)}\t${(performance.now() - this.sentAt).toFixed(3)}\n`);
    this.answers += 1;
    this.sentAt = undefined;
    this.wake();
    setTimeout(() => this.ask(), 1);
  }
  private async until(what: string, holds: () => boolean): Promise<void> {
    const end = performance.now() + START_WITHIN_MS;
    while (!holds()) {
      if (this.broken || performance.now() > end) throw new Error(`psql: ${what}`);
      await new Promise<void>((resolve) => {
        this.wake = resolve;
        setTimeout(resolve, 250);
      });
    }
  }
  first(): Promise<void> {
    return this.until("it did not answer", () => this.answers > 0);
  }
  pause(): Promise<void> {
    return Promise.reject(new Error("this client does not pause"));
  }
  resume(): Promise<void> {
    return this.pause();
  }
  async stop(): Promise<Awaited<ReturnType<Counter["stop"]>>> {
    const broken = this.broken;
    this.stopping = true;
    await this.until("the last answer did not come", () => this.sentAt === undefined).catch(() => undefined);
    this.child.stdin?.end();
    if (this.child.exitCode === null) await once(this.child, "exit");
    await new Promise<void>((resolve) => this.out.end(() => resolve()));
    return { answers: this.answers, connections: 1, breaks: broken ? 1 : 0, errors: 0 };
  }
  kill(): void {
    this.stopping = true;
    this.child.kill("SIGKILL");
  }
}
