/** The self-checking programs of test/e2e/programs as workloads, and clients that talk to them all the time. */
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { WorkloadHandle } from "../../src/client/types.js";
import { packageRoot } from "../../src/host/package-root.js";
import { clientPid, until, type E2eLab } from "./support.js";

/** The command of a program; it is handed over as text, so no file has to be on the nodes. */
export function program(name: string, ...args: (string | number)[]): string[] {
  const dir = join(packageRoot(), "test", "e2e", "programs");
  const source = ["control", name].map((part) => readFileSync(join(dir, `${part}.py`), "utf8")).join("\n");
  return ["python3", "-c", source, ...args.map(String)];
}

/** A child's standard output line by line, with a limit on the wait for each. */
export class Lines {
  readonly child: ChildProcess;
  #lines: string[] = [];
  #wake: () => void = () => undefined;
  #ended = false;

  constructor(child: ChildProcess) {
    this.child = child;
    assert.ok(child.stdout);
    child.stdin?.on("error", () => undefined);
    const reader = createInterface({ input: child.stdout });
    reader.on("line", (line) => {
      this.#lines.push(line);
      this.#wake();
    });
    reader.on("close", () => {
      this.#ended = true;
      this.#wake();
    });
  }

  async next(withinMs = 60_000): Promise<string> {
    const timer = setTimeout(() => {
      this.#ended = true;
      this.#wake();
    }, withinMs);
    try {
      for (;;) {
        const line = this.#lines.shift();
        if (line !== undefined) return line;
        if (this.#ended) throw new Error("the client said nothing more");
        await new Promise<void>((resolve) => (this.#wake = resolve));
      }
    } finally {
      clearTimeout(timer);
    }
  }

  async ask(line: string, withinMs?: number): Promise<string> {
    this.child.stdin?.write(`${line}\n`);
    return this.next(withinMs);
  }
}

export interface Busy {
  /** What the program's check() says; fails when anything is wrong there. */
  check(): Promise<Record<string, Record<string, number | string>>>;
  /** Ends the client: no connection broke, no answer was wrong. Answers the longest wait for an answer. */
  assertIntact(): Promise<{ answers: number; longestMs: number }>;
  kill(): void;
}

export const ipOf = async (workload: WorkloadHandle): Promise<string> =>
  (await workload.status()).spec.network.ip.replace(/\/.*$/, "");

/** Waits until the port answers, from the client host. */
export async function untilListening(e2e: E2eLab, host: string, port: number): Promise<void> {
  const pid = await clientPid(e2e);
  await until(`${host}:${port} answers`, 30_000, async () => {
    const probe = `const s=require("node:net").connect(${port},"${host}");s.on("connect",()=>process.exit(0));s.on("error",()=>process.exit(1));setTimeout(()=>process.exit(1),2000)`;
    const child = spawn("nsenter", [`--net=/proc/${pid}/ns/net`, "--", process.execPath, "-e", probe]);
    const [code] = (await once(child, "exit")) as [number | null];
    return code === 0;
  });
}

/** Starts the client of lines-client.ts in the client host's network. */
export async function keepBusy(
  e2e: E2eLab,
  workload: WorkloadHandle,
  options: { port?: number; connections?: number; kind?: "lines" | "http" } = {},
): Promise<Busy> {
  const { port = 7000, connections = 1, kind = "lines" } = options;
  const host = await ipOf(workload);
  await untilListening(e2e, host, port);
  const lines = new Lines(
    spawn(
      "nsenter",
      [
        `--net=/proc/${await clientPid(e2e)}/ns/net`,
        "--",
        process.execPath,
        fileURLToPath(new URL("lines-client.js", import.meta.url)),
        host,
        String(port),
        String(connections),
        kind,
      ],
      { stdio: ["pipe", "pipe", "inherit"] },
    ),
  );
  assert.equal(await lines.next(), "connected");
  return {
    async check() {
      const answer = JSON.parse(await lines.ask("ask check")) as Record<string, Record<string, number | string>>;
      assert.deepEqual(answer["bad"], [], "the program found something wrong");
      return answer;
    },
    async assertIntact() {
      const seen = JSON.parse(await lines.ask("stop")) as {
        answers: number;
        breaks: number;
        wrong: string[];
        longestMs: number;
      };
      assert.deepEqual({ breaks: seen.breaks, wrong: seen.wrong.slice(0, 3) }, { breaks: 0, wrong: [] });
      assert.ok(seen.answers > 0);
      return seen;
    },
    kill: () => void lines.child.kill("SIGKILL"),
  };
}
