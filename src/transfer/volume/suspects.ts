/**
 * What may differ on the destination since the last whole pass, whatever rsync's quick check (size and time) says of it.
 *
 * The change time (ctime) of an inode can't be set by any program, and every change of content, attributes, names or links
 * moves it, with three exceptions:
 * - A store through a shared mapping changes it only at the first write fault after the page was cleaned: a file that was
 *   mapped shared when the last pass began may change without a trace (a mapping made later starts with a fault).
 * - A write call moves it before it copies, and may go on copying long after: files with a call under way are looked for.
 * - A renamed directory takes everything below it along. The ctime of the directory and of the one that it lies in do change:
 *   everything below such a directory is suspect.
 *
 * So when nothing is suspect, nothing has changed. File systems that are not known to behave like that are not trusted.
 */
import { statfsSync } from "node:fs";
import { sharedMappings, writesUnderWay } from "./touched.js";
import { Walk, walkKey, type Entry, type Where } from "./walk.js";

/** Files are stamped with the time of the last tick. Changed this long before counts as changed. */
const MARGIN_MS = 300;
/** The wall clock may not have moved against the monotonic one by more than this, else change times say nothing. */
const MAX_CLOCK_STEP_MS = 100;
/** With more names than this all files are compared: a longer command line would not be faster. */
const MAX_NAMES = 500;
/** ext2 to ext4, xfs, btrfs, f2fs, bcachefs: a store to a clean page faults, and stamps the file. tmpfs: not always. */
const STAMPS: ReadonlySet<number> = new Set([0xef53, 0x58465342, 0x9123683e, 0xf2f52010, 0xca451a4e]);

/** When a pass began, and what was being touched then. */
export interface Mark {
  wallMs: number;
  monotonicMs: number;
  /** Undefined: not known. */
  names: ReadonlySet<string> | undefined;
}

export interface Changes {
  files: Entry[];
  /** Has anything else than the content or attributes of files changed: names, directories, links? */
  structure: boolean;
  /** Why all files must be compared; undefined: only what has changed. */
  everything: string | undefined;
  /** Since the last whole pass began, in milliseconds; 0: there was none. */
  sinceMs: number;
}

export class Suspects {
  readonly #dir: string;
  #last: Mark | undefined;
  #armed: Walk | undefined;

  constructor(dir: string) {
    this.#dir = dir;
  }

  /** Has there been a whole pass? */
  get known(): boolean {
    return this.#last !== undefined;
  }

  /** To be called before anything of a pass. `frozen`: no call can be under way. */
  async mark(pids: readonly number[] | undefined, frozen: boolean): Promise<Mark> {
    const mark = { wallMs: Date.now(), monotonicMs: performance.now() };
    if (pids === undefined) return { ...mark, names: undefined };
    const mapped = sharedMappings(pids);
    return { ...mark, names: frozen ? mapped : union(mapped, await writesUnderWay(pids)) };
  }

  /** Everything that was suspect at `mark` is on the destination as it was then, or as it was later. */
  completed(mark: Mark): void {
    this.#last = mark;
  }

  /** The destination may have lost what it had. */
  forget(): void {
    this.#last = undefined;
    this.disarm();
  }

  /** Starts the walk of the next pass, which then waits. */
  arm(): void {
    this.disarm();
    const last = this.#last;
    if (last?.names === undefined || this.#why(last) !== undefined) return;
    this.#armed = new Walk(this.#dir, this.#where(last, last.names), { armed: true, gentle: false });
  }

  disarm(): void {
    this.#armed?.end();
    this.#armed = undefined;
  }

  /** What has changed since the last completed pass. Throws E_VOLUME. */
  async changes(mark: Mark, gentle: boolean): Promise<Changes> {
    const everything = this.#why(mark);
    const last = this.#last;
    const sinceMs = last === undefined ? 0 : mark.monotonicMs - last.monotonicMs;
    const names = union(last?.names ?? [], mark.names ?? []);
    const where = everything === undefined && last !== undefined ? this.#where(last, names) : undefined;
    const found = await this.#walk(where, gentle);
    const files = found.filter(({ kind }) => kind === "f");
    if (where === undefined) return { files, structure: true, everything: everything ?? "", sinceMs };
    const structure = files.length < found.length;
    const moved = movedDirs(found);
    // A file by name has other names; a group of links is compared as a whole.
    const listed = new Map<string, number>();
    for (const { inode } of files) listed.set(inode, (listed.get(inode) ?? 0) + 1);
    const linked = new Set(files.filter((f) => (listed.get(f.inode) ?? 0) < f.links).map(({ inode }) => inode));
    if (moved.size === 0 && linked.size === 0) return { files, structure, everything, sinceMs };
    const all = (await this.#walk(undefined, gentle)).filter(({ kind }) => kind === "f");
    const below = new Set(all.filter(({ path }) => isBelow(path, moved)).map(({ inode }) => inode));
    return {
      files: all.filter(({ inode }) => listed.has(inode) || linked.has(inode) || below.has(inode)),
      structure,
      everything,
      sinceMs,
    };
  }

  #where(last: Mark, names: ReadonlySet<string>): Where {
    return { changedAfterMs: last.wallMs - MARGIN_MS, names: [...names].toSorted() };
  }

  async #walk(where: Where | undefined, gentle: boolean): Promise<Entry[]> {
    const armed = this.#armed;
    if (armed?.alive === true && armed.key === walkKey(where)) {
      this.#armed = undefined;
      return armed.entries();
    }
    return new Walk(this.#dir, where, { armed: false, gentle }).entries();
  }

  #why(mark: Mark): string | undefined {
    const last = this.#last;
    if (last === undefined) return "no earlier pass is known to this mover";
    if (mark.names === undefined || last.names === undefined) return "the tasks' mappings are not known";
    const count = union(mark.names, last.names).size;
    if (count > MAX_NAMES) return `${count} files are mapped shared`;
    const step = Math.abs(mark.wallMs - last.wallMs - (mark.monotonicMs - last.monotonicMs));
    if (step > MAX_CLOCK_STEP_MS) return `the clock was set by ${Math.round(step)} ms`;
    return STAMPS.has(statfsSync(this.#dir).type) ? undefined : "its file system does not stamp every store";
  }
}

const union = (a: Iterable<string>, b: Iterable<string>): Set<string> => new Set([...a, ...b]);
const parent = (path: string): string => path.slice(0, Math.max(0, path.lastIndexOf("/")));

/** Directories that may have been renamed: they have changed, and so has the one that they lie in. */
function movedDirs(found: readonly Entry[]): Set<string> {
  const changed = new Set(found.filter(({ kind }) => kind === "d").map(({ path }) => path));
  return new Set([...changed].filter((path) => path !== "" && changed.has(parent(path))));
}

function isBelow(path: string, dirs: ReadonlySet<string>): boolean {
  for (let at = parent(path); at !== ""; at = parent(at)) if (dirs.has(at)) return true;
  return false;
}
