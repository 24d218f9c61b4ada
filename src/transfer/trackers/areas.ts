/** The areas of a task that criu restores lazily, as /proc/<pid>/maps shows them: the same as criu's, or more. */
import { readFileSync } from "node:fs";

export interface LazyArea {
  start: number;
  end: number;
}

/** Addresses above belong to programs that ask for them (five-level page tables); nothing else of Ferry takes them. */
const USER_END = 2 ** 47;

/**
 * Private and anonymous: what criu's vma_entry_can_be_lazy takes, apart from locked areas and huge pages of hugetlbfs, which
 * have a file here and there. Locked ones can't be told here and count as well: that costs bytes. Pure.
 */
export function lazyAreas(maps: string): LazyArea[] {
  const areas: LazyArea[] = [];
  for (const line of maps.split("\n")) {
    const match = /^([0-9a-f]+)-([0-9a-f]+) [r-][w-][x-]p [0-9a-f]+ 00:00 0 *(.*)$/.exec(line);
    if (match === null) continue;
    const [, from = "", to = "", name = ""] = match;
    // [vdso], [vvar], [vvar_vclock], [vsyscall], [uprobes]: the kernel's own
    if (/^\[(?:v(?:dso|var|syscall)|uprobes)/.test(name)) continue;
    const [start, end] = [Number.parseInt(from, 16), Number.parseInt(to, 16)];
    if (end <= USER_END) areas.push({ start, end });
  }
  return areas;
}

/** undefined: the task has ended (or is a zombie, which has no memory). */
export function readLazyAreas(pid: number): LazyArea[] | undefined {
  let maps: string;
  try {
    maps = readFileSync(`/proc/${pid}/maps`, "utf8");
  } catch {
    return undefined;
  }
  return maps === "" ? undefined : lazyAreas(maps);
}
