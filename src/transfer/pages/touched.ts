/**
 * Which pages a restored tree needs first: the page daemon writes its first faults down, in order, if the file for them is
 * there. Records of 8 bytes: slot u32, pages that were placed or asked for with it u32. Only a hint, so nothing is synced.
 */
import { closeSync, existsSync, fstatSync, openSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";

export const TOUCHED_FILE = "touched";
const RECORD = 8;
const MAX_RECORDS = 32_768;
/** After it was let run. */
const FOR_MS = 10_000;

/** From now on the daemon of this store writes them down. */
export const wantTouched = (dir: string): void => closeSync(openSync(join(dir, TOUCHED_FILE), "a", 0o600));

export class TouchedLog {
  readonly #fd: number;
  readonly #seen = new Set<number>();
  #room: number;
  #until = Number.POSITIVE_INFINITY;

  private constructor(fd: number) {
    this.#fd = fd;
    this.#room = MAX_RECORDS - Math.floor(fstatSync(fd).size / RECORD);
  }

  /** undefined: nobody wants to know. */
  static open(dir: string): TouchedLog | undefined {
    const path = join(dir, TOUCHED_FILE);
    return existsSync(path) ? new TouchedLog(openSync(path, "a", 0o600)) : undefined;
  }

  /** It runs: what it touches from a while after that is of no interest. */
  runs(): void {
    this.#until = performance.now() + FOR_MS;
  }

  /** A thread has faulted at this slot. */
  note(slot: number, pages: number): void {
    if (this.#room <= 0 || this.#seen.has(slot) || performance.now() > this.#until) return;
    this.#room -= 1;
    this.#seen.add(slot);
    const record = Buffer.alloc(RECORD);
    record.writeUInt32LE(slot, 0);
    record.writeUInt32LE(pages, 4);
    try {
      writeSync(this.#fd, record);
    } catch {
      // No room on the tmpfs: then nothing more is learned.
      this.#room = 0;
    }
  }
}

/** In the order of the faults; half a record at the end is left out. Throws when there is no such file. */
export function readTouched(dir: string): { slot: number; pages: number }[] {
  const data = readFileSync(join(dir, TOUCHED_FILE));
  const found: { slot: number; pages: number }[] = [];
  for (let at = 0; at + RECORD <= Math.min(data.length, MAX_RECORDS * RECORD); at += RECORD) {
    found.push({ slot: data.readUInt32LE(at), pages: data.readUInt32LE(at + 4) });
  }
  return found;
}
