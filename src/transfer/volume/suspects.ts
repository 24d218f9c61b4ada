/**
 * Which files of a volume rsync's quick check (size and time) can't be trusted with.
 *
 * - A store through a shared mapping changes the time of the file only at the first write fault after the page was
 *   cleaned: a file that was mapped shared while an earlier pass read it may have changed since without a trace.
 * - Two writes within one tick of the clock leave one time; programs set times back (tar, cp -p, touch).
 *
 * So the final pass compares by content: files whose change time (ctime, which no program can set) is not older than
 * the first pass, and files with the name of any shared mapping that was seen at any pass. Names are matched by their
 * last part only, anywhere in the volume: a task's view of paths (its mounts, its overlay) is not the node's.
 */
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { promisify } from "node:util";
import { SYSTEM_PATH } from "../../host/exec.js";
import { parseMaps } from "../../host/procfs.js";
import { toFailure, ferryError } from "../../model/failure.js";

/** Clock ticks, time stamps of another clock domain: files changed this long before the first pass count as changed. */
const MARGIN_MS = 2000;
/** The wall clock may not have moved against the monotonic one by more than this, else change times say nothing. */
const MAX_CLOCK_STEP_MS = 1000;
/** With more names than this all files are compared: a longer command line would not be faster. */
const MAX_NAMES = 500;
const MAX_LIST_BYTES = 256 * 1024 * 1024;

/** Last parts of the paths of files that `pids` have mapped shared. Tasks that are gone are skipped. */
export function sharedMappings(pids: readonly number[]): string[] {
  const names = new Set<string>();
  for (const pid of pids) {
    let text: string;
    try {
      text = readFileSync(`/proc/${pid}/maps`, "utf8");
    } catch {
      continue;
    }
    for (const entry of parseMaps(text)) {
      if (!entry.perms.endsWith("s") || !entry.path.startsWith("/")) continue;
      names.add(basename(entry.path));
      // A deleted file that has another name, or a file that is really called so.
      names.add(basename(entry.path.replace(/ \(deleted\)$/, "")));
    }
  }
  return [...names];
}

/** What the passes so far leave to be compared by content. */
export class Suspects {
  #since: { wallMs: number; monotonicMs: number } | undefined;
  #everything = false;
  readonly #names = new Set<string>();

  /** Call before each pass. Without `pids` nothing is known of mappings: everything is suspect. */
  passStarts(pids: readonly number[] | undefined): void {
    this.#since ??= { wallMs: Date.now(), monotonicMs: performance.now() };
    if (pids === undefined) this.#everything = true;
    else for (const name of sharedMappings(pids)) this.#names.add(name);
  }

  /** Why all files must be compared, or undefined when a list will do. */
  everything(): string | undefined {
    const since = this.#since;
    if (since === undefined) return "no earlier pass is known to this mover";
    if (this.#everything) return "the tasks' mappings are not known";
    if (this.#names.size > MAX_NAMES) return `${this.#names.size} files are mapped shared`;
    const step = Math.abs(Date.now() - since.wallMs - (performance.now() - since.monotonicMs));
    return step > MAX_CLOCK_STEP_MS ? `the clock was set by ${Math.round(step)} ms` : undefined;
  }

  /** Paths relative to `dir`, each ended by a zero byte; empty: nothing to compare. Throws E_VOLUME. */
  async list(dir: string): Promise<Buffer> {
    const sinceMs = (this.#since?.wallMs ?? 0) - MARGIN_MS;
    const named = [...this.#names].flatMap((name) => ["-o", "-name", name.replaceAll(/[\\*?[\]]/g, String.raw`\$&`)]);
    const args = [dir, "-xdev", "-type", "f", "(", "-newerct", `@${(sinceMs / 1000).toFixed(3)}`, ...named, ")"];
    try {
      const { stdout } = await promisify(execFile)("find", [...args, "-printf", String.raw`%P\0`], {
        encoding: "buffer",
        maxBuffer: MAX_LIST_BYTES,
        env: { PATH: SYSTEM_PATH, LC_ALL: "C" },
      });
      return stdout;
    } catch (error) {
      throw ferryError("E_VOLUME", "the volume's changed files could not be listed", {
        side: "source",
        phase: "transfer",
        evidence: { command: ["find", ...args], lines: [toFailure(error).message.slice(0, 500)] },
      });
    }
  }
}
