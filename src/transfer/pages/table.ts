/** The area table as a file: read by every process that takes over the pages of an operation. */
import { readFileSync, writeFileSync, renameSync } from "node:fs";
import { join } from "node:path";
import { ferryError, toFailure } from "../../model/failure.js";
import { PAGE_SIZE, type Area, type AreaTable } from "./api.js";

const MAGIC = 0x46415254; // "TRAF"
const VERSION = 1;
const HEADER = 24;
const RECORD = 32;

/** Files in the store's directory. */
export const TABLE_FILE = "areas";
export const PAGES_FILE = "pages";
export const STATES_FILE = "states";

const wrong = (why: string): never => {
  throw ferryError("E_PAGES", `the table of lazy areas is not usable: ${why}`, {
    side: "destination",
    remedy: "start the operation again: its images or its store are damaged",
  });
};

/** Throws E_PAGES when areas overlap, in slots or in addresses, or leave the address space or the slots. */
export function checkTable(table: AreaTable): void {
  const bySlot = [...table.areas].sort((a, b) => a.slot - b.slot);
  let slot = 0;
  for (const area of bySlot) {
    if (!Number.isSafeInteger(area.vpid) || area.vpid <= 0 || area.vpid > 0x7fffffff) wrong(`pid ${area.vpid}`);
    if (!Number.isSafeInteger(area.pages) || area.pages <= 0) wrong(`an area of ${area.pages} pages`);
    const end = area.start + BigInt(area.pages) * BigInt(PAGE_SIZE);
    if (area.start < 0n || area.start % BigInt(PAGE_SIZE) !== 0n || end > 1n << 57n) {
      wrong(`an area of ${area.pages} pages at 0x${area.start.toString(16)}`);
    }
    if (!Number.isSafeInteger(area.slot) || area.slot < slot)
      wrong(`slot ${area.slot} where ${slot} is the next free one`);
    slot = area.slot + area.pages;
  }
  if (!Number.isSafeInteger(table.slots) || table.slots < slot) {
    wrong(`${table.slots} slots are announced, the areas have ${slot}`);
  }
  const byAddress = [...table.areas].sort((a, b) => a.vpid - b.vpid || (a.start < b.start ? -1 : 1));
  for (const [index, area] of byAddress.entries()) {
    const next = byAddress[index + 1];
    if (next?.vpid === area.vpid && next.start < area.start + BigInt(area.pages * PAGE_SIZE)) {
      wrong(`areas of pid ${area.vpid} overlap at 0x${next.start.toString(16)}`);
    }
  }
}

export function writeTable(dir: string, table: AreaTable): void {
  checkTable(table);
  const data = Buffer.alloc(HEADER + table.areas.length * RECORD);
  data.writeUInt32LE(MAGIC, 0);
  data.writeUInt32LE(VERSION, 4);
  data.writeBigUInt64LE(BigInt(table.areas.length), 8);
  data.writeBigUInt64LE(BigInt(table.slots), 16);
  for (const [index, area] of table.areas.entries()) {
    const at = HEADER + index * RECORD;
    data.writeUInt32LE(area.vpid, at);
    data.writeBigUInt64LE(area.start, at + 8);
    data.writeBigUInt64LE(BigInt(area.pages), at + 16);
    data.writeBigUInt64LE(BigInt(area.slot), at + 24);
  }
  const path = join(dir, TABLE_FILE);
  writeFileSync(`${path}.new`, data, { mode: 0o600 });
  renameSync(`${path}.new`, path);
}

function readTableFile(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    return wrong(toFailure(error).message);
  }
}

export function readTable(dir: string): AreaTable {
  const data = readTableFile(join(dir, TABLE_FILE));
  if (data.length < HEADER || data.readUInt32LE(0) !== MAGIC || data.readUInt32LE(4) !== VERSION) {
    return wrong("its header is not ours");
  }
  const count = Number(data.readBigUInt64LE(8));
  if (data.length !== HEADER + count * RECORD) return wrong(`it has ${data.length} bytes for ${count} areas`);
  const areas: Area[] = [];
  for (let at = HEADER; at < data.length; at += RECORD) {
    areas.push({
      vpid: data.readUInt32LE(at),
      start: data.readBigUInt64LE(at + 8),
      pages: Number(data.readBigUInt64LE(at + 16)),
      slot: Number(data.readBigUInt64LE(at + 24)),
    });
  }
  const table = { areas, slots: Number(data.readBigUInt64LE(16)) };
  checkTable(table);
  return table;
}
