/**
 * rsync as Ferry runs it: the source runs the client, the destination the server with arguments of its own (what the
 * client would ask for is never looked at). Between them is a link session, see sender.ts and receiver.ts.
 *
 * Kinds of pass:
 * - `in-place`: listed files, whatever their size and time say; only blocks that differ are sent and written, into the very
 *   file. Only for files that have one name on both ends: in place goes through hard links that the source may have broken
 *   meanwhile, and would change another file. A crash in the middle leaves a broken file; the destination's volume is
 *   worthless anyway until the hand-over is done, and is flushed before that.
 * - `anew`: listed files, whatever their size and time say, built beside and renamed, linked as they are at the source.
 * - `tree`: everything, by rsync's quick check. Names, links, directories, attributes; what the others brought is left alone.
 *
 * And looks at the destination, without a client: `links` lists files with several names, `files` says whether there is any
 * file, `boot` since when the machine runs: what was not flushed before is gone.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { setPriority } from "node:os";
import type { Duplex, Readable, Writable } from "node:stream";
import { SYSTEM_PATH } from "../../host/exec.js";
import { ferryError, type FerryError } from "../../model/failure.js";

export const PASS_KINDS = ["in-place", "anew", "tree"] as const;
export type PassKind = (typeof PASS_KINDS)[number];
export const LOOK_KINDS = ["links", "files", "boot"] as const;
export type LookKind = (typeof LOOK_KINDS)[number];

/** Beside a workload that runs, and rounds of its memory. */
const NICENESS = 10;

/**
 * Archive, hard links, ACLs, extended attributes, sparse, one file system; owners by number: names differ by node.
 * `--modify-window=-1` is not a luxury: without it rsync compares times by whole seconds. `--blocking-io`: else the bridge's
 * output is not blocking, and cat gives up when rsync does not read for a moment ("Resource temporarily unavailable").
 */
const COMMON = ["-aAXSx", "--numeric-ids", "--modify-window=-1", "--blocking-io"] as const;
const LISTED = ["--ignore-times", "--force", "--from0", "--files-from=-"] as const;
const CLIENT: Record<PassKind, readonly string[]> = {
  "in-place": [...COMMON, ...LISTED, "--inplace", "--no-whole-file"],
  anew: [...COMMON, "-H", ...LISTED],
  // With incremental recursion and hard links rsync waits for itself for ever when files turn into something else meanwhile.
  tree: [...COMMON, "-H", "--delete", "--no-inc-recursive"],
};
/** Letters after `e.` are what rsync 3.2 and later can do (its options.c); both ends are of that age. */
const SERVER: Record<PassKind, readonly string[]> = {
  "in-place": ["-logDtpAXIRxSe.LsfxCIvu", "--force", "--numeric-ids", "--modify-window=-1", "--inplace", "--no-W"],
  anew: ["-lHogDtpAXIRxSe.LsfxCIvu", "--force", "--numeric-ids", "--modify-window=-1"],
  tree: ["-lHogDtpAXrxSe.LsfxCIvu", "--delete", "--numeric-ids", "--modify-window=-1"],
};
const LOOK: Record<LookKind, (dir: string) => [string, ...string[]]> = {
  links: (dir) => ["find", dir, "-xdev", "-type", "f", "-links", "+1", "-printf", String.raw`%P\0`],
  files: (dir) => ["find", dir, "-xdev", "-type", "f", "-printf", "1", "-quit"],
  boot: () => ["cat", "/proc/sys/kernel/random/boot_id"],
};
const isLook = (kind: PassKind | LookKind): kind is LookKind => Object.hasOwn(LOOK, kind);

/**
 * rsync starts this instead of ssh: descriptor 3 is the mover's socket, which becomes the far end. The words that rsync
 * adds (host and server command) are taken as unused arguments of sh. rsync waits for it at the end, and keeps its own
 * end of the pipe open meanwhile: so, like ssh, it ends when the far end does (the mover closes the socket).
 */
const BRIDGE = `/bin/sh -c "exec 4<&0; cat <&4 >&3 4<&- & exec cat <&3 4<&-"`;

const ENV = { PATH: SYSTEM_PATH, LC_ALL: "C.UTF-8" };

export interface RsyncClient {
  child: ChildProcess;
  /** Bytes to and from the server. */
  wire: Duplex;
  /** Names to send, each ended by a zero byte; only in a listed pass. */
  list: Writable | undefined;
  errors: Readable;
}

/** Starts the client for `dir`. It waits for the server's first bytes before it looks at any file. */
export function startClient(kind: PassKind, gentle: boolean, dir: string): RsyncClient {
  const args = [...CLIENT[kind], `--rsh=${BRIDGE}`, `${dir}/`, "destination:volume/"];
  const child = spawn("rsync", args, {
    cwd: "/",
    env: ENV,
    stdio: [kind === "tree" ? "ignore" : "pipe", "ignore", "pipe", "pipe"],
  });
  if (gentle) beGentle(child);
  return {
    child,
    wire: child.stdio[3] as Duplex,
    list: child.stdin ?? undefined,
    errors: child.stderr as Readable,
  };
}

/** Lets others go first. */
export function beGentle({ pid }: ChildProcess): void {
  if (pid === undefined) return;
  try {
    setPriority(pid, NICENESS);
  } catch {
    // it has ended
  }
}

export interface RsyncServer {
  child: ChildProcess;
  input: Writable;
  output: Readable;
  errors: Readable;
}

/** Starts the server that writes into `dir`, or looks at it. */
export function startServer(kind: PassKind | LookKind, gentle: boolean, dir: string): RsyncServer {
  const [program, ...args] = isLook(kind)
    ? LOOK[kind](dir)
    : ["rsync" as const, "--server", ...SERVER[kind], ".", `${dir}/`];
  const child = spawn(program, args, { cwd: "/", env: ENV, stdio: ["pipe", "pipe", "pipe"] });
  if (gentle) beGentle(child);
  return { child, input: child.stdin, output: child.stdout, errors: child.stderr };
}

/** How a pass ended: exit code (null: killed), and the last lines of both ends' words. */
export interface PassEnd {
  exitCode: number | null;
  signal: string | null;
  /** What the source's end said (rsync repeats the other end's words there). */
  lines: string[];
  /** What the destination's end said on its own. */
  serverLines: string[];
}

/** What the source's files did meanwhile: whatever it was, it moved a change time. The destination's errors may be of any kind. */
const HARMLESS_WHILE_RUNNING =
  /vanished|failed verification|file has changed|file changed while|\[sender\].*(No such file|Not a directory|Is a directory|Too many levels)/i;
const KEPT_LINES = 40;
const FULL = /No space left on device|Disk quota exceeded/;

/**
 * What rsync ends with when the workload is in its way: 23, files were not transferred; 24, files vanished; 2 and 12, one end
 * refuses what the other says of names that changed meanwhile (an old rsync would, too, and each time).
 */
export const REFUSALS: ReadonlySet<number | null> = new Set([2, 12]);
const MAYBE_A_RACE: ReadonlySet<number | null> = new Set([...REFUSALS, 23, 24]);

/**
 * done: everything that did not change meanwhile is there. partial: not everything, and it may have been a race with the
 * workload; the next pass has to do the same again. `running`: files may come and go; the final pass is exact.
 */
export function passResult(end: PassEnd, running: boolean): "done" | "partial" | "failed" {
  if (end.exitCode === 0) return "done";
  if (!running || !MAYBE_A_RACE.has(end.exitCode)) return "failed";
  const words = end.lines.filter((line) => !/^rsync (error|warning): some files/.test(line));
  if ([...words, ...end.serverLines].some((line) => FULL.test(line))) return "failed";
  if (end.exitCode !== 23 && end.exitCode !== 24) return "partial";
  // With as many lines as are kept, others may have been among those that were not.
  const told = end.lines.length < KEPT_LINES && (words.length > 0 || end.exitCode === 24);
  return told && words.every((line) => HARMLESS_WHILE_RUNNING.test(line)) ? "done" : "partial";
}

/** A pass that failed, as a failure: E_NO_SPACE with the destination's words, else E_VOLUME. */
export function passFailure(end: PassEnd, kind: PassKind, phase: string): FerryError {
  const lines = [...new Set([...end.lines, ...end.serverLines])].slice(-12);
  const ended = end.signal === null ? `exit code ${end.exitCode}` : `killed by ${end.signal}`;
  const evidence = {
    command: ["rsync", ...CLIENT[kind]],
    ...(end.exitCode === null ? {} : { exitCode: end.exitCode }),
    ...(end.signal === null ? {} : { signal: end.signal }),
    lines,
  };
  const full = lines.find((line) => FULL.test(line));
  if (full !== undefined) {
    return ferryError("E_NO_SPACE", `the volume does not fit on the destination: ${full}`, {
      side: "destination",
      phase,
      evidence,
      remedy: "free space on the destination's disk, or migrate to another node",
    });
  }
  return ferryError("E_VOLUME", `rsync could not carry the volume over (${ended})`, {
    phase,
    evidence,
    remedy: "the lines of rsync say which file; the source's volume is unchanged, migrate again when it is solved",
  });
}

/** Collects the last lines of a stream, bounded. */
export function collectLines(stream: Readable, keep = KEPT_LINES): string[] {
  const lines: string[] = [];
  let rest = "";
  stream.setEncoding("utf8");
  stream.on("data", (chunk: string) => {
    const parts = (rest + chunk).split("\n");
    rest = (parts.pop() ?? "").slice(-2000);
    for (const part of parts) if (part.trim() !== "") lines.push(part.slice(0, 2000));
    lines.splice(0, Math.max(0, lines.length - keep));
  });
  stream.on("error", () => undefined);
  return lines;
}
