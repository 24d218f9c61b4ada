/** The load beside the counting client: redis-benchmark, pgbench, or none (the toucher dirties its memory by itself). */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { labNode } from "../deploy/lab/index.js";
import type { Place } from "../deploy/demo/clients.js";
import type { Cell } from "./model.js";
import type { Stage } from "./stage.js";

export interface Load {
  /** Ends it; requests or transactions per second where it says so. */
  stop(): Promise<number | undefined>;
  kill(): void;
}

const ENV = { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C.UTF-8", HOME: "/root" };
const STOP_WITHIN_MS = 10_000;
const CLIENTS = "8";

/** A program that runs on the lab's client host until it is told to end. */
export async function onClient(stage: Stage, argv: readonly string[]): Promise<ReturnType<typeof spawn>> {
  const { enter } = await labNode(stage.state, "client");
  const [file = "sh", ...args] = [...enter, ...argv];
  const child = spawn(file, args, { stdio: ["ignore", "pipe", "pipe"], env: ENV, cwd: "/" });
  child.on("error", () => undefined);
  return child;
}

function commandOf(cell: Cell, place: Place): string[] | undefined {
  if (cell.workload === "redis") {
    // Endless; a quarter of the keyspace is written again and again. Values as long as those that are there.
    const keys = String(Math.max(1000, cell.mib * 200));
    return [
      ["redis-benchmark", "-h", place.host, "-p", String(place.port), "-c", CLIENTS, "-l", "-q"],
      ["-t", "set,get", "-d", "1024", "-r", keys, "-n", "100000"],
    ].flat();
  }
  if (cell.workload === "postgres") {
    return [
      ["/usr/bin/env", "sh", "-c", 'exec "$(echo /usr/lib/postgresql/*/bin/pgbench)" "$@"', "sh"],
      ["-h", place.host, "-U", "postgres", "-n", "-c", CLIENTS, "-j", "1", "-T", "3600", "-P", "1", "postgres"],
    ].flat();
  }
  return undefined;
}

export async function startLoad(stage: Stage, cell: Cell, place: Place): Promise<Load> {
  const command = commandOf(cell, place);
  if (command === undefined) return { stop: async () => undefined, kill: () => undefined };
  const child = await onClient(stage, command);
  let text = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding("utf8").on("data", (chunk: string) => (text = (text + chunk).slice(-65_536)));
  }
  const ended = once(child, "exit");
  return {
    async stop() {
      if (child.exitCode !== null) {
        throw new Error(
          `the load ended by itself (${child.exitCode}): ${text.trim().split("\n").slice(-3).join(" | ")}`,
        );
      }
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), STOP_WITHIN_MS);
      await ended;
      clearTimeout(timer);
      return perSecond(text);
    },
    kill: () => void child.kill("SIGKILL"),
  };
}

const idleSeen = z.strictObject({
  connected: z.int(),
  breaks: z.int(),
  answers: z.array(z.tuple([z.number(), z.number()])),
});

/** Connections that speak now and then (see idle.ts). */
export function startIdle(stage: Stage, place: Place, count: number) {
  const program = fileURLToPath(new URL("idle.js", import.meta.url));
  // Into the client's network alone: then the signal that ends it is the program's own.
  const args = [`--net=/proc/${stage.clientPid}/ns/net`, "--", process.execPath, program];
  const child = spawn("nsenter", [...args, place.host, String(place.port), String(count)], {
    stdio: ["ignore", "pipe", "inherit"],
    env: ENV,
  });
  child.on("error", () => undefined);
  let text = "";
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
  const ended = once(child, "close");
  return {
    kill: () => void child.kill("SIGKILL"),
    /** The longest wait, in ms, for an answer that was out at any time in [from, to] (Unix ms). Ends them. */
    async longest(from: number, to: number): Promise<number> {
      child.kill("SIGTERM");
      await ended;
      const { connected, breaks, answers } = idleSeen.parse(JSON.parse(text));
      if (connected !== count || breaks > 0) {
        throw new Error(`of ${count} idle connections ${connected} were made, and ${breaks} broke`);
      }
      const waits = answers.filter(([sentAt, ms]) => sentAt <= to && sentAt + ms >= from).map(([, ms]) => ms);
      return Math.max(0, ...waits);
    },
  };
}

/** The last rate that redis-benchmark ("rps=") or pgbench ("tps,") has printed. */
export function perSecond(text: string): number | undefined {
  const found = [...text.matchAll(/(?:overall: (\d+(?:\.\d+)?)\)|(\d+(?:\.\d+)?) tps)/g)].at(-1);
  const value = found?.[1] ?? found?.[2];
  return value === undefined ? undefined : Number(value);
}
