/**
 * The process that stops other processes for a moment (ptrace.ts): one request per line on standard input, one answer per line
 * on standard output, until the input ends. It is apart from the process that asks so that a kill of that one never hits between
 * the change of a thread's registers and their restoration: it is in a session of its own, ignores every signal that can be
 * ignored, and looks for requests only between stops. Threads that are held are let go by the kernel when it ends.
 */
import { writeFileSync, writeSync } from "node:fs";
import { setPriority } from "node:os";
import { createInterface } from "node:readline";
import { z } from "zod";
import { armProcess } from "./ptrace-arm.js";
import { PtraceProblem, stopProcess, Unstoppable, type StoppedThread } from "./ptrace.js";
import { cloneFdHolder, closeFd, reap } from "./syscall.js";

const pid = z.int().positive();
const requestSchema = z.discriminatedUnion("verb", [
  z.strictObject({ verb: z.literal("arm"), pid }),
  z.strictObject({ verb: z.literal("closeFd"), fd: z.int().min(3) }),
  z.strictObject({ verb: z.literal("hold"), pid }),
  z.strictObject({ verb: z.literal("release") }),
]);

for (const signal of ["SIGHUP", "SIGINT", "SIGTERM", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGPIPE"] as const) {
  process.on(signal, () => undefined);
}
process.title = "ferry-ptrace";
const tries = [() => writeFileSync("/proc/self/oom_score_adj", "-1000"), () => setPriority(-15)];
for (const attempt of tries) {
  try {
    attempt();
  } catch {
    // not allowed here: it works without, with longer stops on a busy machine
  }
}

/** What runs for the first time is slow, and somebody's thread stands still meanwhile: rehearse with a child of our own. */
function rehearse(): void {
  const child = cloneFdHolder();
  if (child < 0) return;
  try {
    for (let turn = 0; turn < REHEARSALS; turn++) closeFd(armProcess(child).fd);
  } catch {
    // the real one will say what is wrong
  } finally {
    process.kill(child, "SIGKILL");
    while (reap(child) === 0) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
  }
}
const REHEARSALS = 20;
rehearse();

let held: StoppedThread[] = [];
const release = (): number => {
  let most = 0;
  for (const thread of held.splice(0)) most = Math.max(most, thread.release());
  return most;
};

function serve(line: string): object {
  const request = requestSchema.parse(JSON.parse(line));
  switch (request.verb) {
    case "arm":
      return armProcess(request.pid);
    case "closeFd":
      closeFd(request.fd);
      return {};
    case "hold":
      held = [...held, ...stopProcess(request.pid)];
      return {};
    case "release":
      return { stoppedMs: release() };
    default:
      return request satisfies never;
  }
}

const answer = (what: object): void => {
  try {
    writeSync(1, `${JSON.stringify(what)}\n`);
  } catch {
    // nobody listens any more: the input ends too
  }
};

createInterface({ input: process.stdin }).on("line", (line) => {
  try {
    answer(serve(line));
  } catch (error) {
    const kind = error instanceof PtraceProblem ? error.kind : "refused";
    answer({ problem: kind, message: error instanceof Error ? error.message : String(error) });
    if (error instanceof Unstoppable) {
      release();
      process.exit(0);
    }
  }
});
process.stdin.on("close", () => {
  release();
  process.exit(0);
});
