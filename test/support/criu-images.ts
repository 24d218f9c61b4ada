/**
 * Images as criu would write them for a stopped process, made from /proc: for tests of the movers that need real memory
 * but not a real restore. Also single messages, to build images that criu would never write.
 */
import { closeSync, mkdirSync, openSync, readFileSync, readSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { MAGIC } from "../../src/transfer/images/criu.js";

const PAGE = 4096;

export function varint(value: number | bigint): Buffer {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  do {
    const low = Number(rest & 0x7fn);
    rest >>= 7n;
    bytes.push(rest === 0n ? low : low | 0x80);
  } while (rest !== 0n);
  return Buffer.from(bytes);
}
export const number = (field: number, value: number | bigint): Buffer =>
  Buffer.concat([varint(field * 8), varint(value)]);
export const bytes = (field: number, value: Buffer): Buffer =>
  Buffer.concat([varint(field * 8 + 2), varint(value.length), value]);

export function image(kind: keyof typeof MAGIC, messages: Buffer[]): Buffer {
  const word = (value: number): Buffer => {
    const buffer = Buffer.alloc(4);
    buffer.writeUInt32LE(value);
    return buffer;
  };
  const head = kind === "inventory" ? [] : [word(0x54564319)];
  return Buffer.concat([...head, word(MAGIC[kind]), ...messages.flatMap((m) => [word(m.length), m])]);
}

export const inventory = (): Buffer => image("inventory", [number(1, 2)]);
export const pstree = (pids: number[]): Buffer =>
  image(
    "pstree",
    pids.map((pid) => Buffer.concat([number(1, pid), number(2, 0), number(3, pid), number(4, pid), number(5, pid)])),
  );
export const mm = (areas: { start: bigint | number; end: bigint | number; flags: number }[]): Buffer =>
  image("mm", [
    Buffer.concat([
      ...Array.from({ length: 12 }, (_, i) => number(i + 1, 4096)),
      ...areas.map(({ start, end, flags }) =>
        bytes(
          14,
          Buffer.concat([
            number(1, start),
            number(2, end),
            number(3, 0),
            number(4, 0),
            number(5, 3),
            number(6, flags),
            number(7, 1),
            number(8, 1n),
          ]),
        ),
      ),
    ]),
  ]);
export const pagemap = (id: number, entries: { start: bigint | number; pages: number; flags: number }[]): Buffer =>
  image("pagemap", [
    number(1, id),
    ...entries.map(({ start, pages, flags }) =>
      Buffer.concat([number(1, start), number(2, pages), number(4, flags), number(5, pages)]),
    ),
  ]);

export interface Imaged {
  /** Lazy pages, by address: what must arrive. */
  lazy: { start: bigint; pages: number }[];
}

/** Writes inventory, pstree, mm, pagemap and pages of the stopped process `pid` (its own vpid) into `dir`. */
export function imageProcess(pid: number, dir: string): Imaged {
  return imageProcesses({ [String(pid)]: pid }, dir);
}

/** The same of several: host pid by pid in the images. */
export function imageProcesses(pids: Readonly<Record<string, number>>, dir: string): Imaged {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const lazy = Object.entries(pids).flatMap(([vpid, pid], index) => imageMemory(Number(vpid), pid, index + 1, dir));
  writeFileSync(join(dir, "inventory.img"), inventory());
  writeFileSync(join(dir, "pstree.img"), pstree(Object.keys(pids).map(Number)));
  return { lazy };
}

function imageMemory(vpid: number, pid: number, id: number, dir: string): Imaged["lazy"] {
  const lazy: Imaged["lazy"] = [];
  const entries: { start: bigint; pages: number; flags: number }[] = [];
  const areas: { start: bigint; end: bigint; flags: number }[] = [];
  const present: Buffer[] = [];
  const map = openSync(`/proc/${pid}/pagemap`, "r");
  const mem = openSync(`/proc/${pid}/mem`, "r");
  for (const line of readFileSync(`/proc/${pid}/maps`, "utf8").split("\n")) {
    const match = /^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+)\s*(.*)$/.exec(line);
    if (match === null || match[3]!.endsWith("s") || match[5]!.startsWith("[v")) continue;
    const [start, end] = [BigInt(`0x${match[1]}`), BigInt(`0x${match[2]}`)];
    const anonymous = match[4] === "0";
    areas.push({ start, end, flags: anonymous ? 0x22 : 0x02 });
    const count = Number((end - start) / BigInt(PAGE));
    const words = Buffer.alloc(count * 8);
    readSync(map, words, 0, words.length, Number(start / BigInt(PAGE)) * 8);
    for (let page = 0; page < count; page += 1) {
      const top = words[page * 8 + 7]!;
      // present or swapped, and not a page of the file
      if ((top & 0xc0) === 0 || (top & 0x20) !== 0) continue;
      const at = start + BigInt(page * PAGE);
      const last = entries.at(-1);
      const flags = anonymous ? 2 : 4;
      if (last !== undefined && last.flags === flags && last.start + BigInt(last.pages * PAGE) === at) last.pages += 1;
      else entries.push({ start: at, pages: 1, flags });
      if (!anonymous) {
        const data = Buffer.alloc(PAGE);
        readSync(mem, data, 0, PAGE, at);
        present.push(data);
      }
    }
  }
  closeSync(map);
  closeSync(mem);
  for (const { start, pages, flags } of entries) if (flags === 2) lazy.push({ start, pages });
  writeFileSync(join(dir, `mm-${vpid}.img`), mm(areas));
  writeFileSync(join(dir, `pagemap-${vpid}.img`), pagemap(id, entries));
  writeFileSync(join(dir, `pages-${id}.img`), Buffer.concat(present));
  return lazy;
}
