/** criu's images of a checkpoint, as files for those who read them. */
import { mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ferryError } from "../../model/failure.js";
import type { CheckpointReader } from "../../store/index.js";
import { isImageName, MAX_IMAGE_BYTES, MAX_IMAGE_FILES } from "../../transfer/images/names.js";
import { renameHost } from "../../transfer/images/host-name.js";
import { IMAGES_PREFIX } from "../format.js";

/** A store on the network answers each after a while. */
const IMAGES_AT_ONCE = 8;

/** Names of the images. @throws FerryError E_STORE_CORRUPT: a name that is no image's, or too much of them */
export function imagesOf(reader: CheckpointReader): string[] {
  const streams = reader.streams.filter(({ kind }) => kind === "image");
  const names = streams.map(({ name }) => name.slice(IMAGES_PREFIX.length));
  const odd = streams.find(({ name }, at) => !name.startsWith(IMAGES_PREFIX) || !isImageName(names[at]));
  if (odd !== undefined) throw ferryError("E_STORE_CORRUPT", `${JSON.stringify(odd.name)} is no image of criu`);
  const bytes = streams.reduce((sum, stream) => sum + stream.bytes, 0);
  if (names.length === 0 || names.length > MAX_IMAGE_FILES || bytes > MAX_IMAGE_BYTES) {
    throw ferryError("E_STORE_CORRUPT", `a checkpoint with ${names.length} images of ${bytes} bytes`);
  }
  return names;
}

/** Writes them into a directory, where nothing else is afterwards. `hostName`: another one than it had. */
export async function bringImages(reader: CheckpointReader, dir: string, hostName: string | undefined): Promise<void> {
  const fresh = `${dir}.new`;
  rmSync(fresh, { recursive: true, force: true });
  mkdirSync(fresh, { recursive: true, mode: 0o700 });
  const names = imagesOf(reader);
  for (let from = 0; from < names.length; from += IMAGES_AT_ONCE) {
    const some = names.slice(from, from + IMAGES_AT_ONCE);
    const contents = await Promise.all(some.map((name) => reader.content(`${IMAGES_PREFIX}${name}`)));
    for (const [at, name] of some.entries()) {
      const content = contents[at] ?? Buffer.alloc(0);
      writeFileSync(join(fresh, name), hostName === undefined ? content : renameHost(name, content, hostName), {
        mode: 0o600,
        flag: "wx",
      });
    }
  }
  for (const name of readdirSync(dir)) rmSync(join(dir, name), { recursive: true, force: true });
  rmSync(dir, { recursive: true, force: true });
  renameSync(fresh, dir);
}
