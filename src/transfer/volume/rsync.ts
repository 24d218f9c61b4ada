/**
 * rsync as Ferry runs it: the source runs the client, the destination the server with arguments of its own (what the
 * client would ask for is never looked at). Between them is a link session, see sender.ts and receiver.ts.
 *
 * Two kinds of pass:
 * - `tree`: everything, by rsync's quick check (size and time). Not --inplace: writing in place goes through hard links
 *   that the source has broken meanwhile, and would change another file. A changed file is built beside and renamed.
 * - `content`: some or all files, by checksum, in place. Only ever run after a tree pass of the frozen volume, when both
 *   sides link alike, so that in place is safe; it keeps links and writes only blocks that differ.
 */
import { spawn, type ChildProcess } from "node:child_process";
import type { Duplex, Readable, Writable } from "node:stream";
import { SYSTEM_PATH } from "../../host/exec.js";
import { ferryError, type FerryError } from "../../model/failure.js";

export type PassKind = "tree" | "content";

/**
 * Archive, hard links, ACLs, extended attributes, sparse, one file system; owners by number: names differ by node.
 * `--modify-window=-1` is not a luxury: without it rsync compares times by whole seconds.
 */
const COMMON = ["-aHAXSx", "--numeric-ids", "--modify-window=-1"] as const;
const CLIENT: Record<PassKind, readonly string[]> = {
  tree: [...COMMON, "--delete"],
  content: [...COMMON, "--checksum", "--inplace"],
};
/** Letters after `e.` are what rsync 3.2 and later can do (its options.c); both ends are of that age. */
const SERVER: Record<PassKind, readonly string[]> = {
  tree: ["--server", "-lHogDtpAXrxSe.iLsfxCIvu", "--delete", "--numeric-ids", "--modify-window=-1"],
  content: ["--server", "-lHogDtpAXrcxSe.iLsfxCIvu", "--numeric-ids", "--inplace", "--modify-window=-1"],
};
/** With a list of files rsync does not recurse by itself (R, relative names; no r). */
const SERVER_LISTED = [
  "--server",
  "-lHogDtpAXcRxSe.iLsfxCIvu",
  "--numeric-ids",
  "--inplace",
  "--modify-window=-1",
] as const;

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
export function startClient(kind: PassKind, listed: boolean, dir: string): RsyncClient {
  const args = [
    ...CLIENT[kind],
    ...(listed ? ["--from0", "--files-from=-"] : []),
    `--rsh=${BRIDGE}`,
    `${dir}/`,
    "destination:volume/",
  ];
  const child = spawn("rsync", args, {
    cwd: "/",
    env: ENV,
    stdio: [listed ? "pipe" : "ignore", "ignore", "pipe", "pipe"],
  });
  return {
    child,
    wire: child.stdio[3] as Duplex,
    list: child.stdin ?? undefined,
    errors: child.stderr as Readable,
  };
}

export interface RsyncServer {
  child: ChildProcess;
  input: Writable;
  output: Readable;
  errors: Readable;
}

/** Starts the server that writes into `dir`. */
export function startServer(kind: PassKind, listed: boolean, dir: string): RsyncServer {
  const args = [...(listed ? SERVER_LISTED : SERVER[kind]), ".", `${dir}/`];
  const child = spawn("rsync", args, { cwd: "/", env: ENV, stdio: ["pipe", "pipe", "pipe"] });
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

const HARMLESS_WHILE_RUNNING = /vanished|failed verification|file has changed|file changed while/i;
const FULL = /No space left on device|Disk quota exceeded/;

/** Is this end good enough? `running`: files may come and go, the final pass will be exact. */
export function passOk(end: PassEnd, running: boolean): boolean {
  if (end.exitCode === 0) return true;
  if (!running) return false;
  // 24: files vanished. 23: "some files were not transferred", which the same race also makes.
  if (end.exitCode === 24) return true;
  const words = end.lines.filter((line) => !line.startsWith("rsync error: some files"));
  return end.exitCode === 23 && words.length > 0 && words.every((line) => HARMLESS_WHILE_RUNNING.test(line));
}

/** A pass that failed, as a failure: E_NO_SPACE with the destination's words, else E_VOLUME. */
export function passFailure(end: PassEnd, phase: string): FerryError {
  const lines = [...new Set([...end.lines, ...end.serverLines])].slice(-12);
  const ended = end.signal === null ? `exit code ${end.exitCode}` : `killed by ${end.signal}`;
  const evidence = {
    command: ["rsync", ...CLIENT.tree],
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
export function collectLines(stream: Readable, keep = 40): string[] {
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
