/** A walk through the volume by find: whatever has changed, file by file. */
import { spawn, type ChildProcess } from "node:child_process";
import { SYSTEM_PATH } from "../../host/exec.js";
import { ferryError } from "../../model/failure.js";
import { beGentle, collectLines } from "./rsync.js";

/** About ten million names. */
const MAX_LIST_BYTES = 1024 * 1024 * 1024;

/** One name. Paths are relative to the volume and latin1, so that each byte is one character, whatever it means. */
export interface Entry {
  /** As find calls it: f, d, l, p, ... */
  kind: string;
  links: number;
  inode: string;
  bytes: number;
  path: string;
}

/** Where to look; undefined: everywhere. */
export interface Where {
  /** Names whose inode changed after this instant, in milliseconds. */
  changedAfterMs: number;
  /** Files of these names as well. */
  names: readonly string[];
}

/** As a pattern for find. What was not UTF-8, or a new line, /proc has not told exactly: there anything matches. */
const pattern = (name: string): string => name.replaceAll(/[\\*?[\]]/g, String.raw`\$&`).replaceAll(/[\uFFFD\n]/g, "*");

function predicate(where: Where | undefined): string[] {
  if (where === undefined) return [];
  const named = where.names.flatMap((name) => ["-o", "-type", "f", "-name", pattern(name)]);
  return ["(", "-newerct", `@${(where.changedAfterMs / 1000).toFixed(3)}`, ...named, ")"];
}

export const walkKey = (where: Where | undefined): string => JSON.stringify(predicate(where));

const PRINT = ["-printf", String.raw`%y %n %i %s %P\0`];
const ENV = { PATH: SYSTEM_PATH, LC_ALL: "C" };

/** What find has printed, whatever the names are. Pure. */
export function parseWalk(output: Buffer): Entry[] {
  const lines = output.toString("latin1").split("\0");
  lines.pop();
  return lines.map((line) => {
    const [kind = "", links = "", inode = "", bytes = ""] = line.split(" ", 4);
    const path = line.slice(kind.length + links.length + inode.length + bytes.length + 4);
    return { kind, links: Number(links), inode, bytes: Number(bytes), path };
  });
}

/** One find. Armed, it is started and waits to be told where to begin. */
export class Walk {
  /** Where it looks. */
  readonly key: string;
  readonly #args: string[];
  readonly #dir: string;
  readonly #child: ChildProcess;
  readonly #output: Buffer[] = [];
  readonly #lines: string[];
  readonly #ended: Promise<{ code: number | null; problem?: string }>;
  #bytes = 0;
  alive = true;

  constructor(dir: string, where: Where | undefined, options: { armed: boolean; gentle: boolean }) {
    const tests = predicate(where);
    this.key = walkKey(where);
    this.#dir = dir;
    // -files0-from: findutils 4.9. An older one ends at once, and is not used.
    const start = options.armed ? ["-files0-from", "-"] : [dir];
    this.#args = [...start, "-ignore_readdir_race", "-xdev", ...tests, ...PRINT];
    this.#child = spawn("find", this.#args, { cwd: "/", env: ENV, stdio: ["pipe", "pipe", "pipe"] });
    if (options.gentle) beGentle(this.#child);
    this.#child.stdin?.on("error", () => undefined);
    if (!options.armed) this.#child.stdin?.end();
    this.#lines = this.#child.stderr === null ? [] : collectLines(this.#child.stderr);
    this.#child.stdout?.on("data", (chunk: Buffer) => {
      this.#bytes += chunk.length;
      if (this.#bytes <= MAX_LIST_BYTES) this.#output.push(chunk);
      else this.#child.kill("SIGKILL");
    });
    this.#ended = new Promise((resolve) => {
      this.#child.once("error", (error) => resolve({ code: null, problem: error.message }));
      this.#child.once("exit", () => (this.alive = false));
      this.#child.once("close", (code) => resolve({ code }));
    });
  }

  /** What it has found. Throws E_VOLUME. */
  async entries(): Promise<Entry[]> {
    this.#child.stdin?.end(`${this.#dir}\0`);
    const { code, problem } = await this.#ended;
    if (code === 0) return parseWalk(Buffer.concat(this.#output));
    const lines = problem === undefined ? this.#lines : [problem];
    throw ferryError("E_VOLUME", "the volume's changed files could not be listed", {
      side: "source",
      phase: "transfer",
      evidence: {
        command: ["find", ...this.#args].map((word) => word.slice(0, 200)).slice(0, 40),
        lines: this.#bytes > MAX_LIST_BYTES ? ["there are too many of them", ...lines] : lines,
        ...(code === null ? {} : { exitCode: code }),
      },
    });
  }

  end(): void {
    this.#child.kill("SIGKILL");
  }
}
