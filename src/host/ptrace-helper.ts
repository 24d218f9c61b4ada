/** The asking end of ptrace-main.ts: a child process that is started when it is needed first, and again when it has ended. */
import { spawn, type ChildProcessByStdio } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { SYSTEM_PATH } from "./exec.js";
import { withCapabilitiesOf } from "./privileges.js";
import { closeFd, errnoName, pidfdGetfd, pidfdOpen } from "./syscall.js";

const answerSchema = z.union([
  z.strictObject({ problem: z.enum(["gone", "busy", "refused"]), message: z.string() }),
  z.strictObject({
    fd: z.int().optional(),
    stoppedMs: z.number().optional(),
    alteredMs: z.number().optional(),
  }),
]);
type Answer = z.infer<typeof answerSchema>;
export type Problem = Extract<Answer, { problem: string }>;

/** Longer than the longest stop that is waited for: a task that a freezer caught in the middle keeps us until it thaws. */
const ANSWER_MS = 10_000;

type Child = ChildProcessByStdio<Writable, Readable, null>;

export class PtraceHelper {
  #child: Child | undefined;
  #ended: Promise<unknown> = Promise.resolve();
  #waiting: ((answer: Answer) => void) | undefined;

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  #start(): Child {
    const main = fileURLToPath(new URL("./ptrace-main.js", import.meta.url));
    const child = spawn(...withCapabilitiesOf("tracer", [process.execPath, "--max-old-space-size=64", main]), {
      cwd: "/",
      detached: true,
      stdio: ["pipe", "pipe", "ignore"],
      env: { PATH: SYSTEM_PATH, LC_ALL: "C.UTF-8" },
    });
    const over = (why: string): void => {
      if (this.#child !== child) return;
      this.#child = undefined;
      this.#waiting?.({ problem: "busy", message: `the process that stops threads ${why}` });
    };
    child.once("error", (error) => over(`could not be started: ${error.message}`));
    child.stdin.on("error", () => undefined);
    this.#ended = once(child, "exit").then(
      () => over("has ended"),
      () => undefined,
    );
    createInterface({ input: child.stdout }).on("line", (line) => {
      const parsed = answerSchema.safeParse(JSON.parse(line));
      this.#waiting?.(
        parsed.success ? parsed.data : { problem: "refused", message: `an answer that is none: ${line}` },
      );
    });
    this.#child = child;
    return child;
  }

  /** One request at a time. Never rejects. */
  async #ask(request: object): Promise<Answer> {
    const child = this.#child ?? this.#start();
    const answer = await new Promise<Answer>((resolve) => {
      const timer = setTimeout(() => {
        // It is not killed: it may be about to put a thread's registers back. It ends when its input does.
        if (this.#child === child) this.#child = undefined;
        child.stdin.end();
        resolve({ problem: "refused", message: `process ${child.pid} still waits for a task that does not stop` });
      }, ANSWER_MS);
      this.#waiting = (answered) => {
        clearTimeout(timer);
        resolve(answered);
      };
      child.stdin.write(`${JSON.stringify(request)}\n`);
    });
    this.#waiting = undefined;
    return answer;
  }

  /** A userfaultfd of the memory of `pid`, as a descriptor of this process. */
  async arm(pid: number): Promise<{ fd: number; stoppedMs: number; alteredMs: number } | Problem> {
    const answer = await this.#ask({ verb: "arm", pid });
    if ("problem" in answer) return answer;
    const helper = this.#child?.pid;
    if (answer.fd === undefined || helper === undefined) return { problem: "busy", message: "no descriptor was given" };
    const pidfd = pidfdOpen(helper);
    const fd = pidfd < 0 ? pidfd : pidfdGetfd(pidfd, answer.fd);
    if (pidfd >= 0) closeFd(pidfd);
    await this.#ask({ verb: "closeFd", fd: answer.fd });
    if (fd < 0) return { problem: "refused", message: `pidfd_getfd of process ${helper}: ${errnoName(-fd)}` };
    return { fd, stoppedMs: answer.stoppedMs ?? 0, alteredMs: answer.alteredMs ?? 0 };
  }

  /** Runs `work` while no thread of `pid` runs. */
  async whileHeld(pid: number, work: () => void | Promise<void>): Promise<{ stoppedMs: number } | Problem> {
    const held = await this.#ask({ verb: "hold", pid });
    if ("problem" in held) return held;
    let stoppedMs = 0;
    try {
      await work();
    } finally {
      const released = await this.#ask({ verb: "release" });
      if (!("problem" in released)) stoppedMs = released.stoppedMs ?? 0;
    }
    return { stoppedMs };
  }

  /** Ends the process, if it runs; waits until it has. */
  async end(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    child?.stdin.end();
    const bound = new Promise((resolve) => setTimeout(resolve, ANSWER_MS).unref());
    await Promise.race([this.#ended, bound]);
  }
}
