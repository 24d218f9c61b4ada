/**
 * The page daemon's memory of what it was told: an append-only log in mapped tmpfs files, so that SIGKILL at any instant
 * loses nothing.
 *
 * What comes from the kernel (userfaultfd messages, what criu sends over lazy-pages.socket) is received straight into
 * the tail of the log: `prepare` writes the header, the system call fills the zeroed payload, `commit` makes it
 * permanent, `discard` zeroes it again. A process killed between the call and `commit` leaves a payload that is not
 * zero behind an uncommitted header: replay finds it.
 *
 * Record: 32 bytes of header (type u8, committed u8, task u32 at 4, payload in units of 32 bytes u32 at 8, a u64 at 16,
 * b u64 at 24), then the payload. Type 0 ends the log. Segments are files `events-N` of equal size.
 */
import { closeSync, existsSync, openSync } from "node:fs";
import { join } from "node:path";
import { ferryError } from "../../model/failure.js";
import { errnoName, mapFile, mlock, reserveSpace, type Mapping } from "../../host/syscall.js";

const SEGMENT = 1 << 20;
const UNIT = 32;
/** Largest payload, in units. */
export const MAX_UNITS = 128;

export const TYPE = {
  /** criu opened the connection; a: its descriptor. */
  CONNECTED: 1,
  /** Payload: the int32 that criu sends first. */
  WORD: 2,
  /** Payload: the byte, then at 32 the control message with the userfaultfd. */
  UFFD: 3,
  /** Payload: messages of the task's userfaultfd. */
  MESSAGES: 4,
  /** Pages [a, a + b) of the task are in place. */
  FILLED: 5,
  /** The task is gone or complete: its userfaultfd is closed after this. */
  DROPPED: 6,
  /** criu closed the connection. */
  DISCONNECTED: 7,
  /** Filling was asked for. */
  FILL: 8,
  /** Everything before is void: the restored tree is gone. */
  RESET: 9,
  /** Every page is in place. */
  DONE: 10,
  /** The userfaultfds are gone with everybody who held them: what was not filled has become zeros. */
  LOST: 11,
  NEXT_SEGMENT: 255,
} as const;

export interface Entry {
  type: number;
  task: number;
  a: number;
  b: number;
  committed: boolean;
  payload: Buffer;
  /** Where the entry ends: how far the log had come once it was there. */
  position: number;
}

/** Units without which an entry can't be what its type says. */
const LEAST_UNITS: Readonly<Record<number, number>> = { [TYPE.WORD]: 1, [TYPE.UFFD]: 3 };

/** Where the next payload goes. */
export interface Tail {
  address: number;
  payload: Buffer;
}

export class EventLog {
  readonly #dir: string;
  #segments: Mapping[] = [];
  #segment = 0;
  #offset = 0;
  /** Units of the payload of the header at the tail, -1 when there is none. */
  #prepared = -1;
  /** Place of the last entry when it is a FILLED one that may grow. */
  #growing: { at: number; task: number; end: number } | undefined;

  private constructor(dir: string) {
    this.#dir = dir;
  }

  /** Opens or makes the log in `dir` and gives what it holds; new entries go behind. */
  static open(dir: string): { log: EventLog; entries: Entry[] } {
    const log = new EventLog(dir);
    log.#load(0);
    log.#load(1);
    for (let next = 2; existsSync(log.#path(next)); next++) log.#load(next);
    return { log, entries: log.#replay() };
  }

  #path(index: number): string {
    return join(this.#dir, `events-${index}`);
  }

  #load(index: number): void {
    const fd = openSync(this.#path(index), existsSync(this.#path(index)) ? "r+" : "wx+", 0o600);
    try {
      // all of it now: a write into mapped memory must never find the tmpfs full
      const failed = reserveSpace(fd, 0, SEGMENT);
      if (failed < 0) {
        throw ferryError("E_NO_SPACE", `no room for the log of page events: ${errnoName(-failed)}`, {
          side: "destination",
          remedy: "free memory on the destination",
        });
      }
      const mapping = mapFile(fd, SEGMENT);
      // the kernel copies messages into it: the pages stay present even under memory pressure, where that is allowed
      mlock(mapping.address, SEGMENT);
      this.#segments[index] = mapping;
    } finally {
      closeSync(fd);
    }
  }

  get #bytes(): Buffer {
    const mapping = this.#segments[this.#segment];
    if (mapping === undefined) throw ferryError("E_INTERNAL", "the log of page events has lost a segment");
    return mapping.bytes;
  }

  /** How far the log has come: grows with every entry. */
  get position(): number {
    return this.#segment * SEGMENT + this.#offset;
  }

  #replay(): Entry[] {
    const entries: Entry[] = [];
    for (;;) {
      const bytes = this.#bytes;
      const at = this.#offset;
      const type = bytes[at] ?? 0;
      if (type === 0) return entries;
      if (type === TYPE.NEXT_SEGMENT) {
        this.#segment++;
        this.#offset = 0;
        if (this.#segments[this.#segment] === undefined) this.#load(this.#segment);
        continue;
      }
      const units = bytes.readUInt32LE(at + 8);
      if (units > MAX_UNITS || units < (LEAST_UNITS[type] ?? 0) || at + UNIT * (units + 2) > SEGMENT) {
        throw ferryError("E_PAGES", `the log of page events is damaged at ${this.position}`, {
          side: "destination",
          remedy: "the restored copy can't be completed: have it destroyed and restored again",
        });
      }
      const committed = bytes[at + 1] === 1;
      this.#offset = at + UNIT * (units + 1);
      entries.push({
        type,
        task: bytes.readUInt32LE(at + 4),
        a: Number(bytes.readBigUInt64LE(at + 16)),
        b: Number(bytes.readBigUInt64LE(at + 24)),
        committed,
        payload: Buffer.from(bytes.subarray(at + UNIT, this.#offset)),
        position: this.position,
      });
      // what the dead process was receiving keeps its full length; behind it there is nothing
      if (!committed) {
        bytes[at + 1] = 1;
        return entries;
      }
    }
  }

  /** Room for an entry of `units`, and for the mark that ends a segment. */
  #room(units: number): void {
    if (this.#offset + UNIT * (units + 2) <= SEGMENT) return;
    if (this.#segments[this.#segment + 1] === undefined) this.#load(this.#segment + 1);
    this.#bytes[this.#offset] = TYPE.NEXT_SEGMENT;
    this.#segment++;
    this.#offset = 0;
    this.#growing = undefined;
    // one ahead, so that there is always one when memory is short; failing now only means trying again later
    try {
      if (this.#segments[this.#segment + 1] === undefined) this.#load(this.#segment + 1);
    } catch {
      // said when it is needed
    }
  }

  #header(type: number, committed: number, task: number, units: number, a: number, b: number): void {
    const bytes = this.#bytes;
    const at = this.#offset;
    bytes.writeUInt32LE(task, at + 4);
    bytes.writeUInt32LE(units, at + 8);
    bytes.writeBigUInt64LE(BigInt(a), at + 16);
    bytes.writeBigUInt64LE(BigInt(b), at + 24);
    bytes[at + 1] = committed;
    bytes[at] = type;
  }

  append(type: number, task = 0, a = 0, b = 0): void {
    this.#mustBeFree();
    this.#room(0);
    this.#header(type, 1, task, 0, a, b);
    this.#offset += UNIT;
    this.#growing = undefined;
  }

  /** FILLED, joined with the one before where that fits. */
  filled(task: number, start: number, pages: number): void {
    const growing = this.#growing;
    if (growing?.task === task && growing.end === start) {
      const bytes = this.#bytes;
      bytes.writeBigUInt64LE(bytes.readBigUInt64LE(growing.at + 24) + BigInt(pages), growing.at + 24);
      growing.end += pages;
      return;
    }
    this.append(TYPE.FILLED, task, start, pages);
    this.#growing = { at: this.#offset - UNIT, task, end: start + pages };
  }

  /** A zeroed payload at the tail, to receive into. Ended by `commit` or `discard`. */
  prepare(type: number, task: number, units: number): Tail {
    this.#mustBeFree();
    this.#room(units);
    this.#header(type, 0, task, units, 0, 0);
    this.#prepared = units;
    const from = this.#offset + UNIT;
    const base = this.#segments[this.#segment]?.address ?? 0;
    return { address: base + from, payload: this.#bytes.subarray(from, from + UNIT * units) };
  }

  /** Keeps the first `units` of the payload. */
  commit(units: number): void {
    const bytes = this.#bytes;
    bytes.writeUInt32LE(units, this.#offset + 8);
    bytes[this.#offset + 1] = 1;
    this.#offset += UNIT * (units + 1);
    this.#prepared = -1;
    this.#growing = undefined;
  }

  /** Takes the prepared entry back: nothing worth keeping came. `used`: units that were written to. */
  discard(used: number): void {
    const bytes = this.#bytes;
    const at = this.#offset;
    // the payload first: a payload that is not zero behind a header is an entry
    bytes.fill(0, at + UNIT, at + UNIT * (1 + Math.min(used, this.#prepared)));
    bytes.fill(0, at, at + UNIT);
    this.#prepared = -1;
  }

  #mustBeFree(): void {
    if (this.#prepared >= 0) throw ferryError("E_INTERNAL", "the log of page events is receiving already");
  }
}
