/**
 * The demo's clients. They run on the lab's client host: a process of ours that enters that host's network namespace
 * and nothing else, so its files are the machine's.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { run } from "../../src/host/exec.js";
import { ferryError } from "../../src/model/failure.js";

/** A network to run in, and the server there. */
export interface Place {
  /** Host pid of a process in the network namespace. */
  pid: number;
  host: string;
  port: number;
}

const program = (name: string): string => fileURLToPath(new URL(name, import.meta.url));
const inside = (place: Place, script: string, args: readonly string[]): string[] => [
  `--net=/proc/${place.pid}/ns/net`,
  "--",
  process.execPath,
  program(script),
  place.host,
  String(place.port),
  ...args,
];

/** Runs redis commands over a connection of their own; replies in order. */
export async function redis(place: Place, commands: readonly (readonly string[])[]): Promise<unknown[]> {
  const { stdout } = await run("nsenter", inside(place, "redis.js", [JSON.stringify(commands)]), {
    doing: `asking redis at ${place.host}`,
    timeoutMs: 90_000,
  });
  return JSON.parse(stdout) as unknown[];
}

/** Asks until redis answers PING. */
export async function untilRedisAnswers(place: Place, withinMs: number): Promise<void> {
  const deadline = performance.now() + withinMs;
  for (;;) {
    try {
      await redis(place, [["PING"]]);
      return;
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

export interface CounterEnd {
  answers: number;
  connections: number;
  /** Connections that broke (one that could not be made anew is not counted in `connections`). */
  breaks: number;
  errors: number;
}

export interface Counter {
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Ends it and says what it saw. */
  stop(): Promise<CounterEnd>;
  /** Ends it at once; for failures. */
  kill(): void;
}

/** Longest time to wait for an event of the counter: it may be in the middle of a gap. */
const EVENT_WITHIN_MS = 60_000;

/** Starts the counting client (counter.ts) and waits until it is connected. `file` gets its answers. */
export async function startCounter(place: Place, key: string, file: string, pauseMs = 1): Promise<Counter> {
  const child = spawn("nsenter", inside(place, "counter.js", [key, file, String(pauseMs)]), {
    stdio: ["pipe", "pipe", "inherit"],
  });
  // a counter that is gone shows as a missing event; writing to it must not end us
  child.stdin.on("error", () => undefined);
  const seen: Record<string, unknown>[] = [];
  const waiting = new Set<() => void>();
  let ended = false;
  const news = (): void => {
    for (const wake of waiting) wake();
  };
  createInterface({ input: child.stdout }).on("line", (line) => {
    seen.push(JSON.parse(line) as Record<string, unknown>);
    news();
  });
  child.once("exit", () => {
    ended = true;
    news();
  });
  child.once("error", () => {
    ended = true;
    news();
  });
  let read = 0;
  const event = async (name: string): Promise<Record<string, unknown>> => {
    const deadline = performance.now() + EVENT_WITHIN_MS;
    for (;;) {
      for (; read < seen.length; read += 1) {
        const one = seen[read];
        if (one?.["event"] === name) {
          read += 1;
          return one;
        }
      }
      if (ended || performance.now() > deadline) {
        throw ferryError(
          "E_TOOL",
          `the counting client ${ended ? "ended" : "did not answer"} before it said "${name}"`,
          {
            evidence: {
              command: ["nsenter", ...inside(place, "counter.js", [key, file])],
              lines: seen.slice(-5).map((one) => JSON.stringify(one)),
            },
          },
        );
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(done, 250);
        function done(): void {
          clearTimeout(timer);
          waiting.delete(done);
          resolve();
        }
        waiting.add(done);
      });
    }
  };
  await event("connected");
  return {
    async pause() {
      child.stdin.write("pause\n");
      await event("paused");
    },
    async resume() {
      child.stdin.write("resume\n");
      await event("resumed");
    },
    async stop() {
      child.stdin.write("stop\n");
      const { answers, connections, breaks, errors } = await event("stopped");
      if (!ended) await once(child, "exit");
      return {
        answers: Number(answers),
        connections: Number(connections),
        breaks: Number(breaks),
        errors: Number(errors),
      };
    },
    kill: () => void child.kill("SIGKILL"),
  };
}
