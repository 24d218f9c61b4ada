/**
 * The lab's state directory: `lab.json` says what was made, before it is made, so that `down` works after a crash at
 * any point. One directory, one lab.
 */
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { chmod, mkdir, readdir, readFile, rename, stat, writeFile } from "node:fs/promises";
import { spawn } from "node:child_process";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { z } from "zod";
import { parseJson } from "../../src/host/issues.js";
import { ferryError, toFailure } from "../../src/model/failure.js";
import { isNodeName } from "../../src/model/names.js";

/** A process for good: pids are used again, a pid with its start time (clock ticks since boot) is not. */
const processSchema = z.strictObject({ pid: z.int().min(2), ticks: z.string().regex(/^\d+$/) });
export type ProcessRef = z.infer<typeof processSchema>;

const hostSchema = z.strictObject({
  name: z.string().refine(isNodeName, "is not a valid node name"),
  kind: z.enum(["switch", "client", "node"]),
  /** Last octet of its address. */
  octet: z.int().min(1).max(254),
  ip: z.string(),
  /** Its pid 1 as the machine sees it; absent until started, or when it was killed. */
  init: processSchema.optional(),
  /** Inode of its network namespace. */
  netns: z.string().optional(),
});
export type LabHost = z.infer<typeof hostSchema>;

const labSchema = z.strictObject({
  schema: z.literal(1),
  id: z.string().regex(/^[0-9a-f]{8}$/),
  createdAt: z.string(),
  phase: z.enum(["starting", "up"]),
  directory: z.string(),
  /** First three octets of the nodes' network, e.g. "10.77.0". */
  prefix: z.string().regex(/^\d{1,3}(?:\.\d{1,3}){2}$/, "must be three octets"),
  /** Relative path of the lab's cgroup in every hierarchy. */
  cgroup: z.string().regex(/^ferry-[0-9a-f]{8}$/, "is not a cgroup of a lab"),
  /** Mount point of the cgroup v2 tree. */
  cgroupRoot: z.string(),
  rootfs: z.string(),
  /** Whether agents and workers run on the nodes. */
  services: z.boolean(),
  /** Where Temporal comes from: a binary of ours, a server elsewhere, or none. */
  temporal: z.discriminatedUnion("how", [
    z.strictObject({ how: z.literal("binary"), binary: z.string() }),
    z.strictObject({ how: z.literal("address"), address: z.string() }),
    z.strictObject({ how: z.literal("none") }),
  ]),
  hosts: z.array(hostSchema),
  /** On this machine's loopback (or elsewhere, when a server was given): set once they answer. */
  address: z.string().optional(),
  uiUrl: z.string().optional(),
});
export type LabState = z.infer<typeof labSchema>;

/** `$FERRY_STATE`, else `$XDG_STATE_HOME/ferry/lab`, else `~/.local/state/ferry/lab`. */
export function defaultStateDir(env: NodeJS.ProcessEnv = process.env): string {
  if (env["FERRY_STATE"]) return resolve(env["FERRY_STATE"]);
  return join(env["XDG_STATE_HOME"] || join(homedir(), ".local", "state"), "ferry", "lab");
}

/** What a lab makes in its directory; nothing else there is ever touched. */
export const LAB_ENTRIES = [
  "lab.json",
  "lab.json.new",
  "hosts",
  "run",
  "logs",
  "temporal",
  "authority",
  "programs",
  "shared",
  "checkpoints",
];

const stateFile = (directory: string): string => join(directory, "lab.json");

/** The lab of this directory; undefined when there is none. Throws E_REQUEST when lab.json is not what we write. */
export async function readLab(directory: string): Promise<LabState | undefined> {
  let text: string;
  try {
    text = await readFile(stateFile(directory), "utf8");
  } catch (error) {
    if ((error as { code?: string }).code === "ENOENT") return undefined;
    throw ferryError("E_REQUEST", `${stateFile(directory)} can't be read: ${toFailure(error).message}`, {
      remedy: "name the directory of a lab of your own: --lab DIR",
    });
  }
  const parsed = parseJson(text, labSchema);
  if ("data" in parsed) return parsed.data;
  throw ferryError("E_REQUEST", `${stateFile(directory)} is not the state of a lab of this version: ${parsed.why}`, {
    remedy: "take the lab down with the version of Ferry that made it, or remove the directory",
  });
}

export async function writeLab(lab: LabState): Promise<void> {
  const file = stateFile(lab.directory);
  await writeFile(`${file}.new`, `${JSON.stringify(lab, null, 2)}\n`);
  await rename(`${file}.new`, file);
}

/** The lab of this directory, or E_STATE in words. */
export async function requireLab(directory: string): Promise<LabState> {
  const lab = await readLab(directory);
  if (lab !== undefined) return lab;
  throw ferryError("E_STATE", `there is no lab in ${directory}`, { remedy: "start one: ferry lab up" });
}

export const newLabId = (): string => randomBytes(4).toString("hex");

/**
 * Makes the directory (0700) if need be.
 * @throws E_REQUEST when its path can't be used in mount options or it holds other things
 */
export async function openStateDir(directory: string): Promise<void> {
  if (/[,:\\\s]/.test(directory)) {
    throw ferryError("E_REQUEST", `the lab's directory can't be ${JSON.stringify(directory)}`, {
      remedy: "use a path without commas, colons, backslashes and spaces: it becomes part of mount options",
    });
  }
  if (existsSync(directory)) {
    const strangers = (await readdir(directory)).filter((name) => !LAB_ENTRIES.includes(name));
    if (strangers.length > 0) {
      throw ferryError("E_REQUEST", `${directory} holds other things (${strangers.slice(0, 3).join(", ")})`, {
        remedy: "give the lab a directory of its own (--state DIR)",
      });
    }
  }
  await mkdir(directory, { recursive: true, mode: 0o700 });
  await chmod(directory, 0o700);
}

/**
 * Runs `work` as the only one that changes this lab. The kernel holds the lock (flock on the directory itself) for a
 * child that lives as long as its standard input is open: it is released however we end, and leaves no file.
 */
export async function withLabLock<T>(directory: string, work: () => Promise<T>): Promise<T> {
  for (;;) {
    const inode = (await stat(directory)).ino;
    const child = spawn("flock", ["--exclusive", "--timeout", "180", directory, "cat"], {
      stdio: ["pipe", "pipe", "ignore"],
    });
    try {
      const locked = await new Promise<boolean>((done, broken) => {
        child.once("error", broken);
        child.once("exit", () => done(false));
        child.stdout.once("data", () => done(true));
        child.stdin.on("error", () => done(false));
        child.stdin.write("locked?\n");
      });
      if (!locked) {
        throw ferryError("E_BUSY", `another command has been changing the lab in ${directory} for three minutes`, {
          remedy: "wait for it, or end it, then try again",
        });
      }
      // The one before us may have taken the lab down, directory and all.
      const now = await stat(directory).catch(() => undefined);
      if (now === undefined) await mkdir(directory, { recursive: true, mode: 0o700 });
      else if (now.ino === inode) return await work();
    } finally {
      child.stdin.end();
    }
  }
}

export const hostDir = (lab: LabState, host: string): string => join(lab.directory, "hosts", host);
export const runDir = (lab: LabState): string => join(lab.directory, "run");
export const programsDir = (lab: LabState): string => join(lab.directory, "programs");
export const logDir = (lab: LabState): string => join(lab.directory, "logs");

/** Start time of a process in clock ticks; undefined when it is gone (a zombie counts as gone). */
export async function startTicks(pid: number): Promise<string | undefined> {
  try {
    const text = await readFile(`/proc/${pid}/stat`, "utf8");
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

export const isAlive = async (ref: ProcessRef | undefined): Promise<boolean> =>
  ref !== undefined && (await startTicks(ref.pid)) === ref.ticks;

/** How many times longer than usual everything may take: `$FERRY_PATIENCE`, for machines that are emulated. */
export const patience = (env: NodeJS.ProcessEnv = process.env): number =>
  Math.max(1, Number(env["FERRY_PATIENCE"]) || 1);

/** Polls until `look` gives something; undefined after `timeoutMs`. */
export async function until<T>(
  look: () => Promise<T | undefined>,
  timeoutMs: number,
  everyMs = 20,
): Promise<T | undefined> {
  const deadline = performance.now() + timeoutMs * patience();
  for (;;) {
    const seen = await look();
    if (seen !== undefined || performance.now() > deadline) return seen;
    await new Promise((done) => setTimeout(done, everyMs));
  }
}
