/**
 * What the page daemon knows: the tasks that criu handed over and their forked children, and which pages each still
 * waits for. Changed only by log entries and kernel messages, so that replaying the log gives the same state. Pure.
 */
import { PAGE_SIZE, tablePages, type Area, type AreaTable } from "./api.js";
import { TYPE, type Entry } from "./event-log.js";
import { PendingRanges, type Run } from "./ranges.js";
import { MESSAGE, parseMessage, type Message } from "./uffd.js";

/** criu's word on lazy-pages.socket for "restored, nothing more will come". */
export const RESTORE_FINISHED = 0x52535446;
/** Offset of the control message in a UFFD entry's payload, and of the descriptor in it (struct cmsghdr, 64 bit). */
export const CONTROL_AT = 32;
const DESCRIPTOR_AT = CONTROL_AT + 16;

export interface Task {
  /** Number in the order of the log. */
  id: number;
  vpid: number;
  /** Its userfaultfd, in the table of the process that holds it. */
  fd: number;
  /** Forked since the restore: its pages are copies of its parent's and are not counted. */
  forked: boolean;
  pending: PendingRanges;
  /** Threads that wait for pages that are not in the store yet: page number to slot. */
  waiting: Map<number, number>;
}

export class TaskSet {
  readonly table: AreaTable;
  readonly #areasOf = new Map<number, Area[]>();
  readonly #bySlot: Area[];
  readonly #pages: number;
  readonly tasks = new Map<number, Task>();
  #nextId = 1;
  /** Descriptor of criu's connection, -1: none. */
  connection = -1;
  /** Pid whose userfaultfd comes next on the connection. */
  announced: number | undefined;
  /** Pids that came, of those that have areas. */
  readonly seen = new Set<number>();
  restored = false;
  filling = false;
  done = false;
  /** Why criu can't be trusted with these pages. */
  failure: string | undefined;

  constructor(table: AreaTable) {
    this.table = table;
    this.#pages = tablePages(table);
    for (const area of table.areas) {
      const areas = this.#areasOf.get(area.vpid);
      if (areas === undefined) this.#areasOf.set(area.vpid, [area]);
      else areas.push(area);
    }
    // what is pending is then built from its start to its end
    for (const areas of this.#areasOf.values()) areas.sort((a, b) => (a.start < b.start ? -1 : 1));
    this.#bySlot = [...table.areas].sort((a, b) => a.slot - b.slot);
  }

  /** Apply one entry of the log. Used when it is written and when it is replayed. */
  apply(entry: Pick<Entry, "type" | "task" | "a" | "b" | "payload">): void {
    switch (entry.type) {
      case TYPE.CONNECTED:
        this.connection = entry.a;
        this.announced = undefined;
        return;
      case TYPE.WORD:
        this.#word(entry.payload.readInt32LE(0));
        return;
      case TYPE.UFFD:
        this.#uffd(entry.payload);
        return;
      case TYPE.MESSAGES: {
        const task = this.tasks.get(entry.task);
        if (task === undefined) return;
        for (let at = 0; at + MESSAGE <= entry.payload.length; at += MESSAGE) {
          const message = parseMessage(entry.payload, at);
          if (message !== undefined) this.message(task, message);
        }
        return;
      }
      case TYPE.FILLED:
        this.tasks.get(entry.task)?.pending.cut(entry.a, entry.b);
        return;
      case TYPE.DROPPED:
        this.tasks.delete(entry.task);
        return;
      case TYPE.DISCONNECTED:
        this.connection = -1;
        this.announced = undefined;
        return;
      case TYPE.FILL:
        this.filling = true;
        return;
      case TYPE.RESET:
        // once filling has begun the store gives its memory back: it can't serve a second restore
        this.failure = this.filling
          ? "the restored tree was lost after its memory had begun to be filled: the store is used up"
          : undefined;
        this.#forget();
        this.filling = false;
        return;
      case TYPE.LOST:
        this.failure =
          "every holder of the userfaultfds has died: what had not been filled reads as zeros. The restored copy must not run";
        this.#forget();
        return;
      case TYPE.DONE:
        this.done = true;
        return;
      default:
        this.failure ??= `the log of page events has an entry of unknown type ${entry.type}`;
    }
  }

  /** Tasks that have pages and whose userfaultfd has not come: their memory would stay empty. */
  get unclaimed(): number {
    return [...this.#areasOf.keys()].filter((vpid) => !this.seen.has(vpid)).length;
  }

  #forget(): void {
    this.tasks.clear();
    this.seen.clear();
    this.connection = -1;
    this.announced = undefined;
    this.restored = false;
    this.done = false;
  }

  #word(word: number): void {
    // nothing was received: an entry that was prepared and never filled
    if (word === 0) return;
    if (word === RESTORE_FINISHED) {
      this.restored = true;
      const missing = [...this.#areasOf.keys()].filter((vpid) => !this.seen.has(vpid));
      if (missing.length > 0) {
        this.failure ??= `criu handed over no userfaultfd for pid ${missing.join(", ")}: their memory would stay empty`;
      }
      return;
    }
    // negative: a zombie, which has no memory
    if (word > 0) this.announced = word;
    else if (this.#areasOf.has(-word)) this.failure ??= `criu restored pid ${-word} as a zombie, yet it has pages`;
  }

  #uffd(payload: Buffer): void {
    const vpid = this.announced;
    if (vpid === undefined || payload.readUInt32LE(CONTROL_AT) === 0) return;
    this.announced = undefined;
    const pending = new PendingRanges();
    for (const area of this.#areasOf.get(vpid) ?? []) {
      pending.add(Number(area.start / BigInt(PAGE_SIZE)), area.pages, area.slot);
    }
    this.seen.add(vpid);
    this.#add({ vpid, fd: payload.readInt32LE(DESCRIPTOR_AT), forked: false, pending });
  }

  #add(task: Omit<Task, "id" | "waiting">): void {
    const id = this.#nextId++;
    this.tasks.set(id, { ...task, id, waiting: new Map() });
  }

  /** Apply what the kernel said (faults change nothing). */
  message(task: Task, message: Message): void {
    switch (message.kind) {
      case "fault":
        return;
      case "fork":
        this.#add({ vpid: task.vpid, fd: message.fd, forked: true, pending: task.pending.clone() });
        return;
      case "remap":
        task.pending.move(message.from, message.to, message.pages);
        return;
      case "remove":
      case "unmap":
        // reads as zeros from now on, or is no more: what the store has for it is void, for ever
        task.pending.cut(message.start, message.pages);
        return;
    }
  }

  /** Who needs the slots [slot, slot + pages), and where. */
  needing(slot: number, pages: number): { task: Task; runs: Run[] }[] {
    const found: { task: Task; runs: Run[] }[] = [];
    const end = slot + pages;
    for (let index = this.#areaIndex(slot); index < this.#bySlot.length; index++) {
      const area = this.#bySlot[index];
      if (area === undefined || area.slot >= end) break;
      const from = Math.max(area.slot, slot);
      const to = Math.min(area.slot + area.pages, end);
      const start = Number(area.start / BigInt(PAGE_SIZE)) + from - area.slot;
      for (const task of this.tasks.values()) {
        if (task.vpid !== area.vpid) continue;
        const runs = task.pending.ofSlots(start, from, to - from);
        if (runs.length > 0) found.push({ task, runs });
      }
    }
    return found;
  }

  /** Index of the first area that ends after `slot`. */
  #areaIndex(slot: number): number {
    let low = 0;
    let high = this.#bySlot.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const area = this.#bySlot[middle];
      if (area !== undefined && area.slot + area.pages > slot) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** Pages of the image that are in place or given up by their task. */
  get filled(): number {
    if (this.done) return this.#pages;
    let pending = 0;
    for (const [vpid, areas] of this.#areasOf) {
      if (!this.seen.has(vpid)) for (const area of areas) pending += area.pages;
    }
    for (const task of this.tasks.values()) if (!task.forked) pending += task.pending.pages;
    return this.#pages - pending;
  }
}
