/**
 * From what a sink has gathered to a checkpoint in the store (docs/checkpoints.md, format 1). Nothing of it is there until
 * all of it is.
 */
import { createReadStream, readdirSync, readFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import type { CheckpointSaid } from "../../model/mover.js";
import type { WorkloadSpec } from "../../model/workload.js";
import type { CheckpointFacts, CheckpointWriter, Manifest, Store } from "../../store/index.js";
import { isImageName } from "../../transfer/images/names.js";
import { PAGE_SIZE, type Area } from "../../transfer/pages/api.js";
import { DATA } from "../../transfer/pages/store.js";
import { PAGES_FILE, readTable, STATES_FILE } from "../../transfer/pages/table.js";
import { ferryError } from "../../model/failure.js";
import { memoryStream, imageStream, SPEC_STREAM } from "../format.js";
import { saveVolume } from "../volume.js";

/** Read and handed to the store at once. */
const PIECE_PAGES = 256;

export interface Gathered {
  /** It makes its checkpoint once, however often it is tried. */
  session: string;
  imagesDir: string;
  /** Of a page store that lacks nothing. */
  storeDir: string;
  volumeDir: string;
  said: CheckpointSaid;
  spec: WorkloadSpec;
}

/**
 * @param progress bytes of images and memory that were gone through, and of how many
 * @throws FerryError of the store; E_PAGES
 */
export async function uploadCheckpoint(
  store: Store,
  gathered: Gathered,
  progress: (bytes: number, total: number) => void = () => undefined,
): Promise<Manifest> {
  const { session, said, spec, imagesDir, storeDir, volumeDir } = gathered;
  const begun = await store.begin({ workload: said.workload, operation: session });
  if ("done" in begun) return begun.done;
  const { writer } = begun;
  try {
    await writer.file(SPEC_STREAM, { kind: "file" }, Buffer.from(JSON.stringify({ format: 1, spec })));
    await uploadImages(imagesDir, writer);
    await uploadMemory(storeDir, writer, progress);
    await saveVolume(volumeDir, writer);
    return await writer.commit(factsOf(said));
  } catch (error) {
    // What was stored is found again by the same operation, or collected.
    await writer.abort().catch(() => undefined);
    throw error;
  }
}

function factsOf({ takenAt, ...said }: CheckpointSaid): CheckpointFacts {
  return { ...said, ...(takenAt === undefined ? {} : { takenAt: new Date(takenAt).toISOString() }) };
}

async function uploadImages(dir: string, writer: CheckpointWriter): Promise<void> {
  for (const name of readdirSync(dir).filter(isImageName).toSorted()) {
    await writer.file(imageStream(name), { kind: "image" }, createReadStream(join(dir, name)));
  }
}

/** One stream per task: offset is address. Pages that are zero are not written. */
async function uploadMemory(
  dir: string,
  writer: CheckpointWriter,
  progress: (bytes: number, total: number) => void,
): Promise<void> {
  const table = readTable(dir);
  const states = readFileSync(join(dir, STATES_FILE));
  const total = table.areas.reduce((sum, area) => sum + area.pages, 0) * PAGE_SIZE;
  const tasks = new Map<number, Area[]>();
  for (const area of table.areas) tasks.set(area.vpid, [...(tasks.get(area.vpid) ?? []), area]);
  const pages = await open(join(dir, PAGES_FILE), "r");
  let done = 0;
  try {
    const buffer = Buffer.alloc(PIECE_PAGES * PAGE_SIZE);
    for (const [vpid, areas] of [...tasks].toSorted(([a], [b]) => a - b)) {
      const stream = writer.stream(memoryStream(vpid), { kind: "memory" });
      // In order of addresses: cheapest for the store.
      for (const area of areas.toSorted((a, b) => (a.start < b.start ? -1 : 1))) {
        for (const { from, count } of dataRuns(states, area)) {
          const bytes = count * PAGE_SIZE;
          const { bytesRead } = await pages.read(buffer, 0, bytes, from * PAGE_SIZE);
          if (bytesRead !== bytes) {
            throw ferryError("E_PAGES", `the page store in ${dir} ends at slot ${from + bytesRead / PAGE_SIZE}`);
          }
          const address = Number(area.start) + (from - area.slot) * PAGE_SIZE;
          await stream.write(address, buffer.subarray(0, bytes));
        }
        done += area.pages * PAGE_SIZE;
        progress(done, total);
      }
    }
  } finally {
    await pages.close();
  }
}

/** Runs of slots of an area that have a content, none longer than a piece. */
function* dataRuns(states: Buffer, { slot, pages }: Area): Generator<{ from: number; count: number }, undefined> {
  const end = slot + pages;
  for (let from = states.indexOf(DATA, slot); from >= 0 && from < end; from = states.indexOf(DATA, from)) {
    let to = from + 1;
    while (to < end && to - from < PIECE_PAGES && states[to] === DATA) to += 1;
    yield { from, count: to - from };
    from = to;
  }
  return undefined;
}
