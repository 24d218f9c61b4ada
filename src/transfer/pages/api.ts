/**
 * What the destination's mover needs from the page side: a store that outlives the process, and the fault service that
 * answers userfaultfds from it. Vocabulary:
 *
 * area  one run of lazily restored pages of one task, as criu's pagemap-<vpid>.img lists it (flag PE_LAZY)
 * slot  index of one page in the store; an area owns `pages` consecutive slots from `slot`
 */

export const PAGE_SIZE = 4096;

export interface Area {
  /** Pid inside the namespace. */
  vpid: number;
  start: bigint;
  pages: number;
  slot: number;
}

export interface AreaTable {
  /** In order of slots. */
  areas: Area[];
  /** Slots there are. Those that no area owns are void: nobody asks for them. Only pre-copy leaves any. */
  slots: number;
}

/** Pages of all areas together. */
export const tablePages = (table: AreaTable): number => table.areas.reduce((sum, area) => sum + area.pages, 0);

/** Pages on a tmpfs file that survives the process that fills it. */
export interface PageStore {
  readonly table: AreaTable;
  /** Pages of all areas together. */
  readonly total: number;
  /** How many of them have a content that is known. */
  readonly received: number;
  /** Store `data` (whole pages) from `slot` on; a slot that is known already is left alone. */
  write(slot: number, data: Buffer): void;
  /**
   * The same in a thread, so that this one goes on meanwhile. `data` must stay as it is, and the slots count as missing,
   * until it resolves.
   */
  writeAside(slot: number, data: Buffer): Promise<void>;
  /** These slots are all zeros: nothing is stored, they count as received. */
  writeZero(slot: number, pages: number): void;
  has(slot: number): boolean;
  /** First slots that are missing, at most `limit` runs: what to ask for after a reconnection. */
  missing(limit: number): { slot: number; pages: number }[];
  close(): void;
}

export interface FaultStatus {
  tasks: number;
  /** Tasks that have pages and whose userfaultfd has not come yet. */
  unclaimed: number;
  faults: number;
  filled: number;
  allFilled: boolean;
  guardPid?: number;
  failure?: string;
}

/** Serves lazy-pages.socket and every userfaultfd that comes through it. */
export interface FaultService {
  /** The store got these slots: a waiting fault may be answered now. Cheap; call it per frame. */
  arrived(slot: number, pages: number): void;
  /** Fill everything that is in the store, and what arrives later. Before it only faults are answered. */
  fill(): void;
  /** The restored tree is gone before it ran: close its userfaultfds, listen for a new restore. */
  reset(): Promise<void>;
  status(): FaultStatus;
  /** Slots that a waiting thread needs and the store lacks. Called as soon as a fault finds none. */
  onMissing(listener: (slot: number, pages: number) => void): void;
  onChange(listener: () => void): void;
  close(): Promise<void>;
}
