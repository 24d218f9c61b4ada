/** The command itself, as a user runs it. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { packageRoot } from "../../src/host/package-root.js";
import type { E2eLab } from "./support.js";

export interface FerryEnd {
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface RunningFerry {
  child: ChildProcess;
  /** What it has said so far. */
  said(): FerryEnd;
  end: Promise<FerryEnd>;
}

/** Starts `ferry ARGS` against this lab. */
export function startFerry(e2e: E2eLab, args: readonly string[]): RunningFerry {
  const child = spawn(process.execPath, [join(packageRoot(), "bin", "ferry.js"), ...args, "--lab", e2e.state], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, NO_COLOR: "1" },
  });
  const end: FerryEnd = { code: null, stdout: "", stderr: "" };
  child.stdout.setEncoding("utf8").on("data", (text: string) => (end.stdout += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (end.stderr += text));
  return {
    child,
    said: () => ({ ...end }),
    end: once(child, "close").then(([code]) => ({ ...end, code: code as number | null })),
  };
}

export const ferry = (e2e: E2eLab, args: readonly string[]): Promise<FerryEnd> => startFerry(e2e, args).end;
