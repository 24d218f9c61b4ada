/** What a destination mover leaves for its successor, beside the page store (tmpfs: gone with what it describes). */
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { parseJson } from "../../host/issues.js";
import { ferryError } from "../../model/failure.js";

const FILE = "mover-state.json";
const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const schema = z.strictObject({
  /** Where the source dials: kept over restarts. */
  port: z.number().int().min(0).max(65535),
  /** Set together, once the images are complete and the page store exists. `pages`: of all areas together. */
  images: z
    .strictObject({ digest: sha256, areas: sha256, bytes: z.number().int().nonnegative(), pages: z.number().int() })
    .optional(),
  volumeFinal: z.boolean(),
  filling: z.boolean(),
});
export interface DestinationState {
  port: number;
  images?: { digest: string; areas: string; bytes: number; pages: number } | undefined;
  volumeFinal: boolean;
  filling: boolean;
}

/** Throws E_PAGES on a file that is there and not ours; none is the state of a first start. */
export function loadState(dir: string): DestinationState {
  let text: string;
  try {
    text = readFileSync(join(dir, FILE), "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    return { port: 0, volumeFinal: false, filling: false };
  }
  const parsed = parseJson(text, schema);
  if ("data" in parsed) return parsed.data;
  throw ferryError("E_PAGES", `${join(dir, FILE)} is not the state of a mover: ${parsed.why}`, {
    side: "destination",
    remedy: "the restored copy can't be completed: have it destroyed and restored again",
  });
}

export function saveState(dir: string, state: DestinationState): void {
  const path = join(dir, FILE);
  writeFileSync(`${path}.new`, JSON.stringify(state), { mode: 0o600 });
  renameSync(`${path}.new`, path);
}
