/** The source's end of the images: every file of the directory that is an image, hashed while it is sent. */
import { createHash } from "node:crypto";
import { open, readdir } from "node:fs/promises";
import { constants } from "node:fs";
import { join } from "node:path";
import { ferryError } from "../../model/failure.js";
import type { LinkSession } from "../link/index.js";
import { isImageName, MAX_IMAGE_FILES } from "./names.js";

const PIECE_BYTES = 1024 * 1024;

export interface ManifestEntry {
  name: string;
  size: number;
  sha256: string;
}

/** Digest of a set of images: sha256 hex over name, size and digest of each, in order of names. */
export function manifestDigest(files: readonly ManifestEntry[]): string {
  const hash = createHash("sha256");
  for (const { name, size, sha256 } of files.toSorted((a, b) => (a.name < b.name ? -1 : 1))) {
    hash.update(`${name}\0${size}\0${sha256}\n`);
  }
  return hash.digest("hex");
}

/**
 * Sends all images of `dir` over the control session. Returns the manifest's digest and the bytes sent. Throws
 * E_IMAGE_INCOMPLETE when a file changes meanwhile, E_LINK_LOST.
 */
export async function sendImages(dir: string, session: LinkSession): Promise<{ digest: string; bytes: number }> {
  const names = (await readdir(dir)).filter(isImageName).toSorted();
  if (names.length > MAX_IMAGE_FILES) throw ferryError("E_IMAGE_INCOMPLETE", `${names.length} images are too many`);
  const opened: { name: string; size: number; file: Awaited<ReturnType<typeof open>> }[] = [];
  try {
    for (const name of names) {
      const file = await open(join(dir, name), constants.O_RDONLY | constants.O_NOFOLLOW);
      opened.push({ name, file, size: (await file.stat()).size });
    }
    const total = opened.reduce((sum, { size }) => sum + size, 0);
    await session.send("images-begin", { files: opened.length, bytes: total });
    const buffer = Buffer.allocUnsafeSlow(PIECE_BYTES);
    const files: ManifestEntry[] = [];
    for (const { name, file, size } of opened) {
      const hash = createHash("sha256");
      let offset = 0;
      do {
        const { bytesRead } = await file.read(buffer, 0, Math.min(PIECE_BYTES, size - offset), offset);
        if (bytesRead === 0 && offset < size) {
          throw ferryError("E_IMAGE_INCOMPLETE", `criu image ${name} became shorter while it was read`, {
            side: "source",
          });
        }
        const piece = buffer.subarray(0, bytesRead);
        hash.update(piece);
        await session.send("file", { name, size, offset }, piece);
        offset += bytesRead;
      } while (offset < size);
      files.push({ name, size, sha256: hash.digest("hex") });
    }
    await session.send("manifest", { files });
    return { digest: manifestDigest(files), bytes: total };
  } finally {
    await Promise.all(opened.map(({ file }) => file.close()));
  }
}
