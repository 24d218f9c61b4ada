/** A last look at the images before what criu makes of them counts: they may have lain on the tmpfs for long. */
import { createHash } from "node:crypto";
import { closeSync, constants, fstatSync, openSync, readdirSync, readSync } from "node:fs";
import { join } from "node:path";
import { setImmediate as breathe } from "node:timers/promises";
import { ferryError } from "../../model/failure.js";
import { isImageName } from "./names.js";
import { manifestDigest, type ManifestEntry } from "./send.js";

const PIECE_BYTES = 1024 * 1024;

/** Throws E_IMAGE_DIGEST unless the images in `dir` are the set of this digest, as it was sent. */
export async function verifyImages(dir: string, digest: string): Promise<void> {
  const files: ManifestEntry[] = [];
  // on this thread, as they were sent: most are some hundred bytes
  for (const name of readdirSync(dir).filter(isImageName)) files.push(await entryOf(dir, name));
  if (manifestDigest(files) === digest) return;
  throw ferryError("E_IMAGE_DIGEST", `the images in ${dir} are not the ones that arrived: something has changed them`, {
    side: "destination",
    phase: "restore",
    remedy: "nothing was restored from them; look for faulty memory on this node, then migrate again",
  });
}

async function entryOf(dir: string, name: string): Promise<ManifestEntry> {
  // a FIFO in its place is no image, and must hold nobody up
  const fd = openSync(join(dir, name), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const { size } = fstatSync(fd);
    const hash = createHash("sha256");
    const piece = Buffer.allocUnsafe(Math.min(PIECE_BYTES, Math.max(size, 1)));
    for (let at = 0; at < size;) {
      if (at > 0) await breathe();
      const count = readSync(fd, piece, 0, piece.length, at);
      if (count === 0) break;
      hash.update(piece.subarray(0, count));
      at += count;
    }
    return { name, size, sha256: hash.digest("hex") };
  } finally {
    closeSync(fd);
  }
}
