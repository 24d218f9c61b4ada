/** Is everything that a checkpoint needs in the store? By names and sizes: nothing is read but its tree. */
import { ferryError } from "../model/failure.js";
import { eachAtOnce } from "./at-once.js";
import type { Manifest } from "./manifest.js";
import { corruptPack, packKey } from "./pack-format.js";
import type { Store } from "./store.js";

const STATS_AT_ONCE = 32;

/** @throws FerryError E_STORE_CORRUPT: a pack is missing, or of another size; E_STORE: the store can't be reached */
export async function demandPacks(store: Store, manifest: Manifest): Promise<void> {
  const { packs } = await store.tree(manifest);
  const { pack, packBytes } = manifest.tree;
  await eachAtOnce(STATS_AT_ONCE, [...packs, { id: pack, bytes: packBytes }], async ({ id, bytes }) => {
    const there = await store.backend.stat(packKey(id));
    if (there === undefined) {
      throw ferryError(
        "E_STORE_CORRUPT",
        `pack ${id} of checkpoint ${manifest.id} is missing in ${store.backend.name}`,
      );
    }
    if (there.bytes !== bytes) throw corruptPack(id, `it has ${there.bytes} bytes instead of ${bytes}`);
  });
}
