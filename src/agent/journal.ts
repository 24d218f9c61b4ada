/**
 * The journal: append-only, one JSON line per entry, hash-chained, fsynced before `append` returns.
 *
 * Promises
 * - An entry that `append` returned for is on disk. An fsync that fails is fatal (the kernel may have dropped the page):
 *   the journal refuses everything afterwards.
 * - A torn last line (no newline: the write was cut) is dropped and reported. Any other damage is not repaired:
 *   `openJournal` throws E_JOURNAL_CORRUPT naming the line, and the agent starts nothing.
 * - One process at a time: a second one gets E_JOURNAL_LOCKED.
 * - A reserve of RESERVE_BYTES is set aside behind the last line, in blocks of the journal's own that nobody else can
 *   take: on a full disk the closing entries of operations under way (burned, released, gone, ...) still fit, so that no
 *   tree stays frozen for want of space. `room` says whether something new may be begun.
 */
import { createHash } from "node:crypto";
import {
  closeSync,
  fdatasyncSync,
  fsyncSync,
  ftruncateSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  statfsSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { lockFile, lockHolder } from "../host/flock.js";
import { EDQUOT, ENOSPC, setAside } from "../host/syscall.js";
import { FerryError, ferryError } from "../model/failure.js";
import { cut } from "../model/words.js";

export const JOURNAL_FILE = "journal.jsonl";
/** Some hundred closing entries; the largest of them, a token, has 2 KiB. */
export const RESERVE_BYTES = 1024 * 1024;
const GENESIS = "0".repeat(64);

const entrySchema = z.strictObject({
  seq: z.int().positive(),
  at: z.string(),
  prev: z.string().length(64),
  body: z.record(z.string(), z.unknown()),
  hash: z.string().length(64),
});

export interface JournalEntry {
  seq: number;
  /** ISO time, for people: never used for decisions. */
  at: string;
  body: Record<string, unknown>;
}

export interface Journal {
  readonly path: string;
  /** Number of entries. */
  readonly length: number;
  /** Hash of the last entry: the head of the chain. */
  readonly head: string;
  append(body: Record<string, unknown>): JournalEntry;
  /**
   * Throws E_NO_SPACE when the reserve is not whole and can't be made whole, or could not be made again once it is used:
   * nothing new may be begun then. What is under way still gets its entries.
   */
  demandRoom(): void;
  close(): void;
}

const hashOf = (prev: string, seq: number, at: string, body: unknown): string =>
  createHash("sha256")
    .update(prev)
    .update(JSON.stringify([seq, at, body]))
    .digest("hex");

/** undefined: nested too deeply to be written, so this agent never wrote it. */
function hashOrNone(prev: string, seq: number, at: string, body: unknown): string | undefined {
  try {
    return hashOf(prev, seq, at, body);
  } catch {
    return undefined;
  }
}

const noRoom = (path: string): string =>
  `the disk of the journal ${path} is full: nothing new is begun, so that what is under way can be brought to its end`;

interface Parsed {
  entries: JournalEntry[];
  head: string;
  /** Bytes of the file that hold whole, valid entries. */
  goodBytes: number;
  torn: boolean;
}

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Parses the bytes of a journal. Throws E_JOURNAL_CORRUPT with the number of the first bad line. */
export function parseJournal(bytes: Buffer, path: string): Parsed {
  const entries: JournalEntry[] = [];
  let head = GENESIS;
  let goodBytes = 0;
  for (let end = bytes.indexOf(10); end >= 0; end = bytes.indexOf(10, goodBytes)) {
    const index = entries.length;
    const raw = bytes.subarray(goodBytes, end);
    const corrupt = (why: string): FerryError =>
      ferryError("E_JOURNAL_CORRUPT", `journal ${path} is damaged at line ${index + 1}: ${why}`, {
        remedy:
          "nothing is started from a damaged journal, and what runs was left alone; put back an intact copy of the whole file, to its last line, then start the agent again. Without the file nothing is started either, as long as a workload of this node lives",
        evidence: { lines: [cut(raw.toString("utf8", 0, 1000), 200)] },
      });
    let line: string;
    let value: unknown;
    try {
      line = UTF8.decode(raw);
      value = JSON.parse(line);
    } catch {
      throw corrupt("it is not JSON");
    }
    const parsed = entrySchema.safeParse(value);
    if (!parsed.success) throw corrupt("it is not a journal entry");
    const { seq, at, prev, body, hash } = parsed.data;
    if (seq !== index + 1) throw corrupt(`its sequence number is ${seq}`);
    if (prev !== head) throw corrupt("it does not follow the line before it (hash chain)");
    if (hash !== hashOrNone(prev, seq, at, body)) throw corrupt("its content does not match its hash");
    if (line !== JSON.stringify({ seq, at, prev, body, hash })) throw corrupt("it is not as this agent writes it");
    entries.push({ seq, at, body });
    head = hash;
    goodBytes = end + 1;
  }
  return { entries, head, goodBytes, torn: goodBytes < bytes.length };
}

/** Opens a journal's file, or makes it. Throws E_JOURNAL_CORRUPT when something else stands there: a FIFO is never read to its end. */
function openPlain(path: string): number {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found !== undefined && !found.isFile()) {
    throw ferryError("E_JOURNAL_CORRUPT", `journal ${path} is not a plain file`, {
      remedy: "see what stands there and who made it; put the journal itself back, then start the agent again",
    });
  }
  return openSync(path, "a+", 0o600);
}

export interface OpenedJournal {
  journal: Journal;
  entries: JournalEntry[];
  /** A torn last line was dropped. */
  torn: boolean;
}

/** Opens (or makes) the journal in `dir`, and locks it. Throws E_JOURNAL_CORRUPT or E_JOURNAL_LOCKED. */
export function openJournal(dir: string): OpenedJournal {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const lock = lockFile(join(dir, "journal.lock"));
  if (lock === undefined) {
    const pid = lockHolder(join(dir, "journal.lock"));
    const who = pid === undefined ? "another agent" : `another agent (pid ${pid})`;
    throw ferryError("E_JOURNAL_LOCKED", `${who} has the journal in ${dir} open`, {
      remedy: "one agent per node: stop the other one first; what runs on the node stays as it is",
    });
  }
  const path = join(dir, JOURNAL_FILE);
  let fd: number;
  let parsed: Parsed;
  try {
    fd = openPlain(path);
    parsed = parseJournal(readFileSync(path), path);
    if (parsed.torn) {
      ftruncateSync(fd, parsed.goodBytes);
      fdatasyncSync(fd);
    }
    const dirFd = openSync(dir, "r");
    fsyncSync(dirFd);
    closeSync(dirFd);
  } catch (error) {
    closeSync(lock);
    throw error;
  }

  let written = parsed.goodBytes;
  /** The file's bytes up to here are on disk or set aside. */
  let asideUpTo = 0;
  /** Makes the reserve whole. false: there is no room for it. A file system that can't do it has no reserve. */
  const aside = (): boolean => {
    const failed = setAside(fd, written, RESERVE_BYTES);
    if (failed === 0) asideUpTo = written + RESERVE_BYTES;
    return failed !== -ENOSPC && failed !== -EDQUOT;
  };

  let { head } = parsed;
  let length = parsed.entries.length;
  let broken: unknown;
  const journal: Journal = {
    path,
    get length() {
      return length;
    },
    get head() {
      return head;
    },
    append(body) {
      if (broken !== undefined) {
        throw new FerryError(
          {
            code: "E_JOURNAL_CORRUPT",
            message: `journal ${path} could not be written earlier and is not trusted any more`,
          },
          { cause: broken },
        );
      }
      const seq = length + 1;
      const at = new Date().toISOString();
      const prev = head;
      // What is hashed is what is read back: undefined fields vanish in JSON.
      const plain = JSON.parse(JSON.stringify(body)) as Record<string, unknown>;
      const hash = hashOf(prev, seq, at, plain);
      const line = Buffer.from(`${JSON.stringify({ seq, at, prev, body: plain, hash })}\n`);
      const sizeBefore = written;
      try {
        for (let done = 0; done < line.length;) done += writeSync(fd, line, done);
        fdatasyncSync(fd);
      } catch (error) {
        const { code } = error as { code?: string };
        if (code === "ENOSPC" || code === "EDQUOT") {
          // Nothing was promised yet: take the torn line back, and the journal is as before.
          try {
            asideUpTo = 0;
            ftruncateSync(fd, sizeBefore);
            fdatasyncSync(fd);
          } catch (again) {
            broken = again;
          }
          throw new FerryError(
            {
              code: "E_NO_SPACE",
              message: `the journal ${path} could not be written: no space on the disk`,
              remedy: "free space on the node's disk, then try again",
            },
            { cause: error },
          );
        }
        broken = error;
        throw new FerryError(
          { code: "E_JOURNAL_CORRUPT", message: `the journal ${path} could not be written` },
          { cause: error },
        );
      }
      written += line.length;
      length = seq;
      head = hash;
      // Now and then only: it costs a transaction of the file system.
      if (asideUpTo - written < RESERVE_BYTES / 2) aside();
      return { seq, at, body: plain };
    },
    demandRoom() {
      const { bavail, bsize } = statfsSync(path);
      const free = bavail * bsize;
      if (aside() && free >= RESERVE_BYTES) return;
      throw ferryError("E_NO_SPACE", `${noRoom(path)}: ${Math.floor(free / 1024)} KiB are free`, {
        remedy: `free at least ${(2 * RESERVE_BYTES) / 2 ** 20} MiB on the file system of ${dir}, then try again`,
      });
    },
    close() {
      closeSync(fd);
      closeSync(lock);
    },
  };
  aside();
  return { journal, entries: parsed.entries, torn: parsed.torn };
}
