/**
 * Strict readers for the files under /proc/<pid>: what a task is, which files it has open and mapped, which mounts it sees.
 *
 * Parsers are pure and take the file's text. Names are hostile input: a command may contain `)` and newlines, a path may
 * contain spaces, newlines (octal escapes) and end in " (deleted)". Readers return undefined for a task that has vanished.
 */
import { readFileSync, readlinkSync, type Stats } from "node:fs";
import { readdir, readFile, readlink, stat } from "node:fs/promises";
import { setImmediate as nextTurn } from "node:timers/promises";
import { harmless } from "../model/words.js";
import { limited } from "./limit.js";

/** Fields of /proc/<pid>/stat. */
export interface TaskStat {
  pid: number;
  comm: string;
  /** One letter: R running, S sleeping, D uninterruptible, T stopped, t traced, Z zombie, X dead. */
  state: string;
  ppid: number;
  session: number;
  /** Device number of the controlling terminal, 0: none. */
  tty: number;
  threads: number;
}

/** The command stands between the first `(` and the last `)`, whatever it contains. */
export function parseStat(text: string): TaskStat | undefined {
  const open = text.indexOf("(");
  const close = text.lastIndexOf(")");
  if (open < 0 || close < open) return undefined;
  const pid = Number(text.slice(0, open).trim());
  const fields = text
    .slice(close + 1)
    .trim()
    .split(" ");
  const [state, ppid, , session, tty] = fields;
  const threads = fields[17];
  if (state === undefined || !/^[A-Za-z]$/.test(state) || !Number.isSafeInteger(pid)) return undefined;
  const numbers = [ppid, session, tty, threads].map(Number);
  if (numbers.some((value) => !Number.isSafeInteger(value))) return undefined;
  const [ppidNr = 0, sessionNr = 0, ttyNr = 0, threadsNr = 0] = numbers;
  return {
    pid,
    comm: text.slice(open + 1, close),
    state,
    ppid: ppidNr,
    session: sessionNr,
    tty: ttyNr,
    threads: threadsNr,
  };
}

/** "Key:\tvalue" lines, as in /proc/<pid>/status and fdinfo. The first of equal keys wins. */
export function parseKeyed(text: string): Map<string, string> {
  const values = new Map<string, string>();
  for (const line of text.split("\n")) {
    const colon = line.indexOf(":");
    if (colon <= 0) continue;
    const key = line.slice(0, colon);
    if (!values.has(key)) values.set(key, line.slice(colon + 1).trim());
  }
  return values;
}

/** "1234 kB" in bytes; 0 when it is not there. */
export function kibBytes(value: string | undefined): number {
  const match = /^(\d+) kB$/.exec(value ?? "");
  return match ? Number(match[1]) * 1024 : 0;
}

/** Undo the kernel's octal escapes (`\040` is a space) of mountinfo and maps; bytes are UTF-8. */
export function unescapeOctal(text: string): string {
  if (!text.includes("\\")) return text;
  const parts: Buffer[] = [];
  let last = 0;
  for (const match of text.matchAll(/\\([0-3][0-7]{2})/g)) {
    parts.push(Buffer.from(text.slice(last, match.index)), Buffer.from([Number.parseInt(match[1] ?? "0", 8)]));
    last = match.index + match[0].length;
  }
  parts.push(Buffer.from(text.slice(last)));
  return Buffer.concat(parts).toString("utf8");
}

/** One line of /proc/<pid>/maps. */
export interface MapEntry {
  /** "start-end" in hexadecimal: the name of the link in /proc/<pid>/map_files. */
  range: string;
  perms: string;
  device: string;
  inode: string;
  /** Path with newline escapes undone, with " (deleted)" where the kernel wrote it; "" is anonymous. */
  path: string;
}

const MAP = /^([0-9a-f]+)-([0-9a-f]+) ([r-][w-][x-][sp]) [0-9a-f]+ ([0-9a-f]+:[0-9a-f]+) (\d+) *(.*)$/;

export function parseMaps(text: string): MapEntry[] {
  const entries: MapEntry[] = [];
  for (const line of text.split("\n")) {
    const match = MAP.exec(line);
    if (!match) continue;
    const [, start = "", end = "", perms = "", device = "", inode = "", path = ""] = match;
    entries.push({
      // map_files names have no leading zeros
      range: `${BigInt(`0x${start}`).toString(16)}-${BigInt(`0x${end}`).toString(16)}`,
      perms,
      device,
      inode,
      path: path.replaceAll("\\012", "\n"),
    });
  }
  return entries;
}

/** One line of /proc/<pid>/mountinfo. */
export interface Mount {
  id: number;
  parent: number;
  /** "major:minor" of the file system. */
  device: string;
  /** Which directory of the file system is mounted. */
  root: string;
  point: string;
  fsType: string;
  source: string;
  options: string;
  superOptions: string;
}

export function parseMountinfo(text: string): Mount[] {
  const mounts: Mount[] = [];
  for (const line of text.split("\n")) {
    const separator = line.indexOf(" - ");
    if (separator < 0) continue;
    const [id, parent, device, root, point, options] = line.slice(0, separator).split(" ");
    const [fsType, source, superOptions] = line.slice(separator + 3).split(" ");
    if (device === undefined || root === undefined || point === undefined || fsType === undefined) continue;
    if (!/^\d+$/.test(id ?? "") || !/^\d+$/.test(parent ?? "")) continue;
    mounts.push({
      id: Number(id),
      parent: Number(parent),
      device,
      root: unescapeOctal(root),
      point: unescapeOctal(point),
      fsType,
      source: unescapeOctal(source ?? ""),
      options: options ?? "",
      superOptions: superOptions ?? "",
    });
  }
  return mounts;
}

/** The mount that a path lies on: the longest mount point above it, the last one mounted there. */
export function mountOf(mounts: readonly Mount[], path: string): Mount | undefined {
  let best: Mount | undefined;
  for (const mount of mounts) {
    const above = mount.point === "/" || path === mount.point || path.startsWith(`${mount.point}/`);
    if (above && (best === undefined || mount.point.length >= best.point.length)) best = mount;
  }
  return best;
}

/** Value of one `key=value` among comma separated mount options (octal escapes and `\,` undone). */
export function mountOption(options: string, key: string): string | undefined {
  for (const option of options.split(/(?<!\\),/)) {
    if (option.startsWith(`${key}=`)) {
      return unescapeOctal(option.slice(key.length + 1)).replaceAll(/\\([\\,:])/g, "$1");
    }
  }
  return undefined;
}

/** /proc/<pid>/fdinfo/<fd>. */
export interface FdInfo {
  flags: number;
  mountId: number;
  /** Lines "lock:" without the key: this descriptor holds them. */
  locks: string[];
  fields: Map<string, string>;
}

export function parseFdInfo(text: string): FdInfo {
  const fields = parseKeyed(text);
  return {
    flags: Number.parseInt(fields.get("flags") ?? "0", 8),
    mountId: Number(fields.get("mnt_id") ?? -1),
    locks: text
      .split("\n")
      .filter((line) => line.startsWith("lock:"))
      .map((line) => line.slice(5).trim()),
    fields,
  };
}

export interface OpenFile {
  fd: number;
  /** Where the link points: a path, "socket:[1]", "pipe:[2]", "anon_inode:[eventfd]", "net:[3]", "/x (deleted)". */
  link: string;
  info: FdInfo;
  /** Only for links that are paths. */
  stats?: Stats;
}

const GONE = new Set(["ENOENT", "ESRCH"]);
/** Runs a read of /proc; undefined when the task or descriptor has vanished meanwhile. */
export async function ifThere<T>(read: () => Promise<T>): Promise<T | undefined> {
  try {
    return await limited(read);
  } catch (error) {
    if (GONE.has(String((error as NodeJS.ErrnoException).code))) return undefined;
    throw error;
  }
}

export const readProc = (pid: number | "self", file: string): Promise<string | undefined> =>
  ifThere(() => readFile(`/proc/${pid}/${file}`, "utf8"));

/** Reads that only touch procfs are synchronous: 5 us instead of 80 us through the thread pool. */
function thereSync<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (GONE.has(String((error as NodeJS.ErrnoException).code))) return undefined;
    throw error;
  }
}

const NO_INFO: FdInfo = { flags: 0, mountId: -1, locks: [], fields: new Map() };

function openFile(pid: number, fd: number): OpenFile | undefined {
  const link = thereSync(() => readlinkSync(`/proc/${pid}/fd/${fd}`));
  if (link === undefined) return undefined;
  // Nothing that matters stands there for a socket.
  if (link.startsWith("socket:")) return { fd, link, info: NO_INFO };
  const info = thereSync(() => readFileSync(`/proc/${pid}/fdinfo/${fd}`, "utf8"));
  return info === undefined ? undefined : { fd, link, info: parseFdInfo(info) };
}

/** How many descriptors are read before others get a turn on the event loop (a few milliseconds). */
const PORTION = 32;

/** Every open file of a process, by descriptor. */
export async function openFiles(pid: number): Promise<OpenFile[]> {
  const names = (await ifThere(() => readdir(`/proc/${pid}/fd`))) ?? [];
  const files: OpenFile[] = [];
  // Many descriptors of one file are asked about once. stat may wait for a dead network file system: never synchronous.
  const known = new Map<string, Promise<Stats | undefined>>();
  for (const [index, name] of names.entries()) {
    if (index % PORTION === PORTION - 1) await nextTurn();
    const file = openFile(pid, Number(name));
    if (file === undefined) continue;
    files.push(file);
    if (!file.link.startsWith("/")) continue;
    const inode = file.info.fields.get("ino");
    const key = inode === undefined ? name : `${file.info.mountId} ${inode} ${file.link}`;
    if (!known.has(key))
      known.set(
        key,
        ifThere(() => stat(`/proc/${pid}/fd/${name}`)),
      );
    const stats = await known.get(key);
    if (stats) file.stats = stats;
  }
  return files;
}

/** A namespace of a task as the kernel names it, e.g. "net:[4026531840]". */
export const namespaceOf = (pid: number | "self", kind: string): Promise<string | undefined> =>
  ifThere(() => readlink(`/proc/${pid}/ns/${kind}`));

/** Text that came from a workload, for a message: control characters shown as escapes, cut at 200 characters. */
export function shown(text: string): string {
  const cut = text.length > 200 ? `${text.slice(0, 197)}...` : text;
  return harmless(JSON.stringify(cut)).slice(1, -1).replaceAll('\\"', '"');
}
